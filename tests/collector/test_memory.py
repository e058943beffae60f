"""Memory: bounded, whatever is sent."""

from __future__ import annotations

import contextlib
import gzip
import socket
from pathlib import Path

import pytest

from tap_autopilot.collector import http
from tests.collector.conftest import HEAD, KEY, TOKEN, Collector, Start, read_all
from tests.collector.in_memory import Sender, serve, without_waiting
from tests.collector.test_connections import read_responses
from tests.collector.test_limits import SECRET_IN_BODY
from tests.conftest import PATIENCE, wait_until


class Memory:
    """How much memory a collector takes on top of what it takes now, at its peak, in MB."""

    def __init__(self, collector: Collector) -> None:
        assert collector.post("/v1/track", b"{}").status_code == 200
        self._status = Path(f"/proc/{collector.process.pid}/status")
        self._before = self._figure("VmRSS:")

    @property
    def growth(self) -> float:
        return self._figure("VmHWM:") - self._before

    def _figure(self, name: str) -> float:
        return int(self._status.read_text().split(name)[1].split()[0]) / 1024


def test_many_gzip_bombs_at_once_take_little_memory(start: Start) -> None:
    collector = start(max_body_mb=2)
    memory = Memory(collector)
    bomb = gzip.compress(b"[%s]" % bytes(2_000_000))
    head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    connections = [collector.connect() for _ in range(60)]
    for connection in connections:
        connection.sendall(head % len(bomb) + bomb)
    for connection in connections:
        with connection:
            assert read_responses(connection, 1).startswith(b"HTTP/1.1 400")
    assert memory.growth < 24


@pytest.mark.parametrize("path", ["/segment", "/v1/track"])
def test_refused_bodies_leave_nothing_in_memory(start: Start, path: str) -> None:
    collector = start()
    memory = Memory(collector)
    body = gzip.compress(b"{%s}" % bytes(8_000_000))
    headers = {"Content-Encoding": "gzip", "X-Signature": "0" * 40}
    for _ in range(30):  # one after the other
        assert collector.post(path, body, key=None, headers=headers).status_code == 401
    assert memory.growth < 64


def listed(item: bytes) -> bytes:
    return b",".join([item] * (7_000_000 // (len(item) + 1)))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/batch", b'{"batch":[%s]}' % listed(b"{}")),
        ("/v1/batch", b'{"batch":[%s]}' % listed(b"1")),
        (
            "/v1/batch",
            b'{"context":{"a":"%s"},"batch":[{}%s]}' % (b"x" * 1_000_000, b",{}" * 10**5),
        ),
        (f"/activity/{TOKEN}", listed(b"{}").replace(b",", b"\n")),
        (f"/activity/{TOKEN}", listed(b"1").replace(b",", b"\n")),
    ],
    ids=range(5),
)
def test_too_many_events_in_a_request_are_refused(start: Start, path: str, body: bytes) -> None:
    collector = start()
    memory = Memory(collector)
    assert collector.post(path, body).status_code == 413
    assert memory.growth < 64
    assert len(collector.events()) == 1


def test_memory_stays_bounded_under_many_large_requests(start: Start) -> None:
    collector = start(max_pending_mb=16, constants={"http.LINGER": PATIENCE})
    memory = Memory(collector)
    connections = [collector.connect() for _ in range(30)]
    for connection in connections:
        connection.sendall(HEAD + b"Content-Length: 8000000\r\n\r\n")
    for connection in connections:  # 210 MB, of bodies that never end
        connection.sendall(b" " * 7_000_000)
    for connection in connections:
        connection.shutdown(socket.SHUT_WR)
    statuses = []
    for connection in connections:
        with connection:
            statuses.append(read_all(connection)[9:12])
    assert memory.growth < 80
    assert statuses.count(b"503") >= 28
    assert collector.post("/v1/track", b"{}").status_code == 200
    assert collector.metric("pending_bytes") == 0


def test_bodies_without_a_secret_in_the_headers_leave_room_for_others(start: Start) -> None:
    collector = start(max_pending_mb=16)
    with contextlib.ExitStack() as stack:
        for _ in range(4):  # 28 MB that never end
            connection = stack.enter_context(collector.connect())
            connection.sendall(b"POST /v1/track HTTP/1.1\r\nContent-Length: 8000000\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                connection.sendall(b" " * 7_000_000)
        assert collector.metric("pending_bytes") <= 8 * 2**20
        assert collector.post("/v1/track", b"%s{}" % (b" " * 7_000_000)).status_code == 200
    wait_until(lambda: collector.metric("pending_bytes") == 0)
    assert collector.post("/v1/track", {"writeKey": KEY}, key=None).status_code == 200


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(("room", "dropped"), [(1, 1), (100, 0)])
def test_bodies_that_never_end_shut_out_nobody_whose_body_shows_a_secret(
    start: Start, room: int, dropped: int, *, known: bool
) -> None:
    """Whether they leave no room for such a body, or just none for the overhead of its event.

    Their connection may have shown a secret before: a proxy's has requests of many senders.
    """
    collector = start(max_pending_mb=16, request_timeout=PATIENCE)
    size = 8 * 2**20
    with collector.connect() as idle, collector.connect() as stalled:
        idle.sendall(b"POST /v1/batch HTTP/1.1\r\nContent-Length: 2\r\n\r\n")
        if known:
            stalled.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")
            assert read_responses(stalled, 1).startswith(b"HTTP/1.1 200")
        stalled.sendall(b"POST /v1/batch HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size)
        stalled.sendall(b" " * (size - room))
        wait_until(lambda: collector.metric("pending_bytes") == size - room)
        for request in SECRET_IN_BODY:
            with collector.connect() as sender:
                sender.sendall(request)
                assert read_responses(sender, 1).startswith(b"HTTP/1.1 200")
        wait_until(lambda: collector.metric("connections") == 3 - dropped)  # with the one that asks
    reason = "too much is arriving without a secret in the headers."
    assert collector.log.read_text().count(reason) == dropped


def test_bodies_without_a_secret_make_room_for_those_with_one(start: Start) -> None:
    collector = start(max_pending_mb=24)
    with contextlib.ExitStack() as stack:
        stranger, *senders = (stack.enter_context(collector.connect()) for _ in range(3))
        stranger.sendall(b"POST /v1/track HTTP/1.1\r\nContent-Length: 8000000\r\n\r\n")
        stranger.sendall(b" " * 7_900_000)
        wait_until(lambda: collector.metric("pending_bytes") == 7_900_000)
        for sender in senders:
            sender.sendall(HEAD + b"Content-Length: 8000000\r\n\r\n")
            sender.sendall(b" " * 7_999_998)
        for sender in senders:
            sender.sendall(b"{}")
            assert read_responses(sender, 1).startswith(b"HTTP/1.1 200")
    wait_until(lambda: collector.metric("pending_bytes") == 0)


def test_a_sender_that_has_its_share_displaces_nobody(start: Start) -> None:
    collector = start(max_pending_mb=24)
    with contextlib.ExitStack() as stack:
        stranger = stack.enter_context(collector.connect())
        body = b'{"writeKey": "%s"}' % KEY.encode()
        head = b"POST /v1/track HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
        stranger.sendall(head % (1_000_000 + len(body)) + b" " * 1_000_000)
        wait_until(lambda: collector.metric("pending_bytes") == 1_000_000)
        for _ in range(3):
            sender = stack.enter_context(collector.connect())
            sender.sendall(HEAD + b"Content-Length: 8000000\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                sender.sendall(b" " * 7_900_000)
        assert b"this sender already has too many" in read_responses(sender, 1)
        stranger.sendall(body)
        assert read_responses(stranger, 1).startswith(b"HTTP/1.1 200")


def test_bodies_with_one_secret_leave_room_for_those_with_another(start: Start) -> None:
    collector = start(max_pending_mb=24)
    with contextlib.ExitStack() as stack:
        for _ in range(4):  # 32 MB that never end
            connection = stack.enter_context(collector.connect())
            connection.sendall(HEAD + b"Content-Length: 8000000\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                connection.sendall(b" " * 7_900_000)
        wait_until(lambda: collector.metric("pending_bytes") > 12 * 2**20)
        for body in (b"{}", b"%s{}" % (b" " * 4_000_000)):
            assert collector.post(f"/hooks/{TOKEN}", body, key=None).status_code == 200
    wait_until(lambda: collector.metric("pending_bytes") == 0)
    assert collector.post("/v1/track", b"%s{}" % (b" " * 7_000_000)).status_code == 200


@pytest.mark.parametrize("lines", [1, 10, 90])
@pytest.mark.parametrize("name", ["Authorization", "X-{}"])
def test_headers_that_never_end_take_little_memory(start: Start, name: str, lines: int) -> None:
    """Beside half of max_pending_mb for bodies, strangers may take less than 25 MB."""
    collector = start()
    memory = Memory(collector)
    value = "x" * (http.MAX_HEADER_BYTES // lines - 20)
    headers = "".join(f"{name.format(number)}: {value}\r\n" for number in range(lines))
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            connection = stack.enter_context(collector.connect())
            connection.sendall(b"POST /v1/batch HTTP/1.1\r\n" + headers.encode())
        wait_until(lambda: collector.metric("connections") > 500)
        assert memory.growth / 500 * http.MAX_STRANGERS < 25


LONG = b"a" * 15_000 + b"%F0%9F%98%80"  # decoded, each character of it takes 4 bytes


@pytest.mark.parametrize(
    "start_of_headers",
    [
        b"POST /%s HTTP/1.1\r\n" % LONG,
        b"POST /hooks/%s/%s HTTP/1.1\r\n" % (TOKEN.encode(), LONG),
        b"POST /segment HTTP/1.1\r\nX-Signature: %s\r\n" % LONG,
    ],
    ids=["unknown", "hook", "signature"],
)
def test_while_a_body_arrives_the_headers_take_little_memory(
    start: Start, start_of_headers: bytes
) -> None:
    """Each path of 32 kB took up to 330 kB until its request was complete."""
    collector = start()
    memory = Memory(collector)
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            connection = stack.enter_context(collector.connect())
            connection.sendall(start_of_headers + b"Content-Length: 2\r\n\r\n1")
        wait_until(lambda: collector.metric("connections") > 300)
        assert memory.growth < 0.025 * 300


@pytest.mark.parametrize(
    "line",
    [b"content-encoding: %s\r\n" % LONG, b"".join(b"h%02d:\r\n" % n for n in range(95))],
    ids=["long", "many"],
)
@without_waiting
async def test_requests_sent_ahead_take_no_memory_for_their_headers(line: bytes) -> None:
    sender = Sender(serve())
    sender.send(HEAD + b"Content-Length: 2\r\n" + line + b"\r\n{")
    request = sender._protocol._unanswered[0]
    assert sum(map(len, request.headers.values())) + len(request.headers) < 200
    assert request.path == ""


def test_a_body_in_tiny_chunks_takes_little_memory_and_time(start: Start) -> None:
    collector = start(request_timeout=PATIENCE)
    chunks = b"Transfer-Encoding: chunked\r\n\r\n" + b"2\r\n  \r\n" * 90_000
    for head, more in ((b"POST /v1/track HTTP/1.1\r\n", 0), (HEAD, 10_001)):
        with collector.connect() as refused:
            refused.sendall(head + chunks + b"2\r\n  \r\n" * more)
            assert refused.recv(12) == b"HTTP/1.1 413"
    memory = Memory(collector)
    with collector.connect() as connection:
        connection.sendall(HEAD + chunks)
        assert collector.post("/v1/track", b"{}").status_code == 200
        connection.sendall(b"2\r\n{}\r\n0\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"
    assert memory.growth < 25
