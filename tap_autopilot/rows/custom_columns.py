"""The account's custom fields as columns of `contacts`, for accounts that ask for them."""

from __future__ import annotations

import collections
import logging
import re
import unicodedata
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

LOG = logging.getLogger(__name__)

LONGEST_NAME = 50  # characters; PostgreSQL truncates names at 63, and a suffix must fit

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

    A field's column depends only on its name: words of ASCII letters and digits become
    `custom_nps_rating`, and any other name, or one that is `taken`, also gets a unique suffix. So a
    new field never renames or takes over the column of an older one, whatever order the API lists
    them in. Names that differ only in case all get a suffix.
    """
    schemas: dict[str, dict[str, Any]] = {}
    for definition in definitions:
        said = definition if isinstance(definition, dict) else {}
        name = said.get("name") or said.get("kind")
        if not isinstance(name, str):
            LOG.warning("A custom field has no name, so it gets no column.")
        elif said.get("deleted") is not True:
            kind = said.get("fieldType") or said.get("field_type") or said.get("type")
            schemas.setdefault(name, _TYPES.get(str(kind).lower(), _TEXT) | {"title": name})
    plain = collections.Counter([*taken, *(_column(name) for name in schemas if _is_plain(name))])
    found = {}
    for name, schema in schemas.items():
        column = _column(name)
        if plain[column] > 1 or not _is_plain(name):
            column += f"_{zlib.crc32(name.encode()):08x}"
        found[column] = schema
    return found


def fields_of(schema: Mapping[str, Any]) -> dict[str, str]:
    """The custom field, from the `title`, of each column of `contacts` that has one."""
    return {
        column: part["title"] for column, part in schema["properties"].items() if "title" in part
    }


def _is_plain(name: str) -> bool:
    """Whether a column's name preserves all of the field's name except case."""
    is_short = len(_column(name)) < LONGEST_NAME
    return is_short and re.fullmatch("[A-Za-z0-9]+( [A-Za-z0-9]+)*", name) is not None


def _column(name: str) -> str:
    """The column for a custom field: `custom_nps_rating` for "NPS Rating"."""
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return f"custom_{re.sub('[^a-z0-9]+', '_', letters).strip('_') or 'field'}"[:LONGEST_NAME]
