"""The HTTP side of the sandbox: the endpoints that a reader needs, on loopback.

A bare asyncio protocol rather than a framework: it must cost far less than the client that it is
there to try and to measure.
"""

from __future__ import annotations

import asyncio
import base64
import bisect
import collections
import functools
import gzip
import http
import json
import socket
import ssl
import struct
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.faults import STATUS, Fault, Faults

PAGE = 100
BOOKMARKS = {
    "last": "names the last contact of this page",
    "next": "names the first contact of the next page",
    "repeat": "names the last contact of this page, and the next page repeats it",
    "opaque": "names nothing, and has characters that must be percent-encoded",
}
STALE = {
    "on": "the listing goes on from where the contact would be",
    "404": "status 404",
    "first": "the first page again",
    "empty": "an empty page without a bookmark",
}


@dataclass(frozen=True)
class Options:
    """How the sandbox behaves. Times are in seconds."""

    api_key: str = "sandbox"
    bookmarks: str = "last"
    stale: str = "on"
    latency: float = 0.0
    requests_per_second: float = 0.0
    retry_after: str = ""
    gzip: bool = False
    faults: Faults = field(default_factory=Faults)
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True)
class Request:
    """A request as it arrived."""

    at: float
    method: str
    path: str
    headers: dict[str, str]
    status: int


class Sandbox:
    """A running sandbox: `with Sandbox(Account()) as sandbox: … sandbox.url …`.

    The server runs in a thread of its own; `requests` holds all it was asked, in order.
    """

    def __init__(self, account: Account, options: Options | None = None, port: int = 0) -> None:
        self.account = account
        self.options = options or Options()
        self.requests: list[Request] = []
        self.connections = 0
        self.most_connections = 0
        self._port = port
        self._pages: dict[tuple[str, int], bytes] = {}
        self._members: dict[tuple[str, int], list[str] | None] = {}
        self._models: dict[int, tuple[bytes, bytes]] = {}
        self._window: collections.deque[float] = collections.deque()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Sandbox:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def url(self) -> str:
        """What to set as `api_url`."""
        scheme = "https" if self.options.tls else "http"
        return f"{scheme}://127.0.0.1:{self._port}/v1"

    async def _listen(self) -> None:
        server = await self._loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self._port, ssl=self.options.tls, backlog=512
        )
        self._port = server.sockets[0].getsockname()[1]

    def answer(self, method: str, target: str, headers: dict[str, str]) -> tuple[int, bytes]:
        """Status and body for a request, as the API would give them."""
        key = headers.get("autopilotapikey")
        if key is None:
            return _error(400, "No autopilotapikey header provided.")
        if key != self.options.api_key:
            return _error(401, "Provided autopilotapikey not valid.")
        if self._throttled():
            return _error(429, "Too many requests.")
        if method != "GET":
            return _error(405, "The sandbox can only be read.")
        parts = target.partition("?")[0].split("/")
        match [urllib.parse.unquote(part) for part in parts]:
            case ["", "v1", "lists"]:
                return 200, _json({"lists": self.account.lists})
            case ["", "v1", "smart_segments"]:
                return 200, _json({"segments": self.account.segments})
            case ["", "v1", "contacts", "custom_fields"]:
                return 200, _json(self.account.custom_fields)
            case ["", "v1", "contact", who]:
                return self._one_contact(who)
            case ["", "v1", "contacts", *bookmark] if len(bookmark) < 2:
                return self._page(target, self.account.contact_ids, bookmark)
            case ["", "v1", "list", list_id, "contacts", *bookmark] if len(bookmark) < 2:
                return self._page(target, self._of(self.account.list_members, list_id), bookmark)
            case ["", "v1", "smart_segments", one, "contacts", *bookmark] if len(bookmark) < 2:
                return self._page(target, self._of(self.account.segment_members, one), bookmark)
        return _error(404, "No such path.")

    def _of(self, members: Any, one: str) -> list[str] | None:
        key = (one, self.account.changes)
        if key not in self._members:
            self._members[key] = members(one)
        return self._members[key]

    def _one_contact(self, who: str) -> tuple[int, bytes]:
        for contact_id in [who] if who in self.account else self.account.contact_ids:
            document = self.account.contact(contact_id)
            if who in (contact_id, document.get("Email")):
                return 200, _json(document)
        return _error(404, "Contact could not be found.")

    def _page(self, target: str, ids: list[str] | None, bookmark: list[str]) -> tuple[int, bytes]:
        if ids is None:
            return _error(404, "No such list or segment.")
        changes = self.account.changes
        if (target, changes) in self._pages:
            return 200, self._pages[target, changes]
        start = self._start(ids, bookmark[0]) if bookmark else 0
        if start is None:
            return _error(404, "No such bookmark.")
        end = start + PAGE
        body = b'{"contacts":[' + b",".join(map(self._contact, ids[start:end])) + b"]"
        body += b',"total_contacts":%d' % len(ids)
        if end < len(ids):
            body += b',"bookmark":' + _json(self._bookmark(ids, end))
        body += b"}"
        if len(self._pages) < 1024:
            self._pages[target, changes] = body
        return 200, body

    def _bookmark(self, ids: list[str], end: int) -> str:
        match self.options.bookmarks:
            case "next":
                return ids[end]
            case "opaque":
                return base64.b85encode(f"{ids[end - 1]}/?%#".encode()).decode() + "/%2F?"
            case _:
                return ids[end - 1]

    def _start(self, ids: list[str], bookmark: str) -> int | None:
        if self.options.bookmarks == "opaque":
            bookmark = base64.b85decode(bookmark[:-5]).decode()[:-4]
        place = bisect.bisect_left(ids, bookmark)
        present = place < len(ids) and ids[place] == bookmark
        if not present:
            return {"on": place, "404": None, "first": 0, "empty": len(ids)}[self.options.stale]
        return place if self.options.bookmarks in ("next", "repeat") else place + 1

    def _contact(self, contact_id: str) -> bytes:
        if contact_id in self.account.changed:
            return _json(self.account.contact(contact_id))
        number = self.account.model_of(contact_id)
        if number not in self._models:
            model = _json(self.account.model(number) | {"contact_id": "@id@"})
            before, _, after = model.partition(b"@id@")
            self._models[number] = (before, after)
        before, after = self._models[number]
        return before + contact_id.encode() + after

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


class _Connection(asyncio.Protocol):
    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.sandbox.connections += 1
        self.sandbox.most_connections = max(self.sandbox.connections, self.sandbox.most_connections)

    def connection_lost(self, _: Exception | None) -> None:
        self.sandbox.connections -= 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        self.buffer = rest
        options = self.sandbox.options
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        fault = options.faults.strike(target.removeprefix("/v1"))
        if fault and STATUS.fullmatch(fault.what):
            status, body = _error(int(fault.what), "The sandbox was told to.")
        else:
            status, body = self.sandbox.answer(method, target, headers)
        now = time.monotonic()
        self.sandbox.requests.append(Request(now, method, target, headers, status))
        reply = _Reply(self.transport, status, body, target, options, fault)
        reply.gzip = options.gzip and "gzip" in headers.get("accept-encoding", "")
        if options.latency:
            asyncio.get_running_loop().call_later(options.latency, reply.send)
        else:
            reply.send()


@dataclass
class _Reply:
    transport: asyncio.Transport
    status: int
    body: bytes
    target: str
    options: Options
    fault: Fault | None
    gzip: bool = False

    def send(self) -> None:
        what = self.fault.what if self.fault else ""
        if not what or STATUS.fullmatch(what):
            self._whole(self.body)
        else:
            getattr(self, "_" + what.replace("-", "_"))()

    def _head(self, *more: str, status: int | None = None, kind: str = "application/json") -> bytes:
        status = self.status if status is None else status
        lines = [f"HTTP/1.1 {status} {_phrase(status)}", f"Content-Type: {kind}; charset=utf-8"]
        wait = self.fault.settings.get("retry-after") if self.fault else None
        wait = wait or self.options.retry_after
        if wait and status in (429, 503):
            lines.append(f"Retry-After: {wait}")
        return "\r\n".join([*lines, *more, "", ""]).encode()

    def _chunked(self, body: bytes, *more: str) -> bytes:
        return self._head("Transfer-Encoding: chunked", *more) + b"%x\r\n%b\r\n" % (len(body), body)

    def _whole(self, body: bytes) -> None:
        if self.gzip:
            packed = gzip.compress(body, 1)
            self.transport.write(self._chunked(packed, "Content-Encoding: gzip") + b"0\r\n\r\n")
        elif body:
            self.transport.write(self._chunked(body) + b"0\r\n\r\n")
        else:
            self.transport.write(self._head("Content-Length: 0"))

    def _hang(self) -> None:
        """Say nothing, ever."""

    def _hang_headers(self) -> None:
        self.transport.write(self._head()[:40])

    def _hang_body(self) -> None:
        self.transport.write(self._chunked(self.body)[: -len(self.body) // 2])

    def _hang_end(self) -> None:
        self.transport.write(self._chunked(self.body))

    def _drip(self) -> None:
        assert self.fault is not None
        every = float(self.fault.settings.get("every", "1"))
        answer = iter(self._chunked(self.body) + b"0\r\n\r\n")
        loop = asyncio.get_running_loop()

        def drop() -> None:
            byte = next(answer, None)
            if byte is not None and not self.transport.is_closing():
                self.transport.write(bytes([byte]))
                loop.call_later(every, drop)

        drop()

    def _reset(self) -> None:
        self._linger_not()
        self.transport.abort()

    def _reset_body(self) -> None:
        self.transport.write(self._chunked(self.body)[: -len(self.body) // 2])
        self._linger_not()
        asyncio.get_running_loop().call_later(0.01, self.transport.abort)

    def _linger_not(self) -> None:
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _close(self) -> None:
        self.transport.close()

    def _cut(self) -> None:
        self.transport.write(self._chunked(self.body)[: -len(self.body) // 2])
        self.transport.close()

    def _short(self) -> None:
        self.transport.write(self._head(f"Content-Length: {len(self.body) + 999}") + self.body)
        self.transport.close()

    def _bad_chunk(self) -> None:
        self.transport.write(self._head("Transfer-Encoding: chunked") + b"lots\r\n" + self.body)
        self.transport.close()

    def _bad_json(self) -> None:
        self._whole(self.body[: len(self.body) // 2])

    def _html(self) -> None:
        page = b"<!DOCTYPE html><html><body><h1>Back soon</h1></body></html>"
        head = self._head(f"Content-Length: {len(page)}", kind="text/html")
        self.transport.write(head + page)

    def _empty(self) -> None:
        self.transport.write(self._head("Content-Length: 0"))

    def _null(self) -> None:
        self._whole(b"null")

    def _string(self) -> None:
        self._whole(b'"contacts"')

    def _no_listing(self) -> None:
        self._whole(b'{"total_contacts":0}')

    def _error_200(self) -> None:
        self._whole(_error(500, "The sandbox was told to.")[1])

    def _bad_gzip(self) -> None:
        self.transport.write(self._chunked(self.body, "Content-Encoding: gzip") + b"0\r\n\r\n")

    def _cut_gzip(self) -> None:
        packed = gzip.compress(self.body)
        packed = packed[: len(packed) // 2]
        self.transport.write(self._chunked(packed, "Content-Encoding: gzip") + b"0\r\n\r\n")

    def _bomb(self) -> None:
        packed = _bomb()
        self.transport.write(self._chunked(packed, "Content-Encoding: gzip") + b"0\r\n\r\n")

    def _redirect(self) -> None:
        assert self.fault is not None
        to = self.fault.settings.get("to", self.target)
        self.transport.write(self._head(f"Location: {to}", "Content-Length: 0", status=302))


def _error(status: int, message: str) -> tuple[int, bytes]:
    return status, _json({"error": _phrase(status), "message": message})


@functools.cache
def _bomb() -> bytes:
    return gzip.compress(bytes(128 << 20), 1)


def _phrase(status: int) -> str:
    return http.HTTPStatus(status).phrase


def _json(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can carry
        return json.dumps(value, separators=(",", ":")).encode()
