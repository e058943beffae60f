"""Saving each source's position in the state, and restoring it."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime
from typing import Any

import pytest

from tap_autopilot.files import MAX_SIZE
from tap_autopilot.protocol import positions
from tap_autopilot.protocol.positions import EachSegment, OneListing
from tap_autopilot.protocol.resuming import Remembered
from tap_autopilot.sources.completeness import Census, Doubt
from tap_autopilot.sources.listings import CONTACTS, Position, members_of
from tap_autopilot.streams import COLLECTED
from tests.begun import COUNTS, HALFWAY, START, STORE, Begun, begin, day, resumed, write

M = {"m"}


def again(value: Any) -> Any:
    """A value after a round trip through a state file."""
    return json.loads(json.dumps(value))


def counts(name: str, value: Any) -> list[Any]:
    """The counts of a census, with one of them replaced."""
    names = Census._fields
    return [value if one == name else old for one, old in zip(names, COUNTS, strict=True)]


def test_a_listing_resumes_where_its_state_says() -> None:
    before, after = OneListing(CONTACTS, "m"), OneListing(CONTACTS, "n")
    before.advance(CONTACTS, HALFWAY, read=5)
    assert before.value() == ["x", COUNTS, "m"], "states of earlier versions must stay readable"
    assert after.resume(again(before.value()), {"m"})
    assert (after.position, after.mark) == (HALFWAY, "m")
    assert (after.was_interrupted, after.is_complete) == (True, False)
    after.advance(CONTACTS, Position("y"), read=7)
    assert (after.position, after.read) == (Position("y"), 7)
    after.advance(CONTACTS, None, read=8)
    assert (after.position, after.read) == (Position(), 8)
    assert (after.is_complete, after.value()) == (True, None)


GOOD_COUNTS = [COUNTS, counts("read", 2**53), counts("highest", None), counts("least", None)]
BAD_COUNTS = [
    [],
    COUNTS[:-1],
    [*COUNTS, 1],
    counts("read", -1),
    counts("read", 2**53 + 1),
    counts("read", True),
    counts("highest", "\ud800"),
    counts("least", "7"),
    counts("attempt", None),
]


@pytest.mark.parametrize("value", [*([mark, one] for mark in ("x", None) for one in GOOD_COUNTS)])
def test_a_position_in_a_state(value: Any) -> None:
    listing = OneListing(CONTACTS, "m")
    assert listing.resume([*value, "m"], M)
    assert listing.value() == [*value, "m"]
    members = EachSegment("m")
    assert members.resume(["s", 0, 0, [["s", *value, 0]], "m"], M)
    assert members.value() == ["s", 0, 0, [["s", *value, 0]], "m"]


@pytest.mark.parametrize(
    "value",
    [
        None, 5, "x", {}, [], ["x"], [None], ["x", COUNTS, 1], ["x", None], ["x", {}], [5, COUNTS],
        ["", COUNTS], ["\ud800", COUNTS], [["x"], COUNTS], *(["x", one] for one in BAD_COUNTS),
    ],
)  # fmt: skip
def test_invalid_positions_are_not_resumed(value: Any) -> None:
    listing = OneListing(CONTACTS, "m")
    assert listing.resume([*value, "m"] if isinstance(value, list) else value, M) is False
    assert (listing.position, listing.read) == (Position(), 0)
    members = EachSegment("m")
    for entry in (["s", *value, 0] if isinstance(value, list) else value, value):
        assert not members.resume(["s", 3, 0, [["a", "x", COUNTS, 0], entry], "m"], M)
    assert members.value() == ["", 0, 0, [], "m"]


def ids(members: EachSegment, segments: str) -> list[tuple[str | None, Position]]:
    """The segments to read, in order, and from where."""
    walks = members.walks(segments.split())
    assert all(walk == members_of(str(walk.segment_id)) for walk, _ in walks)
    return [(walk.segment_id, position) for walk, position in walks]


def test_segments_are_begun_in_any_order() -> None:
    members = EachSegment("m")
    ids(members, "a b c d")
    members.advance(members_of("c"), HALFWAY, read=5)
    half, start = ["x", COUNTS, 0], [*START, 0]
    assert members.value() == ["c", 0, None, [["a", *start], ["b", *start], ["c", *half]], "m"]
    members.advance(members_of("a"), None, read=1)
    assert members.value() == ["c", 1, None, [["b", *start], ["c", *half]], "m"]
    resumed = EachSegment("m")
    assert resumed.resume(again(members.value()), M)
    assert (resumed.was_interrupted, resumed.is_complete, resumed.read) == (True, False, 1)
    assert ids(resumed, "a b c d") == [("b", Position()), ("c", HALFWAY), ("d", Position())]
    for one in "bcd":
        resumed.advance(members_of(one), None, read=1)
    assert resumed.is_complete
    assert resumed.read == 4


def test_segments_that_failed_come_last_once() -> None:
    members = EachSegment("m")
    ids(members, "a b c")
    members.advance(members_of("a"), HALFWAY, read=5)
    members.note_failure(members_of("a"))
    members.note_failure(members_of("b"))
    state = members.value()
    assert state == ["b", 0, None, [["a", "x", COUNTS, 1], ["b", *START, 1]], "m"]
    assert not members.is_complete
    resumed = EachSegment("m")
    assert resumed.resume(again(state), M)
    assert resumed.value() == state
    assert ids(resumed, "a b c") == [("c", Position()), ("a", HALFWAY), ("b", Position())]
    assert [one[3] for one in resumed.value()[3]] == [0, 0]
    gone = EachSegment("m")
    assert gone.resume(again(state), M)
    assert ids(gone, "b c") == [("c", Position()), ("b", Position())]


def test_of_too_many_segments_that_failed_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tap reads no state of more than 10 MB, so one would stop all later runs."""
    assert positions.MAX_OPEN * len(json.dumps("\U0001f600")[1:-1]) < MAX_SIZE, (
        "as targets write it"
    )
    monkeypatch.setattr(positions, "MAX_OPEN", 20_000)
    members, names = EachSegment("m"), [f"{number:0400d}" for number in range(60)]
    ids(members, " ".join(names))
    for number, name in enumerate(names):
        members.advance(members_of(name), Position("x" * 4000, HALFWAY.census), read=1)
        members.note_failure(members_of(name))
        value = members.value()
        assert (value is None) is (number >= 4)
    assert not members.is_complete
    assert not EachSegment("m").resume(value, M)


def test_segments_that_are_gone_are_done() -> None:
    members = EachSegment("m")
    ids(members, "a b c")
    for number, one in enumerate("ab", 1):
        members.note_gone(members_of(one))
        assert members.value() == [one, 0, number, [], "m"]
    members.note_gone(members_of("c"))
    assert members.is_complete


@pytest.mark.parametrize(
    ("segments", "read", "gone", "doubts"),
    [
        ("a b", 1, None, {}),
        ("a b", 0, 2, {Doubt.ALL_GONE: "all 2 segments returned 404"}),
        ("a b", 0, 3, {Doubt.ALL_GONE: "all 3 segments returned 404"}),
        ("a", 0, 1, {Doubt.EMPTY: "the API listed no members of 1 segment at all"}),
        ("a b c", 0, None, {Doubt.EMPTY: "the API listed no members of 3 segments at all"}),
        ("", 0, 0, {Doubt.EMPTY: "the API listed no smart segments at all"}),
        ("", 5, None, {Doubt.EMPTY: "the API listed no smart segments at all"}),
    ],
)
def test_the_doubts_about_all_members(
    segments: str, read: int, gone: int | None, doubts: dict[Doubt, str]
) -> None:
    members = EachSegment("m")
    assert members.resume(["a", read, gone, [], "m"], M)
    ids(members, segments)
    assert members.doubts() == doubts


@pytest.mark.parametrize("exists", ["a", "d"])
def test_not_all_segments_are_gone_if_one_existed_in_any_run(exists: str) -> None:
    state: Any = None
    for run, listed in (("abc", "a b c d"), ("d", f"{exists} d")):
        members = EachSegment("m")
        assert members.resume(state, M) is (run == "d")
        ids(members, listed)
        for one in run:
            if one == exists:
                members.advance(members_of(one), None, read=0)
            else:
                members.note_gone(members_of(one))
        state = again(members.value())
    assert members.is_complete
    assert members.doubts().keys() == {Doubt.EMPTY}


# With a store, or with digests

# A collector's store


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
    assert progress.store_positions() == dict.fromkeys(names, position)
    assert progress.log == [
        f"WARNING email_opened, contact_events: {reason}; reading all events in the store."
    ] * (reason is not None)
    entry = progress.shown()["bookmarks"]["contact_events"]
    assert entry == {
        "progress": ["reading", {"incremental": True}],
        "collected": ["store", position, *(["seven"] if position == 7 else [])],
    }


@pytest.mark.parametrize(
    ("collected", "position", "resumes"),
    [(["store", 7], 7, True), (["another", 7], 0, False), (None, 0, True)],
)
def test_a_full_pass_resumes_in_its_own_store_only(
    collected: Any, position: int, resumes: bool
) -> None:
    state = {
        "bookmarks": {"email_opened": {"progress": ["reading", {}], "collected": collected}},
        "walks": {"contacts": ["x", COUNTS]},
    }
    progress = begin("email_opened", state=state, store=STORE)
    assert progress.is_resumed("email_opened") is resumes
    assert progress.store_positions() == {"email_opened": position}


@pytest.mark.parametrize(
    ("made_under", "start_date", "position"),
    [(None, None, 7), (None, day(1), 7), (day(2), day(2), 7), (day(2), day(1), 0)],
)
def test_an_earlier_start_date_reads_all_of_the_store(
    made_under: datetime | None, start_date: datetime | None, position: int
) -> None:
    collected: dict[str, Any] = {"collected": ["store", 7]}
    if made_under:
        collected["collected_from"] = made_under.isoformat()
    progress = in_store(collected, incremental=["email_opened"], start_date=start_date)
    assert progress.store_positions() == {"email_opened": position}
    assert progress.log == [
        "WARNING email_opened: start_date is earlier, or no longer set; reading all events in the store."
    ] * (not position)
    entry = progress.value()["bookmarks"]["email_opened"]
    assert entry["collected_from"] == (
        start_date.isoformat().replace("+00:00", "Z") if start_date else None
    )


@pytest.mark.parametrize("collected_from", ["soon", 5])
def test_an_invalid_start_date_reads_all_of_the_store(collected_from: Any) -> None:
    collected = {"collected": ["store", 7], "collected_from": collected_from}
    progress = in_store(collected, incremental=["email_opened"], start_date=day(1))
    assert progress.store_positions() == {"email_opened": 0}
    (warning,) = progress.log
    assert "email_opened: the state's position in the store is not valid; reading all" in warning


def test_the_position_in_the_store_moves_forward_only() -> None:
    names = ("email_opened", "contact_events")
    progress = begin(*names, incremental=names, store=STORE,
                     state={"bookmarks": {"email_opened": {"collected": ["store", 7]}}})  # fmt: skip
    progress.advance_in_store(names, 5)
    assert progress.store_positions() == {"email_opened": 7, "contact_events": 5}
    assert progress.shown()["bookmarks"]["contact_events"]["collected"] == ["store", 5]


def test_a_stream_with_two_sources_is_complete_after_both() -> None:
    progress = in_store(None, "email_opened", "contact_events")
    assert progress.finish_source(COLLECTED) == ["contact_events"]
    assert write(progress, CONTACTS, None) == ["email_opened"]
    other = in_store(None, "email_opened", "contact_events")
    assert write(other, CONTACTS, None) == []
    assert other.finish_source(COLLECTED) == ["email_opened", "contact_events"]
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
    assert "collector_database is not set" in str(without.log)
    again = begin("email_opened", "email_clicked", state=without.value())
    assert "collector_database" not in str(again.log)
    assert (again.is_log("email_opened"), again.is_log("email_clicked")) == (True, False)


# Digests


@pytest.mark.parametrize(
    ("versions", "known", "begun", "goes_on"),
    [
        ({"contacts": 3}, ("contacts",), ("contacts",), True),
        ({"contacts": 3}, (), ("contacts",), False),
        ({"contacts": 4}, ("contacts",), ("contacts",), False),
        ({"contacts": 3}, ("contacts",), ("lists",), False),
        ({}, (), (), False),
    ],
)
def test_a_pass_resumes_if_the_digests_cover_what_it_sent(
    versions: dict[str, int], known: Collection[str], begun: Collection[str], goes_on: bool
) -> None:
    remembered = Remembered(versions, known, (), begun)
    progress = resumed(["reading", {"version": 3}], remembered=remembered)
    assert progress.is_resumed("contacts") is goes_on
    assert progress.walks() == [(CONTACTS, HALFWAY if goes_on else Position())]
