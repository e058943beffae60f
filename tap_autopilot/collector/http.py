"""HTTP/1.1 with limits, on httptools' parser.

The size of headers and body, the time for a request to arrive, and the memory for all requests
together are limited while the bytes come in, before they reach any other code.

    server = Server(handler, Pending(64 * 2**20), max_body=2**20, request_timeout=15)
    await loop.create_server(server.connect, "127.0.0.1", 8787)
"""

from __future__ import annotations

import asyncio
from collections import deque
from email.utils import formatdate
from functools import partial
from typing import cast

import httptools

from tap_autopilot.collector.notices import UNREAD
from tap_autopilot.collector.pending import Pending
from tap_autopilot.collector.request import JSON, Handler, Refusal, Request, response
from tap_autopilot.collector.turns import OneByOne

MAX_HEADER_BYTES = 16 * 1024
MAX_HEADER_LINES = 100
SHORT = 500  # bytes of a chunk; each takes time, however few it has
MAX_CHUNKS = 100_000  # of a body that are short
MAX_STRANGERS_CHUNKS = 1000  # of a body without a secret in the headers
MAX_CONNECTIONS = 10_000
MAX_STRANGERS = 1000  # of these, of 30 kB each; libuv does not pause if 1,024 are ready
TOO_MANY = f"more than {MAX_CONNECTIONS:,} connections, or {MAX_STRANGERS:,} without a secret"
MAX_UNANSWERED = 10  # requests of one connection
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
            next(iter(self.strangers)).drop()
        return True

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


class Connection(asyncio.Protocol):
    """One connection, whose requests are handled one after the other."""

    _transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self.server = server
        self.deadline = NEVER  # when to give up, on the loop's clock
        self._loop = server.loop
        self._parser = _parser(self)
        self._unanswered: deque[Request] = deque()
        self._reading = self._reading_headers = False  # a request has begun and is not complete
        self._deaf = False  # nothing more is read
        self._last_response = b""  # before closing, if others come first
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = self._header_lines = 0
        self._unparsed_bytes = 0  # of headers or trailers that are not complete

    # ---- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the timer: silent connections are closed."""
        self._transport = cast("asyncio.Transport", transport)
        if not self.server.make_room():
            self.refuse(503, TOO_MANY)
            transport.close()
            return
        self.server.connections.add(self)
        self.server.strangers[self] = None
        self._restart_timer()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Release all memory."""
        self._forget()
        self._deaf = True
        del self._parser  # which refers to this, so that both would wait for garbage collection
        for request in self._unanswered:
            request.gone = True
            request.release()
        self._unanswered.clear()  # or the next one would be handled without its body

    def eof_received(self) -> bool:
        """Respond before closing, because a sender may close its side early."""
        if self._reading and not self._deaf and not self._reading_headers:
            self._unanswered.pop().release()
        self._deaf = True
        if self._unanswered and not self._last_response:
            self._unanswered[-1].keep_alive = False
        return bool(self._unanswered)

    def pause_writing(self) -> None:
        """Read nothing from a sender that does not read its responses, and only for a while."""
        self._transport.pause_reading()
        self._restart_timer()

    def resume_writing(self) -> None:
        """Continue reading."""
        self._transport.resume_reading()
        if self._unanswered and not self._reading:
            self.deadline = NEVER
        else:
            self._restart_timer()

    def data_received(self, data: bytes) -> None:
        """Parse incoming bytes, not many at once: headers are counted from the second part on."""
        for start in range(0, len(data), MAX_HEADER_BYTES):
            self._parse(data[start : start + MAX_HEADER_BYTES])

    def _parse(self, data: bytes) -> None:
        if self._deaf:
            return
        self._unparsed_bytes += len(data)  # until a request begins, or a body grows
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as wrapper:  # a bug in the methods below
            raise wrapper.__context__ or wrapper from None
        except httptools.HttpParserError:
            self.refuse(400, "Invalid HTTP request received.")
        except httptools.HttpParserUpgrade as upgrade:
            if self._parser.get_method() == b"CONNECT":
                self.refuse(400, "this is not a proxy")
            elif not self._deaf:
                self._ignore_upgrade(data[upgrade.args[0] :])
        self._handle_next()
        if self._unparsed_bytes > MAX_HEADER_BYTES:
            self._refuse_headers()

    # ---- the parser

    def on_message_begin(self) -> None:
        """Start counting the headers of a new request, which has its own time to arrive."""
        if self._deaf:
            return
        self._reading = self._reading_headers = True
        self._url = b""
        self._headers = {}
        self._header_bytes = self._header_lines = self._unparsed_bytes = 0
        self._restart_timer()

    def on_url(self, url: bytes) -> None:
        """Count the URL's bytes as headers."""
        self._header_bytes += len(url)
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, including those that follow a chunked body."""
        if self._deaf:
            return
        self._header_lines += 1
        self._header_bytes += len(name) + len(value) + 4  # ": " and the line's end
        name, headers = name.lower(), self._headers
        headers[name] = b"%s, %s" % (headers[name], value) if name in headers else value
        if self._header_bytes > MAX_HEADER_BYTES or self._header_lines > MAX_HEADER_LINES:
            self._refuse_headers()

    def on_headers_complete(self) -> None:
        """Check whether the body can be accepted."""
        parser = self._parser
        if self._deaf or parser.should_upgrade():
            return
        if len(self._unanswered) >= (2 if self in self.server.strangers else MAX_UNANSWERED):
            self.refuse(503, "too many requests were sent ahead")
            return
        length = self._headers.get(b"content-length", b"").lstrip(b"0")  # int() takes 4,300 digits
        if length and int(length) > self.server.max_body:
            self._refuse_large()
            return
        try:
            request = Request(
                self._respond, self.server.pending, parser.get_method(), self._url, self._headers
            )
        except httptools.HttpParserError:
            self.refuse(400, "Invalid HTTP request received.")
            return
        request.keep_alive = parser.should_keep_alive() and parser.get_http_version() != "1.0"
        self._reading_headers = False
        self._url, self._headers = b"", {}  # for those after a chunked body, which nobody reads
        self._unanswered.append(request)
        try:
            request.keeps_body = self.server.handler.admit(request)
        except Refusal as refusal:
            request.refusal = refusal.with_traceback(None)  # it has copies of the path
        request.path = ""  # of 16 kB, it may take 64 kB
        if request.is_known:
            self.server.strangers.pop(self, None)

    def on_body(self, body: bytes) -> None:
        """Count the body's bytes."""
        if self._deaf:
            return
        self._unparsed_bytes = 0
        request = self._unanswered[-1]
        request.received += len(body)
        request.chunks += len(body) < SHORT
        if request.received > self.server.max_body:
            self._refuse_large()
        elif request.chunks > (limit := MAX_CHUNKS if request.is_known else MAX_STRANGERS_CHUNKS):
            self.refuse(413, f"the body came in more than {limit:,} short chunks")
        elif request.keeps_body and (problem := request.add(body)):
            self.refuse(503, problem)

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        if self._deaf or self._parser.should_upgrade():
            return
        request = self._unanswered[-1]
        request.is_complete = True
        self._reading = False
        self._deaf = not request.keep_alive
        self.deadline = NEVER

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
            self._loop.call_soon(self._handle_next)  # others have their turn first
        elif self._last_response:
            self._send_last_response()
        elif not self._reading:
            self._restart_timer()

    def refuse(self, status: int, message: str, label: str = UNREAD) -> None:
        """Respond without reading the request, after any earlier requests, and close."""
        if self._deaf or self._transport.is_closing():
            return
        if self._reading and not self._reading_headers:
            self._unanswered.pop().release()
        self._deaf = True
        self.deadline = NEVER
        self.server.handler.turned_away(label, status, message)
        content = Refusal(status, message).body
        self._last_response = response(self.server.date, status, content, JSON, keep_alive=False)
        if not self._unanswered:
            self._send_last_response()

    def shut_down(self) -> None:
        """Close the connection, after the response if the request is complete."""
        if self._last_response:
            if not self._unanswered:
                self._close()
        elif self._reading and not self._deaf:
            self.refuse(503, "shutting down")
        elif self._unanswered:
            self._deaf = True
            self._unanswered[-1].keep_alive = False
        else:
            self._close()

    def drop(self) -> None:
        """Disconnect at once, to make room."""
        self.server.handler.turned_away(UNREAD, 503, TOO_MANY)
        self._forget()
        self._transport.abort()

    def expire(self) -> None:
        """Give up on a sender that is too slow, silent, or does not read."""
        self.deadline = NEVER
        if self._transport.is_closing() or self._transport.get_write_buffer_size():
            self._transport.abort()
        elif self._reading and not self._deaf:
            seconds = self.server.request_timeout
            self.refuse(408, f"the request took more than {seconds:g} s to arrive")
        else:
            self._close()

    def _handle_next(self) -> None:
        """Handle the first request once it is complete."""
        if not self._unanswered or (request := self._unanswered[0]).is_handled:
            return
        if not request.is_complete:
            if request.headers.pop(b"expect", b"").lower() == b"100-continue":
                if (refusal := request.refusal) is not None:  # its body need not be sent
                    self.refuse(refusal.status, str(refusal), request.label)
                else:
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        request.is_handled = True
        if request.is_known:
            self._handle(request)
        else:
            self.server.turns.add(partial(self._handle, request))

    def _handle(self, request: Request) -> None:
        if request.gone:
            return
        try:
            self.server.handler.handle(request)
        except BaseException:
            self._transport.abort()
            raise

    def _close(self) -> None:
        """Close the connection once the sender has read its responses, or does not read them."""
        self.deadline = self._loop.time() + LINGER
        self._transport.close()

    def _send_last_response(self) -> None:
        """Send a refusal and close.

        Incoming bytes are discarded for a moment, because closing immediately would reset the
        connection before the sender has read the response.
        """
        if self._transport.is_closing():
            return
        self._transport.write(self._last_response)
        self.deadline = self._loop.time() + LINGER
        self._transport.write_eof()

    def _forget(self) -> None:
        self.server.connections.discard(self)
        self.server.strangers.pop(self, None)

    # ---- limits

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse a request again without its Upgrade header, for which the parser skips the body.

        Java's HttpClient sends that header with its first request, to offer HTTP/2.
        """
        del self._headers[b"upgrade"]
        lines = b"".join(b"%s: %s\r\n" % header for header in self._headers.items())
        version = self._parser.get_http_version().encode()
        head = b"%s %s HTTP/%s\r\n" % (self._parser.get_method(), self._url, version)
        self._parser = _parser(self)
        self.data_received(b"%s%s\r\n%s" % (head, lines, rest))

    def _refuse_large(self) -> None:
        self.refuse(413, f"the body is larger than {self.server.max_body / 2**20:g} MB")

    def _refuse_headers(self) -> None:
        self.refuse(431, "more than 16 KB or 100 lines of headers")

    def _restart_timer(self) -> None:
        self.deadline = self._loop.time() + self.server.request_timeout


def _parser(connection: Connection) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(connection)
    # What follows a request that closes the connection is ignored; without this, it is an error.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
