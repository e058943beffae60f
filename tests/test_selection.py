"""Which streams and columns are sent, for all kinds of catalogs."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest

from tap_autopilot import cli
from tap_autopilot.config import Config
from tap_autopilot.exceptions import UserError
from tap_autopilot.protocol.catalog import discover
from tap_autopilot.protocol.selection import Selected, is_selected, select
from tap_autopilot.sandbox.account import Account
from tap_autopilot.streams import EMAILS, STREAMS
from tests import in_process
from tests.conftest import KEY, USUAL_STREAMS, Serve, Tap
from tests.in_process import logged
from tests.invariants import Run
from tests.lying_pager import Options
from tests.recording import Sandbox

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


def test_all_streams_are_read_without_a_catalog_and_with_the_discovered_one(
    tap: Tap, serve: Serve, catalog: Any
) -> None:
    sandbox = serve(ACCOUNT)
    assert streams(tap.sync(sandbox)) == ALL
    assert streams(tap.sync(sandbox, catalog=catalog)) == ALL


def test_named_streams_are_selected_whatever_their_default() -> None:
    args = cli._parser().parse(["--select", "lists"])
    named, _ = cli._inputs(args, Config.from_mapping({"api_key": KEY}))
    ours = discover()
    choose(ours, "lists", selected_by_default=False)
    assert [table.stream.name for table in select(named, ours)] == ["lists"]


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


@pytest.mark.parametrize("stream", ALL)
def test_each_stream_can_be_read_alone(catalog: Any, stream: str) -> None:
    catalog["streams"] = [entry(catalog, stream)]
    run = in_process.run(Sandbox(ACCOUNT, Options()), catalog=catalog)
    assert run.code == 0
    assert streams(run) == [stream]
    assert run.rows(stream)
    paths = {request.path for request in run.requests}
    assert ("/v1/contacts" in paths) == ("contacts" in USUAL_STREAMS[stream].sources)
    assert ("/v1/lists" in paths) == (stream == "lists")
    assert ("/v1/smart_segments" in paths) == stream.startswith("smart_segments")


# ---- what a catalog says, without a run

OURS = discover()


def selected(*entries: Any) -> dict[str, Selected]:
    """What these entries of a catalog select."""
    catalog = {"streams": [{"tap_stream_id": one} if isinstance(one, str) else one
                           for one in entries]}  # fmt: skip
    return {one.stream.name: one for one in select(catalog, OURS)}


def says(stream: str, *breadcrumb: str, **values: Any) -> dict[str, Any]:
    """A catalog's entry with the metadata of one breadcrumb."""
    metadata = {name.replace("_", "-"): value for name, value in values.items()}
    return {"stream": stream, "metadata": [{"breadcrumb": list(breadcrumb), "metadata": metadata}]}


NO_CATALOG = 'The catalog has no "streams"; create one with --discover.'
NO_NAME = 'A stream in the catalog has no "tap_stream_id".'
NO_METADATA = (
    "The metadata of stream lists in the catalog is not a list of breadcrumbs with metadata;"
    " create a new catalog with --discover."
)


NO_CATALOGS: list[Any] = [[], {}, {"streams": {}}, {"streams": None}, "lists", 5]
NO_STREAMS: list[Any] = [{}, None, "lists", {"stream": 5}, {"tap_stream_id": ""}]
ODD_METADATA: list[Any] = [
    5, "x", [5], [{}], [{"breadcrumb": []}], [{"metadata": {}}],
    [{"breadcrumb": 5, "metadata": {}}], [{"breadcrumb": [[]], "metadata": {}}],
    [{"breadcrumb": [], "metadata": None}], [{"breadcrumb": [], "metadata": [1]}],
]  # fmt: skip


@pytest.mark.parametrize(
    ("catalog", "said"),
    [
        *((one, NO_CATALOG) for one in NO_CATALOGS),
        *(({"streams": [one]}, NO_NAME) for one in NO_STREAMS),
        *(({"streams": [{"stream": "lists", "metadata": one}]}, NO_METADATA)
          for one in ODD_METADATA),
    ],
)  # fmt: skip
def test_a_catalog_of_another_form_is_an_error(catalog: Any, said: str) -> None:
    for ask in (select, partial(is_selected, name="lists")):
        with pytest.raises(UserError) as error:
            ask(catalog, OURS)
        assert str(error.value) == said


@pytest.mark.parametrize("value", ["true", 0, 1, [], {}])
def test_a_choice_is_true_or_false(value: Any) -> None:
    for entry, where in (
        (says("lists", selected=value), "lists"),
        ({"stream": "lists", "selected": value}, "lists"),
        ({"stream": "lists", "schema": {"selected": value}}, "lists"),
        (says("lists", "properties", "title", selected=value), "lists.properties.title"),
        (says("lists", "properties", 5, selected=value), "lists.properties.5"),  # type: ignore[arg-type]
    ):
        catalog, text = {"streams": [entry]}, f'"selected" of {where} in the catalog is neither'
        for ask in (select, partial(is_selected, name="lists")):
            with pytest.raises(UserError) as error:
                ask(catalog, OURS)
            assert str(error.value) == f"{text} true nor false."


def test_a_catalog_of_other_streams_only_names_ours() -> None:
    with pytest.raises(UserError) as error:
        selected("deals")
    assert str(error.value) == f"The catalog contains none of this tap's streams: {', '.join(ALL)}."


def test_a_stream_without_its_setting_must_be_deselected() -> None:
    for entry in ("activities", says("activities", "properties", "id", selected=False)):
        with pytest.raises(UserError) as error:
            selected("lists", entry)
        assert str(error.value) == (
            "Stream activities needs the setting collector_database; set it or deselect activities."
        )
    with pytest.raises(UserError) as error:
        selected("lists", says("activities", selected="no"))
    assert str(error.value) == '"selected" of activities in the catalog is neither true nor false.'
    for choice in (
        {"selected": False},
        {"selected_by_default": False},
        {"inclusion": "unsupported"},
    ):
        with logged() as lines:
            assert list(selected("lists", says("activities", **choice))) == ["lists"]
        assert not lines


def test_what_is_unknown_is_warned_of() -> None:
    with logged() as lines:
        found = selected(
            "lists",
            "deals",
            {"tap_stream_id": "contacts", "stream": "other", "metadata": [
                {"breadcrumb": ["properties", "emial"], "metadata": {"selected": False}},
                {"breadcrumb": ["properties", "Email"], "metadata": {"selected": True}},
                {"breadcrumb": ["properties", "phone"], "metadata": {"selected": False}},
            ]},
        )  # fmt: skip
    assert list(found) == ["contacts", "lists"], "in our order"
    assert lines == [
        "WARNING The catalog has an unknown stream 'deals'; ignored.",
        "WARNING contacts: the catalog deselects properties.emial, which does not exist.",
    ]
    assert "phone" not in found["contacts"].sent["properties"]


def test_no_catalog_selects_everything() -> None:
    with logged() as lines:
        found = select(None, OURS)
    assert [one.stream.name for one in found] == ALL
    assert all(one.sent == one.schema and not one.incremental for one in found)
    assert not lines


def test_nothing_selected_is_warned_of() -> None:
    for entries in ((), (says("lists", selected=False),)):
        with logged() as lines:
            assert not selected(*entries)
        (line,) = lines
        assert line == (
            "WARNING No stream is selected, so there is nothing to do. To select one, set"
            ' "selected": true in the metadata of its empty breadcrumb in the catalog, or in'
            ' Meltano: meltano select tap-autopilot "*" "*"'
        )


def test_the_selected_part_of_a_schema() -> None:
    before = copy.deepcopy(OURS)
    schema = entry(OURS, "contacts")["schema"]
    whole = selected("contacts")["contacts"]
    assert whole.schema == whole.sent == schema
    value = ("properties", "custom_fields", "items", "properties", "value")
    for one in (
        says("contacts", *value, selected=False),
        says("contacts", *value, selected_by_default=False),
        says("contacts", *value, inclusion="unsupported", selected=True),
        {"stream": "contacts", "schema": {"properties": {"custom_fields": {
            "items": {"properties": {"value": {"selected": False}}}}}}},
    ):  # fmt: skip
        expected = copy.deepcopy(schema)
        del expected["properties"]["custom_fields"]["items"]["properties"]["value"]
        found = selected(one)["contacts"]
        assert (found.schema, found.sent) == (schema, expected)
    kept = says("contacts", *value, selected_by_default=False, selected=True)
    assert selected(kept)["contacts"].sent == schema
    key = says("contacts", "properties", "contact_id", selected=False, inclusion="available")
    assert selected(key)["contacts"].sent == schema
    assert before == OURS


def test_a_stream_may_be_selected_in_many_ways() -> None:
    for null in (says("lists", selected=None), {"stream": "lists", "selected": None}):
        assert selected(null)
    assert not selected(says("lists", selected_by_default=False))
    assert selected(says("lists", selected_by_default=False, selected=True))
    phone = selected(says("contacts", "properties", "phone", selected=None))
    assert "phone" in phone["contacts"].sent["properties"]


def test_metadata_adds_to_the_old_marks() -> None:
    old = {"stream": "lists", "selected": False, "schema": {"selected": True}}
    assert not selected(old), "beside the schema before in the schema"
    assert selected({**old, **says("lists", selected=True)})
    assert not selected({**old, **says("lists", inclusion="available")})
    marked = {"properties": {"title": {"selected": False}}}
    both = {"schema": marked, **says("lists", "properties", "title", inclusion="available")}
    assert "title" not in selected(both)["lists"].sent["properties"]


@pytest.mark.parametrize(
    ("name", "asked", "beside", "incremental", "warning"),
    [
        ("contacts", {}, {}, False, None),
        ("contacts", {"replication_method": "FULL_TABLE"}, {}, False, None),
        ("contacts", {"replication_method": "INCREMENTAL"}, {}, True, None),
        ("contacts", {}, {"replication_method": "INCREMENTAL"}, True, None),
        ("contacts", {"replication_method": "FULL_TABLE"}, {"replication_method": "INCREMENTAL"},
         False, None),
        ("contacts", {"replication_method": "INCREMENTAL", "replication_key": "updated_at"},
         {"replication_key": "created_at"}, True, None),
        ("contacts", {"replication_method": "INCREMENTAL", "replication_key": "name"}, {}, False,
         "INCREMENTAL by name, but the stream supports FULL_TABLE or INCREMENTAL by updated_at"),
        ("contacts", {"replication_method": "LOG_BASED"}, {}, False,
         "LOG_BASED, but the stream supports FULL_TABLE or INCREMENTAL by updated_at"),
        ("email_opened", {"replication_method": "CDC"}, {}, False,
         "CDC, but the stream supports FULL_TABLE or INCREMENTAL by timestamp or LOG_BASED"),
        ("lists", {"replication_method": "INCREMENTAL"}, {}, False,
         "INCREMENTAL by any column, but the stream supports FULL_TABLE"),
        ("lists", {"replication_method": "INCREMENTAL", "replication_key": "title"}, {}, False,
         "INCREMENTAL by title, but the stream supports FULL_TABLE"),
        ("lists", {"replication_method": "FULL_TABLE"}, {}, False, None),
    ],
)  # fmt: skip
def test_the_replication_method(
    name: str, asked: dict[str, str], beside: dict[str, str], incremental: bool, warning: str | None
) -> None:
    with logged() as lines:
        (found,) = selected({**beside, **says(name, **asked)}).values()
    assert found.incremental is incremental
    assert lines == (
        [f"WARNING {name}: the catalog asks for {warning}; using FULL_TABLE."] if warning else []
    )


@pytest.mark.parametrize("name", [*EMAILS, "email_messages", "contact_events", "activities"])
def test_a_log_based_stream_is_fed_by_the_store_alone(name: str) -> None:
    store = {"collector_database"}
    catalog = {"streams": [says(name, replication_method="LOG_BASED")]}
    with logged() as lines:
        (found,) = select(catalog, discover(settings=store), store)
    assert found.log_based
    assert not found.incremental
    assert not lines
    assert (found.stream.name, found.stream.sources) == (name, ("collected",))
    assert found.stream.__doc__ == STREAMS[name].__doc__


def test_a_log_based_stream_needs_a_store() -> None:
    asked = says("email_opened", replication_method="LOG_BASED")
    with pytest.raises(
        UserError,
        match="email_opened is LOG_BASED in the catalog, which needs the setting collector_database",
    ):
        select({"streams": [says("contacts"), asked]}, OURS)
    deselected = says("email_opened", replication_method="LOG_BASED", selected=False)
    assert select({"streams": [deselected]}, OURS) == []


def test_the_key_of_an_incremental_stream_stays() -> None:
    for method, kept in (("INCREMENTAL", True), ("FULL_TABLE", False)):
        one = says("contacts", "properties", "updated_at", selected=False)
        found = selected({**one, "replication_method": method})["contacts"]
        assert ("updated_at" in found.sent["properties"]) is kept


def test_whether_one_stream_is_selected() -> None:
    with logged() as lines:
        assert is_selected(None, OURS, "lists")
        assert is_selected({"streams": [{"stream": "lists"}, {"stream": "deals"}]}, OURS, "lists")
        assert not is_selected({"streams": [{"stream": "deals"}]}, OURS, "lists")
        assert not is_selected({"streams": [says("lists", selected=False)]}, OURS, "lists")
    assert not lines
