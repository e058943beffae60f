"""Saving each source's position in the state, and restoring it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from tap_autopilot.protocol.positions import EachSegment, OneListing
from tap_autopilot.sources.completeness import Census, Doubt
from tap_autopilot.sources.listings import CONTACTS, Position, members_of

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


GOOD_COUNTS = [COUNTS, counts("read", 2**53), counts("highest", None), counts("least", None)]
BAD_COUNTS = [
    [],
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
    walks = members.walks_over(segments.split())
    assert all(walk == members_of(str(walk.segment_id)) for walk, _ in walks)
    return [(walk.segment_id, position) for walk, position in walks]


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
