"""Slow and silent senders: how long each may take, and what is kept of what they send.

Times are those of a loop that does not really wait.
"""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from tap_autopilot.collector import http
from tests.collector.conftest import HEAD, REQUEST, TOKEN, Start, read_all
from tests.collector.in_memory import Sender, serve, without_waiting

TICK = 1.01 * http.TICK  # how late the server may notice


@pytest.mark.parametrize(
    ("sent", "later", "statuses"),
    [
        (b"", b"\r\n", []),
        (b"POST /", b"x", [408]),
        (HEAD, b"X", [408]),
        (HEAD + b"Content-Length: 20\r\n\r\n{", b"x", [408]),
        (REQUEST, b"\r\n", [200]),
        (REQUEST + HEAD, b"X", [200, 408]),
        (REQUEST * 3 + HEAD + b"Content-Length: 20\r\n\r\n{", b"x", [200, 200, 200, 408]),
    ],
)
@without_waiting
async def test_an_occasional_byte_keeps_no_connection_open(
    sent: bytes, later: bytes, statuses: list[int]
) -> None:
    sender = Sender(serve(request_timeout=1))
    sender.send(sent)
    await asyncio.sleep(0.9)
    sender.send(later)
    await asyncio.sleep(5)
    assert sender.statuses == statuses
    assert sender.closed_at is not None
    assert 1 <= sender.closed_at <= 1 + TICK


@without_waiting
async def test_each_request_has_its_own_time() -> None:
    sender = Sender(serve(request_timeout=1))
    body = REQUEST[-2:]
    await asyncio.sleep(0.9)
    for _ in range(5):
        sender.send(REQUEST[:-2])
        await asyncio.sleep(0.9)
        sender.send(body + REQUEST[:-2])
        await asyncio.sleep(0.9)
        sender.send(body)
        await asyncio.sleep(0.9)
    assert sender.statuses == [200] * 10
    assert sender.closed_at is None
    await asyncio.sleep(1)
    assert sender.closed_at is not None


def test_slow_senders_are_cut_off_while_others_are_served(start: Start) -> None:
    collector = start(request_timeout=0.5)
    beginnings = (b"", HEAD, HEAD + b"Content-Length: 20\r\n\r\n{", b"POST /")
    connections = [(collector.connect(), sent) for sent in beginnings for _ in range(25)]
    for connection, sent in connections:
        connection.sendall(sent)
    with collector.connect() as good:
        good.sendall(REQUEST)
        assert good.recv(12) == b"HTTP/1.1 200"
    for connection, sent in connections:
        with connection:
            assert read_all(connection).split(b" ")[1:2] == ([b"408"] if sent else [])


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"POST /nothing", 404),
        (b"POST /hooks/wrong", 404),
        (b"PUT /v1/track", 405),
        (b"POST /segment", 401),
        (b"GET /health", 200),
    ],
)
@without_waiting
async def test_bodies_that_cannot_be_accepted_are_not_kept(line: bytes, status: int) -> None:
    server = serve()
    sender = Sender(server)
    sender.send(line + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
    for _ in range(10):
        assert server.pending.bytes == 0
        assert sender.statuses == []
        sender.send(bytes(100_000))
    await asyncio.sleep(0)
    assert sender.statuses == [status]


@without_waiting
async def test_nothing_is_kept_of_a_sender_that_has_gone() -> None:
    server = serve()
    sender = Sender(server)
    sender.send(b"POST /hooks/%s HTTP/1.1\r\nContent-Length: 9\r\n\r\n{}" % TOKEN.encode())
    assert server.pending.bytes == 2
    sender.go()
    assert server.pending.bytes == 0
    assert not server.connections


@without_waiting
async def test_what_a_sender_that_has_gone_sent_ahead_is_not_refused_for_lack_of_a_body() -> None:
    server = serve()
    refused: list[str] = []
    server.handler.note_refusal = lambda *refusal: refused.append(str(refusal))  # type: ignore[method-assign]
    sender = Sender(server)
    sender.send(REQUEST * 3)
    sender.go()
    await asyncio.sleep(1)
    assert sender.statuses == [200]
    assert not refused


@without_waiting
async def test_a_connection_that_has_gone_does_not_wait_for_garbage_collection() -> None:
    server = serve()
    sender = Sender(server)
    sender.send(HEAD + b"a: " + b"a" * 30_000)
    connection = weakref.ref(sender._protocol)
    gc.disable()
    try:
        sender.go()
        del sender._protocol
        assert connection() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("head", [HEAD, HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n"])
@without_waiting
async def test_headers_beyond_the_limit_are_not_even_joined(head: bytes) -> None:
    """256 kB of them, which arrive at once, took 60 ms of everyone's time."""
    sender = Sender(serve())
    sender.send(head + b"Expect:\r\n" * 28_000)
    assert sender.statuses == [431]
    assert len(sender._protocol._headers[b"expect"]) < 2 * http.MAX_HEADER_LINES


@pytest.mark.parametrize(
    ("request_sent", "few"),
    [
        (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", http.MAX_STRANGERS_UNANSWERED),
        (REQUEST, http.MAX_UNANSWERED),
    ],
)
@without_waiting
async def test_few_requests_can_be_sent_ahead(request_sent: bytes, few: int) -> None:
    sender = Sender(serve())
    sender.send(request_sent * 1000)
    await asyncio.sleep(0.1)
    assert sender.statuses == [200] * few + [503]
    assert sender.closed_at is not None


@without_waiting
async def test_others_have_their_turn_before_a_request_that_was_sent_ahead() -> None:
    sender = Sender(serve())
    long = b"X: %s\r\n" % (b"x" * (http.MAX_HEADER_BYTES - 200))
    sender.send((HEAD + long + b"Content-Length: 1\r\n\r\n5") * 5)
    for answered in range(1, 6):
        assert sender.statuses == [400] * answered
        await asyncio.sleep(0)


@pytest.mark.parametrize("sent", [b"", REQUEST, HEAD])
@without_waiting
async def test_the_end_waits_for_no_connection_accepted_meanwhile(sent: bytes) -> None:
    server = serve(request_timeout=15)
    first = Sender(server)
    first.send(HEAD)
    loop = asyncio.get_running_loop()
    end = loop.create_task(server.close(10))
    loop.call_soon(lambda: Sender(server).send(sent))
    await end
    assert loop.time() < 1
