"""Walks over listings, request by request, without a server."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest

from tap_autopilot.api.client import Client, Request, Response
from tap_autopilot.api.failures import rule_of
from tap_autopilot.exceptions import TapError
from tap_autopilot.sources import completeness, reading
from tap_autopilot.sources import pool as pool_module
from tap_autopilot.sources.completeness import NOTHING_READ, Doubt
from tap_autopilot.sources.listings import (
    CONTACTS,
    LISTS,
    SEGMENTS,
    Failure,
    Page,
    Position,
    Walk,
    members_of,
)
from tap_autopilot.sources.pool import NotTried, Pool
from tap_autopilot.sources.reading import pages
from tap_autopilot.sources.trail import MAX_DETOURS
from tests.in_process import logged
from tests.scripted import page

ARRIVED, SENT = (datetime(2024, 2, 29, 12, minute, tzinfo=timezone.utc) for minute in (1, 2))
MEMBERS = members_of("s")


class Script(Client):
    """A client with an answer, or a list of them to use up, for each bookmark; "" is the first.

    An answer is a page, or its bytes, or the status of a refusal, or an error.
    """

    def __init__(self, answers: dict[str, Any], walk: Walk = CONTACTS) -> None:
        self._answers = answers
        self._path = walk.path
        self.asked: list[str] = []
        self.paths: list[str] = []
        self.requests: list[Request] = []

    def get(self, request: Request, decode: Callable[[bytes], Any]) -> Response[Any]:
        path = request.path
        assert path.startswith(self._path)
        bookmark = path.removeprefix(self._path).removeprefix("/")
        self.asked.append(bookmark)
        self.paths.append(path)
        self.requests.append(request)
        answer = self._answers[bookmark]
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, TapError):
            raise answer
        if isinstance(answer, int):
            raise rule_of(answer).exception(answer, f"{request}: status {answer}.")
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        return Response(decode(body), ARRIVED, SENT)


class Walked:
    """The result of a walk: its pages, its error if any, the bookmarks it requested, and its log."""

    def __init__(
        self,
        answers: dict[str, Any],
        walk: Walk = CONTACTS,
        start: Position | None = None,
        *,
        check_totals: bool = True,
    ) -> None:
        client = Script(answers, walk)
        self.pages: list[Page] = []
        self.error: TapError | None = None
        with logged() as self.log:
            try:
                for one in pages(walk, start or Position(), client, check_totals=check_totals):
                    self.pages.append(one)
            except TapError as error:
                self.error = error
        self.asked, self.paths, self.requests = client.asked, client.paths, client.requests
        assert all(one.after is not None for one in self.pages[:-1])

    @property
    def ids(self) -> list[Any]:
        return [one["contact_id"] for page in self.pages for one in page.documents]

    @property
    def ended(self) -> tuple[list[Any], Doubt | None]:
        """The ids, and the doubt at the end."""
        assert self.error is None, self.error
        assert self.pages[-1].after is None
        return self.ids, self.pages[-1].doubt


@pytest.mark.parametrize("end", [..., None, ""])
def test_a_walk_page_by_page(end: Any) -> None:
    first, last = page("a", "b", bookmark="x", total=3), page("c", bookmark=end, total=3)
    walked = Walked({"": first, "x": last})
    assert walked.ended == (["a", "b", "c"], None)
    assert walked.asked == ["", "x"]
    begun = NOTHING_READ._replace(read=2, largest_page=2, highest="b", least=3, latest=3)
    ended = NOTHING_READ._replace(read=3, largest_page=2, highest="c", least=3, latest=3)
    assert [one.after for one in walked.pages] == [Position("x", begun), None]
    assert [one.census for one in walked.pages] == [begun, ended]
    assert {(one.walk, one.fetched_at, one.date) for one in walked.pages} == {
        (CONTACTS, ARRIVED, SENT)
    }
    assert walked.log == []


def test_more_segments_than_fit_into_memory_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_SEGMENTS", 3)
    for last, error in (("c", None), ("cd", "GET /smart_segments: more than 3 smart segments.")):
        first, rest = ({"segments": [{"segment_id": one} for one in ids]} for ids in ("ab", last))
        walked = Walked({"": {**first, "bookmark": "x"}, "x": rest}, SEGMENTS)
        assert (walked.error and str(walked.error)) == error


@pytest.mark.parametrize(
    ("walk", "answers", "requests"),
    [
        (
            CONTACTS,
            {"": page("a", "b", bookmark="x"), "x": page("c", bookmark="y", total=9), "y": page()},
            [("/contacts", "contacts", float("inf")), ("/contacts/…", "contacts", float("inf")),
             ("/contacts/…", "contacts", 6)],
        ),
        (
            MEMBERS,
            {"": page("a", bookmark="x"), "x": page("b", total=2)},
            [("/smart_segments/s/contacts", "smart_segments_contacts", 0),
             ("/smart_segments/s/contacts/…", "smart_segments_contacts", -1)],
        ),
        (LISTS, {"": {"lists": []}}, [("/lists", "lists", float("inf"))]),
    ],
)  # fmt: skip
def test_the_walk_with_most_left_to_read_is_the_most_urgent(
    walk: Walk, answers: Any, requests: list[tuple[str, str, float]]
) -> None:
    walked = Walked(answers, walk)
    assert [request[1:] for request in walked.requests][: len(requests)] == requests


@pytest.mark.parametrize(
    "document",
    [
        {"contact_id": "a"},
        {"ContactId": "a"},
        {"contactID": "a"},
        {"contact_id": "", "ContactID": "a"},
        {"contact_id": None, "contactid": None, "CONTACT_ID": "a"},
    ],
)
def test_an_id_is_found_in_any_spelling(document: Any) -> None:
    walked = Walked({"": {"contacts": [{"contact_id": "0"}, document, 5]}}, MEMBERS)
    assert walked.ids == ["0", "a", None]


@pytest.mark.parametrize("document", [{}, {"contact_id": ""}, {"id": "a"}, "x", None, [], 5])
def test_a_document_without_an_id_counts_as_read(document: Any) -> None:
    walked = Walked({"": {"contacts": [document, {"contact_id": "a"}], "total_contacts": 2}})
    (only,) = walked.pages
    assert (only.doubt, only.census.read, only.census.highest) == (None, 2, "a")
    assert only.documents[0] == document


# Listings that are short


def some(count: int, **more: Any) -> dict[str, Any]:
    """A page of contacts in order."""
    return page(*(f"c{number:03}" for number in range(count)), **more)


def test_a_short_listing_is_read_a_second_time() -> None:
    short, whole = page("a", bookmark="x", total=3), page("a", "b", "c", total=3)
    walked = Walked({"": [short, whole], "x": page("b", total=3)})
    assert walked.ended == (["a", "b", "a", "b", "c"], None)
    assert walked.asked == ["", "x", ""]
    assert walked.pages[1].after == Position(census=NOTHING_READ._replace(attempt=2))
    assert walked.pages[2].census.attempt == 2
    assert walked.log == [
        "INFO Read 2 of the 3 contacts that the API reported; reading them again."
    ]


def test_a_second_reading_remembers_all_ids_even_if_it_resumes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(completeness, "ORDER_KNOWN", 1)
    answers = {"": page("b", "c", bookmark="x", total=3), "x": page("a")}
    walked = Walked(answers, start=Position(census=NOTHING_READ._replace(attempt=2)))
    assert (walked.asked, walked.ended) == (["", "x"], (["b", "c", "a"], None))


def test_a_listing_that_is_twice_a_little_short_is_in_doubt() -> None:
    walked = Walked({"": some(98, total=99)})
    assert walked.ended[1] is Doubt.SHORT
    assert walked.asked == ["", ""]


@pytest.mark.parametrize(
    ("walk", "what"),
    [(CONTACTS, "contacts"), (SEGMENTS, "segments"), (MEMBERS, "members of segment s")],
)
def test_a_listing_that_is_twice_very_short_is_an_error(walk: Walk, what: str) -> None:
    walked = Walked({"": {walk.documents: [{walk.key: "a"}], "total_contacts": 1234}}, walk)
    assert walked.asked == ["", ""]
    assert walked.pages[-1].after == Position(), "the next run starts over"
    assert str(walked.error) == (
        f"GET {walk.path}: got only 1 of the 1,234 {what} that the API reported, twice. Run again"
        " later; if the API's totals are wrong, set check_totals to false."
    )


def test_a_second_reading_is_not_followed_by_a_third() -> None:
    walked = Walked(
        {"": some(98, total=99)}, start=Position(census=NOTHING_READ._replace(attempt=2))
    )
    assert (walked.ended[1], walked.asked) == (Doubt.SHORT, [""])


@pytest.mark.parametrize(
    ("attempt", "again", "ended"),
    [(1, ["x", ""], None), (2, ["x", ""], None), (3, ["x"], Doubt.VERY_SHORT)],
)
def test_a_reading_of_an_earlier_run_may_only_be_short_because_of_that_run(
    attempt: int, again: list[str], ended: Doubt | None
) -> None:
    census = NOTHING_READ._replace(read=1, largest_page=1, least=99, latest=99, attempt=attempt)
    answers = {"x": page("c098", total=99), "": some(99, total=99)}
    walked = Walked(answers, start=Position("x", census))
    assert walked.asked == again
    assert walked.pages[-1].census.doubt(counted=True) is ended
    assert (walked.error is None) == (ended is None)


@pytest.mark.parametrize(
    ("walk", "doubt"),
    [(CONTACTS, Doubt.UNCOUNTED), (MEMBERS, Doubt.UNCOUNTED), (LISTS, None), (SEGMENTS, None)],
)
def test_contacts_and_members_should_have_totals(walk: Walk, doubt: Doubt | None) -> None:
    walked = Walked({"": {walk.documents: [{walk.key: "a"}]}}, walk)
    assert walked.pages[-1].doubt is doubt


# Bookmarks that loop


READ = "leads to documents already read, 3 times"


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_loop_of_bookmarks_is_an_error(length: int) -> None:
    answers = {str(n): page(str(n), bookmark=str((n + 1) % length)) for n in range(length)}
    walked = Walked({"": page("start", bookmark="0"), **answers})
    assert READ in str(walked.error)
    assert len(walked.asked) <= 3 * (4 * length + 4)


@pytest.mark.parametrize("known", [1, 4, MAX_DETOURS])
def test_known_pages_that_lead_on_are_followed(known: int) -> None:
    """As for a listing that has moved, or that repeats a whole page, the same way each time."""
    answers = {str(n): page("a", "b", bookmark=str(n + 1), total=6) for n in range(1, known + 1)}
    answers |= {
        "": page("a", "b", bookmark="0", total=6),
        "0": page("c", "d", bookmark="1", total=6),
    }
    walked = Walked({**answers, str(known + 1): page("e", "f", total=6)}, check_totals=known < 5)
    assert set(walked.ended[0]) == set("abcdef")
    assert walked.ended[1] is None
    assert walked.asked[-2:] == [str(known), str(known + 1)]


# The pool, where runs cannot show it


class AnyListing(Script):
    """A client of all listings; its answers begin with their paths."""

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__(answers, Walk("", "", "", ""))

    def forget(self) -> None: ...


def pool(answers: dict[str, Any], *, concurrency: int = 1, check_totals: bool = True) -> Pool:
    return Pool(concurrency, lambda: AnyListing(answers), check_totals=check_totals)


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


def test_all_walks_together_remember_no_more_ids_than_fit_into_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "MAX_REMEMBERED", 8)
    error = "GET /contacts: more than 4 ids to remember. Lower concurrency."
    for concurrency, last, expected in ((2, "d", None), (2, "de", error), (1, "de", None)):
        found = pool(
            {"contacts": page("c", "b", "a", bookmark="x"), "contacts/x": page(*last)},
            concurrency=concurrency,
        )
        found.add(CONTACTS, Position())
        *_, result = found.results()
        assert (str(result.error) if isinstance(result, Failure) else None) == expected


def test_ids_of_members_take_little_memory_until_they_are_used() -> None:
    count = 10_000
    answer = json.dumps(page(*(f"person_{number}" for number in range(count)))).encode()
    tracemalloc.start()
    try:
        walked = Walked({"": answer}, MEMBERS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 300 * count
    assert len(walked.ids) == count
