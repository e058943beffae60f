"""A sandbox that remembers the requests it received and the pages it served, for the witness."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tap_autopilot.sandbox import server
from tap_autopilot.sandbox.account import LISTS, SEGMENTS, Account, Change
from tap_autopilot.sandbox.faults import Fault
from tap_autopilot.sandbox.paging import Pager, listing_of
from tap_autopilot.sandbox.wire import Response
from tests.lying_pager import LyingPager, Options


@dataclass(frozen=True)
class Request:
    """A request, with the API's time and the length of the account's log when it arrived."""

    at: float  # on this machine's monotonic clock
    method: str
    path: str
    headers: dict[str, str]
    status: int
    clock: datetime  # the API's
    changes: int  # the length of the account's log


@dataclass
class Served:
    """A page of a listing, as served to the client in this response.

    `request` is the request's index among the sandbox's requests, `asked` the bookmark in it, and
    `fault` the fault that struck the response, if any. `lost` are the ids that the page skips;
    `nameless` is the number of documents without an id.
    """

    listing: str
    ids: tuple[str, ...]
    total: int | None
    bookmark: str | None
    lost: tuple[str, ...]
    nameless: int
    at: datetime  # on the API's clock
    request: int
    asked: str | None
    fault: str
    response: Response

    @property
    def delivered(self) -> bool:
        """Whether the client had not hung up when it was sent."""
        return self.response.delivered


@dataclass
class Recorded(Response):
    """A response, and its entry in the record if it is a page of a listing."""

    served: Served | None = None


class Sandbox(server.Sandbox):
    """`requests` has every request, and `served` every page of a listing, in order."""

    options: Options

    def __init__(self, account: Account, options: Options | None = None, port: int = 0) -> None:
        super().__init__(account, options or Options(), port)
        self.requests: list[Request] = []
        self.served: list[Served] = []
        self.most_connections = 0

    def open_pager(self) -> Pager:
        self._lying_pager = LyingPager(self.account, self.options)
        return self._lying_pager

    def produce(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        fault: Fault | None = None,
        sent: bytes = b"",
    ) -> Recorded:
        self.most_connections = max(len(self.connections), self.most_connections)
        self._lying_pager.lost = ()
        response = super().produce(method, target, headers, fault, sent)
        recorded = Recorded(response.status, response.body, response.headers)
        request = Request(
            time.monotonic(), method, target, headers, response.status, self.now(),
            len(self.account.log),
        )  # fmt: skip
        if response.status == 200:
            recorded.served = self._note(request, recorded, fault)
        self.requests.append(request)
        return recorded

    def respond(self, *request: Any, **more: Any) -> Recorded:
        recorded = super().respond(*request, **more)
        assert isinstance(recorded, Recorded)
        return recorded

    def _note(self, request: Request, response: Response, fault: Fault | None) -> Served | None:
        listing, bookmark = listing_of(request.path) or ("", None)
        page = parse_page(listing, response.body) if listing else None
        if page is None:
            return None
        served = Served(
            listing, page.ids, page.total, page.bookmark, self._lying_pager.lost, page.nameless,
            request.clock, len(self.requests), bookmark, fault.what if fault else "", response,
        )  # fmt: skip
        self.served.append(served)
        return served

    def existed_throughout(
        self, listing: str, since_request: int = 0, until_request: int | None = None
    ) -> set[str]:
        """The ids that were in a listing throughout a range of requests.

        Listings are named by their path: `/contacts`, `/lists`, `/smart_segments`,
        `/smart_segments/<id>/contacts`, `/list/<id>/contacts`.
        """
        return existed_throughout(self.account, listing, *self.log_at(since_request, until_request))

    def log_at(self, since_request: int, until_request: int | None) -> tuple[int, int]:
        """The length of the account's log at the first and the last of a range of requests."""
        asked = self.requests[since_request:until_request]
        if not asked:
            return len(self.account.log), len(self.account.log)
        return asked[0].changes, asked[-1].changes


class HeldSandbox(Sandbox):
    """Responds to nothing from one page of contacts on, until `released` is set."""

    def __init__(self, account: Account, *, page: int) -> None:
        super().__init__(account)
        self.released = threading.Event()
        self._bookmark = account.contact_ids[(page - 1) * 100 - 1]

    def answer(self, method: str, target: str, headers: dict[str, str]) -> tuple[int, bytes]:
        if target.endswith(self._bookmark):
            self.released.wait(120)
        return super().answer(method, target, headers)


@dataclass(frozen=True)
class Page:
    """What a page says."""

    ids: tuple[str, ...]
    total: int | None
    bookmark: str | None
    nameless: int


def parse_page(listing: str, body: bytes) -> Page | None:
    """Parse a response; None if it is not a listing."""
    field, key = {LISTS: ("lists", "list_id"), SEGMENTS: ("segments", "segment_id")}.get(
        listing, ("contacts", "contact_id")
    )
    try:
        answer = json.loads(body)
        documents = answer[field]
        ids = [one.get(key) if isinstance(one, dict) else None for one in documents]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    named = tuple(one for one in ids if isinstance(one, str) and one)
    total, bookmark = answer.get("total_contacts"), answer.get("bookmark")
    return Page(
        named,
        total if type(total) is int else None,
        bookmark if isinstance(bookmark, str) else None,
        len(ids) - len(named),
    )


def existed_throughout(
    account: Account, listing: str, since: int = 0, until: int | None = None
) -> set[str]:
    """The ids in a listing all the time between two positions in the account's log."""
    touched = {
        one
        for change in _changes(account, listing, since, until)
        if change.what in ("created", "deleted")
        for one in change.ids
    }
    return _existed_at(account, listing, until) - touched


def _changes(account: Account, listing: str, since: int, until: int | None) -> Iterator[Change]:
    return (change for change in account.log[since:until] if change.listing == listing)


def _existed_at(account: Account, listing: str, at: int | None) -> set[str]:
    ids = set(account.ids(listing) or ())
    start = len(account.log) if at is None else at
    for change in reversed(list(_changes(account, listing, start, None))):
        if change.what == "created":
            ids.difference_update(change.ids)
        elif change.what == "deleted":
            ids.update(change.ids)
    return ids
