"""Discovery: the catalog, from the bundled schemas and the custom fields."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Any

from tap_autopilot.protocol.schemas import load_schema, with_nested_as_text
from tap_autopilot.rows.custom_columns import columns
from tap_autopilot.streams import COLLECTED, STREAMS, Stream

Breadcrumb = tuple[str, ...]

FULL_TABLE = "FULL_TABLE"
INCREMENTAL = "INCREMENTAL"
LOG_BASED = "LOG_BASED"  # of streams that a collector's store feeds


def discover(
    definitions: Iterable[Any] = (), *, settings: Container[str] = (), nested_as_text: bool = False
) -> dict[str, Any]:
    """The catalog, with metadata for every stream and for every field at every depth.

    `definitions` are the custom fields that get their own column in `contacts`. `settings` are the
    names of the settings that were given, because some streams require a setting. With
    `nested_as_text`, columns that hold arrays or objects are text, but their parts keep their
    metadata, so that they can be deselected.
    """
    streams = [
        stream
        for stream in STREAMS.values()
        if stream.setting is None or stream.setting in settings
    ]
    schemas = {stream.name: load_schema(stream.name) for stream in streams}
    properties = schemas["contacts"]["properties"]
    properties.update(columns(definitions, list(properties)))
    entries = [_entry(stream, schemas[stream.name]) for stream in streams]
    if nested_as_text:
        for entry in entries:
            entry["schema"] = with_nested_as_text(entry["schema"])
    return {"streams": entries}


def replication_methods(stream: type[Stream]) -> list[str]:
    """The replication methods that a catalog may choose for a stream."""
    methods = [FULL_TABLE]
    if stream.replication_key is not None:
        methods.append(INCREMENTAL)
    if COLLECTED in stream.sources:
        methods.append(LOG_BASED)
    return methods


def _entry(stream: type[Stream], schema: dict[str, Any]) -> dict[str, Any]:
    table: dict[str, Any] = {
        "inclusion": "available",
        "selected-by-default": True,
        "table-key-properties": list(stream.key_properties),
        "valid-replication-keys": [stream.replication_key] if stream.replication_key else [],
    }
    if replication_methods(stream) == [FULL_TABLE]:
        table["forced-replication-method"] = FULL_TABLE
    metadata: list[dict[str, Any]] = [{"breadcrumb": [], "metadata": table}]
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
    """The breadcrumb of every field in a schema, at every depth."""
    if "items" in schema:
        yield from breadcrumbs(schema["items"], (*above, "items"))
    for name, part in schema.get("properties", {}).items():
        breadcrumb = (*above, "properties", name)
        yield breadcrumb
        yield from breadcrumbs(part, breadcrumb)
