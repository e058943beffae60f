"""The bundled JSON schemas, one file per stream: the source of all columns and types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parents[1]
# In an installed package the files are inside it; in a checkout they are beside it.
_FOLDER = next(
    folder for folder in (_PACKAGE / "schemas", _PACKAGE.parent / "schemas") if folder.is_dir()
)


def load_schema(stream: str) -> dict[str, Any]:
    """The JSON schema of a stream's rows."""
    schema: dict[str, Any] = json.loads((_FOLDER / f"{stream}.json").read_text(encoding="utf-8"))
    return schema
