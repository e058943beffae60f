"""Bookmarks that a walk follows, wherever they lead, and listings without an end."""

from __future__ import annotations

from datetime import timezone
from typing import Any

import pytest

from tap_autopilot.exceptions import Refused, RunError, Unreachable
from tap_autopilot.sources import completeness, reading
from tap_autopilot.sources.completeness import NOTHING_READ, Doubt
from tap_autopilot.sources.listings import CONTACTS, CUSTOM_FIELDS, Position, members_of
from tests.scripted import page
from tests.test_walks import Walked

# Bookmarks that lead somewhere


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("x", "x"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        (".X", ".X"),
        ("a/b", "a%2Fb"),
        ("é ?", "%C3%A9%20%3F"),
    ],
)
def test_a_bookmark_or_an_id_is_one_segment_of_the_path(text: str, encoded: str) -> None:
    walked = Walked({"": page("a", bookmark=text), encoded: page("b")})
    assert walked.paths == ["/contacts", f"/contacts/{encoded}"]
    assert members_of(text).path == f"/smart_segments/{encoded}/contacts"


@pytest.mark.parametrize(
    ("bookmark", "problem"),
    [
        (0, "is int, not a string"),
        (True, "is bool, not a string"),
        (["x"], "is list, not a string"),
        ({"next": "x"}, "is dict, not a string"),
        ("\ud800", "is not valid Unicode"),
    ],
)
def test_an_invalid_bookmark_is_an_error(bookmark: Any, problem: str) -> None:
    walked = Walked({"": page("a", bookmark=bookmark)})
    assert str(walked.error) == f"GET /contacts: a bookmark {problem}."


# Bookmarks that lead nowhere


@pytest.mark.parametrize("status", [400, 404, 410, 422])
def test_a_rejected_bookmark_is_replaced_by_a_fresh_one(status: int) -> None:
    first, again = page("a", "b", bookmark="x", total=4), page("a", "c", bookmark="y", total=4)
    walked = Walked({"": [first, again], "x": status, "y": page("d", total=4)})
    assert walked.ended == (["a", "b", "c", "d"], None)
    assert walked.asked == ["", "x", "", "y"]
    assert walked.log == []


def test_the_same_bookmark_that_was_rejected_is_stale() -> None:
    walked = Walked({"": page("a", bookmark="x"), "x": 404})
    assert str(walked.error) == (
        "GET /contacts/…: the bookmark was rejected with status 404, 3 times. Run again later."
    )
    assert walked.asked == ["", "x", "", "x"] * 3
    warning = (
        "WARNING GET /contacts/…: the bookmark was rejected with status 404;"
        " reading the contacts from the start."
    )
    assert walked.log == [warning] * 2
    starts = [one for one in walked.pages if one.after == Position()]
    assert [
        (one.walk, one.documents, one.census, one.cleaned, one.doubt, one.date) for one in starts
    ] == [(CONTACTS, [], NOTHING_READ, 0, None, None)] * 2


@pytest.mark.parametrize("again", [404, page()])
def test_a_page_that_is_gone_too_means_reading_from_the_start(again: Any) -> None:
    first = page("a", bookmark="x", total=2)
    walked = Walked({"": [first, again, page("a", "b", total=2)], "x": 404})
    assert walked.ended == (["a", "a", "b"], None)
    assert walked.asked == ["", "x", "", ""]
    (line,) = walked.log
    assert line.endswith("rejected with status 404; reading the contacts from the start.")


@pytest.mark.parametrize(
    ("answers", "ids", "asked"),
    [
        # an empty last page, or documents already read, are the end if they come twice
        ({"": page("a", bookmark="x", total=1), "x": page(total=1)}, "a", ["", "x", "", "x"]),
        ({"": page("a", "b", bookmark="x", total=2), "x": page("a", total=2)}, "aba",
         ["", "x", "", "x"]),
        # an empty page between others is followed without asking again
        ({"": page("a", bookmark="x", total=2), "x": page(bookmark="y"), "y": page("b", total=2)},
         "ab", ["", "x", "y"]),
    ],
)  # fmt: skip
def test_a_page_without_anything_new(answers: Any, ids: str, asked: list[str]) -> None:
    walked = Walked(answers)
    assert walked.ended == ([*ids], None)
    assert walked.asked == asked


def test_the_warning_says_what_the_bookmark_led_to() -> None:
    first = page("a", "b", bookmark="x", total=9)
    for last, text in (
        (page("b", "a", bookmark="x"), "the bookmark leads to documents already read"),
        (page(), "the bookmark leads to an empty page"),
    ):
        walked = Walked({"": [first, 404, page("a", total=1)], "x": last})
        assert walked.log == [
            f"WARNING GET /contacts/…: {text}; reading the contacts from the start."
        ]
        assert walked.asked == ["", "x", "", ""]


def test_a_page_repeats_the_last_document_of_the_page_before() -> None:
    walked = Walked({"": page("a", "b", bookmark="x", total=4), "x": page("b", "c", "d", total=4)})
    assert walked.ended == (["a", "b", "c", "d"], None)
    assert [one.census.largest_page for one in walked.pages] == [2, 3]


def test_only_the_first_document_can_repeat_the_last() -> None:
    walked = Walked({"": page("a", "b", bookmark="x"), "x": page("c", "b")})
    assert walked.ids == ["a", "b", "c", "b"]
    changed = {"contacts": [{"contact_id": "b", "Name": "new"}]}
    assert Walked({"": page("a", "b", bookmark="x"), "x": changed}).ids == ["a", "b", "b"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RunError("GET /contacts/…: status 500."), "status 500"),
        (404, "the bookmark was rejected with status 404"),
        (403, "status 403"),  # as from a firewall
        (414, "status 414"),
        (page(total=400), "the bookmark leads to an empty page"),
    ],
)
def test_a_bookmark_from_the_state_may_be_stale(error: Any, text: str) -> None:
    census = NOTHING_READ._replace(read=2, largest_page=2, highest="b", least=3, latest=3)
    walked = Walked({"x": error, "": page("a", "b", "c", total=3)}, start=Position("x", census))
    assert walked.ended == (["a", "b", "c"], None)
    assert walked.asked == ["x", ""]
    assert walked.pages[-1].census == NOTHING_READ._replace(
        read=3, largest_page=3, highest="c", least=3, latest=3
    )
    assert walked.log == [f"WARNING GET /contacts/…: {text}; reading the contacts from the start."]


FAILED = RunError("GET /contacts: status 500.")
UNREACHABLE = Unreachable("GET /contacts/…: connection refused.")


@pytest.mark.parametrize(
    ("answers", "start", "said", "asked"),
    [
        *(({"": page("a", bookmark="x"), "x": status}, None, f"GET /contacts/…: status {status}.", ["", "x"])
          for status in (402, 403, 405, 409)),
        ({"": [page("a", bookmark="x"), 405], "x": 404}, None, "GET /contacts: status 405.", ["", "x", ""]),
        ({"": 403}, None, "GET /contacts: status 403.", [""]),
        ({"": 404}, None, "GET /contacts: status 404.", [""]),
        ({"": FAILED}, None, str(FAILED), [""]),
        ({"": page("a", bookmark="x"), "x": FAILED}, None, str(FAILED), ["", "x"]),
        ({"x": UNREACHABLE}, Position("x"), str(UNREACHABLE), ["x"]),
    ],
)  # fmt: skip
def test_another_error_ends_the_walk(
    answers: Any, start: Position | None, said: str, asked: list[str]
) -> None:
    walked = Walked(answers, start=start)
    assert (str(walked.error), walked.asked) == (said, asked)
    assert isinstance(walked.error, Refused) == ("status 4" in said)


# Listings that are refused


@pytest.mark.parametrize("status", [400, 403, 404])
def test_an_optional_listing_may_be_missing(status: int) -> None:
    (only,) = Walked({"": status}, CUSTOM_FIELDS).pages
    assert (only.walk, only.documents, only.after) == (CUSTOM_FIELDS, [], None)
    assert (only.doubt, only.census) == (Doubt.UNAVAILABLE, NOTHING_READ)
    assert only.fetched_at.tzinfo is timezone.utc


def test_a_listing_that_is_missing_when_it_is_read_again_was_not_deleted() -> None:
    first = page("a", bookmark="x")
    walked = Walked({"": [first, first, 404], "x": 404})
    assert isinstance(walked.error, Refused)
    assert str(walked.error) == "GET /contacts: status 404."


# Listings without an end


@pytest.mark.parametrize(("total", "size", "most"), [(9, 1, 20), (3, 2, 10)])
def test_reading_more_than_twice_the_total_plus_a_page_is_a_loop(
    total: int, size: int, most: int
) -> None:
    answers = {}
    for number in range(99):
        ids = [f"{number:03}{one}" for one in range(size)]
        answers[str(number)] = page(*ids, bookmark=str(number + 1), total=total)
    walked = Walked({**answers, "": answers["0"]})
    start = Position("5", NOTHING_READ._replace(read=4 * size))
    assert str(walked.error) == (
        f"GET /contacts: read {most:,} contacts of a listing of {total}, so its bookmarks loop."
    )
    assert str(Walked(answers, start=start).error) == str(walked.error)


def test_a_listing_that_lost_most_documents_since_an_earlier_run_is_no_loop() -> None:
    """Otherwise every run would fail there."""
    start = Position(
        "x", NOTHING_READ._replace(read=90, largest_page=10, highest="a", least=99, latest=99)
    )
    walked = Walked({"": page("b", total=1), "x": page("b", total=1)}, start=start)
    assert walked.error is None
    assert walked.asked == ["x", ""]  # and once more, because the total has fallen


def test_empty_pages_and_stale_bookmarks_in_turn_have_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "MAX_IDLE_PAGES", 20)
    answers: dict[str, Any] = {"": page("a", bookmark="0")}
    for number in range(0, 500, 2):
        answers[str(number)] = [page(bookmark=f"{number}x"), page(bookmark=str(number + 2))]
        answers[f"{number}x"] = 404
    walked = Walked(answers)
    assert str(walked.error) == "GET /contacts: 21 pages in a row contain nothing new."


@pytest.mark.parametrize(("most", "fails"), [(3, True), (4, False)])
def test_pages_with_nothing_new(monkeypatch: pytest.MonkeyPatch, most: int, fails: bool) -> None:
    monkeypatch.setattr(reading, "MAX_IDLE_PAGES", most)
    answers = {str(number): page(bookmark=str(number + 1)) for number in range(1, 9)}
    answers[""] = page(bookmark="1")
    answers |= {"4": page("a", bookmark="5"), "9": page("b")}
    walked = Walked(answers)
    if fails:
        assert str(walked.error) == "GET /contacts: 4 pages in a row contain nothing new."
        assert walked.asked == ["", "1", "2", "3"]
    else:
        assert walked.ids == ["a", "b"]


def test_a_large_listing_in_another_order_is_read_again_id_by_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(completeness, "ORDER_KNOWN", 1)
    walked = Walked({"": page("m", "n", bookmark="x", total=3), "x": page("a", total=3)})
    assert walked.ended[1] is None
    assert walked.asked == ["", "x", "", "x", "", "x"]
