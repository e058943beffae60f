"""The bundled JSON schemas, one file per stream: the source of all columns and types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tap_autopilot.rows.values import type_of

_PACKAGE = Path(__file__).parents[1]
# In an installed package the files are inside it; in a checkout they are beside it.
_FOLDER = next(
    folder for folder in (_PACKAGE / "schemas", _PACKAGE.parent / "schemas") if folder.is_dir()
)


def load_schema(stream: str) -> dict[str, Any]:
    """The JSON schema of a stream's rows."""
    schema: dict[str, Any] = json.loads((_FOLDER / f"{stream}.json").read_text(encoding="utf-8"))
    return schema


def nested_columns(schema: Mapping[str, Any]) -> list[str]:
    """The columns that hold arrays or objects."""
    columns = schema["properties"].items()
    return [name for name, part in columns if type_of(part) in ("array", "object")]


def with_nested_as_text(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema in which the columns that hold arrays or objects hold text instead."""
    texts = {name: {"type": ["null", "string"]} for name in nested_columns(schema)}
    return {**schema, "properties": {**schema["properties"], **texts}}
