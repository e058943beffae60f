"""Connections: kept, closed, half-closed, and used in odd ways."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from pathlib import Path

import pytest

from tap_autopilot.collector import server
from tests.collector.conftest import HEAD, REQUEST, Collector, Start, read_all
from tests.conftest import wait_until


def read_responses(connection: socket.socket, count: int) -> bytes:
    """So many responses, whose bodies are JSON objects."""
    found = b""
    while found.count(b"}") < count:
        part = connection.recv(4096)
        assert part, f"closed after {found!r}"
        found += part
    return found


@pytest.mark.parametrize("rest", [b"", HEAD + b"Content-Length: 9\r\n\r\n{", HEAD, b"POST"])
def test_requests_before_the_sender_closes_its_side_get_a_response(
    shared: Collector, rest: bytes
) -> None:
    with shared.connect() as connection:
        connection.sendall(REQUEST * 2 + rest)
        connection.shutdown(socket.SHUT_WR)
        assert re.findall(rb"HTTP/1.1 (\d+)", read_all(connection)) == [b"200"] * 2
    assert len(shared.events()) == 2


@pytest.mark.parametrize(
    ("version", "header", "stays"),
    [(b"1.1", b"", True), (b"1.1", b"Connection: close\r\n", False), (b"1.0", b"", False)],
)
def test_connections_are_kept_unless_the_sender_closes_them(
    shared: Collector, version: bytes, header: bytes, stays: bool
) -> None:
    request = b"GET /health HTTP/%s\r\nHost: x\r\n%s\r\n" % (version, header)
    with shared.connect() as connection:
        connection.sendall(request * 2)
        if stays:
            answers = read_responses(connection, 2)
            connection.sendall(request)
            read_responses(connection, 1)
        else:
            answers = read_all(connection)
    assert answers.count(b"HTTP/1.1 200") == (2 if stays else 1)
    assert (b"connection: close" in answers) == (not stays)
    assert re.search(rb"\r\ndate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", answers)


def test_a_sender_that_does_not_wait_for_its_responses_causes_no_errors(start: Start) -> None:
    collector = start()
    for _ in range(30):
        with collector.connect() as connection:
            connection.sendall(REQUEST * 9)
            connection.recv(10)
    assert collector.stop() == 0
    assert "ERROR" not in collector.log.read_text()


def test_a_sender_that_reads_no_responses_is_disconnected(start: Start) -> None:
    collector = start(request_timeout=0.5, constants={"http.LINGER": 0.5})
    descriptors = Path(f"/proc/{collector.process.pid}/fd")
    request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
    before = len([*descriptors.iterdir()])
    with collector.connect() as connection, collector.connect() as closing:
        connection.settimeout(0.1)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while True:  # until the buffers on the way are full of responses
                connection.sendall(request + b"\r\n")
        closing.sendall((request + b"\r\n") * 9 + request + b"Connection: close\r\n\r\n")
        with collector.connect() as good:
            good.sendall(REQUEST)
            read_responses(good, 1)
        wait_until(lambda: len([*descriptors.iterdir()]) <= before)


def test_a_sender_that_goes_on_without_reading_is_disconnected_at_once(shared: Collector) -> None:
    def go_on(connection: socket.socket) -> None:
        for _ in range(1000):
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            shared.get("/health")  # by now, the request before has its response

    with shared.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or several come at once
        with pytest.raises(ConnectionError):
            go_on(connection)


def test_the_system_keeps_few_responses_for_a_sender_that_reads_none() -> None:
    kept = 0
    with server._listen("127.0.0.1", 0) as listener, socket.socket() as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sender.connect(listener.getsockname())
        connection, _ = listener.accept()
        with connection, contextlib.suppress(BlockingIOError):
            connection.setblocking(False)
            while True:
                kept += connection.send(bytes(1000))
    assert 0 < kept < 100_000


def test_a_sender_that_waits_for_100_continue_gets_it(shared: Collector) -> None:
    with shared.connect() as connection:
        connection.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 100")
        connection.sendall(b"{}")
        assert read_responses(connection, 1).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [(b"POST", b"/nowhere", 404), (b"PUT", b"/v1/track", 405), (b"POST", b"/hooks/wrong-token", 404)],
)  # fmt: skip
def test_a_sender_that_waits_for_100_continue_is_rejected_before_it_sends_the_body(
    shared: Collector, method: bytes, path: bytes, status: int
) -> None:
    head = b"%s %s HTTP/1.1\r\nHost: x\r\n" % (method, path)
    with shared.connect() as connection:
        connection.sendall(
            REQUEST + head + b"Expect: 100-continue\r\nContent-Length: 400000\r\n\r\n"
        )
        answers = read_responses(connection, 2)
        assert connection.recv(1) == b""
    assert answers.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 %d" % status in answers
    assert b"100 Continue" not in answers


@pytest.mark.parametrize(
    ("header", "body"),
    [(b"Content-Length: 8", b'{"n": 1}'), (b"Transfer-Encoding: chunked", b'8\r\n{"n": 1}\r\n0\r\n\r\n')],
)  # fmt: skip
def test_an_offer_of_another_protocol_is_ignored(
    shared: Collector, header: bytes, body: bytes
) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
    request = HEAD + offer + header + b"\r\n\r\n" + body
    with shared.connect() as connection:
        for size in (len(request), 1, len(request) - 3):  # in one part, in many, in two
            for at in range(0, len(request), size):
                connection.sendall(request[at : at + size])
                time.sleep(0.001)
            assert read_responses(connection, 1).startswith(b"HTTP/1.1 200")
        connection.sendall(request * 2)
        answers = read_responses(connection, 2)
    assert answers.count(b"HTTP/1.1 200") == 2
    assert shared.bodies() == [b'{"n": 1}'] * 5
