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
from typing import TypeVar

from tap_autopilot.sandbox.account import CONTACTS, LISTS, SEGMENTS, Account
from tap_autopilot.sandbox.churn import Churn
from tap_autopilot.sandbox.documents import as_json
from tap_autopilot.sandbox.faults import STATUS, Fault
from tap_autopilot.sandbox.hooks import Hooks
from tap_autopilot.sandbox.options import Options
from tap_autopilot.sandbox.paging import Page, Pager, listing_of
from tap_autopilot.sandbox.pushes import Pusher
from tap_autopilot.sandbox.wire import Connection, Response, error

S = TypeVar("S", bound="Sandbox")


class Sandbox:
    """A running sandbox: `with Sandbox(Account()) as sandbox: … sandbox.url …`.

    The server runs in its own thread. `responses` counts its responses.
    """

    def __init__(self, account: Account, options: Options | None = None, port: int = 0) -> None:
        self.account = account
        self.options = options or Options()
        self.responses = 0
        self.connections: set[Connection] = set()
        self._port = port
        self._pager = self.open_pager()
        self._churn = Churn(account, self.options.churn, self.options.seed)
        self._window: collections.deque[float] = collections.deque()
        self._notified = 0  # how much of the account's log has been pushed
        self.hooks = Hooks(account, self.options, self.now)
        pushing = self.options.pushing
        self.pusher = Pusher(account, pushing, self.now) if pushing else None

    def __enter__(self: S) -> S:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
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

    def open_pager(self) -> Pager:
        """What serves the listings of contacts."""
        return Pager(self.account, self.options)

    @property
    def url(self) -> str:
        """The value for the tap's `api_url`."""
        scheme = "https" if self.options.tls else "http"
        return f"{scheme}://127.0.0.1:{self._port}/v1"

    def now(self) -> datetime:
        """The time on the API's clock."""
        return datetime.now(timezone.utc) + timedelta(seconds=self.options.clock_skew)

    async def _listen(self) -> None:
        server = await self._loop.create_server(
            lambda: Connection(self.options, self.respond, self.connections),
            "127.0.0.1",
            self._port,
            ssl=self.options.tls,
            backlog=512,
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
        """Respond to a request, and push what has changed."""
        response = self.produce(method, target, headers, fault, sent)
        self.responses += 1
        self._notify()
        return response

    def produce(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        fault: Fault | None = None,
        sent: bytes = b"",
    ) -> Response:
        """The response to a request."""
        if fault and STATUS.fullmatch(fault.what):
            status, body = error(int(fault.what), "The sandbox was asked for this error.")
        elif target.startswith("/v1/hook"):
            path = target.removeprefix("/v1")
            status, body = self._refusal(headers) or self.hooks.answer(method, path, sent)
        else:
            status, body = self.answer(method, target, headers)
        return Response(status, body, self.headers())

    def headers(self) -> dict[str, str]:
        """The headers that the API itself adds to a response."""
        if not self.options.date:
            return {}
        return {"Date": _http_date(int(time.time() + self.options.clock_skew))}

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
                return 200, as_json({"lists": self.account.lists})
            case ["", "v1", "smart_segments"]:
                return 200, as_json({"segments": self.account.segments})
            case ["", "v1", "contacts", "custom_fields"]:
                return 200, as_json(self.account.custom_fields)
            case ["", "v1", "contact", who]:
                return self._one_contact(who)
        asked = listing_of(target) if target.startswith("/v1/") else None
        if asked is None or asked[0] in (LISTS, SEGMENTS):
            return error(404, "No such path.")
        page = self._pager.page(*asked)
        if isinstance(page, Page):
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
