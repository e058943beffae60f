"""A destination that does everything wrong: slow, endless, dripping, silent, with every status."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

from tests.collector.destination import Destination, ids_of
from tests.receiver import answer

FINAL = (400, 402, 406, 409, 413, 414, 415, 418, 422, 431, 451)  # the events are at fault
OTHER = (  # the request, or the moment
    300, 301, 302, 304, 307, 401, 403, 404, 405, 407, 408, 425, 429, 500, 501, 502, 503, 504, 507,
)  # fmt: skip


def endless(response: BaseHTTPRequestHandler) -> None:
    """A body that never ends."""
    response.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        response.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")


def dripping(response: BaseHTTPRequestHandler) -> None:
    """A body that comes byte by byte."""
    response.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        response.wfile.write(b"x")
        time.sleep(0.1)


def cut_off(response: BaseHTTPRequestHandler) -> None:
    """A body that ends too early."""
    response.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc")
    response.close_connection = True


def slow(response: BaseHTTPRequestHandler) -> None:
    """A proper answer, but late."""
    time.sleep(random.uniform(0.1, 1))
    answer(response, 200)


ACCEPTS: tuple[Callable[[BaseHTTPRequestHandler], None], ...] = (endless, dripping, cut_off, slow)


def silent(response: BaseHTTPRequestHandler) -> None:
    """Headers that never end."""
    response.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        response.wfile.write(b"X-More: x\r\n")
        time.sleep(0.5)


def hung_up(response: BaseHTTPRequestHandler) -> None:
    """No answer at all."""
    response.close_connection = True


class WildDestination(Destination):
    """Notes which events it accepted, in order, and which it refused alone.

    `wildness` is the share of requests that get an odd answer. While it is strict, it refuses
    events whose id ends in 7.
    """

    protocol = "HTTP/1.1"

    def __init__(self) -> None:
        super().__init__()
        self.wildness = 0.0
        self.is_strict = True
        self.accepted: dict[str, None] = {}  # in the order in which they were accepted first
        self.refused_alone: set[str] = set()
        self.answers: set[str] = set()

    def respond(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        ids = ids_of(json.loads(body))
        is_wild = random.random() < self.wildness
        if self.is_strict and any(name.endswith("7") for name in ids):
            self._refuse(request, ids)
        elif is_wild:
            random.choice((self._accept_oddly, self._refuse, self._reject, self._fail))(
                request, ids
            )
        else:
            self._accept(ids, "200")
            answer(request, 200)

    def _accept_oddly(self, response: BaseHTTPRequestHandler, ids: list[str]) -> None:
        behave = random.choice(ACCEPTS)
        self._accept(ids, behave.__name__)
        behave(response)

    def _refuse(self, response: BaseHTTPRequestHandler, ids: list[str]) -> None:
        status = random.choice(FINAL)
        if len(ids) == 1:
            self.refused_alone.update(ids)
        self.answers.add(str(status))
        answer(response, status)

    def _reject(self, response: BaseHTTPRequestHandler, _: list[str]) -> None:
        status = random.choice(OTHER)
        self.answers.add(str(status))
        answer(response, status)

    def _fail(self, response: BaseHTTPRequestHandler, _: list[str]) -> None:
        behave = random.choice((silent, hung_up))
        self.answers.add(behave.__name__)
        behave(response)

    def _accept(self, ids: list[str], answer: str) -> None:
        self.answers.add(answer)
        self.accepted.update(dict.fromkeys(name for name in ids if name not in self.accepted))
