"""Compares what a target stored, table by table and cell by cell, with the rows of the account."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

from tap_autopilot.rows.values import type_of
from tests.conftest import USUAL_STREAMS
from tests.invariants import Run

PAGE = Path(__file__).parents[2] / "docs/targets.md"

Tables = Mapping[str, list[dict[str, Any]]]


def canonical(value: Any, part: Mapping[str, Any]) -> Any:
    """A cell, however a target spells it: the value that it stands for in a column's schema."""
    kind = type_of(part)
    if value is None or (value == "" and (kind != "string" or "format" in part)):
        return None
    if part.get("format") == "date-time":
        moment = datetime.fromisoformat(str(value).replace(" ", "T", 1).replace("Z", "+00:00"))
        return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    if kind == "boolean":
        return {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]
    if kind in ("integer", "number"):
        return Decimal(str(value)).normalize()
    if kind == "string":
        return str(value)
    if isinstance(value, str):
        value = json.loads(value, parse_float=Decimal)
    if kind == "array":
        return [canonical(item, part["items"]) for item in value]
    if "properties" in part:
        return {name: canonical(value.get(name), one) for name, one in part["properties"].items()}
    return plain(value)


def plain(value: Any) -> Any:
    """JSON with numbers that compare whatever their type is."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    is_number = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
    return Decimal(str(value)).normalize() if is_number else value


def check_whole(
    stored: Tables, account: Run, *, empty_is_null: bool = False, whole_seconds: bool = False
) -> None:
    """Fail if the stored tables differ in a key or a cell from a full run over the account.

    Objects may be flattened into columns such as `employees_range__min`. If `empty_is_null`, the
    target cannot tell an empty text from null; if `whole_seconds`, it truncates times.
    """
    for stream, table in USUAL_STREAMS.items():
        (schema,) = account.of("SCHEMA", stream)
        columns = schema["schema"]["properties"]
        wanted = by_key(table.key_properties, account.rows(stream))
        rows = {name.lower(): rows for name, rows in stored.items()}.get(stream, [])
        found = by_key(table.key_properties, map(unflattened, rows))
        assert found.keys() == wanted.keys(), stream
        for key, row in wanted.items():
            for name, part in columns.items():
                there, here = canonical(found[key][name], part), canonical(row[name], part)
                if there is None and is_blank(here):
                    here = None  # flattened, an object without values looks like null
                if empty_is_null and here == "":
                    here = None
                if empty_is_null and there == "":
                    there = None
                if whole_seconds and isinstance(here, datetime):
                    here = here.replace(microsecond=0)
                assert there == here, f"{stream} {key}: {name} is {there!r}, not {here!r}"


def by_key(keys: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> dict[Any, Any]:
    """Rows by key; no two rows may share one."""
    rows = list(rows)
    found = {tuple(row[key] for key in keys): row for row in rows}
    assert len(found) == len(rows), "the same key twice"
    return found


def keys(stored: Tables) -> set[tuple[str, ...]]:
    """The keys of all stored rows, after the names of their tables; no two rows may share one."""
    return {
        (stream, *key)
        for stream, rows in stored.items()
        for key in by_key(USUAL_STREAMS[stream].key_properties, rows)
    }


def unflattened(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its flattened objects put together again."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        column, _, part = name.partition("__")
        if part and column:
            found.setdefault(column, {})[part] = value
        else:
            found[name] = value
    for name, value in found.items():
        if is_blank(value):
            found[name] = None
    return found


def is_blank(value: Any) -> bool:
    """Whether a value is an object whose parts are all null."""
    return isinstance(value, dict) and all(part is None for part in value.values())


def present(stored: Tables, mark: str = "deleted_at") -> Tables:
    """Of tables to which a target only appends, the present rows: the last of each key."""
    found = {}
    for name, table in USUAL_STREAMS.items():
        last = {
            tuple(row[key] for key in table.key_properties): row for row in stored.get(name, ())
        }
        found[name] = [row for row in last.values() if not row[mark]]
    return found


def pasted(target: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a target, and those of the tap, in the table of docs/targets.md."""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" |")]
        if cells[0].startswith(f"`{target}`") and "avoid" not in line:
            theirs, ours = (json.loads(cell.strip("`") or "{}") for cell in cells[3:5])
            return theirs, ours
    raise AssertionError(f"{target} is not in {PAGE.name}")
