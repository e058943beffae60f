"""The account's custom fields as columns of `contacts`, for `custom_fields_as_columns`."""

from __future__ import annotations

import collections
import logging
import re
import unicodedata
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from tap_autopilot.rows.values import MAX_KEY

LOG = logging.getLogger(__name__)

MAX_NAME = 50  # characters; PostgreSQL truncates names at 63, and a suffix must fit

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
    """The columns for these definitions, sorted by field, with names that are safe in SQL.

    A field's column depends only on its name. Words of ASCII letters and digits become
    `custom_nps_rating`; any other name, or one that is `taken`, also gets a unique suffix. So a new
    field never renames or takes over the column of an older field, in whatever order the API lists
    them. Names that differ only in case all get a suffix, and a warning, because the tap cannot
    know which of them had the column first.
    """
    taken = set(taken)
    schemas: dict[str, dict[str, Any]] = {}
    for definition in definitions:
        fields = definition if isinstance(definition, dict) else {}
        name = fields.get("name") or fields.get("kind")
        if not isinstance(name, str) or len(name) > MAX_KEY:  # no value would have such a kind
            LOG.warning("A custom field has no name, or too long a name, so it gets no column.")
        elif fields.get("deleted") is not True:
            kind = fields.get("fieldType") or fields.get("field_type") or fields.get("type")
            schemas[name] = _TYPES.get(str(kind).lower(), _TEXT) | {"title": name}
    plain = collections.Counter([*taken, *(_column(name) for name in schemas if _is_plain(name))])
    chosen = {}
    alike: dict[str, list[str]] = {}
    for name, schema in sorted(schemas.items()):
        column = _column(name)
        if plain[column] > 1 or not _is_plain(name):
            suffixed = f"{column}_{zlib.crc32(name.encode()):08x}"
            if _is_plain(name) and column not in taken:
                alike.setdefault(column, []).append(f"{name!r} ({suffixed})")
            column = suffixed
        chosen[column] = schema
    for column, rivals in alike.items():
        LOG.warning(
            "Custom fields %s differ only in case, so none of them has the column %s.",
            " and ".join(rivals), column,
        )  # fmt: skip
    return chosen


def fields_of(schema: Mapping[str, Any]) -> dict[str, str]:
    """The custom field of each column of `contacts` that has one, taken from its `title`."""
    return {
        column: part["title"] for column, part in schema["properties"].items() if "title" in part
    }


def _is_plain(name: str) -> bool:
    """Whether a column's name preserves all of the field's name except case."""
    is_short = len(_column(name)) < MAX_NAME
    return is_short and re.fullmatch("[A-Za-z0-9]+( [A-Za-z0-9]+)*", name) is not None


def _column(name: str) -> str:
    """The column for a custom field: `custom_nps_rating` for "NPS Rating"."""
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return f"custom_{re.sub('[^a-z0-9]+', '_', letters.lower()).strip('_') or 'field'}"[:MAX_NAME]
