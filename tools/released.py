"""The contract of the last release: its tables, keys, columns, types and settings.

Within a major version none of them is removed or changed; tests/test_release.py makes sure.
`python -m tools.released --write` records the present contract when a release is prepared. Without
`--write` its exit code is 1 if the record is out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tap_autopilot.about import about
from tap_autopilot.protocol.schemas import load_schema
from tap_autopilot.streams import STREAMS

RECORD = Path(__file__).with_name("released.json")


def contract() -> dict[str, Any]:
    """The contract that the code has now."""
    facts = json.loads(about("json"))
    return {
        "version": facts["version"],
        "streams": {
            name: {
                "key": list(stream.key_properties),
                "replication_key": stream.replication_key,
                "columns": dict(_columns(load_schema(name))),
            }
            for name, stream in STREAMS.items()
        },
        "settings": {
            name: _type(setting) for name, setting in facts["settings"]["properties"].items()
        },
    }


def _columns(schema: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Each column at every depth, as `custom_fields[].kind`, and its type."""
    for name, part in schema.get("properties", {}).items():
        path = f"{above}{name}"
        yield path, _type(part)
        yield from _columns(part, f"{path}.")
        if "items" in part:
            yield f"{path}[]", _type(part["items"])
            yield from _columns(part["items"], f"{path}[].")


def _type(part: dict[str, Any]) -> str:
    types = [part["type"]] if isinstance(part["type"], str) else sorted(part["type"])
    return " ".join(filter(None, [*types, part.get("format")]))


def broken(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The items of a contract that are missing or changed."""
    found = []
    for name, setting in before["settings"].items():
        if now["settings"].get(name) != setting:
            found.append(f"setting {name}: {setting}")
    for name, stream in before["streams"].items():
        ours = now["streams"].get(name)
        if ours is None:
            found.append(f"stream {name}")
            continue
        found += [
            f"{name}: {what} {stream[what]}"
            for what in ("key", "replication_key")
            if ours[what] != stream[what]
        ]
        found += [
            f"{name}.{column}: {kind}"
            for column, kind in stream["columns"].items()
            if ours["columns"].get(column) != kind
        ]
    return found


def main() -> int:
    """Write the record with --write; otherwise return 1 if it is out of date."""
    text = json.dumps(contract(), indent=1) + "\n"
    if "--write" in sys.argv:
        RECORD.write_text(text, encoding="utf-8")
    elif RECORD.read_text(encoding="utf-8") != text:
        print(f"{RECORD.name} is out of date; python -m tools.released --write updates it.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
