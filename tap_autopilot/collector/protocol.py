"""HTTP with limits, on top of uvicorn's httptools protocol.

On its own, that protocol accepts headers of any size and waits forever for slow senders. Here the
size of headers and body, the time for a request to arrive, and the memory for all requests together
are limited while the bytes come in, before they reach any other code.
"""

from __future__ import annotations

import json
from asyncio import TimerHandle
from collections import deque
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from tap_autopilot.collector.metrics import Metrics
from tap_autopilot.collector.writer import Pending

MAX_HEADER_BYTES = 32 * 1024
MAX_HEADER_LINES = 100
MAX_UNANSWERED = 10  # requests of one connection
LINGER = 2.0  # seconds that a refused sender may continue before it is disconnected
CODES = {
    400: "invalid_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    415: "unsupported_encoding",
    431: "headers_too_large",
    503: "unavailable",
}
RETRY_AFTER = 5  # seconds


class Limits:
    """Limits shared by all connections, and the metrics that count what exceeds them."""

    def __init__(
        self, pending: Pending, metrics: Metrics, max_body: int, request_timeout: float
    ) -> None:
        self.pending = pending
        self.metrics = metrics
        self.max_body = max_body
        self.request_timeout = request_timeout


class Reservation:
    """The memory reserved for a request's body."""

    __slots__ = ("_pending", "bytes")

    def __init__(self, pending: Pending) -> None:
        self._pending = pending
        self.bytes = 0

    def add(self, size: int) -> None:
        """Reserve more bytes."""
        self.bytes += size
        self._pending.bytes += size

    def release(self) -> None:
        """Release all of them."""
        self._pending.bytes -= self.bytes
        self.bytes = 0


def retry_after(status: int) -> list[bytes]:
    """The Retry-After header line, for statuses that need one."""
    return [b"retry-after: %d\r\n" % RETRY_AFTER] if status == 503 else []


def error_body(status: int, message: str) -> bytes:
    """An error in the format that senders' libraries expect."""
    return json.dumps({"code": CODES[status], "message": message}).encode()


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, limits: Limits, **named: Any) -> None:
        super().__init__(**named)
        self.limits = limits
        self.timeout_keep_alive = limits.request_timeout  # type: ignore[assignment]
        self._timer: TimerHandle | None = None
        self._reservations: list[Reservation] = []
        self._reading = False  # a request has begun and is not complete
        self._reading_headers = False
        self._began_now = False  # a request has begun in the bytes being parsed
        self._refused = False
        self._refusal = b""  # the last response, if others come first
        self._unanswered: deque[RequestResponseCycle] = deque()  # their headers are complete
        self._header_bytes = 0
        self._header_lines = 0
        self._unparsed_bytes = 0  # of headers that are not complete

    def connection_made(self, transport: Any) -> None:
        """Start the timer: silent connections are closed."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release all reservations."""
        self._stop_timer()
        for cycle in self._unanswered:
            cycle.disconnected = True
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        for reservation in self._reservations:
            reservation.release()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Respond before closing, because a sender may close its side early."""
        if not self._unanswered or (self._reading and not self._refused):
            return False
        if not self._refused:
            self.cycle.keep_alive = False
        return True

    def data_received(self, data: bytes) -> None:
        """Parse incoming bytes, within the limits."""
        if self._refused:
            return
        self._began_now = False
        self._unset_keepalive_if_required()
        self._feed(data)
        if self._reading_headers and not self._began_now:
            self._unparsed_bytes += len(data)
            self._check_headers()
        if self._refused:
            return
        if self._reading or not self._unanswered:
            if self._timer is None:
                self._start_timer()
        else:
            self._stop_timer()

    def on_message_begin(self) -> None:
        """Start counting the headers of a new request, which has its own time to arrive."""
        super().on_message_begin()
        self._stop_timer()
        self._reading = self._reading_headers = self._began_now = True
        self._header_bytes = self._header_lines = self._unparsed_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Count the URL's bytes as headers."""
        self._header_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, including those that follow a chunked body."""
        self._header_lines += 1
        self._header_bytes += len(name) + len(value) + len(": \r\n")
        if self._reading_headers:
            super().on_header(name, value)
        self._check_headers()

    def on_headers_complete(self) -> None:
        """Check whether the body can be accepted."""
        if self._refused or self.parser.should_upgrade():
            return
        if len(self._unanswered) >= MAX_UNANSWERED:
            self.refuse(503, f"more than {MAX_UNANSWERED} requests were sent ahead")
            return
        lengths = [int(value) for name, value in self.headers if name == b"content-length"]
        if any(length > self.limits.max_body for length in lengths):
            self._refuse_large()
            return
        self._reservations = [one for one in self._reservations if one.bytes]
        reservation = Reservation(self.limits.pending)
        self._reservations.append(reservation)
        self.scope["reservation"] = reservation  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()
        self._reading_headers = False
        self._unanswered.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        """Count the body's bytes."""
        if self._refused:
            return
        reservation = self._reservations[-1]
        reservation.add(len(body))
        pending = self.limits.pending
        if reservation.bytes > self.limits.max_body:
            self._refuse_large()
        elif pending.bytes > pending.limit:
            self.refuse(503, "too many events are waiting for the disk")
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        self._reading = False
        if not (self._refused or self.parser.should_upgrade()):
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Continue with the next request, or with the refusal that comes last."""
        self._unanswered.popleft()
        super().on_response_complete()
        if self._refused and not self._unanswered:
            self._close_after_refusal()

    def shutdown(self) -> None:
        """Close the connection, after the response if the request is complete."""
        if self._refused:
            if not self._unanswered:
                self.transport.close()
        elif self._reading:
            self.refuse(503, "shutting down")
        else:
            super().shutdown()

    def refuse(self, status: int, message: str) -> None:
        """Respond without reading the request, after any earlier requests, and close."""
        if self._refused or self.transport.is_closing():
            return
        self._stop_timer()
        self._refused = True
        self.limits.metrics.responded("refused", status)
        body = error_body(status, message)
        self._refusal = (
            b"%scontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n%s\r\n%s"
            % (STATUS_LINE[status], len(body), b"".join(retry_after(status)), body)
        )
        if self._reading and not self._reading_headers:
            self._drop_request()
        self.flow.resume_reading()
        if not self._unanswered:
            self._close_after_refusal()

    def _drop_request(self) -> None:
        """Forget the request whose body is being received."""
        self._unanswered.pop()
        self._reservations[-1].release()
        if self.pipeline and self.pipeline[0][0] is self.cycle:
            self.pipeline.popleft()
        self.cycle.disconnected = True
        self.cycle.message_event.set()

    def _close_after_refusal(self) -> None:
        """Send the refusal and close.

        Incoming bytes are discarded for a moment, because closing immediately would reset the
        connection before the sender has read the response.
        """
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self.transport.write(self._refusal)
        self._timer = self.loop.call_later(LINGER, self.transport.close)
        self.transport.write_eof()

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.refuse(400, "Invalid HTTP request received.")
        except httptools.HttpParserUpgrade as upgrade:
            if self.parser.get_method() == b"CONNECT":
                self.refuse(400, "this is not a proxy")
            elif not self._refused:
                self._ignore_upgrade(data[upgrade.args[0] :])

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse a request again without its Upgrade header, for which the parser skips the body.

        Java's HttpClient sends that header with its first request, to offer HTTP/2.
        """
        lines = [b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        version = self.parser.get_http_version().encode()
        head = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, version)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._feed(b"%s%s\r\n%s" % (head, b"".join(lines), rest))

    def _refuse_large(self) -> None:
        self.refuse(413, f"the body is larger than {self.limits.max_body >> 20} MB")

    def _check_headers(self) -> None:
        if (
            max(self._header_bytes, self._unparsed_bytes) > MAX_HEADER_BYTES
            or self._header_lines > MAX_HEADER_LINES
        ):
            self.refuse(431, "more than 32 KB or 100 lines of headers")

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self.limits.request_timeout, self._time_out)

    def _stop_timer(self) -> None:
        if self._timer is not None and not self._refused:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        self._timer = None
        if self._reading:
            self.refuse(
                408, f"the request took more than {self.limits.request_timeout:g} s to arrive"
            )
        else:
            self.transport.close()
