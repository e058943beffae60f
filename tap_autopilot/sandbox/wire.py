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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tap_autopilot.sandbox.documents import as_json
from tap_autopilot.sandbox.faults import Fault
from tap_autopilot.sandbox.options import Options

END = b"0\r\n\r\n"  # of a body in chunks
RESETS = ("reset", "reset-body")
CLOSES = ("close", "cut", "short", "bad-chunk")


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


INSTEAD = {  # bodies that some faults send
    "empty": b"",
    "null": b"null",
    "string": b'"contacts"',
    "no-listing": b'{"total_contacts":0}',
    "error-200": error(500, "The sandbox was asked for this error.")[1],
}


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

    def send(self) -> None:
        self.answer.delivered = not self.transport.is_closing()
        what = self.fault.what if self.fault else ""
        if what == "drip":
            self._drip(iter(self._chunked(self.answer.body) + END))
            return
        self.transport.write(self._content(what, self.answer.body))
        if what in RESETS:
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            asyncio.get_running_loop().call_later(0.01, self.transport.abort)
        elif what in CLOSES:
            self.transport.close()

    def _content(self, what: str, body: bytes) -> bytes:
        """What to send: the whole response unless a fault changes that."""
        match what:
            case "hang" | "close" | "reset":
                return b""
            case "hang-headers":
                return self._head()[:40]
            case "hang-body" | "cut" | "reset-body":
                return self._chunked(body)[: -len(body) // 2]
            case "hang-end":
                return self._chunked(body)
            case "short":
                return self._head(f"Content-Length: {len(body) + 999}") + body
            case "bad-chunk":
                return self._head("Transfer-Encoding: chunked") + b"lots\r\n" + body
            case "bad-json":
                return self._whole(body[: len(body) // 2])
            case "html":
                page = b"<!DOCTYPE html><html><body><h1>Back soon</h1></body></html>"
                return self._head(f"Content-Length: {len(page)}", kind="text/html") + page
            case "bad-gzip":
                return self._packed(body)
            case "cut-gzip":
                packed = gzip.compress(body)
                return self._packed(packed[: len(packed) // 2])
            case "bomb":
                return self._packed(_bomb())
            case "redirect":
                assert self.fault is not None
                to = self.fault.settings.get("to", self.target)
                return self._head(f"Location: {to}", "Content-Length: 0", status=302)
        return self._whole(INSTEAD.get(what, body))

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
        """A response in one chunk, without the END."""
        return self._head("Transfer-Encoding: chunked", *more) + b"%x\r\n%b\r\n" % (len(body), body)

    def _whole(self, body: bytes) -> bytes:
        if self.gzip and body:
            return self._packed(gzip.compress(body, 1))
        return self._chunked(body) + END if body else self._head("Content-Length: 0")

    def _packed(self, body: bytes) -> bytes:
        return self._chunked(body, "Content-Encoding: gzip") + END

    def _drip(self, answer: Iterator[int]) -> None:
        assert self.fault is not None
        byte = next(answer, None)
        if byte is not None and not self.transport.is_closing():
            self.transport.write(bytes([byte]))
            every = float(self.fault.settings.get("every", "1"))
            asyncio.get_running_loop().call_later(every, self._drip, answer)


@functools.cache
def _bomb() -> bytes:
    return gzip.compress(bytes(128 << 20), 1)
