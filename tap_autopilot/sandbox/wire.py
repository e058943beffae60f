"""HTTP as raw bytes, sent properly or with a fault.

A bare asyncio protocol rather than a framework: it must cost far less CPU than the client that it
tests and benchmarks.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import http
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from tap_autopilot.sandbox.documents import as_json
from tap_autopilot.sandbox.faults import STATUS, Fault
from tap_autopilot.sandbox.options import Options


@dataclass
class Response:
    """A response to send; `delivered` if the client had not hung up when it was sent."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    delivered: bool = False


Respond = Callable[[str, str, dict[str, str], Fault | None, bytes], Response]


def error(status: int, message: str) -> tuple[int, bytes]:
    """Status and body of an error, in the API's format."""
    return status, as_json({"error": phrase(status), "message": message})


def phrase(status: int) -> str:
    """The standard phrase for a status."""
    return http.HTTPStatus(status).phrase


class Connection(asyncio.Protocol):
    """A connection to one client."""

    def __init__(self, options: Options, respond: Respond, connections: set[Connection]) -> None:
        """`respond` is called with method, target, headers, fault and body of a request."""
        self._options = options
        self._respond = respond
        self._connections = connections
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the open connections."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._connections.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        """Leave them."""
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Respond to a request once it is complete."""
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        options = self._options
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        body, self._buffer = rest[:length], rest[length:]
        fault = options.faults.strike(target.removeprefix("/v1"))
        answer = self._respond(method, target, headers, fault, body)
        reply = _Reply(self.transport, answer, target, options, fault)
        reply.gzip = options.gzip and "gzip" in headers.get("accept-encoding", "")
        if options.latency:
            asyncio.get_running_loop().call_later(options.latency, reply.send)
        else:
            reply.send()


@dataclass
class _Reply:
    transport: asyncio.Transport
    answer: Response
    target: str
    options: Options
    fault: Fault | None
    gzip: bool = False

    @property
    def body(self) -> bytes:
        return self.answer.body

    def send(self) -> None:
        self.answer.delivered = not self.transport.is_closing()
        what = self.fault.what if self.fault else ""
        if not what or STATUS.fullmatch(what):
            self._whole(self.body)
        else:
            getattr(self, "_" + what.replace("-", "_"))()

    def _head(self, *more: str, status: int | None = None, kind: str = "application/json") -> bytes:
        status = self.answer.status if status is None else status
        lines = [f"HTTP/1.1 {status} {phrase(status)}", f"Content-Type: {kind}; charset=utf-8"]
        lines += [f"{name}: {value}" for name, value in self.answer.headers.items()]
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
        """Never respond."""

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
        self._reset_on_close()
        self.transport.abort()

    def _reset_body(self) -> None:
        self.transport.write(self._chunked(self.body)[: -len(self.body) // 2])
        self._reset_on_close()
        asyncio.get_running_loop().call_later(0.01, self.transport.abort)

    def _reset_on_close(self) -> None:
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
        self._whole(error(500, "The sandbox was asked for this error.")[1])

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


@functools.cache
def _bomb() -> bytes:
    return gzip.compress(bytes(128 << 20), 1)
