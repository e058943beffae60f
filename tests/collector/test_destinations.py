"""Forwarding: every event, in order, at least once, whatever the destination does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.collector.client import Client, NoResponse
from tap_autopilot.collector.config import destination_list
from tap_autopilot.collector.destinations import Forwarder
from tap_autopilot.collector.metrics import Metrics
from tap_autopilot.collector.reader import Event
from tap_autopilot.collector.sqlite import SqliteReader, SqliteStore
from tap_autopilot.collector.store import Cursor, Received
from tap_autopilot.collector.writer import Pending, Writer
from tap_autopilot.exceptions import RunError, UserError
from tests.collector.conftest import COMMAND, KEY, ROOT, TOKEN, Collector, Start, signature
from tests.conftest import wait_until

DESTINATION_KEY = "k3y-of-the-destination"


class Destination:
    """A server that keeps the batches it gets. `answer` returns status and headers for a batch."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []
        # Takes over a response; false if it is to be an ordinary one after all.
        self.behave: Callable[[BaseHTTPRequestHandler], bool] | None = None
        self.tries: list[float] = []
        self.answer: Callable[[list[Any]], tuple[int, dict[str, str]]] = lambda _: (200, {})
        self.authorizations: set[str | None] = set()
        self.sizes: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/batch"
                outer.authorizations.add(self.headers["Authorization"])
                found = json.loads(body)
                if outer.behave is not None:
                    outer.tries.append(time.monotonic())
                    if outer.behave(self):
                        return
                status, headers = outer.answer(found["batch"])
                if status == 200:
                    outer.batches.append(found)
                    outer.sizes.append(len(body))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def setting(self, name: str = "one", **more: Any) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.server.server_port}/v1"
        return {"name": name, "url": url, "write_key": DESTINATION_KEY, **more}

    @property
    def ids(self) -> list[str]:
        return [event["messageId"] for batch in self.batches for event in batch["batch"]]

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.ids) >= count)


@contextlib.contextmanager
def serving() -> Iterator[Destination]:
    found = Destination()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def destination() -> Iterator[Destination]:
    with serving() as found:
        yield found


@pytest.fixture
def other() -> Iterator[Destination]:
    with serving() as found:
        yield found


def send(collector: Collector, *ids: str, **more: Any) -> None:
    events = [{"type": "track", "event": "E", "messageId": one, **more} for one in ids]
    assert collector.post("/v1/batch", {"batch": events}).status_code == 200


def stats(collector: Collector, name: str = "one") -> dict[str, int]:
    found: dict[str, int] = json.loads(collector.run("--stats").stdout)["destinations"][name]
    return found


def test_track_calls_are_forwarded_unchanged_and_in_order(
    start: Start, destination: Destination
) -> None:
    collector = start(destinations=[destination.setting()])
    send(collector, "a", timestamp="t", originalTimestamp="o", sentAt="s")
    collector.post("/v1/identify", {"messageId": "no"})
    collector.post(f"/hooks/{TOKEN}", {"type": "track", "messageId": "no"})
    collector.post("/v1/track", b'{"event":"E","big":123456789012345678901234567890,"x":1e400}')
    send(collector, *(f"b{n}" for n in range(250)))
    destination.wait_for(252)
    assert destination.ids[0] == "a"
    assert destination.ids[2:] == [f"b{n}" for n in range(250)]
    first, second = [event for batch in destination.batches for event in batch["batch"]][:2]
    assert first == {
        "type": "track", "event": "E", "messageId": "a",
        "timestamp": "t", "originalTimestamp": "o", "sentAt": "s",
    }  # fmt: skip
    assert second["type"] == "track"
    assert second["big"] == 123456789012345678901234567890
    store_id = json.loads(collector.run("--stats").stdout)["store_id"]
    assert second["messageId"] == f"{store_id}-4"
    assert all(len(batch["batch"]) <= 100 and batch["sentAt"] for batch in destination.batches)
    basic = base64.b64encode(f"{DESTINATION_KEY}:".encode()).decode()
    assert destination.authorizations == {f"Basic {basic}"}
    time.sleep(0.7)
    assert stats(collector) == {"lag": 0, "sent": 252, "refused": 0}
    assert collector.metric('destination_sent_events{destination="one"}') == 252


def test_what_counts_as_an_email_event_is_forwarded(start: Start, destination: Destination) -> None:
    collector = start(destinations=[destination.setting()])
    opened = {"event": "Email Opened"}
    batch = [
        {**opened, "type": "Track", "messageId": "a"},
        {**opened, "messageId": "b"},
        {**opened, "type": "page", "messageId": "no"},
        {"messageId": "no"},
    ]
    collector.post("/v1/batch", {"batch": batch})
    webhook = json.dumps({**opened, "type": "", "messageId": "c"}).encode()
    headers = {"X-Signature": signature(webhook)}
    assert collector.post("/segment", webhook, headers=headers).status_code == 200
    collector.post("/v1/page", {**opened, "messageId": "no"})
    collector.post("/v1/track", {**opened, "messageId": "d"})
    destination.wait_for(4)
    assert destination.ids == ["a", "b", "c", "d"]
    forwarded = [event for batch in destination.batches for event in batch["batch"]]
    assert {event["type"] for event in forwarded} == {"track"}


def test_batches_stay_below_the_size_limit(start: Start, destination: Destination) -> None:
    collector = start(destinations=[destination.setting()])
    for part in range(4):
        send(collector, *(f"{part}-{n}" for n in range(30)), text="x" * 30_000)
    destination.wait_for(120)
    assert max(destination.sizes) < 480_000
    assert len(set(destination.ids)) == 120


def test_only_selected_and_only_new_events_are_forwarded(
    start: Start, destination: Destination
) -> None:
    collector = start()
    send(collector, "before")
    collector.stop()
    collector.settings["destinations"] = [
        destination.setting("now", events=["E"]),
        destination.setting("start", **{"from": "start"}),
    ]
    collector.start()
    send(collector, "after")
    collector.post("/v1/track", {"event": "Other", "messageId": "other"})
    destination.wait_for(4)
    assert sorted(destination.ids) == ["after", "after", "before", "other"]


def test_an_outage_loses_nothing_and_delays_no_other(
    start: Start, destination: Destination, other: Destination
) -> None:
    tries: list[float] = []

    def down(_: list[Any]) -> tuple[int, dict[str, str]]:
        tries.append(time.monotonic())
        return (503, {}) if len(tries) < 2 else (429, {"Retry-After": "1"})

    destination.answer = down
    collector = start(destinations=[destination.setting(), other.setting("other")])
    send(collector, "a", "b")
    other.wait_for(2)
    send(collector, "c")
    other.wait_for(3)
    wait_until(lambda: collector.metric('destination_lag_events{destination="one"}') == 3)
    wait_until(lambda: len(tries) >= 3)
    assert tries[2] - tries[1] >= 0.95
    destination.answer = lambda _: (200, {})
    collector.stop()
    collector.start()
    destination.wait_for(3)
    assert destination.ids == ["a", "b", "c"]
    assert other.ids == ["a", "b", "c"]


class FailingReader(SqliteReader):
    """A reader that reads one event at a time, and loses its connection after the first."""

    reads = 0

    def read(self, after: int, _: int) -> list[Event]:
        self.reads += 1
        if self.reads == 2:
            raise RunError("Lost the store.")
        return super().read(after, 1)


def test_an_interrupted_database_does_not_end_forwarding(
    destination: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tap_autopilot.collector.destinations.FIRST_WAIT", 0.05)
    database = str(tmp_path / "events.db")
    opened: list[SqliteReader] = []

    def open_store() -> SqliteReader:
        opened.append(FailingReader(database))
        if len(opened) in (1, 3):
            raise UserError("Cannot open the store.")
        return opened[-1]

    async def forward() -> None:
        store = SqliteStore(database)
        for body in (b'{"messageId":"1"}', b'{"messageId":"2"}'):
            store.append([Received(0, "segment", "track", "E", body, None, True)])
        store.save_cursor("one", Cursor(0, 0, 0))
        metrics = Metrics()
        writer = Writer(store, Pending(0), metrics, 0, lambda _: None)
        (to,) = destination_list([destination.setting()])
        job = asyncio.create_task(Forwarder(to, open_store, writer, metrics).run())
        while len(destination.ids) < 2 and not job.done():
            await asyncio.sleep(0.05)
        job.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await job
        await writer.close()
        store.close()

    asyncio.run(asyncio.wait_for(forward(), 20))
    assert destination.ids == ["1", "2"]


def test_an_impossible_host_name_is_refused(tmp_path: Path) -> None:
    url = f"https://{'a' * 70}.example.com/v1"
    destination = {"name": "one", "url": url, "write_key": DESTINATION_KEY}
    done = Collector(tmp_path, destinations=[destination]).run("--check")
    assert done.returncode == 2
    assert "destinations (one): has an invalid host name" in done.stderr


def test_rejected_events_are_isolated_and_skipped(start: Start, destination: Destination) -> None:
    bad = {"n3", "n7"}
    destination.answer = lambda batch: (
        (400, {}) if bad & {event["messageId"] for event in batch} else (200, {})
    )
    collector = start(destinations=[destination.setting()])
    send(collector, *(f"n{n}" for n in range(10)))
    destination.wait_for(8)
    assert destination.ids == [f"n{n}" for n in range(10) if f"n{n}" not in bad]
    time.sleep(0.7)
    assert stats(collector) == {"lag": 0, "sent": 8, "refused": 2}
    collector.stop()
    assert collector.log.read_text().count("which it rejected") == 1
    assert DESTINATION_KEY not in collector.log.read_text()


def endless(response: BaseHTTPRequestHandler) -> bool:
    response.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    with contextlib.suppress(OSError):
        while True:
            response.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
    return True


def dripping(response: BaseHTTPRequestHandler) -> bool:
    response.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    with contextlib.suppress(OSError):
        while True:
            response.wfile.write(b"x")
            time.sleep(0.1)
    return True


def cut_off(response: BaseHTTPRequestHandler) -> bool:
    response.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc")
    response.close_connection = True
    return True


def test_of_a_body_that_nobody_needs_little_is_read(destination: Destination) -> None:
    sent: list[int] = []
    over = threading.Event()

    def count(response: BaseHTTPRequestHandler) -> bool:
        response.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        with contextlib.suppress(OSError):
            for megabyte in range(1000):
                response.wfile.write(b"x" * 1_000_000)
                sent.append(megabyte)
        over.set()
        return True

    destination.behave = count
    response = Client(destination.setting()["url"]).send("POST", "/batch", b'{"batch":[]}')
    assert (response.status, response.body) == (200, None)
    assert over.wait(20)
    assert len(sent) < 50  # what the system's buffers hold


def test_a_destination_that_hangs_does_not_delay_the_end(
    start: Start, destination: Destination
) -> None:
    destination.behave = silent
    collector = start(fork=False, destinations=[destination.setting()])
    send(collector, "a")
    wait_until(lambda: bool(destination.tries))
    began = time.monotonic()
    assert collector.stop() == 0
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("behave", [endless, dripping, cut_off])
def test_the_status_decides_whatever_the_body_does(
    start: Start, destination: Destination, behave: Any
) -> None:
    destination.behave = behave
    collector = start(destinations=[destination.setting()])
    send(collector, "a")
    wait_until(lambda: collector.metric('destination_sent_events{destination="one"}') >= 1)
    assert len(destination.tries) == 1


def silent(response: BaseHTTPRequestHandler) -> bool:
    """Headers that never end."""
    response.wfile.write(b"HTTP/1.1 200 OK\r\n")
    with contextlib.suppress(OSError):
        for number in range(200):
            response.wfile.write(b"X-%d: x\r\n" % number)
            time.sleep(0.1)
    return True


def test_an_exchange_ends_at_its_deadline(
    destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tap_autopilot.collector.client.DEADLINE", 0.5)
    destination.behave = silent
    client = Client(destination.setting()["url"])
    began = time.monotonic()
    with pytest.raises(NoResponse, match=r"timed out after 0\.5 s"):
        client.send("POST", "/batch", b'{"batch":[]}')
    assert time.monotonic() - began < 10
    destination.behave = None
    assert client.send("POST", "/batch", b'{"batch":[]}').status == 200


@pytest.mark.parametrize("asked", ["0", "Mon, 01 Jan 2024 00:00:00 GMT", "-5", "soon", None])
def test_a_destination_that_asks_for_no_wait_is_not_hammered(
    start: Start, destination: Destination, asked: str | None
) -> None:
    tries: list[float] = []

    def busy(_: list[Any]) -> tuple[int, dict[str, str]]:
        tries.append(time.monotonic())
        return 503, {} if asked is None else {"Retry-After": asked}

    destination.answer = busy
    collector = start(destinations=[destination.setting()])
    send(collector, "a")
    time.sleep(3)
    assert 1 <= len(tries) <= 4
    assert all(later - earlier > 0.6 for earlier, later in itertools.pairwise(tries))


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405, 407, 408, 425, 429, 500, 502, 503])
def test_what_a_mended_setting_or_time_cures_skips_nothing(
    start: Start, destination: Destination, status: int
) -> None:
    statuses = [status]
    destination.answer = lambda _: (statuses.pop(), {}) if statuses else (200, {})
    collector = start(destinations=[destination.setting()])
    send(collector, "a", "b")
    destination.wait_for(2)
    assert destination.ids == ["a", "b"]
    wait_until(lambda: "Destination one: works again" in collector.log.read_text())
    assert f"Destination one: HTTP {status}; retrying" in collector.log.read_text()
    wait_until(lambda: stats(collector) == {"lag": 0, "sent": 2, "refused": 0})


@pytest.mark.parametrize("status", [400, 402, 406, 409, 410, 413, 415, 422, 451])
def test_a_destination_that_refuses_every_event_loses_none(
    start: Start, destination: Destination, status: int
) -> None:
    refusing = [True]
    destination.answer = lambda _: (status, {}) if refusing else (200, {})
    collector = start(destinations=[destination.setting()])
    send(collector, "a", "b", "c")
    wait_until(lambda: "rejects every event, such as a" in collector.log.read_text())
    refusing.clear()
    send(collector, "d")
    destination.wait_for(4)
    assert destination.ids == ["a", "b", "c", "d"]


def test_each_kind_of_trouble_is_told_and_so_are_all_events_given_up(
    start: Start, destination: Destination
) -> None:
    statuses = [503, 429]
    bad = {"n1", "n2", "m1"}

    def answer(batch: list[Any]) -> tuple[int, dict[str, str]]:
        if statuses:
            return statuses.pop(), {}
        return (400 if bad & {one["messageId"] for one in batch} else 200), {}

    destination.answer = answer
    collector = start(destinations=[destination.setting()])
    send(collector, "n0", "n1", "n2")
    destination.wait_for(1)
    send(collector, "m0", "m1")
    destination.wait_for(2)
    time.sleep(1.5)
    log = collector.log.read_text()
    assert "HTTP 503; retrying" in log
    assert "HTTP 429; retrying" in log
    assert (
        "skipped 2 of 3 events, which it rejected (HTTP 400); the first one's messageId is n1"
        in log
    )
    assert "skipped 1 of 2 events" in log
    assert stats(collector)["refused"] == 3


def test_names_of_events_count_in_any_spelling(start: Start, destination: Destination) -> None:
    chosen = ["email_OPENED", "Email Clicked", "order-completed"]
    collector = start(destinations=[destination.setting(events=chosen)])
    names = ["Email Opened", "emailOpened", "Email Link Clicked", "Order Completed", "Other"]
    for name in names:
        send(collector, name, event=name)
    destination.wait_for(4)
    assert destination.ids == names[:4]


def test_large_events_are_read_once(destination: Destination, tmp_path: Path) -> None:
    """What does not fit into a batch is kept for the next one."""
    database = str(tmp_path / "events.db")
    read: list[int] = []

    class CountingReader(SqliteReader):
        def read(self, after: int, limit: int) -> list[Event]:
            found = super().read(after, limit)
            read.extend(event.seq for event in found)
            return found

    asyncio.run(asyncio.wait_for(forwarding(database, CountingReader, destination, 600), 60))
    assert destination.ids == [str(number) for number in range(600)]
    assert sorted(read) == list(range(1, 601))


async def forwarding(database: str, reader: Any, destination: Destination, count: int) -> None:
    store = SqliteStore(database)
    text = b"x" * 30_000
    for number in range(count):
        body = b'{"messageId":"%d","x":"%s"}' % (number, text)
        store.append([Received(0, "segment", "track", "E", body, None, True)])
    store.save_cursor("one", Cursor(0, 0, 0))
    metrics = Metrics()
    writer = Writer(store, Pending(0), metrics, 0, lambda _: None)
    (to,) = destination_list([destination.setting()])
    job = asyncio.create_task(Forwarder(to, lambda: reader(database), writer, metrics).run())
    while len(destination.ids) < count and not job.done():
        await asyncio.sleep(0.05)
    job.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await job
    await writer.close()
    assert store.cursors()["one"].seq >= count - 100  # saved at least once a second, and at the end
    store.close()


def test_a_proxy_never_sees_what_goes_to_this_machine(
    start: Start, destination: Destination, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    collector = start(destinations=[destination.setting()])
    monkeypatch.undo()
    send(collector, "a")
    destination.wait_for(1)
    basic = base64.b64encode(f"{DESTINATION_KEY}:".encode()).decode()
    assert destination.authorizations == {f"Basic {basic}"}


def test_an_unusable_proxy_is_reported_at_the_start(tmp_path: Path) -> None:
    to = {"name": "one", "url": "https://example.com/v1", "write_key": DESTINATION_KEY}
    done = Collector(tmp_path, destinations=[to]).run(HTTPS_PROXY="http://:x@")
    assert done.returncode == 2
    assert "HTTPS_PROXY" in done.stderr


def test_a_destination_that_left_the_settings_is_told_and_can_be_forgotten(
    start: Start, destination: Destination
) -> None:
    collector = start(destinations=[destination.setting("old"), destination.setting("one")])
    done = collector.run("--forget-destination", "old")
    assert done.returncode == 2
    assert "still in the settings" in done.stderr
    collector.stop()
    collector.settings["destinations"] = [destination.setting("one")]
    collector.start()
    assert "Destination old is no longer in the settings" in collector.log.read_text()
    done = collector.run("--forget-destination", "other")
    assert done.returncode == 2
    assert "no destination of this name" in done.stderr
    assert "old, one" in done.stderr
    done = collector.run("--forget-destination", "old")
    assert done.stdout == "Forgot destination old.\n", done.stderr
    assert stats(collector).keys() == {"lag", "sent", "refused"}
    assert "old" not in json.loads(collector.run("--stats").stdout)["destinations"]


def test_a_wrong_key_skips_nothing(start: Start, destination: Destination) -> None:
    destination.answer = lambda _: (401, {})
    collector = start(destinations=[destination.setting()])
    send(collector, "a")
    time.sleep(0.5)
    destination.answer = lambda _: (200, {})
    destination.wait_for(1)
    assert destination.ids == ["a"]


def test_events_not_yet_forwarded_are_not_pruned(start: Start, destination: Destination) -> None:
    destination.answer = lambda _: (500, {})
    collector = start(destinations=[destination.setting()])
    send(collector, "a", event="Email Opened")
    store_id = json.loads(collector.run("--stats").stdout)["store_id"]
    path = collector.folder / "state.json"
    path.write_text(json.dumps({"bookmarks": {"email_opened": {"collected": [store_id, 1]}}}))
    without_config = [*COMMAND, "--database", collector.database, "--prune", "--state", str(path)]
    for running in (True, False):
        if not running:
            collector.stop()
        done = subprocess.run(without_config, cwd=ROOT, capture_output=True, text=True, check=True)
        for pruned in (done, collector.run("--prune", "--state", str(path))):
            assert pruned.stdout.startswith("Pruned 0 events ")
            assert "destination one has not received yet (lag: 1)" in pruned.stderr
    collector.settings["destinations"] = []
    assert collector.run("--prune", "--state", str(path)).stdout.startswith("Pruned 1 events ")


def test_a_new_destination_holds_pruning_back_only_if_it_starts_at_the_oldest_event(
    start: Start, destination: Destination
) -> None:
    collector = start()
    send(collector, "a", event="Email Opened")
    collector.stop()
    store_id = json.loads(collector.run("--stats").stdout)["store_id"]
    path = collector.folder / "state.json"
    path.write_text(json.dumps({"bookmarks": {"email_opened": {"collected": [store_id, 1]}}}))
    for origin, pruned in (("start", 0), ("now", 1)):
        collector.settings["destinations"] = [destination.setting(**{"from": origin})]
        done = collector.run("--prune", "--state", str(path))
        assert done.stdout.startswith(f"Pruned {pruned} events ")


def test_another_collector_can_be_the_destination(start: Start, tmp_path_factory: Any) -> None:
    other = Collector(tmp_path_factory.mktemp("other")).start()
    try:
        to_other = {"name": "other", "url": other.url + "/v1", "write_key": KEY}
        collector = start(destinations=json.dumps([to_other]))
        send(collector, "a", "b")
        wait_until(lambda: len(other.bodies()) >= 2)
        assert [json.loads(body)["messageId"] for body in other.bodies()] == ["a", "b"]
    finally:
        other.stop()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"name": "x", "url": "http://example.com/v1", "write_key": "k"}, "https"),
        ({"name": "x", "url": "https://example.com/v1"}, "write_key"),
        ({"name": "x", "url": "https://x/v1", "write_key": "k", "color": 1}, "color"),
        ({"name": "x", "url": "https://x/v1", "write_key": "k", "from": "then"}, "from"),
        ({"name": "x", "url": "https://x/v1", "write_key": "kéy"}, "ASCII"),
        ({"name": "x", "url": "https://x/v1", "write_key": "k", "events": []}, "events"),
        ([1], "objects"),
        ("{", "JSON"),
    ],
    ids=range(8),
)
def test_invalid_destinations(tmp_path: Any, setting: Any, said: str) -> None:
    given = [setting] if isinstance(setting, dict) else setting
    done = Collector(tmp_path, destinations=given).run()
    assert done.returncode == 2
    assert said in done.stderr
