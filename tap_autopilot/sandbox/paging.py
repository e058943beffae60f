"""Paging: an account's listings, in every way an API might page them."""

from __future__ import annotations

import base64
import bisect
import urllib.parse
from typing import NamedTuple

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.documents import as_json
from tap_autopilot.sandbox.options import Options

END = "the-end"  # bookmark of the empty last page, in styles that name the next contact
MAX_CACHED = 1024


class Page(NamedTuple):
    """One page of a listing."""

    body: bytes
    ids: tuple[str, ...]
    total: int | None
    bookmark: str | None


def listing_of(target: str) -> tuple[str, str | None] | None:
    """The listing that a path asks for, and the bookmark in the path; None for any other path."""
    path = target.partition("?")[0].removeprefix("/v1").split("/")
    match [urllib.parse.unquote(part, errors="surrogateescape") for part in path]:
        case ["", "lists" | "smart_segments" | "contacts" as name]:
            return f"/{name}", None
        case ["", "lists" | "smart_segments" | "contacts" as name, bookmark]:
            return None if bookmark == "custom_fields" else (f"/{name}", bookmark)
        case ["", "list" | "smart_segments" as kind, group_id, "contacts"]:
            return f"/{kind}/{group_id}/contacts", None
        case ["", "list" | "smart_segments" as kind, group_id, "contacts", bookmark]:
            return f"/{kind}/{group_id}/contacts", bookmark
    return None


class Pager:
    """The pages of an account's listings of contacts."""

    def __init__(self, account: Account, options: Options) -> None:
        self._account = account
        self._options = options
        self._pages: dict[tuple[str, str | None], Page] = {}
        self._models: dict[int, tuple[bytes, bytes]] = {}
        self._changes = 0
        self._deleted_lists: set[str] = set()

    def page(self, listing: str, bookmark: str | None) -> Page | int:
        """One page, or the status for an outdated bookmark; 404 for an unknown listing."""
        self._drop_outdated()
        asked = (listing, bookmark)
        if asked in self._pages:
            return self._pages[asked]
        ids = self._account.ids(listing)
        if ids is None:
            return 404
        changes = self._account.changes
        page = self._read(listing, ids, bookmark)
        is_current = changes == self._account.changes
        if isinstance(page, Page) and is_current and len(self._pages) < MAX_CACHED:
            self._pages[asked] = page
        return page

    def _drop_outdated(self) -> None:
        if self._changes != self._account.changes:
            self._changes = self._account.changes
            self._pages.clear()
        for list_id in self._account.deleted_lists - self._deleted_lists:
            self._deleted_lists.add(list_id)
            known, name = self._models, list_id.encode()
            self._models = {n: parts for n, parts in known.items() if name not in b"".join(parts)}

    def _read(self, _listing: str, ids: list[str], bookmark: str | None) -> Page | int:
        start = 0
        if bookmark is not None:
            try:
                start = self._start(ids, bookmark)
            except LookupError:
                return int(self._options.stale)
        end = start + self._options.page
        served = tuple(ids[start:end])
        body = b'{"contacts":[' + b",".join(map(self._contact, served)) + b"]"
        total = self._total(start, end, len(ids))
        if total is not None:
            body += b',"total_contacts":%d' % total
        after = self._bookmark(ids, end, is_empty=not served)
        if after is not None:
            body += b',"bookmark":' + as_json(after)
        return Page(body + b"}", served, total, after)

    def _total(self, start: int, end: int, size: int) -> int | None:
        """The total on the page from `start` to `end`."""
        del start, end
        return size

    def _bookmark(self, ids: list[str], end: int, *, is_empty: bool) -> str | None:
        options = self._options
        if end >= len(ids) and (is_empty or not options.empty_end):
            return None
        match options.bookmarks:
            case "next" | "repeat" if end >= len(ids):
                return END
            case "next":
                return ids[end]
            case "opaque":
                last = ids[min(end, len(ids)) - 1]
                return base64.b85encode(f"{last}/?%#".encode()).decode() + "/%2F?"
            case _:
                return ids[min(end, len(ids)) - 1]

    def _start(self, ids: list[str], bookmark: str) -> int:
        """Where the page at a bookmark starts. Raises LookupError if `stale` is an error status."""
        options = self._options
        if bookmark == END:
            return len(ids)
        if options.bookmarks == "opaque":
            bookmark = _decoded(bookmark)
        place = bisect.bisect_left(ids, bookmark)
        if place < len(ids) and ids[place] == bookmark:
            return place if options.bookmarks in ("next", "repeat") else place + 1
        return {"on": place, "first": 0, "empty": len(ids)}[options.stale]

    def _contact(self, contact_id: str) -> bytes:
        if contact_id in self._account.changed:
            return as_json(self._account.contact(contact_id))
        number = self._account.model_of(contact_id)
        if number not in self._models:
            model = as_json(self._account.model(number) | {"contact_id": "@id@"})
            before, _, after = model.partition(b"@id@")
            self._models[number] = (before, after)
        before, after = self._models[number]
        return before + contact_id.encode() + after


def _decoded(bookmark: str) -> str:
    """The contact id in an opaque bookmark; empty if the bookmark is not ours."""
    try:
        return base64.b85decode(bookmark[:-5]).decode()[:-4]
    except ValueError:
        return ""
