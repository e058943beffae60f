"""Reads the API's listings page by page while the account changes.

Each page has a bookmark for the next page, and that bookmark names a contact. If the contact is
deleted before the bookmark is used, the API may reject the bookmark, or return an empty page or the
first page again. In that case the previous page is requested again for a fresh bookmark; if that
does not help either, the listing is read from the start. A page of documents already read is
followed only if it names the same next page when requested again.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from tap_autopilot.api.client import Client, Response
from tap_autopilot.api.lenient import REPLACEMENT, SMALL
from tap_autopilot.api.parsing import Content, parts
from tap_autopilot.exceptions import Gone, Outdated, Refused, RunError, Unreachable
from tap_autopilot.sources.completeness import NOTHING_READ, Census, Distinct, Doubt
from tap_autopilot.sources.listings import Page, Position, Walk, fetch, keys_of, shortage
from tap_autopilot.sources.trail import Step, Trail

LOG = logging.getLogger(__name__)

MAX_IDLE_PAGES = 1000  # in a row without a new id, each with a bookmark to another page
MAX_SEGMENTS = 20_000  # whose ids are all kept, with their members' paths: up to 9 kB each
MAX_REMEMBERED = 32_000_000  # ids in all walks, remembered one by one in 11 bytes each
LARGE_PAGE = 1000  # documents; a larger page is split, and not remembered
MAX_STARTS = 3  # stale bookmarks until the run gives up


class _StaleBookmark(Exception):
    """Bookmarks no longer lead to the rest of a listing."""


def pages(
    walk: Walk,
    start: Position,
    client: Client,
    *,
    check_totals: bool,
    max_remembered: int = MAX_REMEMBERED,
) -> Iterator[Page]:
    """The pages of a walk from a position to the end; `max_remembered` ids fit into memory.

    A listing that turns out short is read a second time; if bookmarks are stale, the listing is
    read from the start. Raises RunError if that does not help either.
    """
    position = start
    starts = 0
    while True:
        try:
            is_again = position is not start or position.census.attempt > 1
            reading = _Reading(walk, position, client, exact=is_again, check_totals=check_totals)
            for page in reading.pages():
                if reading.remembered > max_remembered:
                    raise RunError(
                        f"GET {walk.path}: more than {max_remembered:,} ids to remember. Lower"
                        " concurrency."
                    )
                checked = _at_end(page) if check_totals and page.after is None else page
                if checked.doubt is not None and checked.doubt.fails:
                    # Its rows are written, but the next run starts over, without this doubt.
                    yield dataclasses.replace(checked, after=Position(), doubt=None)
                    raise RunError(f"GET {walk.path}: {checked.doubts[checked.doubt]}.")
                yield checked
            if checked.after is None:
                return
            position = checked.after
        except _StaleBookmark as lost:
            starts += 1
            if starts == MAX_STARTS:
                raise RunError(f"{lost}, {starts} times. Run again later.") from None
            LOG.warning("%s; reading the %s from the start.", lost, walk)
            position = Position(census=NOTHING_READ._replace(attempt=position.census.attempt))
            yield _empty_page(walk, position.census, after=position)
        except Refused as refused:
            if walk.optional:
                yield _empty_page(walk, position.census, doubt=Doubt.UNAVAILABLE)
                return
            if walk.segment_id is None or position is start or not isinstance(refused, Gone):
                raise
            raise RunError(
                f"GET {walk.path}: status 404; the segment was deleted while it was being read."
                " Run again: the next run skips it."
            ) from None


def _at_end(page: Page) -> Page:
    """The last page of a reading, with any doubt; if it is short, the listing starts again.

    A second reading that an earlier run began may only be short because of what that run got, so a
    third one may follow.
    """
    walk, census = page.walk, page.census
    if census.is_short and census.attempt < (3 if census.resumed else 2):
        LOG.info("Read %s; reading them again.", shortage(walk, census))
        again = Position(census=NOTHING_READ._replace(attempt=census.attempt + 1))
        return dataclasses.replace(page, after=again)
    return dataclasses.replace(page, doubt=census.doubt(counted=walk.counted))


def _empty_page(
    walk: Walk, census: Census, *, after: Position | None = None, doubt: Doubt | None = None
) -> Page:
    """A page that is not from a response."""
    return Page(walk, [], after, census, 0, datetime.now(timezone.utc), None, doubt)


@dataclass(frozen=True)
class _Candidate:
    """A page made from a response, which may be accepted, and how many of its ids are `new`."""

    page: Page
    content: Content
    new: int


@dataclass(frozen=True)
class _DeadEnd:
    """Why a bookmark does not lead on, and what it led to, unless it was rejected."""

    why: str
    candidate: _Candidate | None = None


class _Reading:
    """One reading of a listing, from a position to its end."""

    def __init__(
        self, walk: Walk, start: Position, client: Client, *, exact: bool, check_totals: bool
    ) -> None:
        self._walk = walk
        self._client = client
        self._start = start
        self._census = start.census._replace(resumed=start.bookmark is not None)
        self._distinct = Distinct(start.census, exact=exact)
        self._trail = Trail()
        self._loops = _Loops(walk, check_totals=check_totals)
        self._documents: list[Any] = []  # of the last good page, unparsed

    @property
    def remembered(self) -> int:
        """How many ids are remembered one by one."""
        return self._distinct.remembered

    def pages(self) -> Iterator[Page]:
        """The pages; the last one has no position after it. Raises _StaleBookmark."""
        bookmark = self._start.bookmark
        while True:
            start = Position(bookmark, self._census)
            page = self._page_at(bookmark)
            yield from _split(page, start)
            if page.after is None:
                return
            bookmark = page.after.bookmark

    def _page_at(self, bookmark: str | None) -> Page:
        """The page that a bookmark leads to, or the previous one again, with a fresh bookmark."""
        result = self._follow(bookmark)
        if isinstance(result, _Candidate):
            self._trail.accept(bookmark)
            return self._accept(result)
        assert bookmark is not None  # the first page is never a dead end
        candidate, why = result.candidate, result.why
        names = candidate.page.after.bookmark if candidate and candidate.page.after else None
        step = self._trail.dead_end(bookmark, names, rejected=candidate is None)
        if step is Step.FOLLOW and candidate is not None:
            return self._accept(candidate)
        if step is Step.RETRACE:
            del result, candidate  # it may be large
            return self._retrace(why)
        raise _StaleBookmark(why)

    def _follow(self, bookmark: str | None) -> _Candidate | _DeadEnd:
        """What a bookmark leads to."""
        shown = f"GET {self._walk.path}/…: the bookmark"
        try:
            response = self._get(bookmark)
        except Outdated as refused:
            if bookmark is None:
                raise
            return _DeadEnd(f"{shown} was rejected with status {refused.status}")
        except Unreachable:
            raise
        except RunError as error:
            if bookmark is None or bookmark != self._start.bookmark:
                raise
            # Maybe only the bookmark from the state is stale, or one that the API never accepts.
            return _DeadEnd(str(error).rstrip("."))
        documents = response.value.documents
        if documents and self._documents and documents[0] == self._documents[-1]:
            documents = documents[1:]
        candidate = self._candidate(response, documents)
        if bookmark is not None and candidate.page.census.read == self._census.read:
            if response.value.documents:
                return _DeadEnd(f"{shown} leads to documents already read", candidate)
            if candidate.page.after is None:
                return _DeadEnd(f"{shown} leads to an empty page", candidate)
        return candidate

    def _retrace(self, why: str) -> Page:
        """The last good page again, with a fresh bookmark."""
        try:
            response = self._get(self._trail.last_good)
        except Outdated:
            raise _StaleBookmark(why) from None
        if not response.value.documents and not response.value.bookmark:
            raise _StaleBookmark(why)
        before = self._documents
        new = [document for document in response.value.documents if document not in before]
        return self._accept(self._candidate(response, new))

    def _accept(self, candidate: _Candidate) -> Page:
        """Continue from a page."""
        page = candidate.page
        if candidate.new:
            self._trail.note_new()
        self._loops.check(candidate)
        self._documents = [] if _is_large(page) else candidate.content.documents
        self._census = page.census
        return page

    def _candidate(self, response: Response[Content], documents: list[Any]) -> _Candidate:
        """A page of these documents of a response. Remembers their ids."""
        walk, content = self._walk, response.value
        bookmark = _valid_bookmark(walk, content.bookmark)
        keys = keys_of(documents, walk)
        ids = [str(key) for key in keys if key.__class__ in (str, int)]
        new = self._distinct.count_new(ids)
        census = self._census.after(
            documents=len(content.documents),
            new=new + len(keys) - len(ids),
            highest=self._distinct.highest,
            total=content.total,
        )
        if walk.children is not None and census.read > MAX_SEGMENTS:
            raise RunError(f"GET {walk.path}: more than {MAX_SEGMENTS:,} {walk}.")
        if walk.segment_id is not None:
            documents = keys
        after = Position(bookmark, census) if bookmark else None
        page = Page(
            walk, documents, after, census, content.cleaned, response.fetched_at, response.date,
            size=content.size,
        )  # fmt: skip
        return _Candidate(page, content, new)

    def _get(self, bookmark: str | None) -> Response[Content]:
        """The response for the page at a bookmark. Notes its total."""
        walk, census = self._walk, self._census
        has_total = census.latest is not None or walk.segment_id is not None
        unread = (census.latest or 0) - census.read if has_total else math.inf
        response = fetch(self._client, walk, bookmark, urgency=unread)
        self._loops.note_total(response.value.total)
        return response


class _Loops:
    """Detects bookmarks that lead around in circles, by how much they lead to."""

    def __init__(self, walk: Walk, *, check_totals: bool) -> None:
        self._walk = walk
        self._received = 0  # documents, repeated ones included, but none of earlier runs
        self._check_totals = check_totals
        self._total = 0  # the largest
        self._idle = 0  # pages in a row without a new id

    def note_total(self, total: int | None) -> None:
        """Note a total of the listing."""
        self._total = max(self._total, total or 0)

    def check(self, candidate: _Candidate) -> None:
        """Raise RunError if another page is one too many."""
        path = self._walk.path
        self._idle = 0 if candidate.new else self._idle + 1
        if self._idle > MAX_IDLE_PAGES:
            raise RunError(f"GET {path}: {self._idle} pages in a row contain nothing new.")
        self._received += len(candidate.page.unread)
        limit = 2 * self._total + candidate.page.census.largest_page
        if self._check_totals and self._total and limit < self._received:
            raise RunError(
                f"GET {path}: read {self._received:,} {self._walk.documents} of a listing of"
                f" {self._total:,}, so its bookmarks loop."
            )


def _valid_bookmark(walk: Walk, bookmark: Any) -> str | None:
    if bookmark is None:
        return None
    if not isinstance(bookmark, str):
        raise RunError(f"GET {walk.path}: a bookmark is {type(bookmark).__name__}, not a string.")
    if REPLACEMENT in bookmark:
        raise RunError(f"GET {walk.path}: a bookmark is not valid Unicode.")
    return bookmark


def _is_large(page: Page) -> bool:
    return page.size > SMALL or len(page.unread) > LARGE_PAGE


def _split(page: Page, start: Position) -> Iterator[Page]:
    """A page, in parts if it is large; `start` is the position before it."""
    if not _is_large(page):
        yield page
        return
    before: Page | None = None
    for part in parts(page.unread):
        if before is not None:
            yield dataclasses.replace(before, after=start)
        before = dataclasses.replace(page, unread=part, replaced=0 if before else page.replaced)
    assert before is not None
    yield before
