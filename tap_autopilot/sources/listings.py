"""Reads the API's listings page by page while the account changes.

Each page has a bookmark for the next page, and that bookmark names a contact. If the contact is
deleted before the bookmark is used, the API may reject the bookmark, or return an empty page or the
first page again. In that case the previous page is requested again for a fresh bookmark; if that
does not help either, the listing is read from the start. A page of documents already read is
followed only if it names the same next page when requested again.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from tap_autopilot.api.client import Client, Response
from tap_autopilot.api.parsing import (
    REPLACEMENT,
    Listing,
    decode,
    decode_array,
    decode_keys,
    keys_of,
    read,
)
from tap_autopilot.exceptions import Refused, RunError, TapError, Unreachable
from tap_autopilot.sources.completeness import Census, Distinct, Doubt

LOG = logging.getLogger(__name__)

STALE = frozenset({400, 404, 410, 422})  # statuses that may reject a bookmark
MAX_IDLE_PAGES = 1000  # in a row without a new id, each with a bookmark to another page
MAX_RETRACED = 10  # fresh bookmarks in a row, if a contact was deleted each time
MAX_KNOWN_PAGES = 10  # in a row that contain only documents already read, but lead further
MAX_STARTS = 3  # readings from the first page, because of stale bookmarks


@dataclass(frozen=True)
class Walk:
    """A listing to read: `source` names its kind, `documents` the response's field that holds it.

    `key` is the field with a document's id. `counted` listings have totals. `segment_id` is set for
    a listing of a segment's members. `children` is the source whose walks need this listing's ids.
    An `optional` listing may be empty, or missing from an account's API. `decode` finds the
    documents in a response.
    """

    source: str
    path: str
    documents: str
    key: str
    counted: bool = False
    segment_id: str | None = None
    children: str | None = None
    optional: bool = False
    decode: Callable[[bytes, str], Listing] = decode

    def __str__(self) -> str:
        """What it lists, as text for messages."""
        if self.segment_id is not None:
            return f"members of segment {self.segment_id:.80}"
        return self.source.replace("_", " ")


MEMBERS = "smart_segments_contacts"  # the source of the walks over all segments' members
CONTACTS = Walk("contacts", "/contacts", "contacts", "contact_id", counted=True)
LISTS = Walk("lists", "/lists", "lists", "list_id")
SEGMENTS = Walk("smart_segments", "/smart_segments", "segments", "segment_id", children=MEMBERS)

CUSTOM_FIELDS = Walk(
    "custom_fields", "/contacts/custom_fields", "custom_fields", "name",
    optional=True, decode=decode_array,
)  # fmt: skip
LISTINGS = (CONTACTS, LISTS, SEGMENTS, CUSTOM_FIELDS)
ENDPOINTS = {walk.source: walk.path for walk in LISTINGS} | {
    MEMBERS: "/smart_segments/{segment_id}/contacts"
}


_members = functools.partial(decode_keys, key="contact_id")


def members_of(segment_id: str) -> Walk:
    """The walk over the members of one smart segment."""
    path = f"/smart_segments/{_path_segment(segment_id)}/contacts"
    return Walk(
        MEMBERS, path, "contacts", "contact_id",
        counted=True, segment_id=segment_id, decode=_members,
    )  # fmt: skip


@dataclass(frozen=True)
class Position:
    """A position in a walk: the bookmark of the next page, None for the first, and the census."""

    bookmark: str | None = None
    census: Census = field(default_factory=Census)


@dataclass(frozen=True)
class Page:
    """One page of a walk. `after` is the position after it, None at the end of the walk.

    `census` covers this reading so far, including this page. The last page also has any `doubt`
    about the whole listing. `fetched_at` is when the page arrived, by our clock; `date` is when it
    was sent, by the API's clock, if known. A member's document has only `contact_id` and
    `segment_id`.

    Documents stay `unread` (unparsed) until they are used, so that the walk's thread can first send
    its next request.
    """

    walk: Walk
    unread: list[Any]
    after: Position | None
    census: Census
    replaced: int
    fetched_at: datetime
    date: datetime | None
    doubt: Doubt = Doubt.NONE

    @functools.cached_property
    def _read(self) -> tuple[list[Any], int]:
        return read(self.unread)

    @property
    def documents(self) -> list[Any]:
        """The documents as objects."""
        return self._read[0]

    @property
    def cleaned(self) -> int:
        """How many characters of the documents were removed or replaced."""
        return self.replaced + self._read[1]


@dataclass(frozen=True)
class Failure:
    """A walk that could not be read to the end."""

    walk: Walk
    error: TapError


class _StaleBookmark(Exception):
    """Bookmarks no longer lead to the rest of a listing."""


def pages(walk: Walk, start: Position, client: Client, *, check_totals: bool) -> Iterator[Page]:
    """The pages of a walk from a position to the end.

    A listing that turns out short is read a second time; if bookmarks are stale, the listing is
    read from the start. Raises RunError if that does not help either.
    """
    position = start
    starts = 0
    while True:
        try:
            reading = _Reading(
                walk, position, client, exact=position is not start, check_totals=check_totals
            )
            for page in reading.pages():
                if page.after is not None or not check_totals:
                    yield page
                    continue
                census, doubt = page.census, page.census.doubt(counted=walk.counted)
                if census.is_short and census.reading == 1:
                    LOG.info("Read %s; reading them again.", shortage(walk, census))
                    position = Position(census=Census(reading=2))
                    yield dataclasses.replace(page, after=position)
                    break
                if doubt.fails:
                    yield dataclasses.replace(page, after=Position())
                    raise RunError(
                        f"GET {walk.path}: got only {shortage(walk, census)}, twice. Run again"
                        " later; if the API's totals are wrong, set check_totals to false."
                    )
                yield dataclasses.replace(page, doubt=doubt)
                return
            else:
                return
        except _StaleBookmark as lost:
            starts += 1
            if starts == MAX_STARTS:
                raise RunError(f"{lost}, {starts} times. Run again later.") from None
            LOG.warning("%s; reading the %s from the start.", lost, walk)
            position = Position(census=Census(reading=position.census.reading))
            yield dataclasses.replace(_empty_page(walk, position.census), after=position)
        except Refused as refused:
            if walk.optional:
                yield _empty_page(walk, position.census, Doubt.UNAVAILABLE)
                return
            if position is start or refused.status != 404:
                raise
            raise RunError(f"{refused} It was deleted while it was being read.") from None


def _empty_page(walk: Walk, census: Census, doubt: Doubt = Doubt.NONE) -> Page:
    """A last page that is not from a response."""
    return Page(walk, [], None, census, 0, datetime.now(timezone.utc), None, doubt)


def shortage(walk: Walk, census: Census) -> str:
    """How much of a listing was read: "998 of the 1,000 contacts that the API reported"."""
    what = walk.documents if walk.segment_id is None else str(walk)
    return f"{census.read:,} of the {census.least or 0:,} {what} that the API reported"


@dataclass(frozen=True)
class _Trouble:
    """A response that the walk cannot continue from.

    It is `page`, made from these documents, unless the request failed.
    """

    text: str
    page: Page | None = None
    documents: list[Any] = field(default_factory=list)

    @property
    def next_bookmark(self) -> str | None:
        """The bookmark that the page names, if any."""
        return self.page.after.bookmark if self.page and self.page.after else None


class _Reading:
    """One reading of a listing, from a position to its end."""

    def __init__(
        self, walk: Walk, start: Position, client: Client, *, exact: bool, check_totals: bool
    ) -> None:
        self._walk = walk
        self._client = client
        self._distinct = Distinct(start.census, exact=exact)
        self._start = start
        self._check_totals = check_totals
        self._census = dataclasses.replace(start.census, resumed=start.bookmark is not None)
        self._received = start.census.read  # documents, repeated ones included
        self._most = 0  # the largest total
        self._documents: list[Any] = []  # of the last good page, unparsed
        self._found_new = False  # whether the last page had a new id

    def pages(self) -> Iterator[Page]:
        """The pages; the last one has no position after it. Raises _StaleBookmark."""
        bookmark = self._start.bookmark
        before: list[str | None] = []  # the bookmark of the last good page, if any
        stale: str | None = None  # the last bookmark that did not work,
        trouble = _Trouble("")  # and why
        known: set[str | None] = set()  # bookmarks of known pages since the last new document
        retraced = idle = 0
        while True:
            response = self._follow(bookmark)
            if isinstance(response, Page):
                page, before, retraced = response, [bookmark], 0
            elif bookmark != stale and before and retraced < MAX_RETRACED:
                stale, trouble, retraced = bookmark, response, retraced + 1
                page = self._retrace(before[0], response.text)
            elif bookmark == stale and response.page and self._leads_on(trouble, response, known):
                page = self._accept(response.page, response.documents)
                before, retraced = [bookmark], 0
                known.add(bookmark)
            else:
                raise _StaleBookmark(response.text)
            if self._found_new:
                known.clear()
            idle = 0 if self._found_new else idle + 1
            if idle > MAX_IDLE_PAGES:
                path = self._walk.path
                raise RunError(f"GET {path}: {idle} pages in a row contain nothing new.")
            yield page
            if page.after is None:
                return
            bookmark = page.after.bookmark

    def _leads_on(self, first: _Trouble, second: _Trouble, known: set[str | None]) -> bool:
        """Whether a page without new documents, requested twice, is the last or names another."""
        bookmark = second.next_bookmark
        if bookmark is None:
            return True
        new = bookmark not in known and len(known) < MAX_KNOWN_PAGES
        return new and bookmark == first.next_bookmark

    def _follow(self, bookmark: str | None) -> Page | _Trouble:
        """The page that a bookmark leads to."""
        shown = self._shown(bookmark)
        try:
            response = self._get(bookmark)
        except Refused as refused:
            if bookmark is None or refused.status not in STALE:
                raise
            return _Trouble(f"GET {shown}: the bookmark was rejected with status {refused.status}")
        except Unreachable:
            raise
        except RunError as error:
            if bookmark is None or bookmark != self._start.bookmark:
                raise
            # Maybe only the bookmark from the state is stale.
            return _Trouble(str(error).rstrip("."))
        documents = response.value.documents
        if documents and self._documents and documents[0] == self._documents[-1]:
            documents = documents[1:]
        page = self._page(response, documents)
        if bookmark is not None and page.census.read == self._census.read:
            if response.value.documents:
                text = f"GET {shown}: the bookmark leads to documents already read"
                return _Trouble(text, page, response.value.documents)
            if page.after is None:
                return _Trouble(f"GET {shown}: the bookmark leads to an empty page", page)
        return self._accept(page, response.value.documents)

    def _accept(self, page: Page, documents: list[Any]) -> Page:
        """Continue from a page, which was made from these documents."""
        self._documents, self._census = documents, page.census
        self._received += len(page.unread)
        limit = 2 * self._most + page.census.page
        if self._check_totals and self._most and limit < self._received:
            raise RunError(
                f"GET {self._walk.path}: read {self._received:,} {self._walk.documents} of a"
                f" listing of {self._most:,}, so its bookmarks loop."
            )
        return page

    def _retrace(self, bookmark: str | None, trouble: str) -> Page:
        """The last good page again, with a fresh bookmark."""
        try:
            response = self._get(bookmark)
        except Refused as refused:
            if refused.status not in STALE:
                raise
            raise _StaleBookmark(trouble) from None
        if not response.value.documents and not response.value.bookmark:
            raise _StaleBookmark(trouble)
        documents = response.value.documents
        new = [one for one in documents if one not in self._documents]
        return self._accept(self._page(response, new), documents)

    def _page(self, response: Response[Listing], documents: list[Any]) -> Page:
        walk, listing = self._walk, response.value
        bookmark = self._checked(listing.bookmark)
        keys = keys_of(documents, walk.key)
        ids = [str(one) for one in keys if one.__class__ in (str, int)]
        new = self._distinct.count_new(ids)
        self._found_new = new > 0
        census = self._census.after(
            documents=len(listing.documents),
            new=new + len(keys) - len(ids),
            highest=self._distinct.highest,
            total=listing.total,
        )
        self._most = max(self._most, listing.total or 0)
        if walk.segment_id is not None:
            documents = [{"segment_id": walk.segment_id, "contact_id": one} for one in keys]
        after = Position(bookmark, census) if bookmark else None
        return Page(
            walk, documents, after, census, listing.cleaned, response.fetched_at, response.date
        )

    def _get(self, bookmark: str | None) -> Response[Listing]:
        walk, census = self._walk, self._census
        path = walk.path if bookmark is None else f"{walk.path}/{_path_segment(bookmark)}"
        known = census.latest is not None or walk.segment_id is not None
        left = (census.latest or 0) - census.read if known else math.inf
        return self._client.get(
            path,
            lambda body: walk.decode(body, walk.documents),
            shown=self._shown(bookmark),
            kind=walk.source,
            urgency=left,
        )

    def _shown(self, bookmark: str | None) -> str:
        return self._walk.path if bookmark is None else f"{self._walk.path}/…"

    def _checked(self, bookmark: Any) -> str | None:
        if bookmark is None:
            return None
        path = self._walk.path
        if not isinstance(bookmark, str):
            raise RunError(f"GET {path}: a bookmark is {type(bookmark).__name__}, not a string.")
        if REPLACEMENT in bookmark:
            raise RunError(f"GET {path}: a bookmark is not valid Unicode.")
        return bookmark


def _path_segment(text: str) -> str:
    """Text percent-encoded as one path segment."""
    encoded = urllib.parse.quote(text, safe="")
    return encoded if encoded.strip(".") else encoded.replace(".", "%2E")
