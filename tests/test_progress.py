"""The passes of the streams: begun, resumed, completed, into the state and back."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from tap_autopilot.exceptions import RunError
from tap_autopilot.protocol.beginning import Beginning, Remembered, Store, complete_first
from tap_autopilot.protocol.progress import Progress
from tap_autopilot.protocol.selection import Selected
from tap_autopilot.protocol.state import Pass, read_state
from tap_autopilot.rows.changed import ChangedSince
from tap_autopilot.sources.completeness import Census, Doubt
from tap_autopilot.sources.listings import (
    CONTACTS,
    CUSTOM_FIELDS,
    LISTS,
    SEGMENTS,
    Page,
    Position,
    Walk,
    members_of,
)
from tap_autopilot.streams import EMAILS, STREAMS
from tests.in_process import logged

SOURCES = ("contacts", "lists", "smart_segments", "custom_fields", "smart_segments_contacts")
START = [None, [0, 0, "", None, None, 0, False, False, False, 1]]
COUNTS = [5, 3, "c", 7, 8, 2, True, True, True, 2]
HALFWAY = Position("x", Census(5, 3, "c", 7, 8, 2, True, True, True, 2))
MEMBERS = "smart_segments_contacts"
PUSHED = ("email_messages", "contact_events", "activities")
OFTEN_NULL = ("start_date", "columns", "collected", "collected_from")


class Begun(Progress):
    """A run's progress, and what was logged when it began."""

    log: list[str]

    def shown(self) -> Any:
        """The state without plans, marks and entries that are null."""
        value = self.value()
        assert value.pop("digests") is None
        for name, entry in value["bookmarks"].items():
            for key in ("updated_at", "timestamp", "received_at", *OFTEN_NULL):
                if entry.get(key, 0) is None:
                    del entry[key]
            if name in PUSHED or name in EMAILS:
                assert entry.pop("append_only", False) is self.is_log(name)
            if entry["progress"] is None:
                entry.pop("columns", None)
            else:
                assert entry["progress"][1].pop("plan")
                assert ("reading" in entry["progress"][1]) is (name not in PUSHED)
                entry["progress"][1].pop("reading", None)
        for source, position in value["walks"].items():
            if position is not None:
                value["walks"][source] = position[:-1]
        return value


def day(number: int, hour: int = 0) -> datetime:
    return datetime(2020, 1, number, hour, tzinfo=timezone.utc)


def begin(
    *names: str,
    state: Any = None,
    incremental: Collection[str] = (),
    versions: bool = True,
    start_date: datetime | None = None,
    **more: Any,
) -> Begun:
    """The progress of a run that selects these streams."""
    selected = [Selected(STREAMS[name], {}, {}, name in incremental) for name in names]
    state = of_one_reading(state, selected, **more)
    before = copy.deepcopy(state)
    with logged() as log:
        beginning = Beginning(read_state(state), versions, start_date, **more)
        progress = Begun(beginning, selected)
    assert state == before, "a state is left as it is"
    progress.log = log
    return progress


def of_one_reading(state: Any, selected: list[Selected], **more: Any) -> Any:
    """A state whose passes have the plan of these streams, and the mark of their positions."""
    state = copy.deepcopy(state)
    value = state.get("value", state) if isinstance(state, dict) else None
    if isinstance(value, dict) and isinstance(bookmarks := value.get("bookmarks"), dict):
        beginning = Beginning(read_state(None), versions=False, start_date=None, **more)
        plans = Progress(beginning, selected).value()
        for name, entry in bookmarks.items():
            match entry:
                case {"progress": [_, dict(details), *_]}:
                    details.setdefault("reading", "m")
                    if details["reading"] is None:
                        del details["reading"]
                    if name in plans["bookmarks"]:
                        plan = plans["bookmarks"][name]["progress"][1]["plan"]
                        details.setdefault("plan", plan)
        if isinstance(positions := value.get("walks"), dict):
            for position in positions.values():
                if isinstance(position, list):
                    position.append("m")
    return state


def plain(found: Pass) -> Pass:
    """A pass without its plan and mark."""
    return msgspec.structs.replace(found, plan="", reading=None)


def walks(**found: Any) -> dict[str, Any]:
    """The `walks` of a state: null but for these."""
    return {**dict.fromkeys(SOURCES), **found}


def write(progress: Progress, walk: Walk, after: Position | None, count: int = 1) -> list[str]:
    """Note a written page of so many documents."""
    found: list[Any] = [{}] * count
    return progress.advance(Page(walk, found, after, Census(), 0, day(1), None))


def resumed(entry: Any, walk: Any = ("x", COUNTS), **more: Any) -> Begun:
    """A run of contacts only, with this progress in its state."""
    state = {
        "bookmarks": {"contacts": {"progress": entry}},
        "walks": {"contacts": list(walk) if walk else walk},
    }
    return begin("contacts", state=state, **more)


# New passes


def test_a_new_pass_of_a_whole_stream() -> None:
    before = int(time.time() * 1000)
    progress = begin("contacts", "lists")
    found = progress.pass_of("contacts")
    version = found.version
    assert version is not None
    assert before <= version <= time.time() * 1000
    assert plain(found) == plain(progress.pass_of("lists")) == Pass(version=version)
    assert found.window is None
    assert progress.start() == [(CONTACTS, Position()), (LISTS, Position())]
    assert progress.shown() == {
        "bookmarks": {
            name: {"progress": ["reading", {"version": version}]} for name in ("contacts", "lists")
        },
        "walks": walks(contacts=START, lists=START),
    }
    assert progress.incomplete() == {"contacts", "lists"}
    assert not progress.is_resumed("contacts")
    assert progress.log == []


def test_a_pass_may_have_no_version() -> None:
    progress = begin("lists", versions=False)
    assert plain(progress.pass_of("lists")) == Pass()
    assert progress.shown()["bookmarks"] == {"lists": {"progress": ["reading", {}]}}


@pytest.fixture
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose clock shows the time in Tokyo."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_elsewhere")
def test_a_start_date_filters_what_has_times() -> None:
    zone = timezone(timedelta(hours=10))
    progress = begin("contacts", "lists", start_date=datetime(2020, 1, 1, 10, tzinfo=zone))
    found = progress.pass_of("contacts")
    assert plain(found) == Pass(since=day(1))
    assert found.window == ChangedSince(day(1), None)
    assert progress.pass_of("lists").since is None
    assert progress.pass_of("lists").version is not None
    assert progress.shown()["bookmarks"]["contacts"] == {
        "progress": ["reading", {"since": "2020-01-01T00:00:00Z"}]
    }


@pytest.mark.parametrize(
    ("stream", "bookmark", "start_date", "since"),
    [
        ("contacts", None, None, None),
        ("contacts", day(3), None, day(3)),
        ("contacts", day(3), day(2), day(3)),
        ("contacts", day(3), day(4), day(4)),
        ("contacts", None, day(4), day(4)),
        ("email_opened", day(3), None, day(2)),
        ("email_opened", day(3), day(1), day(2)),
    ],
)
def test_an_incremental_pass_begins_at_its_bookmark(
    stream: str, bookmark: datetime | None, start_date: datetime | None, since: datetime | None
) -> None:
    key = str(STREAMS[stream].replication_key)
    entry = {key: bookmark.isoformat()} if bookmark else {}
    progress = begin(
        stream, state={"bookmarks": {stream: entry}}, incremental=[stream], start_date=start_date
    )
    assert plain(progress.pass_of(stream)) == Pass(incremental=True, since=since)
    assert progress.pass_of(stream).window == ChangedSince(since, None)
    assert progress.log == []


def test_a_bookmark_filters_no_full_pass_and_outlives_it() -> None:
    entry = {"updated_at": "2020-01-03T00:00:00Z", "start_date": "2020-01-01T00:00:00Z"}
    progress = begin("contacts", state={"bookmarks": {"contacts": entry}}, start_date=day(1))
    assert progress.pass_of("contacts").since == day(1)
    write(progress, CONTACTS, None)
    progress.finish()
    assert progress.shown()["bookmarks"] == {"contacts": {"progress": None, **entry}}


def test_streams_that_are_not_selected_keep_their_entries() -> None:
    entry = {"timestamp": "2020-01-03T00:00:00Z", "start_date": "2020-01-01T00:00:00Z",
             "collected": ["s", 5], "collected_from": "2020-01-02T00:00:00Z"}  # fmt: skip
    state = {"bookmarks": {"email_opened": {"progress": ["reading", {}], "junk": 1, **entry}}}
    assert begin("lists", state=state).shown()["bookmarks"]["email_opened"] == {
        "progress": None, **entry,
    }  # fmt: skip


@pytest.mark.parametrize(
    "entry",
    [
        {"start_date": "soon", "collected_from": 5},
        {"start_date": "\ud800", "collected_from": "\ud800"},
        {"timestamp": "\ud800"},
        {"columns": 5},
        {"columns": "\ud800"},
        {"collected": None},
        {"collected": ["\ud800", 5]},
        {"append_only": "yes"},
    ],
)
def test_entries_that_are_not_valid_are_not_written_again(entry: Any) -> None:
    progress = begin("lists", state={"bookmarks": {"email_opened": entry}})
    assert progress.shown()["bookmarks"]["email_opened"] == {"progress": None}
    assert progress.is_log("email_opened") is isinstance(entry.get("collected"), list)


def test_a_bookmark_may_be_as_early_as_times_go() -> None:
    moment = "0001-01-01T00:00:00Z"
    state: Any = {"bookmarks": {"email_opened": {"timestamp": moment}}}
    progress = begin("email_opened", state=state, incremental=["email_opened"])
    assert progress.pass_of("email_opened").since == datetime.min.replace(tzinfo=timezone.utc)
    entry: Any = {
        "progress": ["reading", {"incremental": True, "started": moment, "newest": moment}]
    }
    state = {"bookmarks": {"email_opened": entry}, "walks": {"contacts": ["x", COUNTS]}}
    progress = begin("email_opened", state=state, incremental=["email_opened"])
    write(progress, CONTACTS, None)
    progress.finish()
    assert progress.shown()["bookmarks"]["email_opened"]["timestamp"] == moment


@pytest.mark.parametrize("bookmark", ["soon", 5, "2999-01-01T00:00:00Z"])
def test_a_bookmark_that_is_not_a_past_time_is_dropped(bookmark: Any) -> None:
    state = {"bookmarks": {"contacts": {"updated_at": bookmark}}}
    progress = begin("contacts", state=state, incremental=["contacts"])
    assert progress.pass_of("contacts").since is None
    assert progress.log == [
        "WARNING contacts: the state's updated_at is not a time in the past; ignoring it."
    ]
    assert progress.shown()["bookmarks"]["contacts"].keys() == {"progress"}


@pytest.mark.parametrize(
    ("made_under", "start_date", "kept"),
    [
        (None, None, True),
        (None, day(1), True),
        (day(2), day(2), True),
        (day(2), day(3), True),
        (day(2), day(1), False),
        (day(2), None, False),
    ],
)
def test_a_bookmark_made_under_a_later_start_date_is_dropped(
    made_under: datetime | None, start_date: datetime | None, kept: bool
) -> None:
    entry = {"updated_at": "2020-01-09T00:00:00Z"}
    if made_under:
        entry["start_date"] = made_under.isoformat()
    progress = begin(
        "contacts", state={"bookmarks": {"contacts": entry}}, incremental=["contacts"],
        start_date=start_date,
    )  # fmt: skip
    assert progress.pass_of("contacts").since == (day(9) if kept else start_date)
    warning = (
        "WARNING contacts: start_date is earlier than 2020-01-02T00:00:00+00:00, or no longer set,"
        " so the state's updated_at could skip rows; ignoring it."
    )
    assert progress.log == [warning] * (not kept)


# Resumed passes

ALL = {
    "incremental": True,
    "since": "2020-01-03T00:00:00Z",
    "started": "2020-01-05T00:00:00Z",
    "newest": "2020-01-04T00:00:00Z",
    "skipped": 2,
    "doubts": {"short": "why"},
}
BOOKMARK = {"updated_at": "2020-01-03T00:00:00Z"}


def test_an_incremental_pass_resumes() -> None:
    state = {
        "bookmarks": {"contacts": {"progress": ["reading", ALL], **BOOKMARK}},
        "walks": walks(contacts=["x", COUNTS]),
    }
    for given in (state, {"type": "STATE", "value": state}):
        progress = begin("contacts", state=given, incremental=["contacts"])
        assert plain(progress.pass_of("contacts")) == Pass(
            incremental=True,
            since=day(3),
            started=day(5),
            newest=day(4),
            skipped=2,
            doubts={Doubt.SHORT: "why"},
        )
        assert progress.pass_of("contacts").window == ChangedSince(day(3), day(5))
        assert progress.start() == [(CONTACTS, HALFWAY)]
        assert progress.is_resumed("contacts")
        assert json.loads(json.dumps(progress.shown())) == state
        assert progress.log == []


@pytest.mark.parametrize("versions", [True, False])
def test_a_full_pass_resumes_under_its_version(versions: bool) -> None:
    progress = resumed(["reading", {"version": 5}], versions=versions)
    assert progress.pass_of("contacts").version == (5 if versions else None)
    without = resumed(["reading", {}], versions=versions)
    assert without.pass_of("contacts").version is None
    assert without.is_resumed("contacts")


@pytest.mark.parametrize(
    ("progress", "incremental"),
    [
        (5, False),
        ({}, False),
        ([], False),
        (["reading"], False),
        (["reading", 5], False),
        (["reading", {}, 1], False),
        (["begun", {}], False),
        ([5, {}], False),
        (["reading", {"of a later version": 1}], False),
        (["reading", {"plan": ""}], False),
        (["reading", {"plan": 5}], False),
        (["reading", {"plan": "\ud800"}], False),
        (["reading", {"reading": 5}], False),
        (["reading", {"reading": "\ud800"}], False),
        (["reading", {"version": "5"}], False),
        (["reading", {"version": True}], False),
        (["reading", {"version": 5.0}], False),
        (["reading", {"skipped": "1"}], False),
        (["reading", {"skipped": True}], False),
        (["reading", {"skipped": None}], False),
        (["reading", {"doubts": ["short"]}], False),
        (["reading", {"doubts": {"vague": "why"}}], False),
        (["reading", {"doubts": {"short": 5}}], False),
        (["reading", {"doubts": {"short": "\ud800"}}], False),
        (["reading", {"version": 5, "since": "2020-01-03T00:00:00Z"}], False),
        (["reading", {"since": "2020-01-03T00:00:00Z"}], False),
        (["reading", {"started": "2020-01-03T00:00:00Z"}], False),
        (["reading", {"newest": "2020-01-03T00:00:00Z"}], False),
        (["reading", {}], True),
        (["reading", {"incremental": True}], False),
        (["reading", {"incremental": 1, "since": "2020-01-03T00:00:00Z"}], True),
        (["reading", {"since": "2020-01-03T00:00:00Z"}], True),  # of a pass with a start_date
        (["reading", {**ALL, "version": 5}], True),
        (["reading", {**ALL, "since": "2020-01-02T00:00:00Z"}], True),
        (["reading", {**ALL, "since": "soon"}], True),
        (["reading", {**ALL, "since": 1577836800000}], True),
        (["reading", {**ALL, "started": "soon"}], True),
        (["reading", {**ALL, "newest": 5}], True),
        (["reading", {**ALL, "started": None}], True),
    ],
)
def test_a_pass_that_cannot_be_resumed_starts_over(progress: Any, incremental: bool) -> None:
    state = {
        "bookmarks": {"contacts": {"progress": progress, **BOOKMARK}},
        "walks": {"contacts": ["x", COUNTS]},
    }
    found = begin("contacts", state=state, incremental=["contacts"] if incremental else [])
    fresh = begin("contacts", state={"bookmarks": {"contacts": BOOKMARK}},
                  incremental=["contacts"] if incremental else [])  # fmt: skip
    assert found.log == ["WARNING contacts: cannot resume from the state; starting over."]
    assert (found.pass_of("contacts").version is None) is incremental
    found.pass_of("contacts").version = fresh.pass_of("contacts").version
    assert plain(found.pass_of("contacts")) == plain(fresh.pass_of("contacts"))
    assert found.start() == [(CONTACTS, Position())]
    assert not found.is_resumed("contacts")


@pytest.mark.parametrize(
    ("more", "setting"),
    [
        ({"version": 5}, {"incremental": ["contacts"]}),
        ({"version": 5, "since": "2020-01-03T00:00:00Z"}, {"start_date": day(3)}),
    ],
)
def test_a_version_on_some_rows_only_is_not_resumed(more: Any, setting: Any) -> None:
    progress = resumed(["reading", more], **setting)
    assert progress.log == ["WARNING contacts: cannot resume from the state; starting over."]
    assert progress.pass_of("contacts").version is None
    assert not progress.is_resumed("contacts")


def test_a_pass_of_another_plan_starts_over() -> None:
    progress = resumed(["reading", {"version": 5, "plan": "of other columns"}])
    assert progress.log == [
        "WARNING contacts: the state is for other columns or settings; starting over."
    ]
    assert progress.pass_of("contacts").version != 5
    assert progress.start() == [(CONTACTS, Position())]


def test_what_a_plan_covers() -> None:
    def plan(name: str = "email_opened", columns: Any = (), **more: Any) -> Any:
        selected = [Selected(STREAMS[name], {}, {"properties": dict.fromkeys(columns)}, False)]
        progress = Progress(
            Beginning(read_state(None), versions=True, start_date=None, **more), selected
        )
        return progress.value()["bookmarks"][name]["progress"][1]["plan"]

    remembered = Remembered({}, (), ())
    plans = [
        plan(), plan(columns=["event"]), plan("lists"), plan(remembered=remembered),
        plan(store=STORE._replace(id="a")), plan(store=STORE._replace(id="b")), plan(store=STORE._replace(id="b"), remembered=remembered),
    ]  # fmt: skip
    assert len(set(plans)) == len(plans)
    assert plan(store=STORE._replace(id="a", last=11)) == plan(store=STORE._replace(id="a"))
    assert plan("lists", store=STORE._replace(id="a")) == plan("lists"), "no store feeds it"


@pytest.mark.parametrize("reading", ["of another run", None])
def test_a_position_of_another_reading_starts_over(reading: Any) -> None:
    progress = resumed(["reading", {"version": 5, "reading": reading}])
    assert progress.log == ["WARNING contacts: cannot resume from the state; starting over."]
    assert progress.pass_of("contacts").version != 5
    assert progress.start() == [(CONTACTS, Position())]


def test_tables_of_one_source_resume_only_if_all_belong_to_its_reading() -> None:
    def state(*readings: str) -> Any:
        names = ("contacts", "lists_contacts")
        return {
            "bookmarks": {
                name: {"progress": ["reading", {"reading": reading}]}
                for name, reading in zip(names, readings, strict=True)
            },
            "walks": {"contacts": ["x", COUNTS]},
        }

    for readings, position in (
        (("m", "m"), HALFWAY), (("m", "n"), Position()), (("n", "n"), Position()),
    ):  # fmt: skip
        progress = begin("contacts", "lists_contacts", state=state(*readings))
        assert progress.start() == [(CONTACTS, position)]
        entries = progress.value()["bookmarks"].values()
        assert {one["progress"][1]["reading"] for one in entries} == {
            progress.value()["walks"]["contacts"][-1]
        }


def test_a_pass_reads_all_of_a_store_that_is_not_the_one_it_read() -> None:
    entry = {"progress": ["complete", {"incremental": True}], "collected": ["store", 11]}
    state = {
        "bookmarks": {"contact_events": entry, "lists": {"progress": ["reading", {}]}},
        "walks": {"lists": ["x", COUNTS]},
    }
    progress = begin(
        "lists", "contact_events", incremental=["contact_events"], state=state, store=STORE
    )
    assert progress.log == [
        "WARNING contact_events: the store has lost events since; reading all events in the store."
    ]
    assert progress.stored() == {"contact_events": 0}
    assert progress.incomplete() == {"lists", "contact_events"}


@pytest.mark.parametrize("details", [{}, {"version": 5}, {"since": "2020-01-03T00:00:00Z"}])
@pytest.mark.parametrize("status", ["reading", "complete"])
def test_an_interrupted_full_pass_is_completed_before_an_incremental_one(
    details: Any, status: str
) -> None:
    selected = [Selected(STREAMS[name], {}, {}, True) for name in ("contacts", "email_opened")]
    state = {"bookmarks": {"contacts": {"progress": [status, {"plan": "p", **details}]}}}
    with logged() as log:
        streams = complete_first(selected, read_state(state))
    assert [one.incremental for one in streams] == [False, True]
    assert [one.partition(";")[0] for one in log] == [
        "INFO contacts: completing the interrupted full pass"
    ]
    incremental = {"contacts": {"progress": [status, {"incremental": True}]}}
    for nothing in (None, 5, {"bookmarks": 5}, {"bookmarks": {"contacts": 5}},
                    {"bookmarks": {"contacts": {"progress": 5}}}, {"bookmarks": incremental}):  # fmt: skip
        assert complete_first(selected, read_state(nothing)) == selected


def test_incremental_rows_that_lack_new_columns_are_warned_of() -> None:
    progress = begin("contacts", incremental=["contacts"])
    found = progress.pass_of("contacts")
    found.newest, found.started = day(5), day(9)
    write(progress, CONTACTS, None)
    progress.finish()
    columns = progress.value()["bookmarks"]["contacts"]["columns"]
    warning = (
        "WARNING contacts: the selected columns changed, but only rows that change from now on"
    )
    cases: list[tuple[Any, Any, bool]] = [
        (columns, BOOKMARK, False), ("others", BOOKMARK, True), ("others", {}, False),
        (None, BOOKMARK, False),
    ]  # fmt: skip
    for before, bookmark, warns in cases:
        state = {"bookmarks": {"contacts": {"columns": before, **bookmark}}}
        log = begin("contacts", incremental=["contacts"], state=state).log
        assert [one.startswith(warning) for one in log] == [True] * warns
        assert begin("contacts", state=state).log == [], "a full pass sends all rows"


def test_an_entry_replaces_all_that_an_older_state_has() -> None:
    names = ("contacts", "email_opened", "contact_events", "lists")
    entries = begin(*names, incremental=names[:3]).value()["bookmarks"]
    singer = {"progress", "start_date", "columns"}
    store = {"collected", "collected_from", "append_only"}
    assert {name: entry.keys() for name, entry in entries.items()} == {
        "contacts": singer | {"updated_at"},
        "email_opened": singer | {"timestamp"} | store,
        "contact_events": singer | {"received_at"} | store,
        "lists": {"progress"},
    }
    assert not any(value for entry in entries.values() for value in [*entry.values()][1:])


def test_every_doubt_is_resumed() -> None:
    doubts = {doubt.value: "why" for doubt in Doubt}
    progress = resumed(["reading", {"doubts": doubts}])
    assert progress.pass_of("contacts").doubts == dict.fromkeys(Doubt, "why")


@pytest.mark.parametrize("walk", [None, 5, ["", COUNTS], ["x", COUNTS[1:]]])
def test_a_pass_without_its_position_starts_over(walk: Any) -> None:
    state = {"bookmarks": {"contacts": {"progress": ["reading", {}]}}, "walks": {"contacts": walk}}
    for given in (state, {**state, "walks": walk}):
        progress = begin("contacts", state=given)
        assert progress.log == ["WARNING contacts: cannot resume from the state; starting over."]
        assert progress.pass_of("contacts").version is not None
        assert not progress.is_resumed("contacts")


def test_a_table_that_joins_a_source_starts_it_over() -> None:
    state = {
        "bookmarks": {
            name: {"progress": ["reading", {"version": 5}]} for name in ("contacts", "lists")
        },
        "walks": {name: ["x", COUNTS] for name in ("contacts", "lists")},
    }
    progress = begin("contacts", "lists_contacts", "lists", state=state)
    assert progress.log == [
        "WARNING contacts, lists_contacts: cannot resume from the state; starting over."
    ]
    assert progress.pass_of("contacts").version == progress.pass_of("lists_contacts").version != 5
    assert progress.pass_of("lists").version == 5
    assert progress.start() == [(LISTS, HALFWAY), (CONTACTS, Position())]
    assert [
        name for name in ("contacts", "lists_contacts", "lists") if progress.is_resumed(name)
    ] == ["lists"]


def test_a_table_that_leaves_a_source_leaves_its_position() -> None:
    state = {
        "bookmarks": {
            name: {"progress": ["reading", {}]} for name in ("contacts", "lists_contacts")
        },
        "walks": {"contacts": ["x", COUNTS]},
    }
    assert begin("lists_contacts", state=state).start() == [(CONTACTS, HALFWAY)]


def test_what_was_complete_is_not_read_again() -> None:
    state = {
        "bookmarks": {
            "contacts": {"progress": ["complete", {"version": 5}]},
            "lists_contacts": {"progress": ["reading", {"version": 5}]},
            "lists": {"progress": ["complete", {"version": 5}]},
        },
        "walks": walks(contacts=["x", COUNTS]),
    }
    progress = begin("contacts", "lists_contacts", "lists", state=state)
    assert progress.log == ["INFO Already completed by the interrupted run: contacts, lists."]
    assert progress.start() == [(CONTACTS, HALFWAY)]
    assert progress.fed_by("contacts") == ["lists_contacts"]
    assert progress.incomplete() == {"lists_contacts"}
    assert progress.shown() == state
    assert write(progress, CONTACTS, None) == ["lists_contacts"]
    progress.finish()
    assert progress.shown()["bookmarks"] == {
        name: {"progress": None} for name in state["bookmarks"]
    }


@pytest.mark.parametrize(
    ("state", "warning"),
    [
        (None, None),
        ({}, None),
        ([], "The state is not a Singer state; starting without it."),
        (5, "The state is not a Singer state; starting without it."),
        ({"walks": {}}, "The state is not a Singer state; starting without it."),
        ({"bookmarks": []}, "The state is not a Singer state; starting without it."),
        ({"type": "STATE"}, None),
        ({"type": "STATE", "value": 5}, "The state is not a Singer state; starting without it."),
        ({"bookmarks": {}}, None),
        ({"bookmarks": {"deals": {}}}, "The state has an unknown stream 'deals'; ignored."),
        (
            {"bookmarks": {"lists": 5}},
            "lists: the state's bookmark is not an object; starting over.",
        ),
        ({"bookmarks": {"lists": {"progress": None}}}, None),
    ],
)
def test_what_a_state_may_be(state: Any, warning: str | None) -> None:
    progress = begin("lists", state=state)
    assert progress.log == [f"WARNING {warning}"] * (warning is not None)
    assert progress.shown()["bookmarks"].keys() == {"lists"}
    assert progress.pass_of("lists").version is not None


# What is read, and in which order


def test_what_was_begun_is_read_first() -> None:
    state = {
        "bookmarks": {name: {"progress": ["reading", {}]} for name in ("lists", "custom_fields")},
        "walks": {"lists": ["x", COUNTS], "custom_fields": START},
    }
    progress = begin("contacts", "lists", "custom_fields", state=state)
    assert [walk for walk, _ in progress.start()] == [LISTS, CONTACTS, CUSTOM_FIELDS]


@pytest.mark.parametrize(
    ("names", "position"),
    [(["smart_segments"], HALFWAY), (["smart_segments", MEMBERS], Position())],
)
def test_all_segments_are_listed_for_their_members(names: list[str], position: Position) -> None:
    state = {
        "bookmarks": {name: {"progress": ["reading", {}]} for name in names},
        "walks": {"smart_segments": ["x", COUNTS], MEMBERS: ["s", 1, 0, []]},
    }
    assert begin(*names, state=state).start() == [(SEGMENTS, position)]


def test_segments_are_listed_first_if_their_members_were_begun() -> None:
    entry = {"progress": ["reading", {"version": 5}]}
    for through, first in (("s", SEGMENTS), ("", CONTACTS)):
        state = {"bookmarks": {MEMBERS: entry}, "walks": {MEMBERS: [through, 1, 0, []]}}
        progress = begin("contacts", MEMBERS, state=state)
        assert progress.start()[0] == (first, Position())
        assert progress.is_resumed(MEMBERS)
    assert begin("contacts").start() == [(CONTACTS, Position())]
    assert begin().start() == []


def test_the_members_of_each_segment() -> None:
    progress = begin(MEMBERS)
    assert progress.walks_over(["b", "a"]) == [(members_of(one), Position()) for one in "ab"]
    assert write(progress, members_of("a"), HALFWAY, 2) == []
    assert progress.shown()["walks"] == walks(**{MEMBERS: ["a", 2, 0, [["a", "x", COUNTS, 0]]]})
    progress.failed(members_of("a"))
    progress.failed(CONTACTS)
    assert progress.shown()["walks"][MEMBERS][3] == [["a", "x", COUNTS, 1]]
    assert write(progress, members_of("a"), None, 1) == []
    assert progress.gone(members_of("b")) == [MEMBERS]
    assert progress.pass_of(MEMBERS).doubts == {}
    assert progress.shown()["walks"] == walks()


def test_members_start_over_if_all_segments_are_gone() -> None:
    progress = begin(MEMBERS)
    progress.walks_over("ab")
    progress.gone(members_of("a"))
    with pytest.raises(RunError, match=r"^smart_segments_contacts: all 2 segments returned 404\.$"):
        progress.gone(members_of("b"))
    assert progress.incomplete() == {MEMBERS}
    assert progress.shown()["walks"] == walks(**{MEMBERS: ["", 0, 0, []]})
    assert progress.walks_over("c") == [(members_of("c"), Position())]
    assert write(progress, members_of("c"), None) == [MEMBERS]


# Completion


def test_a_source_completes_all_that_it_feeds() -> None:
    progress = begin("contacts", "lists_contacts", "lists")
    assert progress.fed_by("contacts") == ["contacts", "lists_contacts"]
    assert write(progress, CONTACTS, HALFWAY, 3) == []
    assert progress.shown()["walks"] == walks(contacts=["x", COUNTS], lists=START)
    assert write(progress, CONTACTS, None) == ["contacts", "lists_contacts"]
    assert progress.fed_by("contacts") == []
    assert progress.incomplete() == {"lists"}
    assert progress.shown()["bookmarks"]["contacts"]["progress"][0] == "complete"
    assert progress.pass_of("contacts").doubts == {}


def test_doubts_about_a_source_are_about_all_that_it_feeds() -> None:
    progress = begin("contacts", "lists_contacts")
    progress.pass_of("contacts").saw(None, 1)
    assert write(progress, CONTACTS, None, 0) == ["contacts", "lists_contacts"]
    reason = "the API listed no contacts at all"
    assert progress.pass_of("lists_contacts").doubts == {Doubt.EMPTY: reason}
    assert progress.pass_of("contacts").doubts == {
        Doubt.EMPTY: reason, Doubt.SKIPPED: "1 documents were skipped",
    }  # fmt: skip
    entry = progress.shown()["bookmarks"]["contacts"]["progress"]
    assert entry[1]["doubts"] == {"empty": reason, "skipped": "1 documents were skipped"}


def test_what_a_pass_saw() -> None:
    found = Pass()
    found.saw(None, 0)
    assert found == Pass()
    found.saw(day(2), 1)
    found.saw(day(1), 0)
    assert (found.newest, found.skipped) == (day(2), 1)
    found.saw(day(3), 1233)
    found.saw(None, 0)
    assert (found.newest, found.skipped) == (day(3), 1234)
    assert found.doubts == {Doubt.SKIPPED: "1,234 documents were skipped"}


@pytest.mark.parametrize(
    ("date", "started"),
    [(day(1), day(1)), (datetime(2999, 1, 1, tzinfo=timezone.utc), None), (None, None)],
)
def test_a_pass_begins_by_the_earlier_clock(
    date: datetime | None, started: datetime | None
) -> None:
    before = datetime.now(timezone.utc)
    progress = begin("contacts", "lists", incremental=["contacts"])
    progress.began("contacts", date)
    progress.began("lists", date)
    found = progress.pass_of("contacts").started
    assert found is not None
    assert found == started or before <= found <= datetime.now(timezone.utc)
    progress.began("contacts", day(1) - timedelta(days=1))
    assert progress.pass_of("contacts").started == found
    assert progress.pass_of("lists").started is None


# Singer bookmarks


STARTED = day(9)


def moved(
    newest: datetime | None,
    *,
    started: datetime | None = STARTED,
    before: datetime | None = None,
    doubts: Collection[Doubt] = (),
    start_date: datetime | None = None,
) -> Any:
    """The state's entry of contacts after an incremental pass."""
    entry = {"updated_at": before.isoformat()} if before else {}
    progress = begin(
        "contacts", state={"bookmarks": {"contacts": entry}}, incremental=["contacts"],
        start_date=start_date,
    )  # fmt: skip
    found = progress.pass_of("contacts")
    found.newest, found.started = newest, started
    found.doubts.update(dict.fromkeys(doubts, "why"))
    write(progress, CONTACTS, None)
    progress.finish()
    assert progress.incomplete() == set()
    return progress.shown()["bookmarks"]["contacts"]


def test_the_bookmark_moves_to_the_newest_change() -> None:
    assert moved(day(5, 10)) == {"progress": None, "updated_at": "2020-01-05T10:00:00Z"}
    assert moved(day(5), before=day(4))["updated_at"] == "2020-01-05T00:00:00Z"
    assert moved(day(5), doubts=[Doubt.SKIPPED])["updated_at"] == "2020-01-05T00:00:00Z"


def test_the_bookmark_stays_a_minute_before_the_start_of_the_pass() -> None:
    assert moved(day(9))["updated_at"] == "2020-01-08T23:59:00Z"


def test_the_bookmark_never_moves_back() -> None:
    assert moved(day(5), before=day(6))["updated_at"] == "2020-01-06T00:00:00Z"


@pytest.mark.parametrize("doubts", [[Doubt.SHORT], [Doubt.SKIPPED, Doubt.UNCOUNTED]])
def test_the_bookmark_does_not_move_if_there_is_doubt(doubts: list[Doubt]) -> None:
    assert moved(day(5), doubts=doubts) == {"progress": None}
    assert moved(day(5), before=day(4), doubts=doubts)["updated_at"].startswith("2020-01-04")


def test_the_bookmark_stays_if_nothing_has_a_time() -> None:
    assert moved(None) == {"progress": None}
    assert moved(day(5), started=None) == {"progress": None}


def test_the_bookmark_remembers_its_start_date() -> None:
    assert moved(day(5), start_date=day(2)) == {
        "progress": None,
        "updated_at": "2020-01-05T00:00:00Z",
        "start_date": "2020-01-02T00:00:00Z",
    }
    state = {"bookmarks": {"contacts": {**BOOKMARK, "start_date": "2020-01-02T00:00:00Z"}}}
    progress = begin("contacts", state=state, incremental=["contacts"])
    found = progress.pass_of("contacts")
    found.newest, found.started, found.is_complete = day(5), day(9), True
    progress.finish()
    entry = progress.value()["bookmarks"]["contacts"]
    assert entry["start_date"] is None, "so that it also goes from merged states"
    state = {"bookmarks": {"contacts": {**BOOKMARK, "start_date": "not a time"}}}
    progress = begin("contacts", state=state, incremental=["contacts"])
    found = progress.pass_of("contacts")
    found.newest, found.started = day(5), day(9)
    write(progress, CONTACTS, None)
    progress.finish()
    assert progress.shown()["bookmarks"]["contacts"].keys() == {"progress", "updated_at"}


def test_what_is_not_complete_stays_as_it_is() -> None:
    progress = begin("contacts", "lists", incremental=["contacts"])
    found = progress.pass_of("contacts")
    found.newest, found.started = day(5), day(9)
    write(progress, CONTACTS, HALFWAY, 5)
    write(progress, LISTS, None)
    progress.finish()
    value = progress.shown()
    assert value["bookmarks"]["contacts"] == {
        "progress": [
            "reading",
            {
                "started": "2020-01-09T00:00:00Z",
                "newest": "2020-01-05T00:00:00Z",
                "incremental": True,
            },
        ]
    }
    assert value["bookmarks"]["lists"] == {"progress": None}
    assert value["walks"] == walks(contacts=["x", COUNTS])
    assert progress.incomplete() == {"contacts"}


def test_a_state_may_have_other_entries_besides_bookmarks() -> None:
    progress = begin("lists")
    assert progress.value()["digests"] is None, "so that an older position is not trusted"
    progress.digests = [5, "x"]
    assert progress.value()["digests"] == [5, "x"]


# A collector's store

STORE = Store("store", 10, {1: "one", 7: "seven"}.get)


def in_store(collected: Any, *names: str, **more: Any) -> Begun:
    """A run with a store of ten events, and these positions in its state."""
    names = names or ("email_opened",)
    entries = {name: dict(collected) if isinstance(collected, dict) else {"collected": collected}
               for name in names}  # fmt: skip
    return begin(*names, state={"bookmarks": entries}, store=STORE, **more)


@pytest.mark.parametrize(
    ("collected", "position", "reason"),
    [
        (None, 0, None),
        (["store", 0], 0, None),
        (["store", 7], 7, None),
        (["store", 10], 10, None),
        (["store", 7, "seven"], 7, None),
        (["store", 7, "another"], 0, "event 7 in the store is not the one that the state names"),
        (["store", 10, "ten"], 0, "event 10 in the store is not the one that the state names"),
        (["store", 7, "seven", 1], 0, "the state's position in the store is not valid"),
        (["store", 7, 7], 0, "the state's position in the store is not valid"),
        (["another", 7, "seven"], 0, "the state is from another store"),
        (["store", 11], 0, "the store has lost events since"),
        (["store", -1], 0, "the store has lost events since"),
        (["another", 7], 0, "the state is from another store"),
        ([5, 7], 0, "the state's position in the store is not valid"),
        (["store", "7"], 0, "the state's position in the store is not valid"),
        (["store"], 0, "the state's position in the store is not valid"),
        (7, 0, "the state's position in the store is not valid"),
    ],
)
def test_an_incremental_pass_continues_reading_the_store(
    collected: Any, position: int, reason: str | None
) -> None:
    names = ("email_opened", "contact_events")
    progress = in_store(collected, *names, incremental=names)
    assert progress.stored() == dict.fromkeys(names, position)
    assert progress.log == [
        f"WARNING email_opened, contact_events: {reason}; reading all events in the store."
    ] * (reason is not None)
    entry = progress.shown()["bookmarks"]["contact_events"]
    assert entry == {
        "progress": ["reading", {"incremental": True}],
        "collected": ["store", position, *(["seven"] if position == 7 else [])],
    }


def test_a_full_pass_reads_all_of_its_store() -> None:
    progress = in_store(["store", 7])
    assert progress.stored() == {"email_opened": 0}
    assert progress.log == []
    assert begin("lists", store=STORE).stored() == {}


def test_a_full_pass_that_is_resumed_reads_on_in_its_store() -> None:
    state = {
        "bookmarks": {"email_opened": {"progress": ["reading", {}], "collected": ["store", 7]}},
        "walks": {"contacts": ["x", COUNTS]},
    }
    assert begin("email_opened", state=state, store=STORE).stored() == {"email_opened": 7}


@pytest.mark.parametrize(
    ("made_under", "start_date", "position"),
    [
        (None, None, 7),
        (None, day(1), 7),
        (day(2), day(2), 7),
        (day(2), day(3), 7),
        (day(2), day(1), 0),
        (day(2), None, 0),
    ],
)
def test_an_earlier_start_date_reads_all_of_the_store(
    made_under: datetime | None, start_date: datetime | None, position: int
) -> None:
    collected: dict[str, Any] = {"collected": ["store", 7]}
    if made_under:
        collected["collected_from"] = made_under.isoformat()
    progress = in_store(collected, incremental=["email_opened"], start_date=start_date)
    assert progress.stored() == {"email_opened": position}
    assert progress.log == [
        "WARNING email_opened: start_date is earlier, or no longer set; reading all events in the store."
    ] * (not position)
    entry = progress.value()["bookmarks"]["email_opened"]
    assert entry["collected_from"] == (
        start_date.isoformat().replace("+00:00", "Z") if start_date else None
    )


def test_start_date_does_not_skip_hook_events() -> None:
    progress = in_store(["store", 7], "contact_events", incremental=["contact_events"],
                        start_date=day(1))  # fmt: skip
    assert "collected_from" not in progress.shown()["bookmarks"]["contact_events"]


def test_the_position_in_the_store_moves_forward_only() -> None:
    names = ("email_opened", "contact_events")
    progress = begin(*names, incremental=names, store=STORE,
                     state={"bookmarks": {"email_opened": {"collected": ["store", 7]}}})  # fmt: skip
    progress.advance_in_store(names, 5)
    assert progress.stored() == {"email_opened": 7, "contact_events": 5}
    assert progress.shown()["bookmarks"]["contact_events"]["collected"] == ["store", 5]


def test_a_stream_with_two_sources_is_complete_after_both() -> None:
    progress = in_store(None, "email_opened", "contact_events")
    assert progress.complete_store() == ["contact_events"]
    assert write(progress, CONTACTS, None) == ["email_opened"]
    other = in_store(None, "email_opened", "contact_events")
    assert write(other, CONTACTS, None) == []
    assert other.complete_store() == ["email_opened", "contact_events"]
    without = begin("email_opened")
    assert write(without, CONTACTS, None) == ["email_opened"]


def test_what_a_store_feeds_is_a_log() -> None:
    progress = begin("email_opened", "contacts", store=STORE)
    assert (progress.is_log("email_opened"), progress.is_log("contacts")) == (True, False)
    assert progress.pass_of("email_opened").version is None
    assert progress.pass_of("contacts").version is not None
    without = begin("email_opened", "email_clicked",
                    state={"bookmarks": {"email_opened": {"collected": ["store", 7]}}})  # fmt: skip
    assert (without.is_log("email_opened"), without.is_log("email_clicked")) == (True, False)
    assert not without.is_log("email_replied"), "it is not selected"
    entries = without.value()["bookmarks"]
    assert entries["email_opened"]["collected"] is None, "this run may replace all rows"
    assert [one["append_only"] for one in entries.values()] == [True, False]
    again = begin("email_opened", "email_clicked", state=without.value())
    assert (again.is_log("email_opened"), again.is_log("email_clicked")) == (True, False)


def test_the_logs_in_a_state() -> None:
    state = {
        "bookmarks": {
            "email_opened": {"collected": ["store", 7]},
            "email_clicked": {"collected": None, "append_only": True},
            "email_replied": {"collected": None, "append_only": False},
            "email_bounced": {"collected": None},
            "lists": {},
            "contacts": 5,
        }
    }
    for given in (state, {"type": "STATE", "value": state}):
        assert read_state(given).logs(has_store=False) == {"email_opened", "email_clicked"}
    no_logs: list[Any] = [None, {}, [], {"bookmarks": 5}, {"type": "STATE"}]
    assert not any(read_state(one).logs(has_store=False) for one in no_logs)


# Digests


def test_the_position_of_the_digests() -> None:
    state = {"bookmarks": {}, "digests": [5, "x"]}
    for given in (state, {"type": "STATE", "value": state}):
        assert read_state(given).digests == [5, "x"]
    without: list[Any] = [None, {}, 5, {"bookmarks": {}}, {"type": "STATE"}]
    assert all(read_state(one).digests is None for one in without)


def test_what_the_digests_know() -> None:
    remembered = Remembered({"lists": 3, "contacts": 4}, {"contacts"}, ())
    assert remembered.knows("lists")
    assert not remembered.knows("contacts")
    assert not remembered.knows("smart_segments")


def test_a_new_pass_has_the_version_of_its_digests() -> None:
    remembered = Remembered({"lists": 3}, (), ())
    progress = begin("lists", "contacts", remembered=remembered)
    assert progress.pass_of("lists").version == 3
    assert progress.pass_of("contacts").version not in (None, 3)
    assert begin("lists", versions=False, remembered=remembered).pass_of("lists").version is None


@pytest.mark.parametrize(
    ("versions", "reshaped", "begun", "goes_on"),
    [
        ({"contacts": 3}, (), ("contacts",), True),
        ({"contacts": 3}, ("contacts",), ("contacts",), False),
        ({"contacts": 4}, (), ("contacts",), False),
        ({"contacts": 3}, (), ("lists",), False),
        ({}, (), (), False),
    ],
)
def test_a_pass_resumes_if_the_digests_cover_what_it_sent(
    versions: dict[str, int],
    reshaped: Collection[str],
    begun: Collection[str],
    goes_on: bool,
) -> None:
    remembered = Remembered(versions, reshaped, begun)
    progress = resumed(["reading", {"version": 3}], remembered=remembered)
    assert progress.is_resumed("contacts") is goes_on
    assert progress.start() == [(CONTACTS, HALFWAY if goes_on else Position())]


@pytest.mark.parametrize("reshaped", [(), ("email_opened",)])
def test_a_full_pass_with_digests_continues_reading_the_store(
    reshaped: Collection[str],
) -> None:
    progress = in_store(["store", 7], remembered=Remembered({"email_opened": 3}, reshaped, ()))
    assert progress.stored() == {"email_opened": 0 if reshaped else 7}
