"""The definitions of the account's custom fields."""

from __future__ import annotations

import math
from typing import Any

from tap_autopilot.api.client import Api, Client
from tap_autopilot.exceptions import Refused, UserError
from tap_autopilot.sources.listings import CUSTOM_FIELDS


def read_definitions(api: Api) -> list[Any]:
    """The account's custom fields, as the API defines them, for `custom_fields_as_columns`.

    Raises UserError if the API does not have them, and otherwise what `Client.get` does.
    """
    walk = CUSTOM_FIELDS
    try:
        response = Client(api).get(
            walk.path,
            lambda body: walk.decode(body, walk.documents),
            shown=walk.path,
            kind=walk.source,
            urgency=math.inf,
        )
    except Refused as error:
        raise UserError(
            f"The API does not offer this account's custom fields (GET {walk.path}: status"
            f" {error.status}). Turn custom_fields_as_columns off, or check api_url."
        ) from None
    return response.value.documents
