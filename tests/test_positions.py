"""Saving each source's position in the state, and restoring it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from tap_autopilot.protocol.positions import EachSegment, OneListing
from tap_autopilot.sources.completeness import Census, Doubt
from tap_autopilot.sources.listings import CONTACTS, CUSTOM_FIELDS, LISTS, Position, members_of

CENSUS = Census(5, 3, "c", 7, 8, 2, collapsed=True, uncounted=True, resumed=True, attempt=2)
COUNTS = [5, 3, "c", 7, 8, 2, True, True, True, 2]
HALFWAY = Position("x", CENSUS)
START = [None, [0, 0, "", None, None, 0, False, False, False, 1]]
M = {"m"}


def again(value: Any) -> Any:
    """A value after a round trip through a state file."""
    return json.loads(json.dumps(value))


def counts(name: str, value: Any) -> list[Any]:
    """The counts of a census, with one of them replaced."""
    names = [field.name for field in dataclasses.fields(Census)]
    return [value if one == name else old for one, old in zip(names, COUNTS, strict=True)]


def test_a_listing_resumes_where_its_state_says() -> None:
    before, after = OneListing(CONTACTS, "m"), OneListing(CONTACTS, "n")
    before.advance(CONTACTS, HALFWAY, read=5)
    assert before.value() == ["x", COUNTS, "m"], "states of earlier versions must stay readable"
    assert after.resume(again(before.value()), {"m"})
    assert (after.position, after.mark) == (HALFWAY, "m")
    assert (after.is_begun, after.is_complete) == (True, False)
    after.advance(CONTACTS, Position("y"), read=7)
    assert (after.position, after.read) == (Position("y"), 7)
    after.advance(CONTACTS, None, read=8)
    assert (after.position, after.read) == (Position(), 8)
    assert (after.is_complete, after.value()) == (True, None)


def test_a_listing_at_its_start() -> None:
    fresh = OneListing(CONTACTS, "m")
    assert (fresh.is_begun, fresh.is_complete, fresh.read) == (False, False, 0)
    assert fresh.value() == [*START, "m"]
    assert fresh.resume([*START, "m"], M)
    assert not fresh.is_begun
    assert fresh.resume([None, counts("attempt", 2), "m"], M)
    assert fresh.is_begun


@pytest.mark.parametrize("marks", [{"n"}, {"m", "n"}, {None}, {"m", None}, set()])
def test_a_position_of_another_reading_is_not_resumed(marks: set[str | None]) -> None:
    listing, members = OneListing(CONTACTS, "new"), EachSegment("new")
    assert not listing.resume(["x", COUNTS, "m"], marks)
    assert not members.resume(["s", 5, 0, [], "m"], marks)
    assert not listing.is_begun
    assert not members.is_begun
    assert (listing.mark, members.mark) == ("new", "new")


def test_an_empty_listing_is_in_doubt() -> None:
    nothing = OneListing(LISTS, "m")
    assert nothing.doubts() == {Doubt.EMPTY: "the API listed no lists at all"}
    nothing.advance(LISTS, None, read=1)
    assert nothing.doubts() == {}
    assert OneListing(CUSTOM_FIELDS, "m").doubts() == {}, "an account may have none"


GOOD_COUNTS = [
    COUNTS,
    counts("read", 0),
    counts("read", 2**53),
    counts("highest", None),
    counts("highest", ""),
    counts("least", None),
    counts("latest", None),
    counts("collapsed", False),
]
BAD_COUNTS = [
    [],
    COUNTS[:-1],
    [*COUNTS, 1],
    counts("read", -1),
    counts("read", 2**53 + 1),
    counts("read", True),
    counts("read", 1.0),
    counts("read", None),
    counts("largest_page", "3"),
    counts("changes", None),
    counts("highest", 5),
    counts("highest", "\ud800"),
    counts("least", -1),
    counts("least", "7"),
    counts("latest", 2**53 + 1),
    counts("collapsed", 1),
    counts("uncounted", None),
    counts("resumed", 0),
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


@pytest.mark.parametrize(
    "value",
    [
        None, 5, [], ["s", 0, 0], ["s", 0, 0, [], 1], [None, 0, 0, []], ["\ud800", 0, 0, []],
        ["s", -1, 0, []], ["s", 0, -1, []], ["s", "0", 0, []], ["s", 0, None, []],
        ["s", 0, 0, {}], ["s", 0, 0, [["a", "x", COUNTS]]], ["s", 0, 0, [["a", "x", COUNTS, None]]],
        ["s", 0, 0, [["\ud800", "x", COUNTS, 0]]], ["s", 0, 0, [[5, "x", COUNTS, 0]]],
    ],
)  # fmt: skip
def test_invalid_member_positions_are_not_resumed(value: Any) -> None:
    members = EachSegment("m")
    assert members.resume([*value, "m"] if isinstance(value, list) else value, M) is False
    assert not members.is_begun
    assert members.value() == ["", 0, 0, [], "m"]


def ids(members: EachSegment, segments: str) -> list[tuple[str | None, Position]]:
    """The segments to read, in order, and from where."""
    walks = members.walks_over(segments.split())
    assert all(walk == members_of(str(walk.segment_id)) for walk, _ in walks)
    return [(walk.segment_id, position) for walk, position in walks]


def test_all_segments_are_read_in_the_order_of_their_ids() -> None:
    members = EachSegment("m")
    assert not members.is_complete, "nobody knows how many there are"
    assert ids(members, "b a c b") == [(one, Position()) for one in "abc"]
    assert members.value() == ["", 0, 0, [], "m"]
    for one in "abc":
        assert not members.is_complete
        members.advance(members_of(one), None, read=2)
    assert members.is_complete
    assert (members.read, members.value(), members.doubts()) == (6, None, {})


def test_segments_are_begun_in_any_order() -> None:
    members = EachSegment("m")
    ids(members, "a b c d")
    members.advance(members_of("c"), HALFWAY, read=5)
    half, start = ["x", COUNTS, 0], [*START, 0]
    assert members.value() == ["c", 0, 0, [["a", *start], ["b", *start], ["c", *half]], "m"]
    members.advance(members_of("a"), None, read=1)
    assert members.value() == ["c", 1, 0, [["b", *start], ["c", *half]], "m"]
    resumed = EachSegment("m")
    assert resumed.resume(again(members.value()), M)
    assert (resumed.is_begun, resumed.is_complete, resumed.read) == (True, False, 1)
    assert ids(resumed, "a b c d") == [("b", Position()), ("c", HALFWAY), ("d", Position())]
    for one in "bcd":
        resumed.advance(members_of(one), None, read=1)
    assert resumed.is_complete
    assert resumed.read == 4


def test_segments_that_were_created_or_deleted_between_runs() -> None:
    members = EachSegment("m")
    members.resume(["m", 5, 0, [["a", "x", COUNTS, 0], ["m", *START, 0]], "m"], M)
    assert ids(members, "b m n") == [("m", Position()), ("n", Position())]
    members.advance(members_of("m"), None, read=1)
    members.advance(members_of("n"), None, read=1)
    assert members.is_complete


def test_segments_that_failed_come_last_once() -> None:
    members = EachSegment("m")
    ids(members, "a b c")
    members.advance(members_of("a"), HALFWAY, read=5)
    members.note_failure(members_of("a"))
    members.note_failure(members_of("b"))
    state = members.value()
    assert state == ["b", 0, 0, [["a", "x", COUNTS, 1], ["b", *START, 1]], "m"]
    assert not members.is_complete
    resumed = EachSegment("m")
    assert resumed.resume(again(state), M)
    assert resumed.value() == state
    assert ids(resumed, "a b c") == [("c", Position()), ("a", HALFWAY), ("b", Position())]
    assert [one[3] for one in resumed.value()[3]] == [0, 0]
    gone = EachSegment("m")
    assert gone.resume(again(state), M)
    assert ids(gone, "b c") == [("c", Position()), ("b", Position())]


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
        ("a b c", 1, 2, {}),
        ("a b", 1, 1, {}),
        ("a", 1, 0, {}),
        ("a b", 0, 2, {Doubt.ALL_GONE: "all 2 segments returned 404"}),
        ("a b", 0, 3, {Doubt.ALL_GONE: "all 2 segments returned 404"}),
        ("a b", 5, 3, {}),
        ("a", 0, 1, {Doubt.EMPTY: "the API listed no members of 1 segments at all"}),
        ("a b c", 0, 2, {Doubt.EMPTY: "the API listed no members of 3 segments at all"}),
        ("", 0, 0, {Doubt.EMPTY: "the API listed no smart segments at all"}),
        ("", 5, 0, {Doubt.EMPTY: "the API listed no smart segments at all"}),
    ],
)
def test_the_doubts_about_all_members(
    segments: str, read: int, gone: int, doubts: dict[Doubt, str]
) -> None:
    members = EachSegment("m")
    assert members.resume(["a", read, gone, [], "m"], M)
    ids(members, segments)
    assert members.doubts() == doubts


def test_no_segments_at_all_are_complete() -> None:
    members = EachSegment("m")
    assert ids(members, "") == []
    assert members.is_complete
