"""The account's custom fields as columns of `contacts`, for accounts that ask for them."""

from __future__ import annotations

import collections
import logging
import re
import unicodedata
import zlib
from collections.abc import Iterable
from typing import Any

LOG = logging.getLogger(__name__)

LONGEST_NAME = 50  # characters; PostgreSQL cuts names at 63, and a suffix must fit in

_TYPES: dict[str, dict[str, Any]] = {
    "integer": {"type": ["null", "integer"]},
    "float": {"type": ["null", "number"]},
    "number": {"type": ["null", "number"]},
    "decimal": {"type": ["null", "number"]},
    "boolean": {"type": ["null", "boolean"]},
    "date": {"type": ["null", "string"], "format": "date-time"},
    "datetime": {"type": ["null", "string"], "format": "date-time"},
}
_TEXT: dict[str, Any] = {"type": ["null", "string"]}


def columns(definitions: Iterable[Any], taken: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The columns for these definitions, in their order, with names that are safe in SQL.

    Names that fall together, or with one that is `taken`, all get a suffix of their own: so a
    column never comes to hold another field, in whatever order the API names them.
    """
    schemas: dict[str, dict[str, Any]] = {}
    for definition in definitions:
        said = definition if isinstance(definition, dict) else {}
        name = said.get("name") or said.get("kind")
        if not isinstance(name, str):
            LOG.warning("A custom field without a name has no column.")
        elif said.get("deleted") is not True:
            kind = said.get("fieldType") or said.get("field_type") or said.get("type")
            schemas.setdefault(name, _TYPES.get(str(kind).lower(), _TEXT) | {"title": name})
    plain = collections.Counter([*taken, *map(_column, schemas)])
    found = {}
    for name, schema in schemas.items():
        column = _column(name)
        if plain[column] > 1:
            column += f"_{zlib.crc32(name.encode()):08x}"
        found[column] = schema
    return found


def _column(name: str) -> str:
    """The column for a custom field: `custom_nps_rating` for "NPS Rating"."""
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return f"custom_{re.sub('[^a-z0-9]+', '_', letters).strip('_') or 'field'}"[:LONGEST_NAME]
