"""The pool, where runs cannot show it: bugs, walks that are cancelled, and totals."""

from __future__ import annotations

from typing import Any

import pytest

from tap_autopilot.sources.completeness import Doubt
from tap_autopilot.sources.listings import CONTACTS, Failure, Page, Position, Walk, members_of
from tap_autopilot.sources.pool import NotTried, Pool
from tests.scripted import page
from tests.test_walks import Script


class AnyListing(Script):
    """A client of all listings; its answers begin with their paths."""

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__(answers, Walk("", "", "", ""))

    def forget(self) -> None: ...


def pool(answers: dict[str, Any], *, check_totals: bool = True) -> Pool:
    return Pool(1, lambda: AnyListing(answers), check_totals=check_totals)


def test_a_bug_in_a_thread_is_raised() -> None:
    found = pool({})
    found.add(CONTACTS, Position())
    with pytest.raises(KeyError):
        list(found.results())


def test_walks_that_are_cancelled_fail_untried() -> None:
    found = pool({"contacts": page("a", bookmark="x", total=2), "contacts/x": page("b", total=2)})
    segments = [members_of("s0"), members_of("s1")]
    found.cancel("smart_segments_contacts")
    for walk in (*segments, CONTACTS):
        found.add(walk, Position())
    *failures, first, last = found.results()
    assert [(one.walk, type(one.error), str(one.error)) for one in failures if isinstance(one, Failure)] == [
        (walk, NotTried, f"GET {walk.path}: not tried.") for walk in segments
    ]  # fmt: skip
    assert (first.walk, last.walk) == (CONTACTS, CONTACTS)


@pytest.mark.parametrize("check_totals", [True, False])
def test_totals_are_checked_unless_they_are_not_to_be(check_totals: bool) -> None:
    short = page(*(f"{number:03}" for number in range(98)), total=99)
    found = pool({"contacts": short}, check_totals=check_totals)
    found.add(CONTACTS, Position())
    *_, last = found.results()
    assert isinstance(last, Page)
    assert last.doubt is (Doubt.SHORT if check_totals else None)
