"""Malicious and broken senders: they are cut off while the others are served."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import time
from pathlib import Path

import pytest
import requests

from tests.collector.conftest import KEY, TOKEN, Collector, Start, read_all
from tests.conftest import wait_until

HEAD = b"POST /v1/track HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n" % KEY.encode()


def read_response(connection: socket.socket) -> bytes:
    """One response, whose body is a JSON object."""
    found = b""
    while not found.endswith(b"}"):
        found += connection.recv(4096)
    return found


def memory(collector: Collector, figure: str = "VmRSS:") -> float:
    """Resident memory of the process, in MB; "VmHWM:" is its peak."""
    assert collector.process is not None
    status = Path(f"/proc/{collector.process.pid}/status").read_text()
    return int(status.split(figure)[1].split()[0]) / 1024


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (HEAD + b"X: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (HEAD + b"X: " + b"a" * 3_000_000, 431),
        (b"GET /" + b"a" * 3_000_000, 431),
        (HEAD + b"".join(b"X-%d: 1\r\n" % n for n in range(120)) + b"\r\n", 431),
        (HEAD + b"".join(b"X-%d: 1\r\n" % n for n in range(20_000)) + b"\r\n", 431),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
         + b"".join(b"X-%d: 1\r\n" % n for n in range(120)) + b"\r\n", 431),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: " + b"a" * 3_000_000, 431),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"a" * 3_000_000, 431),
        (HEAD + b"Content-Length: %s9999999999\r\n\r\n{" % (b"0" * 9000), 413),
        (HEAD + b"Content-Length: 99999999\r\n\r\n{", 413),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n%s\r\n" % (b" " * 65536) * 40, 413),
        (HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400),
        (HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", 400),
        (HEAD + b"Content-Length: -2\r\n\r\n{}", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n", 400),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n", 400),
        (HEAD + b"Content-Length: 99999999999999999999\r\n\r\n", 400),
        (b"hello\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400),
    ],
    ids=range(23),
)  # fmt: skip
def test_requests_beyond_the_limits_are_refused(start: Start, data: bytes, status: int) -> None:
    collector = start(max_body_mb=2)
    answer = collector.raw(data)
    assert answer.split(b" ")[1] == b"%d" % status
    assert {"code", "message"} == set(json.loads(answer.partition(b"\r\n\r\n")[2]))
    assert collector.post("/v1/track", b"{}").status_code == 200
    assert collector.bodies() == [b"{}"]


def test_gzip_bombs_are_refused_before_they_go_off(start: Start) -> None:
    collector = start(fork=False, max_body_mb=2)
    collector.post("/v1/track", b"{}")
    bomb = gzip.compress(bytes(500 << 20), 1)
    assert len(bomb) < 4 << 20
    before = memory(collector)
    for body in (bomb[: 2 << 20], gzip.compress(bomb, 9)[: 2 << 20]):
        answer = collector.post("/v1/track", body, headers={"Content-Encoding": "gzip"})
        assert answer.status_code in (400, 413)
    assert memory(collector) < before + 32


def test_many_gzip_bombs_at_once_take_little_memory(start: Start) -> None:
    collector = start(fork=False, max_body_mb=2)
    collector.post("/v1/track", b"{}")
    before = memory(collector, "VmHWM:")
    bomb = gzip.compress(b"[%s]" % bytes(2_000_000))
    head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    connections = [collector.connect() for _ in range(60)]
    for connection in connections:
        connection.sendall(head % len(bomb) + bomb)
    for connection in connections:
        assert read_response(connection).startswith(b"HTTP/1.1 400")
        connection.close()
    assert memory(collector, "VmHWM:") < before + 24


def test_a_large_context_shared_by_many_events_is_refused(start: Start) -> None:
    collector = start(fork=False, max_body_mb=2)
    collector.post("/v1/track", b"{}")
    before = memory(collector)
    items = b",".join([b"{}"] * 300_000)
    body = b'{"context":{"a":"%s"},"batch":[%s]}' % (b"x" * 1_000_000, items)
    assert collector.post("/v1/batch", body).status_code == 413
    assert memory(collector) < before + 64
    assert len(collector.events()) == 1


@pytest.mark.parametrize("item", [b"{}", b"1"])
def test_too_many_events_in_a_request_are_refused(start: Start, item: bytes) -> None:
    collector = start(fork=False)
    collector.post("/v1/track", b"{}")
    before = memory(collector)
    listed = b",".join([item] * (7_000_000 // (len(item) + 1)))
    assert collector.post("/v1/batch", b'{"batch":[%s]}' % listed).status_code == 413
    lines = listed.replace(b",", b"\n")
    assert collector.post(f"/activity/{TOKEN}", lines, key=None).status_code == 413
    assert memory(collector) < before + 64
    assert len(collector.events()) == 1


def test_only_ordinary_bodies_may_need_the_slow_scanner(shared: Collector) -> None:
    event = (
        b'{"type":"track","event":"Email Opened","userId":"person_%024d",'
        b'"timestamp":"2024-01-01T00:00:00.000Z","properties":{"email":"a@example.com",'
        b'"email_subject":"\\ud800","transactional":false},"context":{"ip":"192.0.2.1"}}'
    )
    listed = b",".join(event.replace(b"\\ud800", b"Welcome") % n for n in range(30_000))
    batch = b'{"batch":[%s,%s]}' % (event % 1, listed)
    assert 7_000_000 < len(batch) < 8_000_000
    assert shared.post("/v1/batch", batch).status_code == 200
    nested = b'{"a":%s%s}' % (b"[" * 3_900_000, b"]" * 3_900_000)
    assert shared.post("/v1/track", nested).status_code == 413


def test_a_body_of_exactly_the_limit_is_accepted(start: Start) -> None:
    collector = start(max_body_mb=1)
    body = b'{"a": "%s"}' % (b"x" * ((1 << 20) - 9))
    assert collector.post("/v1/track", body).status_code == 200
    assert collector.post("/v1/track", body + b" ").status_code == 413
    packed = {"Content-Encoding": "gzip"}
    assert collector.post("/v1/track", gzip.compress(body), headers=packed).status_code == 200
    assert (
        collector.post("/v1/track", gzip.compress(body + b" "), headers=packed).status_code == 413
    )


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b""),
        (HEAD, b"408"),
        (HEAD + b"Content-Length: 20\r\n\r\n{", b"408"),
        (b"POST /", b"408"),
    ],
)
def test_slow_requests_and_silent_connections_are_closed(
    start: Start, sent: bytes, status: bytes
) -> None:
    collector = start(request_timeout=1)
    others = [collector.connect() for _ in range(100)]
    for one in others:
        one.sendall(sent)
    with collector.connect() as connection:
        connection.sendall(sent)
        for _ in range(3):  # an occasional byte does not extend the timeout
            time.sleep(0.25)
            if sent:
                connection.sendall(b"x")
            assert collector.post("/v1/track", b"{}").status_code == 200
        started = time.monotonic()
        answer = read_all(connection)
        assert time.monotonic() - started < 3.5
        assert answer.split(b" ")[1:2] == ([status] if status else [])
    for one in others:
        read_all(one)
        one.close()


def test_idle_connections_are_closed_and_busy_ones_kept(start: Start) -> None:
    collector = start(request_timeout=1)
    with collector.connect() as connection:
        for _ in range(5):
            connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")
            assert read_response(connection).startswith(b"HTTP/1.1 200")
            time.sleep(0.4)
        started = time.monotonic()
        assert read_all(connection) == b""
        assert time.monotonic() - started < 3


def test_time_before_a_request_is_not_counted(start: Start) -> None:
    collector = start(request_timeout=1)
    first, rest = HEAD + b"Content-Length: 2\r\n\r\n", b"{}"
    with collector.connect() as connection:
        time.sleep(0.7)
        for _ in range(3):
            connection.sendall(first)
            time.sleep(0.6)
            connection.sendall(rest + first)
            assert read_response(connection).startswith(b"HTTP/1.1 200")
            time.sleep(0.6)
            connection.sendall(rest)
            assert read_response(connection).startswith(b"HTTP/1.1 200")
            time.sleep(0.6)


def test_empty_lines_do_not_keep_a_connection_open(start: Start) -> None:
    collector = start(request_timeout=1)
    request = HEAD + b"Content-Length: 2\r\n\r\n{}"
    for sent in (b"", request):
        with collector.connect() as connection:
            connection.sendall(sent)
            time.sleep(0.4)
            connection.sendall(b"\r\n")
            started = time.monotonic()
            read_all(connection)
            assert time.monotonic() - started < 3


def test_pipelined_requests_are_answered_in_order(shared: Collector) -> None:
    good, bad = HEAD + b"Content-Length: 2\r\n\r\n{}", HEAD + b"Content-Length: 1\r\n\r\n{"
    with shared.connect() as connection:
        connection.sendall(good * 3 + bad)
        answer = b""
        while answer.count(b"}") < 4:
            answer += connection.recv(4096)
    statuses = re.findall(rb"HTTP/1.1 (\d+)", answer)
    assert statuses == [b"200", b"200", b"200", b"400"]


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (HEAD + b"Content-Length: 99999999\r\n\r\n{", b"413"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n%s\r\n" % (b" " * 65536) * 20, b"413"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"hello\r\n\r\n", b"400"),
        (b"GET http://: HTTP/1.1\r\n\r\n", b"400"),
        (HEAD + b"X: " + b"a" * 40_000 + b"\r\n\r\n", b"431"),
        (HEAD + b"Content-Length: 9\r\n\r\n{", b"408"),
    ],
    ids=range(7),
)  # fmt: skip
def test_a_refusal_comes_after_the_responses_to_earlier_requests(
    start: Start, bad: bytes, status: bytes
) -> None:
    collector = start(max_body_mb=1, request_timeout=1)
    good = HEAD + b'Content-Length: 8\r\n\r\n{"n": 1}'
    answer = collector.raw(good * 3 + bad)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200"] * 3 + [status]
    assert collector.bodies() == [b'{"n": 1}'] * 3
    assert collector.metric(f'requests_total{{route="refused",status="{status.decode()}"}}') == 1
    assert collector.metric("pending_bytes") == 0


def test_few_requests_can_be_sent_ahead(shared: Collector) -> None:
    for request in (
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
        HEAD + b"Content-Length: 2\r\n\r\n{}",
    ):
        answer = shared.raw(request * 1000)
        assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200"] * 10 + [b"503"]


def test_a_sender_that_reads_no_responses_is_disconnected(start: Start) -> None:
    collector = start(request_timeout=1)
    last = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with collector.connect() as connection, collector.connect() as closing:
        connection.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            for _ in range(20_000):  # until the buffers on the way are full of responses
                connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        closing.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 9 + last)
        assert collector.post("/v1/track", b"{}").status_code == 200
        wait_until(lambda: collector.metric("connections") == 1)  # the one that asks


def test_requests_before_one_that_is_cut_off_get_a_response(shared: Collector) -> None:
    good = HEAD + b"Content-Length: 2\r\n\r\n{}"
    for rest in (HEAD + b"Content-Length: 9\r\n\r\n{", HEAD, b"POST"):
        with shared.connect() as connection:
            connection.sendall(good * 2 + rest)
            connection.shutdown(socket.SHUT_WR)
            assert re.findall(rb"HTTP/1.1 (\d+)", read_all(connection)) == [b"200"] * 2


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
        connection.settimeout(0.5 if stays else 20)
        answers = b""
        with contextlib.suppress(TimeoutError):
            while part := connection.recv(4096):
                answers += part
    assert answers.count(b"HTTP/1.1 200") == (2 if stays else 1)
    assert (b"connection: close" in answers) == (not stays)
    assert re.search(rb"\r\ndate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", answers)


def test_a_sender_that_does_not_wait_for_its_responses_causes_no_errors(start: Start) -> None:
    collector = start()
    for _ in range(30):
        with collector.connect() as connection:
            connection.sendall((HEAD + b"Content-Length: 2\r\n\r\n{}") * 9)
            connection.recv(10)
    assert collector.stop() == 0
    assert "ERROR" not in collector.log.read_text()


def test_a_half_closed_connection_still_gets_a_response(shared: Collector) -> None:
    with shared.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).startswith(b"HTTP/1.1 200")


def test_a_sender_that_waits_for_100_continue_gets_it(shared: Collector) -> None:
    with shared.connect() as connection:
        connection.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 100")
        connection.sendall(b"{}")
        assert read_response(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("header", "body"),
    [(b"Content-Length: 8", b'{"n": 1}'), (b"Transfer-Encoding: chunked", b'8\r\n{"n": 1}\r\n0\r\n\r\n')],
)  # fmt: skip
def test_an_offer_of_another_protocol_is_ignored(start: Start, header: bytes, body: bytes) -> None:
    collector = start()
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
    request = HEAD + offer + header + b"\r\n\r\n" + body
    with collector.connect() as connection:
        for size in (len(request), 1, len(request) - 3):  # in one part, in many, in two
            for at in range(0, len(request), size):
                connection.sendall(request[at : at + size])
                time.sleep(0.001)
            assert read_response(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(request * 2)
        answers = b""
        while answers.count(b"}") < 2:
            answers += read_response(connection)
    assert answers.count(b"HTTP/1.1 200") == 2
    assert collector.bodies() == [b'{"n": 1}'] * 5


def test_half_a_request_stores_nothing(start: Start) -> None:
    collector = start()
    with collector.connect() as connection:
        connection.sendall(HEAD + b'Content-Length: 20\r\n\r\n{"a": 1}')
    assert collector.post("/v1/track", b"{}").status_code == 200
    assert collector.bodies() == [b"{}"]


def test_memory_stays_bounded_under_many_large_requests(start: Start) -> None:
    collector = start(fork=False, max_pending_mb=16, request_timeout=5)
    collector.post("/v1/track", b"{}")
    before = memory(collector)
    answers = []
    connections = []
    for _ in range(60):  # 60 bodies of 7 MB that never end
        connection = collector.connect()
        connection.setblocking(False)
        connections.append(connection)
        with contextlib.suppress(BlockingIOError):
            connection.sendall(HEAD + b"Content-Length: 8000000\r\n\r\n")
    rest = dict.fromkeys(connections, 7_000_000)
    chunk = b" " * 200_000
    deadline = time.monotonic() + 3
    peak = before
    while time.monotonic() < deadline:
        for connection in connections:
            try:
                if rest[connection] > 0:
                    rest[connection] -= connection.send(chunk)
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                pass
        peak = max(peak, memory(collector))
    for connection in connections:
        connection.setblocking(True)
        connection.settimeout(10)
        answers.append(read_all(connection)[:12])
        connection.close()
    assert peak < before + 80
    assert b"HTTP/1.1 503" in answers
    assert collector.post("/v1/track", b"{}").status_code == 200
    assert collector.metric("pending_bytes") == 0


def test_bodies_without_a_secret_in_the_headers_leave_room_for_others(start: Start) -> None:
    collector = start(max_pending_mb=16)
    connections = [collector.connect() for _ in range(4)]
    for connection in connections:  # 28 MB that never end
        connection.sendall(b"POST /v1/track HTTP/1.1\r\nContent-Length: 8000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            connection.sendall(b" " * 7_000_000)
    assert collector.metric("pending_bytes") <= 8 * 2**20
    assert collector.post("/v1/track", b"%s{}" % (b" " * 7_000_000)).status_code == 200
    for connection in connections:
        connection.close()
    deadline = time.monotonic() + 20
    while collector.metric("pending_bytes"):
        assert time.monotonic() < deadline
    assert collector.post("/v1/track", {"writeKey": KEY}, key=None).status_code == 200


def test_a_body_in_tiny_chunks_takes_little_memory_and_time(start: Start) -> None:
    collector = start(fork=False, request_timeout=60)
    chunks = b"Transfer-Encoding: chunked\r\n\r\n" + b"2\r\n  \r\n" * 1_000_000
    with collector.connect() as stranger:
        stranger.sendall(b"POST /v1/track HTTP/1.1\r\n" + chunks[:140_000])
        assert stranger.recv(12) == b"HTTP/1.1 413"
    before = memory(collector)
    with collector.connect() as connection:
        connection.sendall(HEAD + chunks)
        assert collector.post("/v1/track", b"{}").status_code == 200
        connection.sendall(b"2\r\n{}\r\n0\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"
    assert memory(collector, "VmHWM:") < before + 25


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"POST /nothing", b"404"),
        (b"POST /hooks/wrong", b"404"),
        (b"PUT /v1/track", b"405"),
        (b"POST /segment", b"401"),
        (b"GET /health", b"200"),
    ],
)
def test_bodies_that_cannot_be_accepted_are_not_kept(
    start: Start, line: bytes, status: bytes
) -> None:
    collector = start()
    with collector.connect() as connection:
        connection.sendall(line + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n")
        connection.sendall(bytes(7_999_999))
        time.sleep(0.2)
        assert collector.metric("pending_bytes") < 1_000_000
        connection.sendall(b"\0")
        assert read_response(connection).split(b" ")[1] == status


def test_retry_after_comes_with_503(start: Start) -> None:
    collector = start(max_pending_mb=0.01, max_body_mb=0.005)
    answer = collector.post("/v1/batch", {"batch": [{}] * 100})
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert requests.get(collector.url + "/health", timeout=9).status_code == 200
