"""HTTP/1.1 with limits, on httptools' parser.

The size of headers and body, the time for a request to arrive, and the memory for all requests
together are limited while the bytes come in, before they reach any other code.
"""

from __future__ import annotations

import asyncio
from collections import deque
from email.utils import formatdate
from enum import Enum, auto
from functools import partial
from typing import cast

import httptools

from tap_autopilot.collector.notices import UNREAD
from tap_autopilot.collector.pending import SENDER_FULL, Pending
from tap_autopilot.collector.request import HEADERS, Handler, Refusal, Request, response
from tap_autopilot.collector.turns import OneByOne

MAX_HEADER_BYTES = 16 * 1024
MAX_HEADER_LINES = 100
TOO_MANY_HEADERS = "more than 16 KB or 100 lines of headers"
MAX_CONNECTIONS = 10_000
MAX_STRANGERS = 1000  # of these, 20 kB each; if 1,024 sockets are ready, libuv looks at no others
TOO_MANY = f"more than {MAX_CONNECTIONS:,} connections, or {MAX_STRANGERS:,} without a secret"
MAX_UNANSWERED = 10  # requests of one connection
MAX_STRANGERS_UNANSWERED = 2  # of one that has shown no secret
LINGER = 2.0  # seconds that a refused sender may continue before it is disconnected
TICK = 0.25  # seconds between two looks at the clock
NEVER = float("inf")


class Server:
    """What all connections share."""

    def __init__(
        self, handler: Handler, pending: Pending, max_body: int, request_timeout: float
    ) -> None:
        self.handler = handler
        self.pending = pending
        self.max_body = max_body
        self.request_timeout = request_timeout
        self.connections: set[Connection] = set()
        self.strangers: dict[Connection, None] = {}  # that have shown no secret, the oldest first
        self.bodies: dict[Connection, None] = {}  # still arriving from these, the oldest first
        self.loop = asyncio.get_running_loop()
        self.turns = OneByOne(self.loop)  # in which requests without a secret are handled
        self.date = b""  # for responses
        self._ticking = self.loop.call_soon(self._tick)

    def connect(self) -> Connection:
        """The protocol of a new connection."""
        return Connection(self)

    def make_room(self) -> bool:
        """Disconnect the oldest stranger if there are too many; whether one more may come."""
        if len(self.connections) >= MAX_CONNECTIONS or len(self.strangers) >= MAX_STRANGERS:
            if not self.strangers:
                return False
            next(iter(self.strangers)).drop(TOO_MANY)
        return True

    def midway(self, but: Connection) -> Connection | None:
        """Of the other connections with a stranger's body that may never end, the oldest."""
        return next((one for one in self.bodies if one is not but), None)

    async def close(self, seconds: float) -> None:
        """Answer what was accepted, within these seconds, and close the connections."""
        end = self.loop.time() + seconds
        told: set[Connection] = set()
        while self.connections and self.loop.time() < end:
            for connection in self.connections - told:  # one may just have been accepted
                connection.shut_down()
                told.add(connection)
            await asyncio.sleep(0.02)
        self._ticking.cancel()

    def _tick(self) -> None:
        """Close what has run out of time. One timer for all is cheaper than one for each."""
        self._ticking = self.loop.call_later(TICK, self._tick)
        self.date = formatdate(usegmt=True).encode()
        now = self.loop.time()
        for connection in [c for c in self.connections if c.deadline < now]:
            connection.expire()


class State(Enum):
    """What a connection is reading."""

    IDLE = auto()  # nothing since the last request
    HEADERS = auto()
    BODY = auto()  # of the last of the unanswered requests
    DEAF = auto()  # nothing more; it will be closed after the responses that are due


class _Enough(Exception):
    """Nothing more is to be parsed."""


class Connection(asyncio.Protocol):
    """One connection, whose requests are handled one after the other."""

    _transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self.server = server
        self.deadline = NEVER  # when to give up, on the loop's clock
        self._parser = httptools.HttpRequestParser(self)
        self._unanswered: deque[Request] = deque()
        self._state = State.IDLE
        self._last_response = b""  # a refusal, to send after the responses that are due
        self._url = b""
        self._headers: dict[bytes, list[bytes]] = {}  # joined, they would leave holes in memory
        self._header_bytes = self._header_lines = 0
        self._unparsed_bytes = 0  # of headers or trailers that are not complete

    # ---- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the timer: silent connections are closed."""
        self._transport = cast("asyncio.Transport", transport)
        if not self.server.make_room():
            self.refuse(Refusal(503, TOO_MANY))
            transport.close()
            return
        self.server.connections.add(self)
        self.server.strangers[self] = None
        self._restart_timer()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Release all memory."""
        self._forget()
        self._state = State.DEAF
        del self._parser  # which refers to this, so that both would wait for garbage collection
        for request in self._unanswered:
            request.gone = True
            request.release()
        self._unanswered.clear()  # or the next one would be handled without its body

    def eof_received(self) -> bool:
        """Respond before closing, because a sender may close its side early."""
        if self._state is State.BODY:
            self._unanswered.pop().release()
        self._state = State.DEAF
        if self._unanswered and not self._last_response:
            self._unanswered[-1].keep_alive = False
        return bool(self._unanswered)

    def pause_writing(self) -> None:
        """Disconnect a sender that does not read its responses.

        Not to read from it either would let the system keep megabytes that it sends.
        """
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse incoming bytes, not many at once: headers are counted from the second part on."""
        for start in range(0, len(data), MAX_HEADER_BYTES):
            self._parse(data[start : start + MAX_HEADER_BYTES])
        self._handle_next()

    def _restart_timer(self) -> None:
        self.deadline = self.server.loop.time() + self.server.request_timeout

    def _parse(self, data: bytes) -> None:
        if self._state is State.DEAF:
            return
        self._unparsed_bytes += len(data)  # until a request begins, or a body grows
        rest = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        except httptools.HttpParserError as problem:
            self._stop_parsing(problem.__context__ or problem)
        if rest is not None:
            self._ignore_upgrade(rest)
        if self._unparsed_bytes > MAX_HEADER_BYTES:
            self.refuse(Refusal(431, TOO_MANY_HEADERS))

    def _stop_parsing(self, problem: BaseException) -> None:
        """Act on an error of the parser, or an exception from one of the methods that it calls."""
        if isinstance(problem, Refusal):
            self.refuse(problem)
        elif isinstance(problem, httptools.HttpParserError):
            self.refuse(Refusal(400, "Invalid HTTP request received."))
        elif not isinstance(problem, _Enough):
            raise problem from None

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse a request again without its Upgrade header, for which the parser skips the body.

        Java's HttpClient sends that header with its first request, to offer HTTP/2.
        """
        del self._headers[b"upgrade"]
        headers = self._headers.items()
        lines = b"".join(b"%s: %s\r\n" % (name, b", ".join(values)) for name, values in headers)
        version = self._parser.get_http_version().encode()
        head = b"%s %s HTTP/%s\r\n" % (self._parser.get_method(), self._url, version)
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(b"%s%s\r\n%s" % (head, lines, rest))

    # ---- the parser, which a Refusal stops, or _Enough

    def on_message_begin(self) -> None:
        """Start counting the headers of a new request, which has its own time to arrive."""
        self._state = State.HEADERS
        self._url = b""
        self._headers = {}
        self._header_bytes = self._header_lines = self._unparsed_bytes = 0
        self._restart_timer()

    def on_url(self, url: bytes) -> None:
        """Count the URL's bytes as headers."""
        self._header_bytes += len(url)
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, even one that means nothing here, or follows a chunked body."""
        self._header_lines += 1
        self._header_bytes += len(name) + len(value) + 4  # ": " and the line's end
        if (name := name.lower()) in HEADERS:
            self._headers.setdefault(name, []).append(value)
        if self._header_bytes > MAX_HEADER_BYTES or self._header_lines > MAX_HEADER_LINES:
            raise Refusal(431, TOO_MANY_HEADERS)

    def on_headers_complete(self) -> None:
        """Check whether the body can be accepted."""
        parser = self._parser
        method = parser.get_method()
        if method == b"CONNECT":
            raise Refusal(400, "this is not a proxy")
        if parser.should_upgrade():
            return
        is_stranger = self in self.server.strangers
        if len(self._unanswered) >= (MAX_STRANGERS_UNANSWERED if is_stranger else MAX_UNANSWERED):
            raise Refusal(503, "too many requests were sent ahead")
        headers = {name: b", ".join(values) for name, values in self._headers.items()}
        length = headers.get(b"content-length", b"").lstrip(b"0")  # int() takes 4,300 digits
        request = Request(self._respond, self.server.pending, method, self._url, headers)
        request.keep_alive = parser.should_keep_alive() and parser.get_http_version() != "1.0"
        request.chunks_ahead = sum(one.chunks for one in self._unanswered)
        self._state, self._url, self._headers = State.BODY, b"", {}  # for trailers, to be ignored
        self._unanswered.append(request)
        try:
            request.keeps_body = self.server.handler.admit(request)
        except Refusal as refusal:
            request.refusal = refusal.with_traceback(None)  # it has copies of the path
        request.forget_head()
        if request.is_known:
            self.server.strangers.pop(self, None)
        self._check_size(int(length or b"0"))

    def on_body(self, body: bytes) -> None:
        """Count the body's bytes."""
        self._unparsed_bytes = 0
        request = self._unanswered[-1]
        request.count(body)
        self._check_size(request.received)
        while request.keeps_body and (problem := request.add(body)):
            if problem == SENDER_FULL or (oldest := self.server.midway(self)) is None:
                raise Refusal(503, problem)
            oldest.drop(problem)
        if request.is_in_strangers_memory:
            self.server.bodies.setdefault(self)

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        if self._parser.should_upgrade():
            return
        request = self._unanswered[-1]
        request.is_complete = True
        self.server.bodies.pop(self, None)
        self.deadline = NEVER
        self._state = State.IDLE if request.keep_alive else State.DEAF
        if not request.keep_alive:
            raise _Enough

    def _check_size(self, size: int) -> None:
        if size > self.server.max_body:
            raise Refusal(413, f"the body is larger than {self.server.max_body / 2**20:g} MB")

    # ---- responses

    def _respond(self, request: Request, status: int, content: bytes, content_type: bytes) -> None:
        """Send the response of the first request, and continue with the next one."""
        if request.gone or self._transport.is_closing():
            return
        self._unanswered.popleft()
        request.release()
        if status == 200 and request.method == b"POST":  # its body may have shown a secret
            self.server.strangers.pop(self, None)
        whole = response(self.server.date, status, content, content_type, request.keep_alive)
        self._transport.write(whole[: -len(content)] if request.method == b"HEAD" else whole)
        if not request.keep_alive:
            self._close()
        elif self._unanswered:
            self.server.loop.call_soon(self._handle_next)  # others have their turn first
        elif self._last_response:
            self._send_last_response()
        elif self._state is State.IDLE:
            self._restart_timer()

    def refuse(self, refusal: Refusal) -> None:
        """Respond without reading all of the request, after any earlier requests, and close."""
        if self._state is State.DEAF or self._transport.is_closing():
            return
        route = UNREAD
        if self._state is State.BODY:
            request = self._unanswered.pop()
            request.release()
            self.server.bodies.pop(self, None)
            route = request.route
        self._state = State.DEAF
        self.deadline = NEVER
        self.server.handler.note_refusal(route, refusal)
        self._last_response = refusal.last_response(self.server.date)
        if not self._unanswered:
            self._send_last_response()

    def shut_down(self) -> None:
        """Close the connection, after the response if the request is complete."""
        if self._last_response:
            if not self._unanswered:
                self._close()
        elif self._state in (State.HEADERS, State.BODY):
            self.refuse(Refusal(503, "shutting down"))
        elif self._unanswered:
            self._state = State.DEAF
            self._unanswered[-1].keep_alive = False
        else:
            self._close()

    def drop(self, reason: str) -> None:
        """Disconnect at once, to make room."""
        self.server.handler.note_refusal(UNREAD, Refusal(503, reason))
        if self._state is State.BODY:  # the room is needed before the connection is lost
            self._unanswered.pop().release()
        self._state = State.DEAF
        self._forget()
        self._transport.abort()

    def expire(self) -> None:
        """Give up on a sender that is too slow, silent, or does not read."""
        self.deadline = NEVER
        if self._transport.is_closing() or self._transport.get_write_buffer_size():
            self._transport.abort()
        elif self._state in (State.HEADERS, State.BODY):
            seconds = self.server.request_timeout
            self.refuse(Refusal(408, f"the request took more than {seconds:g} s to arrive"))
        else:
            self._close()

    def _handle_next(self) -> None:
        """Handle the first request once it is complete."""
        if not self._unanswered or (request := self._unanswered[0]).is_handled:
            return
        if not request.is_complete:
            if request.headers.pop(b"expect", b"").lower() == b"100-continue":
                if (refusal := request.refusal) is not None:  # its body need not be sent
                    self.refuse(refusal)
                else:
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        request.is_handled = True
        if request.is_known:
            self._handle(request)
        else:
            self.server.turns.add(self, partial(self._handle, request))

    def _handle(self, request: Request) -> None:
        try:
            self.server.handler.handle(request)
        except BaseException:
            self._transport.abort()
            raise

    def _close(self) -> None:
        """Close the connection once the sender has read its responses, or does not read them."""
        self.deadline = self.server.loop.time() + LINGER
        self._transport.close()

    def _send_last_response(self) -> None:
        """Send a refusal. To close at once would reset the connection before it has been read."""
        if self._transport.is_closing():
            return
        self._transport.write(self._last_response)
        self.deadline = self.server.loop.time() + LINGER
        self._transport.write_eof()

    def _forget(self) -> None:
        self.server.connections.discard(self)
        self.server.strangers.pop(self, None)
        self.server.bodies.pop(self, None)
        self.server.turns.forget(self)
