"""The listings of the API, each read page by page.

A walk over a listing is a chain, since only a page tells where the next one is.
"""

from __future__ import annotations

import logging
import math
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tap_autopilot.api.answers import Listing, decode, decode_members, has_lone_surrogate
from tap_autopilot.api.client import Client
from tap_autopilot.exceptions import Refused, RunError, TapError

LOG = logging.getLogger(__name__)

MOST_EMPTY_PAGES = 1000  # in a row, each with a bookmark to yet another one


@dataclass(frozen=True)
class Walk:
    """A listing to read: `kind` names all walks like it, `listing` its field in the answer."""

    kind: str
    path: str
    listing: str
    segment_id: str | None = None


CONTACTS = Walk("contacts", "/contacts", "contacts")
LISTS = Walk("lists", "/lists", "lists")
SEGMENTS = Walk("smart_segments", "/smart_segments", "segments")


def members_of(segment_id: str) -> Walk:
    """The walk over the members of one smart segment."""
    path = f"/smart_segments/{_segment(segment_id)}/contacts"
    return Walk("smart_segments_contacts", path, "contacts", segment_id)


@dataclass(frozen=True)
class Position:
    """Where a walk stands: the bookmark of the next page, and the documents before it.

    No bookmark means the first page.
    """

    bookmark: str | None = None
    seen: int = 0


@dataclass(frozen=True)
class Page:
    """One page of a walk. `after` is the position behind it, None at the end of the walk.

    `total` is the largest size that the API has given for the listing, `seen` how many documents
    the walk has had by now. The documents of members hold their `contact_id` and the `segment_id`,
    no more.
    """

    walk: Walk
    documents: list[Any]
    after: Position | None
    seen: int
    total: int | None
    cleaned: int


@dataclass(frozen=True)
class Failure:
    """A walk that could not be read to its end."""

    walk: Walk
    error: TapError


def pages(walk: Walk, start: Position, client: Client) -> Iterator[Page]:
    """The pages of a walk from a position to its end.

    Where the API no longer knows a bookmark, or answers it with nothing although documents are
    missing, the walk starts over, once. Raises RunError where its bookmarks lead nowhere.
    """
    try:
        yield from _chain(walk, start, client)
    except _Lost as lost:
        LOG.warning("%s The walk starts over.", lost)
    else:
        return
    try:
        yield from _chain(walk, Position(), client, again=True)
    except _Lost as lost:
        raise RunError(str(lost)) from None


class _Lost(Exception):
    """A bookmark no longer leads to the rest of its walk."""


def _chain(
    walk: Walk, position: Position, client: Client, *, again: bool = False
) -> Iterator[Page]:
    reduce = decode_members if walk.segment_id is not None else decode
    bookmarks: set[str] = set()
    empty = 0
    last: Any = object()  # equal to no document
    total: int | None = None
    while True:
        listing = _listing(walk, position, client, reduce, total)
        documents = listing.documents
        resumed = position.bookmark is not None and not bookmarks
        if listing.total is not None:
            total = max(listing.total, total or 0)
        after = _check(walk, listing.bookmark, bookmarks)
        missing = resumed or (total is not None and position.seen < total)
        if position.bookmark is not None and not documents and after is None and missing:
            if not again:
                raise _Lost(f"GET {walk.path}/…: a bookmark is answered with an empty page.")
            LOG.warning("GET %s: it ends before all that it promised.", walk.path)
        empty = 0 if documents else empty + 1
        if empty > MOST_EMPTY_PAGES:
            raise RunError(f"GET {walk.path}: {empty} empty pages in a row lead to another one.")
        if documents and documents[0] == last:
            documents = documents[1:]
        last = listing.documents[-1] if listing.documents else last
        seen = position.seen + len(documents)
        position = Position(after, seen)
        if walk.segment_id is not None:
            documents = [{"segment_id": walk.segment_id, "contact_id": one} for one in documents]
        yield Page(walk, documents, position if after else None, seen, total, listing.cleaned)
        if after is None:
            return


def _listing(
    walk: Walk,
    position: Position,
    client: Client,
    reduce: Callable[[bytes, str], Listing],
    total: int | None,
) -> Listing:
    path, shown = walk.path, walk.path
    if position.bookmark is not None:
        path, shown = f"{path}/{_segment(position.bookmark)}", f"{path}/…"
    urgency = math.inf if total is None and walk.segment_id is None else (total or 0)
    try:
        return client.get(
            path,
            lambda body: reduce(body, walk.listing),
            shown=shown,
            kind=walk.kind,
            urgency=urgency - position.seen,
        )
    except Refused as refused:
        if position.bookmark is None or refused.status in (401, 403):
            raise
        raise _Lost(f"GET {shown}: a bookmark is refused with status {refused.status}.") from None


def _check(walk: Walk, bookmark: Any, seen: set[str]) -> str | None:
    if bookmark is None:
        return None
    if not isinstance(bookmark, str):
        raise RunError(f"GET {walk.path}: a bookmark is {type(bookmark).__name__}, not text.")
    if has_lone_surrogate(bookmark):
        raise RunError(f"GET {walk.path}: a bookmark is not valid Unicode.")
    if bookmark in seen:
        raise RunError(f"GET {walk.path}: a bookmark came a second time, so it would never end.")
    seen.add(bookmark)
    return bookmark


def _segment(text: str) -> str:
    """Text as one segment of a path."""
    encoded = urllib.parse.quote(text, safe="", errors="surrogatepass")
    return encoded if encoded.strip(".") else encoded.replace(".", "%2E")
