"""The catalog, and the rules that every stream's schema follows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tap_autopilot.protocol.catalog import discover
from tap_autopilot.sources.listings import ENDPOINTS
from tap_autopilot.streams import STREAMS
from tests.conftest import Tap

SETTINGS = {stream.setting for stream in STREAMS.values() if stream.setting is not None}
ENTRIES = {entry["stream"]: entry for entry in discover(settings=SETTINGS)["streams"]}
ALLOWED = {"type", "properties", "items", "format"}


def fields(schema: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, part in schema.get("properties", {}).items():
        yield (*above, "properties", name)
        yield from fields(part, (*above, "properties", name))
    if "items" in schema:
        yield from fields(schema["items"], (*above, "items"))


def parts(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    for part in [*schema.get("properties", {}).values(), *filter(None, [schema.get("items")])]:
        yield from parts(part)


def test_the_catalog_lists_every_stream_in_the_same_bytes_every_time(
    tap: Tap, catalog: Any, catalog_text: str
) -> None:
    assert list(ENTRIES) == list(STREAMS)
    assert catalog == discover()
    assert tap.run("--discover").stdout.decode() == catalog_text


@pytest.mark.parametrize("stream", STREAMS)
def test_a_schema_is_plain(stream: str) -> None:
    schema = ENTRIES[stream]["schema"]
    jsonschema.Draft4Validator.check_schema(schema)
    for part in parts(schema):
        assert part
        assert set(part) <= ALLOWED
        assert part.get("format", "date-time") == "date-time"
        types = part["type"]
        assert isinstance(types, str) or (len(types) == 2 and types[0] == "null")


@pytest.mark.parametrize("stream", STREAMS)
def test_keys_are_columns_that_cannot_be_null(stream: str) -> None:
    entry = ENTRIES[stream]
    assert entry["key_properties"] == list(STREAMS[stream].key_properties)
    for key in entry["key_properties"]:
        assert entry["schema"]["properties"][key]["type"] == "string"


@pytest.mark.parametrize("stream", STREAMS)
def test_at_most_the_first_source_is_a_listing(stream: str) -> None:
    assert ENDPOINTS.keys().isdisjoint(STREAMS[stream].sources[1:])


@pytest.mark.parametrize("stream", STREAMS)
def test_metadata_covers_the_stream_and_every_field(stream: str) -> None:
    entry = ENTRIES[stream]
    assert entry["tap_stream_id"] == entry["stream"] == stream
    metadata = {tuple(one["breadcrumb"]): one["metadata"] for one in entry["metadata"]}
    assert len(metadata) == len(entry["metadata"])
    assert set(metadata) == {(), *fields(entry["schema"])}
    assert metadata[()]["inclusion"] == "available"
    assert metadata[()]["selected-by-default"] is True
    assert metadata[()]["table-key-properties"] == entry["key_properties"]
    changed = STREAMS[stream].replication_key
    assert metadata[()]["valid-replication-keys"] == ([changed] if changed else [])
    only_full = changed is None and "collected" not in STREAMS[stream].sources
    assert metadata[()].get("forced-replication-method") == ("FULL_TABLE" if only_full else None)
    for breadcrumb, values in metadata.items():
        if breadcrumb:
            key = len(breadcrumb) == 2 and breadcrumb[1] in entry["key_properties"]
            assert values["inclusion"] == ("automatic" if key else "available")
