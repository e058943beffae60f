"""Requests beyond the limits are refused, and cost the others nothing."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import re
from contextlib import ExitStack

import pytest

from tap_autopilot.collector import raw_json
from tap_autopilot.collector.http import MAX_HEADER_BYTES
from tap_autopilot.collector.request import MAX_CHUNKS, MAX_STRANGERS_CHUNKS, SHORT_CHUNK
from tests.collector.conftest import HEAD, KEY, REQUEST, Collector, Start, signature
from tests.collector.in_memory import Sender, serve, without_waiting
from tests.collector.test_connections import read_responses
from tests.conftest import PATIENCE, wait_until

# It takes 1 MB, and reads all of what it refuses, however long that takes.
SETTINGS_OF_ALL = {"constants": {"http.LINGER": PATIENCE}, "max_body_mb": 1}
KEY_IN_BODY = b'{"writeKey":"%s"}' % KEY.encode()
SECRET_IN_BODY = [
    b"POST /v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
    % (len(KEY_IN_BODY), KEY_IN_BODY),
    b"POST /segment HTTP/1.1\r\nHost: x\r\nX-Signature: %s\r\nContent-Length: 2\r\n\r\n{}"
    % signature(b"{}").encode(),
]
GOOD = HEAD + b'Content-Length: 8\r\n\r\n{"n": 1}'


@pytest.mark.parametrize(
    ("data", "status", "route"),
    [
        (HEAD + b"X: " + b"a" * 40_000 + b"\r\n\r\n", 431, "refused"),
        (HEAD + b"X: " + b"a" * 3_000_000, 431, "refused"),
        (b"GET /" + b"a" * 3_000_000, 431, "refused"),
        (HEAD + b"".join(b"X-%d: 1\r\n" % n for n in range(120)) + b"\r\n", 431, "refused"),
        (HEAD + b"".join(b"X-%d: 1\r\n" % n for n in range(20_000)) + b"\r\n", 431, "refused"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
         + b"".join(b"X-%d: 1\r\n" % n for n in range(120)) + b"\r\n", 431, "track"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: " + b"a" * 3_000_000, 431, "track"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"a" * 3_000_000, 431, "track"),
        (HEAD + b"Content-Length: %s9999999999\r\n\r\n{" % (b"0" * 9000), 413, "track"),
        (HEAD + b"Content-Length: 99999999\r\n\r\n{", 413, "track"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n%s\r\n" % (b" " * 65536) * 40, 413, "track"),
        (HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400, "refused"),
        (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400, "refused"),
        (HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", 400, "refused"),
        (HEAD + b"Content-Length: -2\r\n\r\n{}", 400, "refused"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n", 400, "track"),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "refused"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "refused"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400, "refused"),
        (HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n", 400, "refused"),
        (HEAD + b"Content-Length: 99999999999999999999\r\n\r\n", 400, "refused"),
        (b"hello\r\n\r\n", 400, "refused"),
        (b"GET http://: HTTP/1.1\r\n\r\n", 400, "refused"),
        (b"\r\n" * 1_000_000, 431, "refused"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400, "refused"),
    ],
    ids=range(25),
)  # fmt: skip
@pytest.mark.parametrize("ahead", [0, 3])
def test_requests_beyond_the_limits_are_refused_after_the_responses_to_earlier_ones(
    shared: Collector, data: bytes, status: int, route: str, ahead: int
) -> None:
    counter = f'requests_total{{route="{route}",status="{status}"}}'
    refused = shared.metric(counter)
    answer = shared.raw(GOOD * ahead + data)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200"] * ahead + [b"%d" % status]
    assert {"code", "message"} == set(json.loads(answer.rpartition(b"\r\n\r\n")[2]))
    assert shared.metric(counter) == (1 if math.isnan(refused) else refused + 1)
    assert shared.metric("pending_bytes") == 0
    assert shared.post("/v1/track", b"{}").status_code == 200
    assert shared.bodies() == [*[b'{"n": 1}'] * ahead, b"{}"]


@pytest.mark.parametrize(
    "data",
    [b"GET /", HEAD + b"X: ", HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: "],
    ids=["url", "header", "trailer"],
)
@without_waiting
async def test_unfinished_headers_are_refused_even_if_all_of_them_came_at_once(data: bytes) -> None:
    sender = Sender(serve())
    sender.send(GOOD + data + b"a" * 2 * MAX_HEADER_BYTES)
    await asyncio.sleep(0.1)
    assert sender.statuses == [200, 431]


@pytest.mark.parametrize(("size", "status"), [(1, 413), (SHORT_CHUNK - 1, 413), (SHORT_CHUNK, 200)])
@without_waiting
async def test_a_body_without_a_secret_in_its_headers_has_few_short_chunks(
    size: int, status: int
) -> None:
    sender = Sender(serve())
    chunk = b"%x\r\n%s\r\n"
    sender.send(b"POST /v1/track HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    sender.send(chunk % (size, b" " * size) * (MAX_STRANGERS_CHUNKS + 1))
    sender.send(chunk % (len(KEY_IN_BODY), KEY_IN_BODY) + b"0\r\n\r\n")
    await asyncio.sleep(PATIENCE)
    assert sender.statuses == [status]


@without_waiting
async def test_requests_sent_ahead_share_a_limit_of_short_chunks() -> None:
    """Ten of them, each with as many as one may have, took a second of everyone's time."""
    sender = Sender(serve())
    chunks = b"1\r\n{\r\n" + b"1\r\n \r\n" * (MAX_CHUNKS // 2 - 2) + b"1\r\n}\r\n0\r\n\r\n"
    request = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    for statuses in ([200, 200], [200, 200, 200, 200, 413]):
        sender.send(request * (len(statuses) - len(sender.statuses)))
        await asyncio.sleep(PATIENCE / 100)
        assert sender.statuses == statuses


def test_a_body_of_exactly_the_limit_is_accepted(shared: Collector) -> None:
    body = b'{"a": "%s"}' % (b"x" * ((1 << 20) - 9))
    packed = {"Content-Encoding": "gzip"}
    for more, status in ((b"", 200), (b" ", 413)):
        assert shared.post("/v1/track", body + more).status_code == status
        small = gzip.compress(body + more, 1)
        assert shared.post("/v1/track", small, headers=packed).status_code == status


def test_an_idle_collector_accepts_the_largest_batch(start: Start) -> None:
    collector = start(max_body_mb=1, max_pending_mb=1.1)
    batch = {"context": {"ip": "x" * 20}, "batch": [{"a": "x" * 32}] * raw_json.MAX_ITEMS}
    body = json.dumps(batch, separators=(",", ":")).encode()
    assert len(body) > 1_020_000
    assert collector.post("/v1/batch", body).status_code == 200
    assert len(collector.bodies()[-1]) * raw_json.MAX_ITEMS > 1_950_000
    assert collector.metric("pending_bytes") == 0


def test_retry_after_comes_with_503(start: Start) -> None:
    collector = start(min_free_mb=2**40)
    answer = collector.post("/v1/track", {})
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert collector.get("/health").status_code == 200


def test_connections_without_a_secret_make_room_for_others(start: Start) -> None:
    collector = start(constants={"http.MAX_CONNECTIONS": 4, "http.MAX_STRANGERS": 3})
    with ExitStack() as stack:
        for _ in range(9):
            stack.enter_context(collector.connect())
            stack.enter_context(collector.connect()).sendall(b"POST /v1/track HTTP/1.1\r\n")
            assert collector.post("/v1/track", b"{}").status_code == 200
        assert collector.metric("connections") == 3
        known = [stack.enter_context(collector.connect()) for _ in range(4)]
        for one, request in zip(known[1:], (REQUEST, *SECRET_IN_BODY), strict=True):
            one.sendall(request)
            assert read_responses(one, 1).startswith(b"HTTP/1.1 200 ")
        known[0] = stack.enter_context(collector.connect())
        known[0].sendall(REQUEST)
        assert read_responses(known[0], 1).startswith(b"HTTP/1.1 200 ")
        assert collector.raw(b"").startswith(b"HTTP/1.1 503 ")
        for one in known:
            one.sendall(REQUEST)
            assert read_responses(one, 1).startswith(b"HTTP/1.1 200 ")
    last = REQUEST.replace(b"Host: x", b"Connection: close")
    wait_until(lambda: collector.raw(last).startswith(b"HTTP/1.1 200 "))
