"""Discovery: the catalog, made from the bundled schemas alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tap_autopilot.schemas import load_schema
from tap_autopilot.streams import STREAMS, Stream

Breadcrumb = tuple[str, ...]


def discover() -> dict[str, Any]:
    """The catalog, with metadata for every stream and for every field at every depth."""
    return {"streams": [_entry(stream) for stream in STREAMS.values()]}


def _entry(stream: type[Stream]) -> dict[str, Any]:
    schema = load_schema(stream.name)
    metadata: list[dict[str, Any]] = [
        {
            "breadcrumb": [],
            "metadata": {
                "inclusion": "available",
                "selected-by-default": True,
                "table-key-properties": list(stream.key_properties),
                "forced-replication-method": "FULL_TABLE",
                "valid-replication-keys": [],
            },
        }
    ]
    keys = {("properties", key) for key in stream.key_properties}
    for breadcrumb in breadcrumbs(schema):
        inclusion: dict[str, Any] = {"inclusion": "available", "selected-by-default": True}
        if breadcrumb in keys:
            inclusion = {"inclusion": "automatic"}
        metadata.append({"breadcrumb": list(breadcrumb), "metadata": inclusion})
    return {
        "tap_stream_id": stream.name,
        "stream": stream.name,
        "key_properties": list(stream.key_properties),
        "schema": schema,
        "metadata": metadata,
    }


def breadcrumbs(schema: dict[str, Any], above: Breadcrumb = ()) -> Iterator[Breadcrumb]:
    """The breadcrumb of every field below a schema, those inside objects and arrays included."""
    if "items" in schema:
        yield from breadcrumbs(schema["items"], (*above, "items"))
    for name, part in schema.get("properties", {}).items():
        breadcrumb = (*above, "properties", name)
        yield breadcrumb
        yield from breadcrumbs(part, breadcrumb)
