"""A request, who responds to it, and what a response looks like."""

from __future__ import annotations

import functools
import json
import urllib.parse
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any, Protocol

import httptools

from tap_autopilot.collector.notices import OTHER
from tap_autopilot.collector.pending import Pending

CODES = {
    400: "invalid_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    415: "unsupported_encoding",
    431: "headers_too_large",
    500: "internal_error",
    503: "unavailable",
}
HEADERS = {  # that matter here or, if a request is parsed again, to the parser
    *(b"authorization", b"content-encoding", b"expect", b"x-signature"),
    *(b"connection", b"content-length", b"transfer-encoding", b"upgrade"),
}
RETRY_AFTER = 5  # seconds
MAX_VALUE = 100  # bytes of a header; the longest that means something has 40
MAX_ESCAPES = 1000  # of a path, as decoding takes long; an event's name has at most 800
SHORT_CHUNK = 500  # bytes; a shorter chunk takes as much time as one of that size
MAX_CHUNKS = 100_000  # of the bodies of unanswered requests that are short
MAX_STRANGERS_CHUNKS = 200  # of a body without a secret in the headers
JSON = b"application/json"
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


class Refusal(Exception):
    """A response other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = CODES[status]

    @property
    def body(self) -> bytes:
        """The error in the format that senders' libraries expect."""
        return json.dumps({"code": self.code, "message": str(self)}).encode()

    def last_response(self, date: bytes) -> bytes:
        """A whole response after which the connection will be closed."""
        return response(date, self.status, self.body, JSON, keep_alive=False)


class Request:
    """A request whose headers are complete. `headers` are those of HEADERS, in lower case."""

    route = OTHER  # the path's name in metrics and logs, without secrets
    read: Callable[[Iterator[bytes], int], Any] | None = None  # for the handler's use
    keep_alive = True
    received = 0  # bytes of the body
    chunks = 0  # short pieces in which it came
    chunks_ahead = 0  # of the unanswered requests before it, which may come in the same moment
    is_complete = False
    is_handled = False  # a response will follow
    secret: bytes | None = None  # the digest of one that the headers or the path have shown
    keeps_body = False
    refusal: Refusal | None = None  # known before the body has arrived
    gone = False  # the sender disconnected, so nobody reads the response
    _body: bytes | bytearray = b""

    def __init__(
        self,
        send: Callable[[Request, int, bytes, bytes], None],
        pending: Pending,
        method: bytes,
        url: bytes,
        headers: dict[bytes, bytes],
    ) -> None:
        """Raises httptools.HttpParserError if the URL is invalid."""
        self._send = send
        self._pending = pending
        self.method = method
        self.path = _path(url)
        self.headers = headers

    @property
    def is_known(self) -> bool:
        """Whether the headers or the path have shown a secret."""
        return self.secret is not None

    @property
    def is_in_strangers_memory(self) -> bool:
        """Whether any of the body is kept, without a secret in headers or path."""
        return bool(self._body) and not self.is_known

    @property
    def body(self) -> bytes:
        """The complete body."""
        return bytes(self._body)

    def forget_head(self) -> None:
        """Keep of path and headers, of up to 64 kB, only what is needed after `admit`."""
        self.path = ""
        kept = (name for name in (b"content-encoding", b"expect") if name in self.headers)
        self.headers = {name: self.headers[name][:MAX_VALUE] for name in kept}

    def count(self, data: bytes) -> None:
        """Count a part of the body, kept or not. Raises Refusal if it is in too many pieces."""
        self.received += len(data)
        self.chunks += len(data) < SHORT_CHUNK
        limit = MAX_CHUNKS if self.is_known else MAX_STRANGERS_CHUNKS
        if self.chunks + self.chunks_ahead > limit:
            raise Refusal(413, f"the body came in more than {limit:,} short chunks")

    def add(self, data: bytes) -> str | None:
        """Keep a part of the body, and reserve memory for it. Returns why there is none, if so."""
        if problem := self._pending.reserve(len(data), self.secret):
            return problem
        if self._body:  # one piece, because many small ones take 40 times their size
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += data
        else:
            self._body = data
        return None

    def release(self) -> None:
        """Stop counting the body, which is discarded or counted elsewhere from here on."""
        if self._body:
            self._pending.release(len(self._body), self.secret)
            self._body = b""

    def respond(self, status: int, content: bytes, content_type: bytes = JSON) -> None:
        """Send this response."""
        self._send(self, status, content, content_type)


class Handler(Protocol):
    """What responds to requests."""

    def admit(self, request: Request) -> bool:
        """Look at the headers: whether to keep the body. Raises Refusal if none is acceptable."""

    def handle(self, request: Request) -> None:
        """Respond to a complete request, now or later, even if it was not admitted."""

    def note_refusal(self, route: str, refusal: Refusal) -> None:
        """Note that a request was refused before it was complete."""


@functools.lru_cache(maxsize=8)  # most are the same until the clock ticks
def response(
    date: bytes, status: int, content: bytes, content_type: bytes, keep_alive: bool
) -> bytes:
    """A whole response, which says if the connection will be closed, and when to retry."""
    more = b"" if keep_alive else b"connection: close\r\n"
    if status == 503:
        more += b"retry-after: %d\r\n" % RETRY_AFTER
    return b"HTTP/1.1 %d %s\r\ndate: %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n%s\r\n%s" % (
        status,
        _PHRASES[status],
        date,
        content_type,
        len(content),
        more,
        content,
    )


def _path(url: bytes) -> str:
    """The decoded path of a URL. One with too much to decode stays as it is."""
    if url[:1] != b"/":
        url = httptools.parse_url(url).path or b"/"
    path = url.partition(b"?")[0].decode("latin-1")
    return urllib.parse.unquote(path) if 0 < path.count("%") <= MAX_ESCAPES else path
