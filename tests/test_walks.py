"""Walks over listings, request by request, without a server."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest

from tap_autopilot.api.client import Client, Response
from tap_autopilot.exceptions import Refused, RunError, TapError, Unreachable
from tap_autopilot.sources import completeness, reading
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
from tap_autopilot.sources.reading import pages
from tests.in_process import logged
from tests.scripted import page

ARRIVED, SENT = (datetime(2024, 2, 29, 12, minute, tzinfo=timezone.utc) for minute in (1, 2))
MEMBERS = members_of("s")


MAX_RETRACED = 10  # pages in a row


class Script(Client):
    """A client with an answer, or a list of them to use up, for each bookmark; "" is the first.

    An answer is a page, or its bytes, or the status of a refusal, or an error.
    """

    def __init__(self, answers: dict[str, Any], walk: Walk = CONTACTS) -> None:
        self._answers = answers
        self._path = walk.path
        self.asked: list[str] = []
        self.paths: list[str] = []
        self.said: list[dict[str, Any]] = []

    def get(self, path: str, decode: Callable[[bytes], Any], **said: Any) -> Response[Any]:
        assert path.startswith(self._path)
        bookmark = path.removeprefix(self._path).removeprefix("/")
        self.asked.append(bookmark)
        self.paths.append(path)
        self.said.append(said)
        answer = self._answers[bookmark]
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, TapError):
            raise answer
        if isinstance(answer, int):
            raise Refused(answer, f"GET {said['shown']}: status {answer}.")
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
        self.asked, self.paths, self.said = client.asked, client.paths, client.said
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


def test_a_walk_page_by_page() -> None:
    first, last = page("a", "b", bookmark="x", total=3), page("c", total=3)
    walked = Walked({"": first, "x": last})
    assert walked.ended == (["a", "b", "c"], None)
    assert walked.asked == ["", "x"]
    begun = Census(read=2, page=2, highest="b", least=3, latest=3)
    ended = Census(read=3, page=2, highest="c", least=3, latest=3)
    assert [one.after for one in walked.pages] == [Position("x", begun), None]
    assert [one.census for one in walked.pages] == [begun, ended]
    assert {(one.walk, one.fetched_at, one.date) for one in walked.pages} == {
        (CONTACTS, ARRIVED, SENT)
    }
    assert walked.log == []


def test_a_resumed_walk_continues_its_counts() -> None:
    census = Census(read=2, page=2, highest="b", least=3, latest=3)
    walked = Walked({"x": page("c", total=3)}, start=Position("x", census))
    assert walked.ended == (["c"], None)
    assert walked.pages[0].census == Census(
        read=3, page=2, highest="c", least=3, latest=3, resumed=True
    )
    fresh = Walked({"": page("a", total=1)})
    assert not fresh.pages[0].census.resumed


def test_the_members_of_a_segment() -> None:
    walked = Walked({"": page("a", 7, None, total=3)}, MEMBERS)
    assert walked.pages[0].documents == [
        {"segment_id": "s", "contact_id": one} for one in ("a", 7, None)
    ]
    assert walked.pages[0].census.read == 3


@pytest.mark.parametrize(
    ("walk", "text"),
    [
        (CONTACTS, "contacts"),
        (SEGMENTS, "smart segments"),
        (MEMBERS, "members of segment s"),
        (members_of("s" * 90), "members of segment " + "s" * 80),
    ],
)
def test_what_a_walk_is_called(walk: Walk, text: str) -> None:
    assert str(walk) == text


@pytest.mark.parametrize(
    ("walk", "path", "kind", "answer"),
    [
        (CONTACTS, "/contacts", "contacts", page("a")),
        (LISTS, "/lists", "lists", {"lists": [{"list_id": "a"}]}),
        (SEGMENTS, "/smart_segments", "smart_segments", {"segments": [{"segment_id": "a"}]}),
        (MEMBERS, "/smart_segments/s/contacts", "smart_segments_contacts", page("a")),
        (
            CUSTOM_FIELDS, "/contacts/custom_fields", "custom_fields",
            {"more": [], "custom_fields": [{"name": "a"}]},
        ),
        (CUSTOM_FIELDS, "/contacts/custom_fields", "custom_fields", [[{"name": "a"}]]),
    ],
)  # fmt: skip
def test_the_listings_of_the_api(walk: Walk, path: str, kind: str, answer: Any) -> None:
    walked = Walked({"": answer}, walk)
    (only,) = walked.pages
    assert (walk.path, walked.said[0]["kind"]) == (path, kind)
    assert only.census.highest == "a", "the id is found"
    assert (SEGMENTS.children == MEMBERS.source, CONTACTS.children) == (True, None)


@pytest.mark.parametrize(
    ("walk", "answers", "said"),
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
    walk: Walk, answers: Any, said: list[tuple[str, str, float]]
) -> None:
    walked = Walked(answers, walk)
    found = [(one["shown"], one["kind"], one["urgency"]) for one in walked.said]
    assert found[: len(said)] == said


def test_characters_that_were_replaced_are_counted() -> None:
    walked = Walked({"": rb'{"contacts": [{"a": "\u0000\ud800"}, {"a": "' + b'\xff"}]}'})
    assert walked.pages[0].cleaned == 3
    assert [document["a"] for document in walked.pages[0].documents] == ["\ufffd", "\ufffd"]


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
    assert walked.pages[1].after == Position(census=Census(reading=2))
    assert walked.pages[2].census.reading == 2
    assert walked.log == [
        "INFO Read 2 of the 3 contacts that the API reported; reading them again."
    ]


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
    walked = Walked({"": some(98, total=99)}, start=Position(census=Census(reading=2)))
    assert (walked.ended[1], walked.asked) == (Doubt.SHORT, [""])


def test_totals_that_are_not_checked_raise_no_doubt() -> None:
    walked = Walked({"": page("a", total=1000)}, check_totals=False)
    assert walked.ended == (["a"], None)
    assert walked.asked == [""]


@pytest.mark.parametrize(
    ("walk", "doubt"), [(CONTACTS, Doubt.UNCOUNTED), (MEMBERS, Doubt.UNCOUNTED)]
)
def test_contacts_and_members_should_have_totals(walk: Walk, doubt: Doubt) -> None:
    assert Walked({"": page("a")}, walk).ended[1] is doubt


def test_lists_and_segments_need_no_totals() -> None:
    for walk in (LISTS, SEGMENTS):
        walked = Walked({"": {walk.documents: [{walk.key: "a"}]}}, walk)
        assert walked.pages[-1].doubt is None


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


@pytest.mark.parametrize("status", [401, 403, 405, 409])
def test_another_refusal_of_a_bookmark_is_an_error(status: int) -> None:
    walked = Walked({"": page("a", bookmark="x"), "x": status})
    assert isinstance(walked.error, Refused)
    assert str(walked.error) == f"GET /contacts/…: status {status}."
    assert walked.asked == ["", "x"]


def test_an_error_while_asking_again_is_an_error() -> None:
    walked = Walked({"": [page("a", bookmark="x"), 405], "x": 404})
    assert isinstance(walked.error, Refused)
    assert (walked.error.status, walked.asked) == (405, ["", "x", ""])


def test_a_page_that_has_become_the_last_is_the_end() -> None:
    first, again = page("a", "b", bookmark="x", total=3), page("a", "b", total=2)
    walked = Walked({"": [first, again], "x": 404})
    assert walked.ended == (["a", "b"], None)
    assert walked.asked == ["", "x", ""]


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
    ] == [(CONTACTS, [], Census(), 0, None, None)] * 2


def test_the_second_reading_stays_the_second_after_a_stale_bookmark() -> None:
    first = page("a", bookmark="x", total=2)
    walked = Walked(
        {"": [first, first, some(98, total=99)], "x": 404},
        start=Position(census=Census(reading=2)),
    )
    assert walked.ended[1] is Doubt.SHORT
    assert walked.asked == ["", "x", "", "x", ""]


def test_a_walk_continues_normally_after_a_stale_bookmark() -> None:
    """Also with the stale bookmarks of later pages."""
    walked = Walked(
        {
            "": page("a", bookmark="x"),
            "x": [page("b", bookmark="y"), page("b", bookmark="z")],
            "y": 404,
            "z": [page("c", bookmark="v"), page("c", bookmark="w")],
            "v": 404,
            "w": page("d"),
        }
    )
    assert walked.ids == ["a", "b", "c", "d"]
    assert walked.asked == ["", "x", "y", "x", "z", "v", "z", "w"]


def test_fresh_bookmarks_that_are_all_stale_end_the_reading() -> None:
    numbers = itertools.count()

    class Fleeting(Script):
        def get(self, path: str, decode: Callable[[bytes], Any], **said: Any) -> Response[Any]:
            self._answers[""] = page("a", bookmark=f"x{next(numbers)}")
            return super().get(path, decode, **said)

    client = Fleeting({f"x{number}": 404 for number in range(200)})
    with pytest.raises(RunError, match="3 times"):
        list(pages(CONTACTS, Position(), client, check_totals=True))
    asked = [bookmark[:1] for bookmark in client.asked]
    assert asked == ["", "x", *["", "x"] * MAX_RETRACED] * 3


def test_a_good_page_resets_the_count_of_stale_bookmarks() -> None:
    answers: dict[str, Any] = {"": page("a", bookmark="x0")}
    for number in range(2 * MAX_RETRACED):
        answers[f"x{number}"] = [
            page(f"b{number:02}", bookmark=f"y{number}"),
            page(f"b{number:02}", bookmark=f"x{number + 1}"),
        ]
        answers[f"y{number}"] = 404
    answers[f"x{2 * MAX_RETRACED}"] = page("c")
    walked = Walked(answers)
    assert walked.error is None
    assert len(walked.ids) == 2 * MAX_RETRACED + 2


@pytest.mark.parametrize("again", [404, page()])
def test_a_page_that_is_gone_too_means_reading_from_the_start(again: Any) -> None:
    first = page("a", bookmark="x", total=2)
    walked = Walked({"": [first, again, page("a", "b", total=2)], "x": 404})
    assert walked.ended == (["a", "a", "b"], None)
    assert walked.asked == ["", "x", "", ""]
    (line,) = walked.log
    assert line.endswith("rejected with status 404; reading the contacts from the start.")


def test_an_empty_last_page_is_the_end_if_it_comes_twice() -> None:
    walked = Walked({"": page("a", bookmark="x", total=1), "x": page(total=1)})
    assert walked.ended == (["a"], None)
    assert walked.asked == ["", "x", "", "x"]


def test_an_empty_page_between_others_is_followed_without_asking_again() -> None:
    walked = Walked(
        {"": page("a", bookmark="x", total=2), "x": page(bookmark="y"), "y": page("b", total=2)}
    )
    assert walked.ended == (["a", "b"], None)
    assert walked.asked == ["", "x", "y"]


def test_documents_already_read_are_the_end_if_they_come_twice() -> None:
    walked = Walked({"": page("a", "b", bookmark="x", total=2), "x": page("a", total=2)})
    assert walked.ended == (["a", "b", "a"], None)
    assert walked.asked == ["", "x", "", "x"]


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
    assert [one.census.page for one in walked.pages] == [2, 3]


def test_only_the_first_document_can_repeat_the_last() -> None:
    walked = Walked({"": page("a", "b", bookmark="x"), "x": page("c", "b")})
    assert walked.ids == ["a", "b", "c", "b"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RunError("GET /contacts/…: status 500."), "status 500"),
        (404, "the bookmark was rejected with status 404"),
    ],
)
def test_a_bookmark_from_the_state_may_be_stale(error: Any, text: str) -> None:
    census = Census(read=2, page=2, highest="b", least=3, latest=3)
    walked = Walked({"x": error, "": page("a", "b", "c", total=3)}, start=Position("x", census))
    assert walked.ended == (["a", "b", "c"], None)
    assert walked.asked == ["x", ""]
    assert walked.pages[-1].census == Census(read=3, page=3, highest="c", least=3, latest=3)
    assert walked.log == [f"WARNING GET /contacts/…: {text}; reading the contacts from the start."]


@pytest.mark.parametrize("after", ["", "x"])
def test_an_error_unrelated_to_the_bookmark_ends_the_walk(after: str) -> None:
    error = RunError("GET /contacts: status 500.")
    walked = Walked({"": page("a", bookmark="x"), after: error})
    assert walked.error is error


def test_an_api_that_does_not_respond_ends_the_walk() -> None:
    error = Unreachable("GET /contacts/…: connection refused.")
    walked = Walked({"x": error}, start=Position("x"))
    assert walked.error is error


# Listings that are refused


@pytest.mark.parametrize("status", [400, 403, 404])
def test_an_optional_listing_may_be_missing(status: int) -> None:
    (only,) = Walked({"": status}, CUSTOM_FIELDS).pages
    assert (only.walk, only.documents, only.after) == (CUSTOM_FIELDS, [], None)
    assert (only.doubt, only.census) == (Doubt.UNAVAILABLE, Census())
    assert only.fetched_at.tzinfo is timezone.utc


@pytest.mark.parametrize("status", [403, 404])
def test_a_required_listing_must_not_be_missing(status: int) -> None:
    walked = Walked({"": status})
    assert isinstance(walked.error, Refused)
    assert str(walked.error) == f"GET /contacts: status {status}."


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (
            404,
            "GET /smart_segments/s/contacts: status 404. It was deleted while it was being read.",
        ),
        (405, "GET /smart_segments/s/contacts: status 405."),
    ],
)
def test_a_segment_that_is_deleted_while_it_is_read_is_not_gone(status: int, text: str) -> None:
    first = page("a", bookmark="x")
    walked = Walked({"": [first, first, status], "x": 404}, MEMBERS)
    assert str(walked.error) == text
    assert isinstance(walked.error, Refused) is (status != 404)


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
    start = Position("5", Census(read=4 * size))
    assert str(walked.error) == (
        f"GET /contacts: read {most:,} contacts of a listing of {total}, so its bookmarks loop."
    )
    assert str(Walked(answers, start=start).error) == str(walked.error)


def test_the_largest_total_bounds_a_listing() -> None:
    answers = {
        "": page("a", bookmark="1", total=0),
        "1": page("b", bookmark="2", total=4),
        "2": page("c", bookmark="3", total=2),
    }
    for number in range(3, 9):
        answers[str(number)] = page(f"d{number}", bookmark=str(number + 1), total=1)
    walked = Walked({**answers, "9": page("e", total=1)})
    assert str(walked.error) == (
        "GET /contacts: read 10 contacts of a listing of 4, so its bookmarks loop."
    )


def test_totals_that_are_not_checked_bound_nothing() -> None:
    answers = {str(one): page(f"{one}", bookmark=str(one + 1), total=1) for one in range(1, 9)}
    walked = Walked({**answers, "": answers["1"], "9": page("9", total=1)}, check_totals=False)
    assert walked.ended == ([str(one) for one in (1, *range(2, 10))], None)


def test_empty_pages_and_stale_bookmarks_in_turn_have_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "MAX_IDLE_PAGES", 20)
    answers: dict[str, Any] = {"": page("a", bookmark="0")}
    for number in range(0, 500, 2):
        answers[str(number)] = [
            page(bookmark=f"{number}x"),
            page(bookmark=str(number + 2)),
        ]
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
