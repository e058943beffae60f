"""The definitions of the account's custom fields."""

from __future__ import annotations

from typing import Any

from tap_autopilot.api.client import Api, Client
from tap_autopilot.exceptions import Refused, UserError
from tap_autopilot.sources.listings import CUSTOM_FIELDS, fetch

MAX_COLUMNS = 1600  # of a table in PostgreSQL; elsewhere, there are hardly more


def read_definitions(api: Api) -> list[Any]:
    """The account's custom fields, as the API defines them, for `custom_fields_as_columns`.

    Raises UserError if the API does not have them, or too many, and otherwise what `Client.get`
    does.
    """
    client = Client(api)
    try:
        definitions = fetch(client, CUSTOM_FIELDS).value.documents
    except Refused as error:
        raise UserError(
            f"The API does not offer this account's custom fields (GET {CUSTOM_FIELDS.path}: status"
            f" {error.status}). Turn custom_fields_as_columns off, or check api_url."
        ) from None
    client.forget()
    if len(definitions) > MAX_COLUMNS:
        raise UserError(
            f"The account has {len(definitions):,} custom fields, but a table has room for"
            f" {MAX_COLUMNS:,} columns. Turn custom_fields_as_columns off."
        )
    return definitions
