"""Passes in a state: those that a run resumes, and those that start over."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tap_autopilot.protocol.progress import Progress
from tap_autopilot.protocol.resuming import Remembered, complete_first
from tap_autopilot.protocol.selection import Selected
from tap_autopilot.protocol.state import Pass, read_state
from tap_autopilot.rows.changed import ChangedSince
from tap_autopilot.sources.completeness import Doubt
from tap_autopilot.sources.listings import CONTACTS, LISTS, Position
from tap_autopilot.streams import STREAMS
from tests.begun import (
    BOOKMARK,
    COUNTS,
    HALFWAY,
    STORE,
    Begun,
    begin,
    day,
    plain,
    resumed,
    terms_of,
    walks,
    write,
)
from tests.in_process import logged

ALL = {
    "incremental": True,
    "since": "2020-01-03T00:00:00Z",
    "started": "2020-01-05T00:00:00Z",
    "newest": "2020-01-04T00:00:00Z",
    "doubts": {"short": "why", "skipped": "some"},
}


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
            doubts={Doubt.SHORT: "why", Doubt.SKIPPED: "some"},
        )
        assert progress.pass_of("contacts").window == ChangedSince(day(3), day(5))
        assert progress.walks() == [(CONTACTS, HALFWAY)]
        assert progress.is_resumed("contacts")
        assert json.loads(json.dumps(progress.shown())) == state
        assert progress.log == []


@pytest.mark.parametrize(
    ("progress", "incremental"),
    [
        (5, False),
        ({}, False),
        ([], False),
        (["reading"], False),
        (["begun", {}], False),
        (["reading", {"of a later version": 1}], False),
        (["reading", {"plan": 5}], False),
        (["reading", {"reading": 5}], False),
        (["reading", {"version": "5"}], False),
        (["reading", {"version": 5.0}], False),
        (["reading", {"repeated": {"short": "1"}}], False),
        (["reading", {"doubts": {"vague": "why"}}], False),
        (["reading", {"doubts": {"short": "\ud800"}}], False),
        (["reading", {"doubts": {"short": ""}}], False),
        (["reading", {"version": 5, "since": "2020-01-03T00:00:00Z"}], False),
        (["reading", {"started": "2020-01-03T00:00:00Z"}], False),
        (["reading", {"newest": "2020-01-03T00:00:00Z"}], False),
        (["reading", {}], True),
        (["reading", {"incremental": True}], False),
        (["reading", {"incremental": 1, "since": "2020-01-03T00:00:00Z"}], True),
        (["reading", {"since": "2020-01-03T00:00:00Z"}], True),  # of a pass with a start_date
        (["reading", {**ALL, "version": 5}], True),
        (["reading", {**ALL, "since": "2020-01-02T00:00:00Z"}], True),
        (["reading", {**ALL, "since": "soon"}], True),
        (["reading", {**ALL, "started": "soon"}], True),
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
    assert found.walks() == [(CONTACTS, Position())]
    assert not found.is_resumed("contacts")


@pytest.mark.parametrize(
    ("details", "setting", "said"),
    [
        # only some of its rows have the version
        ({}, {"incremental": ["contacts"]}, "cannot resume from the state"),
        ({"since": "2020-01-03T00:00:00Z"}, {"start_date": day(3)}, "cannot resume from the state"),
        # the position is of another run's reading
        ({"reading": "of another run"}, {}, "cannot resume from the state"),
        ({"reading": None}, {}, "cannot resume from the state"),
        ({"plan": "p"}, {}, "the state is for another account, columns or settings"),
    ],
)
def test_a_pass_on_other_terms_starts_over(details: Any, setting: Any, said: str) -> None:
    progress = resumed(["reading", {"version": 5, **details}], **setting)
    assert progress.log == [f"WARNING contacts: {said}; starting over."]
    assert progress.pass_of("contacts").version != 5
    assert progress.walks() == [(CONTACTS, Position())]
    assert not progress.is_resumed("contacts")


def test_what_a_plan_covers() -> None:
    def plan(name: str = "email_opened", columns: Any = (), **more: Any) -> Any:
        selected = [Selected(STREAMS[name], {}, {"properties": dict.fromkeys(columns)}, False)]
        state = read_state(None)
        progress = Progress(state, selected, terms_of(state, selected, **more))
        return progress.value()["bookmarks"][name]["progress"][1]["plan"]

    remembered = Remembered({}, (), (), ())
    plans = [
        plan(), plan(columns=["event"]), plan("lists"), plan(remembered=remembered),
        plan(store=STORE._replace(id="a")), plan(store=STORE._replace(id="b")), plan(store=STORE._replace(id="b"), remembered=remembered),
    ]  # fmt: skip
    assert len(set(plans)) == len(plans)
    assert plan(store=STORE._replace(id="a", last=11)) == plan(store=STORE._replace(id="a"))
    assert plan("lists", store=STORE._replace(id="a")) == plan("lists"), "no store feeds it"


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
    warning = "WARNING contacts: the selected columns changed, but only rows"
    cases: list[tuple[Any, Any, bool]] = [
        (columns, BOOKMARK, False), ("others", BOOKMARK, True), ("others", {}, False),
        (None, BOOKMARK, False),
    ]  # fmt: skip
    for before, bookmark, warns in cases:
        state = {"bookmarks": {"contacts": {"columns": before, **bookmark}}}
        log = begin("contacts", incremental=["contacts"], state=state).log
        assert [one.startswith(warning) for one in log] == [True] * warns
        assert begin("contacts", state=state).log == [], "a full pass sends all rows"


def test_a_bookmark_of_another_account_is_kept_but_not_used() -> None:
    def begun(state: Any, account: str) -> Begun:
        given, selected = read_state(state), [Selected(STREAMS["contacts"], {}, {}, True)]
        with logged() as log:
            progress = Begun(given, selected, terms_of(given, selected, account=account))
        progress.log = log
        return progress

    def bookmark(progress: Begun) -> Any:
        return progress.value()["bookmarks"]["contacts"]["updated_at"]

    first = begun(None, "one")
    first.pass_of("contacts").newest, first.pass_of("contacts").started = day(5), day(9)
    write(first, CONTACTS, None)
    first.finish()
    state = first.value()
    assert begun(state, "one").log == []
    other = begun(state, "another")
    assert other.log[0].startswith("WARNING contacts: the state's updated_at is of another account")
    assert begun(other.value(), "one").pass_of("contacts").since == day(5), "the key was a mistake"
    write(other, CONTACTS, HALFWAY)
    assert bookmark(other) == bookmark(first)
    again = begun(other.value(), "another")
    assert (again.is_resumed("contacts"), again.log) == (True, [])
    again.pass_of("contacts").newest, again.pass_of("contacts").started = day(3), day(9)
    write(again, CONTACTS, None)
    again.finish()
    assert bookmark(again) == "2020-01-03T00:00:00Z", "however late the other account's is"
    assert begun(again.value(), "another").pass_of("contacts").since == day(3)


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
    assert progress.walks() == [(LISTS, HALFWAY), (CONTACTS, Position())]
    assert [
        name for name in ("contacts", "lists_contacts", "lists") if progress.is_resumed(name)
    ] == ["lists"]


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
    assert progress.walks() == [(CONTACTS, HALFWAY)]
    assert progress.fed_by("contacts") == ["lists_contacts"]
    assert progress.incomplete() == {"lists_contacts"}
    assert progress.shown() == state
    assert write(progress, CONTACTS, None) == ["lists_contacts"]
    progress.finish()
    assert progress.shown()["bookmarks"] == {
        name: {"progress": None} for name in state["bookmarks"]
    }


def test_a_run_with_nothing_left_to_read_says_so() -> None:
    """As after a kill between the last page and the end: a retry need not send it all again."""
    entries = {name: {"progress": ["complete", {"version": 5}]} for name in ("contacts", "lists")}
    progress = begin("contacts", "lists", state={"bookmarks": entries, "walks": walks()})
    assert not progress.incomplete()
    (warning,) = progress.log
    assert warning.startswith("WARNING The interrupted run completed every stream, so this run")
    progress.finish()
    again = begin("contacts", "lists", state=progress.value())
    assert again.incomplete() == {"contacts", "lists"}


def test_what_one_run_completed_is_read_again_after_another_run_has_ended() -> None:
    """As a complete full refresh leaves it, merged over an interrupted run's state."""
    entries = {"contacts": {"progress": None}, "lists": {"progress": ["complete", {"version": 5}]}}
    progress = begin("contacts", "lists", state={"bookmarks": entries, "walks": walks()})
    assert progress.incomplete() == {"contacts", "lists"}


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
