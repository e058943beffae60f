"""The sandbox: serves an account on loopback, through the API's endpoints for reading."""

from __future__ import annotations

import asyncio
import collections
import email.utils
import functools
import threading
import time
import urllib.parse
from datetime import datetime, timedelta, timezone

from tap_autopilot.sandbox.account import CONTACTS, LISTS, SEGMENTS, Account
from tap_autopilot.sandbox.churn import Churn
from tap_autopilot.sandbox.faults import STATUS, Fault
from tap_autopilot.sandbox.hooks import Hooks
from tap_autopilot.sandbox.mail import all_occurrences
from tap_autopilot.sandbox.options import BOOKMARKS, STALE, Options
from tap_autopilot.sandbox.paging import Pager
from tap_autopilot.sandbox.pushes import Pusher, Truth
from tap_autopilot.sandbox.record import Page, Request, Served, as_json, listing_of, parse_page
from tap_autopilot.sandbox.wire import Connection, Response, error

__all__ = ["BOOKMARKS", "STALE", "Options", "Request", "Sandbox", "Served"]


class Sandbox:
    """A running sandbox: `with Sandbox(Account()) as sandbox: … sandbox.url …`.

    The server runs in its own thread. `requests` has every request, and `served` every page of a
    listing that was served, in order; `existed_throughout` says what was there meanwhile.
    """

    def __init__(self, account: Account, options: Options | None = None, port: int = 0) -> None:
        self.account = account
        self.options = options or Options()
        self.requests: list[Request] = []
        self.served: list[Served] = []
        self.connections: set[Connection] = set()
        self.most_connections = 0
        self._port = port
        self._pager = Pager(account, self.options)
        self._churn = Churn(account, self.options.churn, self.options.seed)
        self._page: Page | None = None  # of the current response
        self._window: collections.deque[float] = collections.deque()
        self._notified = 0  # how much of the account's log has been pushed
        self.hooks = Hooks(
            account, self.now, shape=self.options.hook_shape, wait=self.options.hook_wait
        )
        pushing = self.options.pushing
        self.pusher = Pusher(account, pushing, self.now) if pushing else None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Sandbox:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self._notified = len(self.account.log)
        if self.pusher:
            self.pusher.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.pusher:
            self.pusher.stop()
        self.hooks.stop()
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def truth(self) -> Truth:
        """What really happened to emails, and what was pushed."""
        return self.pusher.truth if self.pusher else Truth(all_occurrences(self.account))

    @property
    def url(self) -> str:
        """The value for the tap's `api_url`."""
        scheme = "https" if self.options.tls else "http"
        return f"{scheme}://127.0.0.1:{self._port}/v1"

    def now(self) -> datetime:
        """The time on the API's clock."""
        return datetime.now(timezone.utc) + timedelta(seconds=self.options.clock_skew)

    def existed_throughout(
        self, listing: str, since_request: int = 0, until_request: int | None = None
    ) -> set[str]:
        """The ids that were in a listing throughout a range of requests.

        Listings are named by their path: `/contacts`, `/lists`, `/smart_segments`,
        `/smart_segments/<id>/contacts`, `/list/<id>/contacts`.
        """
        return self.account.existed_throughout(listing, *self.log_at(since_request, until_request))

    def existed_ever(
        self, listing: str, since_request: int = 0, until_request: int | None = None
    ) -> set[str]:
        """The ids that were in a listing at any time during a range of requests."""
        return self.account.existed_ever(listing, *self.log_at(since_request, until_request))

    def log_at(self, since_request: int, until_request: int | None) -> tuple[int, int]:
        """The length of the account's log at the first and the last of a range of requests."""
        asked = self.requests[since_request:until_request]
        if not asked:
            return len(self.account.log), len(self.account.log)
        return asked[0].changes, asked[-1].changes

    async def _listen(self) -> None:
        server = await self._loop.create_server(
            lambda: Connection(self), "127.0.0.1", self._port, ssl=self.options.tls, backlog=512
        )
        self._server = server
        self._port = server.sockets[0].getsockname()[1]

    async def _hang_up(self) -> None:
        self._server.close()
        for connection in list(self.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # lets the loop close their sockets

    def respond(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        fault: Fault | None = None,
        sent: bytes = b"",
    ) -> Response:
        """Respond to a request, and record both."""
        self._page = None
        if fault and STATUS.fullmatch(fault.what):
            status, body = error(int(fault.what), "The sandbox was asked for this error.")
        elif target.startswith("/v1/hook"):
            path = target.removeprefix("/v1")
            status, body = self._refusal(headers) or self.hooks.answer(method, path, sent)
        else:
            status, body = self.answer(method, target, headers)
        request = Request(
            time.monotonic(), method, target, headers, status, self.now(), len(self.account.log)
        )
        served = None
        if status == 200 and self.options.record:
            served = self._note(request, body, fault)
        self.requests.append(request)
        self._notify()
        return Response(status, body, self.headers(), served)

    def headers(self) -> dict[str, str]:
        """The headers that the API itself adds to a response."""
        if not self.options.date:
            return {}
        return {"Date": _http_date(int(time.time() + self.options.clock_skew))}

    def _note(self, request: Request, body: bytes, fault: Fault | None) -> Served | None:
        asked = listing_of(request.path)
        if asked is None:
            return None
        listing, bookmark = asked
        page = self._page if self._page and self._page.body is body else parse_page(listing, body)
        if page is None:
            return None
        served = Served(
            listing,
            page.ids,
            page.total,
            page.bookmark,
            page.lost,
            page.nameless,
            request.clock,
            len(self.requests),
            bookmark,
            fault.what if fault else "",
        )
        self.served.append(served)
        return served

    def live(self, _: str) -> None:
        """Apply the account's changes before the response to a path."""
        self._churn.before_response(self.now())

    def answer(self, method: str, target: str, headers: dict[str, str]) -> tuple[int, bytes]:
        """The status and body that the API would return for a request."""
        refusal = self._refusal(headers)
        if refusal is not None:
            return refusal
        if method != "GET":
            return error(405, "The sandbox is read-only.")
        self.live(target)
        parts = target.partition("?")[0].split("/")
        match [urllib.parse.unquote(part) for part in parts]:
            case ["", "v1", "lists"]:
                return self._whole(LISTS, {"lists": self.account.lists})
            case ["", "v1", "smart_segments"]:
                return self._whole(SEGMENTS, {"segments": self.account.segments})
            case ["", "v1", "contacts", "custom_fields"]:
                return 200, as_json(self.account.custom_fields)
            case ["", "v1", "contact", who]:
                return self._one_contact(who)
        asked = listing_of(target) if target.startswith("/v1/") else None
        if asked is None or asked[0] in (LISTS, SEGMENTS):
            return error(404, "No such path.")
        page = self._pager.page(*asked)
        if isinstance(page, Page):
            self._page = page
            return 200, page.body
        if self.account.ids(asked[0]) is None:
            return error(404, "No such list or segment.")
        return error(page, "No such bookmark.")

    def _refusal(self, headers: dict[str, str]) -> tuple[int, bytes] | None:
        key = headers.get("autopilotapikey")
        if key is None:
            return error(400, "No autopilotapikey header provided.")
        if key != self.options.api_key:
            return error(401, "Provided autopilotapikey not valid.")
        if self._throttled():
            return error(429, "Too many requests.")
        return None

    def _notify(self) -> None:
        """Push what has changed since the last response."""
        changes = self.account.log[self._notified :]
        self._notified = len(self.account.log)
        if not changes:
            return
        self.hooks.notify(changes)
        if self.pusher is None:
            return
        for change in changes:
            if change.listing == CONTACTS and change.what in ("created", "changed"):
                for contact_id in change.ids:
                    self.pusher.notify(contact_id)

    def _whole(self, listing: str, answer: dict[str, list[dict[str, str]]]) -> tuple[int, bytes]:
        self._page = Page(as_json(answer), tuple(self.account.ids(listing) or ()))
        return 200, self._page.body

    def _one_contact(self, who: str) -> tuple[int, bytes]:
        for contact_id in [who] if who in self.account else self.account.contact_ids:
            document = self.account.contact(contact_id)
            if who in (contact_id, document.get("Email")):
                return 200, as_json(document)
        return error(404, "Contact could not be found.")

    def _throttled(self) -> bool:
        allowed = self.options.requests_per_second
        if not allowed:
            return False
        now = time.monotonic()
        window = max(1.0, 1 / allowed)
        while self._window and self._window[0] <= now - window:
            self._window.popleft()
        if len(self._window) >= allowed * window:
            return True
        self._window.append(now)
        return False


@functools.lru_cache(maxsize=1)
def _http_date(second: int) -> str:
    return email.utils.formatdate(second, usegmt=True)
