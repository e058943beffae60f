"""What counts as a complete pass, number by number."""

from __future__ import annotations

import tracemalloc
from datetime import datetime, timezone
from typing import Any

import pytest

from tap_autopilot.protocol.state import Pass
from tap_autopilot.sources.completeness import NOTHING_READ, ORDER_KNOWN, Census, Distinct, Doubt
from tap_autopilot.sources.listings import CONTACTS, Page


@pytest.mark.parametrize(
    ("name", "moving", "failing"),
    [
        ("skipped", True, False),
        ("short", False, False),
        ("uncounted", False, False),
        ("unordered", False, False),
        ("unavailable", False, False),
        ("empty", False, False),
        ("very short", False, True),
        ("all gone", False, True),
    ],
)
def test_what_each_doubt_withholds(name: str, moving: bool, failing: bool) -> None:
    doubt = Doubt(name)
    assert (doubt.moves, doubt.fails) == (moving, failing)
    assert Pass(doubts={Doubt.SKIPPED: "one", doubt: "another"}).has_all_rows is moving


def census(*totals: int | None, page: int = 2, new: int = 2) -> Census:
    """A census of pages with these totals."""
    found = NOTHING_READ
    for total in totals:
        found = found.after(documents=page, new=new, highest="x", total=total)
    return found


@pytest.mark.parametrize(
    ("totals", "collapsed"),
    [
        ([1000, 989], True),
        ([1000, 989, 1000], True),
        ([1000, 990], False),  # 1 %
        ([20, 17], True),
        ([20, 18], False),  # a page
        ([989, 1000], False),
    ],
)
def test_a_large_drop_in_the_total_is_a_collapse(totals: list[int], collapsed: bool) -> None:
    assert census(*totals).collapsed is collapsed


@pytest.mark.parametrize(
    ("least", "read", "changes", "missing"),
    [
        (None, 5, 0, 0),
        (5, 5, 0, 0),
        (5, 6, 0, 0),
        (5, 4, 0, 1),
        (5, 4, 1, 0),
        (5, 3, 1, 2),
        (5, 3, 2, 0),
        (9, 5, 9, 4),
        (9, 6, 9, 0),
        (9, 6, 5, 0),
        (9, 6, 4, 3),
    ],
)
def test_churn_explains_the_square_root_of_the_changes(
    least: int | None, read: int, changes: int, missing: int
) -> None:
    found = NOTHING_READ._replace(least=least, read=read, changes=changes)
    assert found.missing == missing
    assert found.is_short is (missing > 0)


@pytest.mark.parametrize(
    ("fields", "counted", "doubt"),
    [
        ({"least": 2, "read": 2}, True, None),
        ({"least": 500, "read": 490, "largest_page": 10}, True, Doubt.SHORT),
        ({"least": 500, "read": 489, "largest_page": 10}, True, Doubt.VERY_SHORT),
        ({"least": 500, "read": 489, "largest_page": 10}, False, Doubt.VERY_SHORT),
        ({"least": 1000, "read": 990, "largest_page": 1}, True, Doubt.SHORT),
        ({"least": 1000, "read": 989, "largest_page": 1}, True, Doubt.VERY_SHORT),
        ({"least": 9, "read": 9, "collapsed": True}, True, Doubt.SHORT),
        ({"least": 9, "read": 9, "uncounted": True}, True, Doubt.UNCOUNTED),
        ({"uncounted": True}, False, None),
        ({"uncounted": True, "resumed": True, "highest": None}, True, Doubt.UNCOUNTED),
        ({"resumed": True, "highest": None}, True, Doubt.UNORDERED),
        ({"resumed": True, "highest": "c"}, True, None),
        ({"resumed": False, "highest": None}, True, None),
    ],
)
def test_the_doubt_at_the_end(fields: dict[str, Any], counted: bool, doubt: Doubt) -> None:
    assert NOTHING_READ._replace(**fields).doubt(counted=counted) is doubt


@pytest.mark.parametrize(
    ("doubt", "read", "text"),
    [
        (Doubt.SHORT, 7, "read 7 of the 9 contacts that the API reported"),
        (Doubt.SHORT, 9, "the API's total for contacts dropped to 9"),
        (Doubt.VERY_SHORT, 7, "got only 7 of the 9 contacts that the API reported, twice"),
        (Doubt.UNCOUNTED, 7, "gave no total"),
        (Doubt.UNAVAILABLE, 7, "does not offer"),
        (Doubt.UNORDERED, 7, "were not in order"),
    ],
)
def test_each_doubt_about_a_listing_has_its_own_reason(doubt: Doubt, read: int, text: str) -> None:
    now = datetime.now(timezone.utc)
    page = Page(CONTACTS, [], None, NOTHING_READ._replace(least=9, read=read), 0, now, None, doubt)
    assert text in page.doubts[doubt]


@pytest.mark.parametrize(
    ("highest", "pages", "new", "after"),
    [
        ("", [], [], ""),
        ("", ["abc", "de"], [3, 2], "e"),
        ("", ["abc", "cd"], [3, 1], "d"),
        ("", ["aab", "bb", "b"], [2, 0, 0], "b"),
        ("", ["acb"], [3], None),
        ("", ["b", "a", "abc"], [1, 1, 1], None),
        ("", ["bc", "a", "dabc", "d"], [2, 1, 1, 0], None),
        # a resumed reading knows ids by their order
        ("b", ["abc"], [1], "c"),
        ("b", ["b"], [0], "b"),
        ("b", ["dccd", "cde"], [2, 1], "e"),
        # or has forgotten them, if they were in none
        (None, ["ba", "acb"], [2, 1], None),
    ],
)
def test_ids_are_counted_once_in_any_order(
    highest: str | None, pages: list[str], new: list[int], after: str | None
) -> None:
    distinct = Distinct(NOTHING_READ._replace(highest=highest), exact=False)
    assert [distinct.count_new(list(page)) for page in pages] == new
    assert distinct.highest == after


@pytest.mark.parametrize(
    ("count", "exact", "new"),
    [(ORDER_KNOWN, False, 1), (ORDER_KNOWN + 1, False, 0), (ORDER_KNOWN + 1, True, 1)],
)
def test_after_many_ids_in_order_only_the_highest_is_remembered(
    count: int, exact: bool, new: int
) -> None:
    distinct = Distinct(NOTHING_READ, exact=exact)
    assert distinct.count_new([f"b{number:06}" for number in range(count)]) == count
    assert distinct.count_new(["a"]) == new
    assert distinct.count_new(["c", "c"]) == 1


def test_many_ids_in_another_order_are_all_remembered_in_little_memory() -> None:
    ids = [f"b{number:06}" for number in reversed(range(100_000))]
    tracemalloc.start()
    try:
        distinct = Distinct(NOTHING_READ, exact=False)
        assert sum(
            distinct.count_new(ids[at : at + 1000]) for at in range(0, len(ids), 1000)
        ) == len(ids)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 20 * len(ids)
    assert distinct.count_new(["b000000", "a"]) == 1
