"""What senders without a secret cost: what their bytes cost, and never the others' time."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from benchmarks.strangers import attacks
from tap_autopilot.collector import events, keys, raw_json
from tap_autopilot.collector.events import Contents
from tap_autopilot.collector.pending import Pending
from tap_autopilot.collector.raw_json import NotJson, TooLarge, TooSlow
from tap_autopilot.collector.request import Refusal, Request
from tap_autopilot.collector.threads import MAX_STRANGERS_WAITING, MAX_WAITING, THREADS, Threads
from tests.collector.conftest import (
    REQUEST,
    Collector,
    Start,
    in_a_loop,
    read_all,
    sending,
    signature,
)
from tests.collector.in_memory import Sender, serve, without_waiting
from tests.collector.test_fuzz_events import READERS
from tests.collector.test_limits import SECRET_IN_BODY
from tests.conftest import PATIENCE

MB = 2**20


def found_in(*parts: bytes) -> list[str]:
    return list(keys.in_body(parts))


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"writeKey":"a"}', ["a"]),
        (b'{"x":{"writeKey" \t\r\n:\n "a"}}', ["a"]),
        (b'{"writeKey":"a","writeKey":"b"}', ["a", "b"]),
        (b'{"write\\u004bey":"a"}', ["a"]),
        (b'{"write\\u004Bey":"a"}', ["a"]),
        (b'{"\\u0077\\u0072\\u0069\\u0074\\u0065\\u004b\\u0065\\u0079":"a"}', ["a"]),
        (b'{"writeKey":"\\u0061\\"\\\\b"}', ['a"\\b']),
        (b'{"writeKey":"Zo\xc3\xab"}', ["Zo\u00eb"]),
        (b'{"writeKey":5,"writeKey":null,"writeKey":{"writeKey":"a"}}', ["a"]),
        (b'{"writekey":"a","write_key":"b","xwriteKey":"d"}', []),
        (b'{"writeKey":"a', []),
        (b'{"writeKey":"\xff","writeKey":"\\x","writeKey":"\n"}', []),
        (b"", []),
    ],
)  # fmt: skip
def test_write_keys_are_found_however_they_are_spelled(body: bytes, found: list[str]) -> None:
    assert found_in(body) == found
    for at in range(len(body)):
        assert set(found_in(body[:at], body[at:])) == set(found), "in two parts"
    for size in (keys.WINDOW - len(body) // 2, keys.WINDOW, 3 * keys.WINDOW - 9):
        assert set(found_in(b" " * size + body + b" " * size)) == set(found), "between windows"


def test_few_wrong_write_keys_are_tried() -> None:
    wrong = [b'"writeKey":"%d",' % number for number in range(20_000)]
    assert len(found_in(b"".join(wrong))) == keys.MAX_TRIED + 1
    assert found_in(b'"writeKey":"a",' * 9000, b'"writeKey":"b"') == ["a", "b"]
    assert found_in(b'"writeKey":null,' * 9000, b'"writeKey":"b"') == ["b"]


def test_requests_without_a_secret_take_little_time_to_refuse(shared: Collector) -> None:
    """A second of CPU for 8 MB is 40 times what it takes; parsing these took up to 8 seconds."""
    for name, request in attacks().items():
        before = _cpu_seconds(shared)
        with shared.connect() as connection:
            connection.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            status = int(read_all(connection).split(b" ")[1])
        assert status in ((200,) if name == "metrics" else (400, 401, 404, 413)), name
        assert _cpu_seconds(shared) - before < 1, name


def _cpu_seconds(collector: Collector) -> float:
    stat = Path(f"/proc/{collector.process.pid}/stat").read_text()
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.parametrize(
    "body", [b"{", b'{"a":%s' % (b"[" * 3000), b"\xff", b"5", b'{"writeKey":"x",', b"[]"]
)
@pytest.mark.parametrize("path", ["/v1/track", "/v1/batch", "/segment"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_body_is_not_judged_before_its_sender_has_shown_a_secret(
    shared: Collector, path: str, body: bytes, packed: bool
) -> None:
    headers = {"X-Signature": signature(b"another")}
    if packed:
        body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
    assert shared.post(path, body, key=None, headers=headers).status_code == 401
    assert shared.post(path, body, key="wrong", headers=headers).status_code == 401
    if path == "/segment":
        assert shared.post(path, body, headers=headers).status_code in (400, 401)
    else:
        assert shared.post(path, body, headers=headers).status_code == 400


def test_good_senders_are_served_while_strangers_send_at_full_speed(start: Start) -> None:
    """Alone on a machine, the slowest of these takes some 50 ms."""
    collector = start()
    chosen = ["gzip of zeros", "deep nesting", "wrong keys", "gzip with a wrong signature"]
    requests = [attacks()[name] for name in chosen]

    def send(worker: int, over: threading.Event) -> None:
        request = requests[worker].replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        while not over.is_set():
            with collector.connect() as connection:
                connection.sendall(request)
                read_all(connection)

    took = []
    packed = {"Content-Encoding": "gzip"}
    with sending(send, len(chosen)):
        for headers, body in [({}, b"{}"), (packed, gzip.compress(b"{}"))] * 5:
            started = time.monotonic()
            assert collector.post("/v1/track", body, headers=headers).status_code == 200
            took.append(time.monotonic() - started)
    assert sorted(took)[len(took) * 9 // 10] < 5


@without_waiting
async def test_a_request_without_a_secret_in_its_headers_has_a_turn_of_the_loop_to_itself() -> None:
    server = serve()
    strangers = [Sender(server) for _ in range(9)]
    for stranger in strangers:
        stranger.send(SECRET_IN_BODY[0] * 2)
    for gone in [Sender(server) for _ in range(9)]:
        gone.send(SECRET_IN_BODY[0])
        gone.go()
    assert len(server.turns._waiting) == len(strangers)  # nothing is kept of the others
    known = Sender(server)
    known.send(REQUEST)
    assert known.statuses == [200]
    answered = 0
    for _ in range(100):
        before, answered = answered, sum(len(stranger.statuses) for stranger in strangers)
        assert answered <= before + 1
        await asyncio.sleep(0)
    await asyncio.sleep(0.5)  # a slow machine's pauses
    assert [stranger.statuses for stranger in strangers] == [[200, 200]] * 9


KNOWN = b"the digest of a secret"
ODD = b'"\\ud800"'
SCANNED = {
    "call": b'{"a":%s,"writeKey":"k","event":%s,"context":{"b":%s}}' % (ODD, ODD, ODD),
    "batch": b'{"context":{"a":%s},"integrations":{"c":%s},"writeKey":%s,"batch":[%s]}'
    % (ODD, ODD, ODD, b",".join([b'{"context":{"b":%s},"writeKey":%s}' % (ODD, ODD)] * 50)),
    "webhook": b"[%s]" % b",".join([b'{"messageId":%s,"writeKey":"k","a":%s}' % (ODD, ODD)] * 50),
    "hook": b'{"event":%s}' % ODD,
    "activity": b"[%s]" % b",".join([b'{"event":"e","a":%s}' % ODD] * 50),
    "batch, nested": b'{"batch":[{"writeKey":1,"a":%s%s}]}' % (b"[" * 99_000, b"]" * 99_000),
}


@pytest.mark.parametrize("name", sorted(SCANNED))
def test_the_slow_scanner_reads_a_body_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = raw_json._scan
    scanned: list[int] = []

    def counted(data: bytes) -> bytes:
        scanned.append(len(data))
        return scan(data)

    monkeypatch.setattr(raw_json, "_scan", counted)
    body, reader = SCANNED[name], READERS[name.partition(",")[0]]
    found = reader(body)
    assert found.events
    assert scanned == [len(body)]
    assert all(type(event.body) is bytes for event in found.events)
    assert b"writeKey" not in b"".join(event.body for event in found.events)


def test_the_scanner_takes_little_memory() -> None:
    """It took 230 MB for these 2 MB, and as long without letting another thread go on."""
    text = b"\\n" * 10**6
    for body in (b'{"a":"\\ud800","b":"%s"}' % text, b'{"a":"\\ud800","%s":1}' % text):
        tracemalloc.start()
        (event,) = events.from_call("track", body, 0).events
        assert tracemalloc.get_traced_memory()[1] < 8 * len(body)
        tracemalloc.stop()
        assert event.body == body
        for wrong in (body[:-4] + b'\\"}', body[:-4] + b'\1"}', body[:-4] + b'\\q"}'):
            with pytest.raises(NotJson):
                events.from_call("track", wrong, 0)


def test_no_object_of_many_members_is_split_by_the_scanner_either() -> None:
    """One of 480,000, in 1 MB of gzip, took 230 MB in each of two threads, and in the forwarder."""
    for number, is_too_large in ((raw_json.MAX_COLONS - 9, False), (480_000, True)):
        many = b",".join(b'"%d":1' % member for member in range(number))
        body = b'{"writeKey":"k","a":"\\ud800",%s}' % many
        tracemalloc.start()
        with pytest.raises(TooLarge) if is_too_large else nullcontext():
            events.from_call("track", body, 0)
        assert tracemalloc.get_traced_memory()[1] < 40 * MB
        tracemalloc.stop()


MEMBERS = b",".join(b'"%d":0' % number for number in range(1100))
LONG = {
    "hook": b"[%s]" % b",".join([b"{}"] * 1100),
    "activity": b"[%s]" % b",".join([b"[]"] * 1100),
    "activity, lines": b"5" + b"\n{}" * 1100,
    "webhook": b"[%s]" % b",".join([b"{}"] * 1100),
    "batch": b'{"batch":[%s]}' % b",".join([b"{}"] * 1100),
    "batch, shared": b'{"context":{%s},"batch":[%s]}' % (MEMBERS, b",".join([b'{"context":{}}'] * 99)),
    "call": b'{"writeKey":"k",%s}' % MEMBERS,
}  # fmt: skip


@pytest.mark.parametrize(("name", "body"), [*SCANNED.items(), *LONG.items()])
def test_what_takes_long_is_not_done_in_an_event_loop(name: str, body: bytes) -> None:
    """128 kB of these took up to 1.7 s, in which nobody else was served."""
    reader = READERS[name.partition(",")[0]]
    assert reader(body).events

    async def read_in_an_event_loop() -> None:
        with pytest.raises(TooSlow):
            reader(body)

    asyncio.run(read_in_an_event_loop())


def test_what_a_batch_shares_is_spelled_once_and_not_for_each_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which took 1.5 s for a body of 2 kB, in which another sender's larger bodies waited."""
    quoted = raw_json._quoted
    names: list[str] = []

    def noted(name: str) -> bytes:
        names.append(name)
        return quoted(name)

    monkeypatch.setattr(raw_json, "_quoted", noted)
    event = b'{"context":{"own":1}}'
    body = b'{"context":{"a":1,"b":2},"batch":[%s]}' % b",".join([event] * 50)
    found = events.from_batch(MB, body, 0).events
    assert json.loads(found[-1].body)["context"] == {"a": 1, "b": 2, "own": 1}
    assert names.count("a") == names.count("b") == 1


def test_ordinary_bodies_are_within_the_scanners_limit_and_lines_share_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a 50th of the limit, and of a body of 8 MB."""
    monkeypatch.setattr(raw_json, "MAX_TOKENS", raw_json.MAX_TOKENS // 50)
    monkeypatch.setattr(raw_json, "MAX_COLONS", raw_json.MAX_COLONS // 50)
    event = (
        b'{"type":"track","event":"Email Opened","userId":"person_%024d",'
        b'"timestamp":"2024-01-01T00:00:00.000Z","properties":{"email":"a@example.com",'
        b'"email_subject":"\\ud800","transactional":false},"context":{"ip":"192.0.2.1"}}'
    )
    batch = b'{"batch":[%s]}' % b",".join(event % number for number in range(710))
    assert 50 * len(batch) > 8 * MB
    assert len(events.from_batch(MB, batch, 0).events) == 710
    with pytest.raises(raw_json.TooLarge):
        events.from_call("track", b'{"a":%s%s}' % (b"[" * 20_000, b"]" * 20_000), 0)
    line = b"[%s%s]" % (b"[" * 10_000, b"]" * 10_000)
    with pytest.raises(raw_json.TooLarge):
        events.from_activity(b"\n".join([line] * 3), 0)


class Slow:
    """Work that ends when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.order: list[Any] = []

    def work(self, name: Any) -> Callable[[], Contents]:
        def run() -> Contents:
            self.order.append(name)
            self.go.wait(PATIENCE)
            time.sleep(0.01)  # so that no thread gets far ahead of the other
            return Contents([])

        return run


def request(secret: bytes | None = None) -> Request:
    one = Request(lambda *_: None, Pending(MB), b"POST", b"/v1/track", {})
    one.secret = secret
    return one


@pytest.fixture
def slow() -> Iterator[Slow]:
    one = Slow()
    yield one
    one.go.set()


@in_a_loop
async def test_few_strangers_may_wait_for_a_thread(slow: Slow) -> None:
    threads = Threads()
    done: list[object] = []
    senders = [request() for _ in range(MAX_STRANGERS_WAITING + 1)]
    for number, sender in enumerate(senders):
        threads.run(sender, slow.work(number), done.append)
    with pytest.raises(Refusal, match="waiting"):
        threads.run(request(), slow.work("one too many"), done.append)
    for sender in senders[1:6]:
        sender.gone = True  # makes room for others
    for _ in range(5):
        threads.run(request(), slow.work("later"), done.append)
    with pytest.raises(Refusal):
        threads.run(request(), slow.work("one too many"), done.append)
    threads.run(request(KNOWN), slow.work("known"), done.append)  # has a thread at once
    while slow.order != [0, "known"]:
        await asyncio.sleep(0.01)
    threads.run(request(KNOWN), slow.work("known"), done.append)  # and the next one
    slow.go.set()
    while len(done) < MAX_STRANGERS_WAITING + 3:
        await asyncio.sleep(0.01)
    assert "known" in slow.order[2:4]  # two threads begin at once
    strangers = [one for one in slow.order if one != "known"]
    assert strangers == [0, *range(6, MAX_STRANGERS_WAITING + 1), *["later"] * 5]
    threads.close()


@in_a_loop
async def test_many_senders_with_a_secret_may_wait(slow: Slow) -> None:
    threads = Threads()
    done: list[object] = []
    for number in range(THREADS + MAX_WAITING):
        threads.run(request(KNOWN), slow.work(number), done.append)
    with pytest.raises(Refusal):
        threads.run(request(KNOWN), slow.work("one too many"), done.append)
    threads.run(request(b"another"), slow.work("another"), done.append)
    threads.close()
    assert [str(one) for one in done] == ["shutting down"] * (MAX_WAITING + 1)
    with pytest.raises(Refusal, match="shutting down"):
        threads.run(request(KNOWN), slow.work("too late"), done.append)


@pytest.mark.parametrize("secret", [b"another", None])
@in_a_loop
async def test_no_sender_waits_for_all_that_another_one_has_sent(
    slow: Slow, secret: bytes | None
) -> None:
    """Nor do those whose secret is in the body, which a thread is to look for."""
    threads = Threads()
    done: list[object] = []
    for number in range(20):
        threads.run(request(KNOWN), slow.work(number), done.append)
    for name in ("a", "b"):
        threads.run(request(secret), slow.work(name), done.append)
    slow.go.set()
    while len(done) < 22:
        await asyncio.sleep(0.01)
    threads.close()
    assert slow.order.index("a") < 6  # two threads begin at once
    assert slow.order.index("b") < 8


@in_a_loop
async def test_a_bug_in_a_thread_is_a_500_that_senders_repeat() -> None:
    threads = Threads()
    done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    threads.run(request(KNOWN), lambda: Contents([][1]), done.set_result)
    result = await done
    threads.close()
    assert isinstance(result, Refusal)
    assert result.status == 500
    assert json.loads(result.body)["code"] == "internal_error"
