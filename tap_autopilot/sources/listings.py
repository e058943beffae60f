"""The API's listings, and what reading them yields: pages, positions, failures."""

from __future__ import annotations

import functools
import math
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tap_autopilot.api.client import Client, Request, Response
from tap_autopilot.api.parsing import (
    Content,
    decode,
    decode_array,
    decode_keys,
    read,
    values,
)
from tap_autopilot.exceptions import RunError, TapError
from tap_autopilot.rows.names import compile_pick
from tap_autopilot.rows.values import MAX_KEY
from tap_autopilot.sources.completeness import NOTHING_READ, Census, Doubt


@dataclass(frozen=True)
class Walk:
    """A listing to read, of a `source`; `documents` is the response's field that holds it.

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
    decode: Callable[[bytes, str], Content] = decode

    def __str__(self) -> str:
        """What it lists, as text for messages."""
        if self.segment_id is not None:
            return f"members of segment {self.segment_id}"
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


# One function, so that walks are equal.
_decode_members = functools.partial(decode_keys, key="contact_id", longest=MAX_KEY)


def members_of(segment_id: str) -> Walk:
    """The walk over the members of one smart segment."""
    path = f"/smart_segments/{path_segment(segment_id)}/contacts"
    return Walk(
        MEMBERS, path, "contacts", "contact_id",
        counted=True, segment_id=segment_id,
        decode=_decode_members,
    )  # fmt: skip


@dataclass(frozen=True)
class Position:
    """A position in a walk: the bookmark of the next page, None for the first, and the census."""

    bookmark: str | None = None
    census: Census = NOTHING_READ


@dataclass(frozen=True)
class Page:
    """One page of a walk. `after` is the position after it, None at the end of the walk.

    `census` covers this reading so far, including this page. The last page also has any `doubt`
    about the whole listing. `fetched_at` is when the page arrived, by our clock; `date` is when it
    was sent, by the API's clock, if known. A member's document has only `contact_id` and
    `segment_id`.

    Documents of a large or odd response stay `unread` (unparsed) until they are used, as do the ids
    of members. `size` is how many bytes the response had. A large one becomes several pages; until
    the last of them, the position stays where it was.
    """

    walk: Walk
    unread: list[Any]
    after: Position | None
    census: Census
    replaced: int
    fetched_at: datetime
    date: datetime | None
    doubt: Doubt | None = None
    size: int = 0

    @functools.cached_property
    def _read(self) -> tuple[list[Any], int]:
        segment_id = self.walk.segment_id
        if segment_id is not None:
            return [{"segment_id": segment_id, "contact_id": key} for key in self.unread], 0
        return read(self.unread)

    @property
    def documents(self) -> list[Any]:
        """The documents as objects."""
        return self._read[0]

    @property
    def cleaned(self) -> int:
        """How many characters of the documents were removed or replaced."""
        return self.replaced + self._read[1]

    @property
    def doubts(self) -> dict[Doubt, str]:
        """Its doubt, if any, with the reason."""
        return {} if self.doubt is None else {self.doubt: _reason(self)}


@dataclass(frozen=True)
class Failure:
    """A walk that could not be read to the end."""

    walk: Walk
    error: TapError


def shortage(walk: Walk, census: Census) -> str:
    """How much of a listing was read: "998 of the 1,000 contacts that the API reported"."""
    what = walk.documents if walk.segment_id is None else str(walk)
    return f"{census.read:,} of the {census.least or 0:,} {what} that the API reported"


def _reason(page: Page) -> str:
    """Why a listing is in doubt although it was read to its end."""
    walk, census = page.walk, page.census
    match page.doubt:
        case Doubt.SHORT if census.missing:
            return f"read {shortage(walk, census)}"
        case Doubt.SHORT:
            return f"the API's total for {walk} dropped to {census.least:,}"
        case Doubt.VERY_SHORT:
            return (
                f"got only {shortage(walk, census)}, twice. Run again later; if the API's totals"
                " are wrong, set check_totals to false"
            )
        case Doubt.UNCOUNTED:
            return f"the API's first page of {walk} gave no total to compare with"
        case Doubt.UNAVAILABLE:
            return f"the API does not offer this account's {walk}, or the key lacks permission"
        case Doubt.UNORDERED:
            return (
                f"{walk} were not in order, so after the interruption the {census.read:,} that were"
                " read may not be all of them"
            )
    raise ValueError(page.doubt)


def fetch(
    client: Client, walk: Walk, bookmark: str | None = None, urgency: float = math.inf
) -> Response[Content]:
    """The response for the page at a bookmark, or for the first page."""
    path, shown = walk.path, walk.path
    if bookmark is not None:
        path, shown = f"{path}/{path_segment(bookmark)}", f"{path}/…"
    request = Request(path, shown, walk.source, urgency)
    return client.get(request, lambda body: walk.decode(body, walk.documents))


def keys_of(documents: list[Any], walk: Walk) -> list[Any]:
    """The key of each unread document of a walk, in any spelling; None if it cannot be one.

    Raises RunError if one is too long.
    """
    key = walk.key
    pick = compile_pick([key])
    keys = []
    for document, value in zip(documents, values(documents, key), strict=True):
        if value is None or value == "":
            value = pick(read([document])[0][0]).get(key)
        if value.__class__ is str and len(value) > MAX_KEY:
            raise RunError(
                f"GET {walk.path}: the response has an id of more than {MAX_KEY} characters."
            )
        keys.append(None if value.__class__ in (dict, list) else value)  # of any size
    return keys


def path_segment(text: str) -> str:
    """Text percent-encoded as one path segment."""
    encoded = urllib.parse.quote(text, safe="")
    return encoded if encoded.strip(".") else encoded.replace(".", "%2E")
