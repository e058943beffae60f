"""The definitions of the account's custom fields."""

from __future__ import annotations

import math
from typing import Any

from tap_autopilot.api.client import Api, Client
from tap_autopilot.sources.listings import CUSTOM_FIELDS


def read_definitions(api: Api) -> list[Any]:
    """The account's custom fields, as the API defines them. Raises what `Client.get` does."""
    walk = CUSTOM_FIELDS
    response = Client(api).get(
        walk.path,
        lambda body: walk.decode(body, walk.documents),
        shown=walk.path,
        kind=walk.source,
        urgency=math.inf,
    )
    return response.value.documents
