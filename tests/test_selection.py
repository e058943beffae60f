"""Which streams and columns come out, for catalogs of every make."""

from __future__ import annotations

from typing import Any

import pytest

from tap_autopilot.sandbox.account import Account
from tests.conftest import USUAL_STREAMS, Serve, Tap
from tests.invariants import Run

ACCOUNT = Account(contacts=60, lists=2, segments=2, members=3)
NESTED = ["properties", "custom_fields", "items", "properties", "value"]


def entry(catalog: Any, stream: str) -> Any:
    return next(one for one in catalog["streams"] if one["stream"] == stream)


def choose(catalog: Any, stream: str, *breadcrumb: str, **values: Any) -> None:
    """Write metadata into a catalog, as a user or a tool does."""
    for one in entry(catalog, stream)["metadata"]:
        if one["breadcrumb"] == list(breadcrumb):
            one["metadata"].update({name.replace("_", "-"): it for name, it in values.items()})


def streams(run: Run) -> list[str]:
    return [message["stream"] for message in run.of("SCHEMA")]


ALL = list(USUAL_STREAMS)


def test_without_a_catalog_and_with_the_discovered_one_all_streams(
    tap: Tap, serve: Serve, catalog: Any
) -> None:
    sandbox = serve(ACCOUNT)
    assert streams(tap.sync(sandbox)) == ALL
    assert streams(tap.sync(sandbox, catalog=catalog)) == ALL


def test_nothing_selected_is_no_error(tap: Tap, serve: Serve, catalog: Any) -> None:
    for stream in ALL:
        choose(catalog, stream, selected=False)
    run = tap.sync(serve(ACCOUNT), catalog=catalog)
    assert run.code == 0
    assert not run.of("RECORD")
    assert not run.requests
    assert any(line.startswith("WARNING") and '"selected": true' in line for line in run.log)


def test_an_empty_catalog_selects_nothing(tap: Tap, serve: Serve) -> None:
    run = tap.sync(serve(ACCOUNT), catalog={"streams": []})
    assert run.code == 0
    assert not run.of("SCHEMA")


def test_meltano_writes_a_choice_at_every_breadcrumb(tap: Tap, serve: Serve, catalog: Any) -> None:
    for stream in catalog["streams"]:
        for one in stream["metadata"]:
            one["metadata"]["selected"] = stream["stream"] == "contacts"
    choose(catalog, "contacts", "properties", "email", selected=False)
    choose(catalog, "contacts", "properties", "contact_id", selected=False)
    choose(catalog, "contacts", *NESTED, selected=False)
    run = tap.sync(serve(ACCOUNT), catalog=catalog)
    assert streams(run) == ["contacts"]
    columns = run.of("SCHEMA")[0]["schema"]["properties"]
    assert "email" not in columns
    assert "contact_id" in columns
    assert list(columns["custom_fields"]["items"]["properties"]) == [
        "kind",
        "field_type",
        "deleted",
    ]
    fields = [field for row in run.rows("contacts") for field in row["custom_fields"] or ()]
    assert fields
    assert all(list(field) == ["kind", "field_type", "deleted"] for field in fields)


def test_the_old_marks_inside_schema_and_stream_count(tap: Tap, serve: Serve, catalog: Any) -> None:
    for stream in catalog["streams"]:
        stream.pop("metadata")
        stream["schema"]["selected"] = stream["stream"] == "lists"
    entry(catalog, "lists")["schema"]["properties"]["title"]["selected"] = False
    contacts = entry(catalog, "contacts")
    contacts["selected"] = True
    contacts["schema"]["properties"]["custom_fields"]["items"]["properties"]["kind"]["selected"] = (
        False
    )
    run = tap.sync(serve(ACCOUNT), catalog=catalog)
    assert streams(run) == ["contacts", "lists"]
    contacts_columns, lists_columns = (one["schema"]["properties"] for one in run.of("SCHEMA"))
    assert list(lists_columns) == ["list_id", "additional_fields"]
    assert "kind" not in contacts_columns["custom_fields"]["items"]["properties"]


def test_what_metadata_says_counts_before_the_old_marks(
    tap: Tap, serve: Serve, catalog: Any
) -> None:
    for stream in catalog["streams"]:
        stream["selected"] = True
        choose(catalog, stream["stream"], selected=stream["stream"] == "lists")
    assert streams(tap.sync(serve(ACCOUNT), catalog=catalog)) == ["lists"]


def test_inclusion_and_defaults_of_the_catalog_count(tap: Tap, serve: Serve, catalog: Any) -> None:
    choose(catalog, "contacts", selected_by_default=False)
    choose(catalog, "lists", "properties", "title", inclusion="unsupported", selected=True)
    choose(catalog, "smart_segments", "properties", "title", selected_by_default=False)
    run = tap.sync(serve(ACCOUNT), catalog=catalog)
    assert streams(run) == ALL[1:]
    assert list(run.rows("lists")[0]) == ["list_id", "additional_fields"]
    assert list(run.rows("smart_segments")[0]) == ["segment_id", "additional_fields"]


def test_unknown_streams_any_order_and_foreign_schemas(
    tap: Tap, serve: Serve, catalog: Any
) -> None:
    catalog["streams"].reverse()
    catalog["streams"].insert(1, {"stream": "deals", "tap_stream_id": "deals", "schema": {}})
    entry(catalog, "contacts")["schema"] = {"type": "object", "properties": {"FirstName": {}}}
    run = tap.sync(serve(ACCOUNT), catalog=catalog)
    assert run.code == 0
    assert streams(run) == ALL
    assert any("'deals'" in line and line.startswith("WARNING") for line in run.log)
    assert "first_name" in run.of("SCHEMA")[0]["schema"]["properties"]


@pytest.mark.parametrize("stream", ALL)
def test_each_stream_can_be_read_alone(tap: Tap, serve: Serve, catalog: Any, stream: str) -> None:
    sandbox = serve(ACCOUNT)
    catalog["streams"] = [entry(catalog, stream)]
    run = tap.sync(sandbox, catalog=catalog)
    assert run.code == 0
    assert streams(run) == [stream]
    assert run.rows(stream)
    paths = {request.path for request in run.requests}
    assert ("/v1/contacts" in paths) == ("contacts" in USUAL_STREAMS[stream].sources)
    assert ("/v1/lists" in paths) == (stream == "lists")
    assert ("/v1/smart_segments" in paths) == stream.startswith("smart_segments")


def test_a_deselected_column_leaves_nothing_behind(tap: Tap, serve: Serve, catalog: Any) -> None:
    names = ("company_priority", "employees_range", "mail_opened", "updated_at", "first_name")
    for name in names:
        choose(catalog, "contacts", "properties", name, selected=False)
    timestamp = ["properties", "mail_received", "items", "properties", "timestamp"]
    choose(catalog, "contacts", *timestamp, selected=False)
    run = tap.sync(serve(ACCOUNT), catalog=catalog)
    for row in run.rows("contacts"):
        assert not set(names) & set(row)
        kept = {name.lower().replace("_", "") for name in row["additional_fields"] or ()}
        assert not kept & {name.replace("_", "") for name in names}
        assert all(list(one) == ["id"] for one in row["mail_received"] or ())


def test_selected_may_be_null(tap: Tap, serve: Serve, catalog: Any) -> None:
    choose(catalog, "lists", selected=None)
    choose(catalog, "contacts", "properties", "phone", selected=None)
    entry(catalog, "smart_segments")["selected"] = None
    run = tap.sync(serve(), catalog=catalog)
    assert run.code == 0
    assert run.rows("lists")
    assert run.rows("smart_segments")
    assert "phone" in run.rows("contacts")[0]


def test_the_selection_warns_once(tap: Tap, serve: Serve, catalog: Any) -> None:
    catalog["streams"].append({"tap_stream_id": "deals"})
    unknown = {"breadcrumb": ["properties", "shoe_size"], "metadata": {"selected": False}}
    entry(catalog, "contacts")["metadata"].append(unknown)
    run = tap.sync(serve(), catalog=catalog, custom_fields_as_columns=True)
    for what in ("'deals'", "shoe_size"):
        assert sum(what in line for line in run.log) == 1
