"""Forwarding: which events, in order, at least once, and how far each destination has got."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.amounts import amount
from tap_autopilot.collector import destinations
from tap_autopilot.collector.cli import main
from tap_autopilot.collector.config import destination_list
from tap_autopilot.collector.database import open_reader
from tap_autopilot.collector.destinations import Forwarder
from tap_autopilot.collector.metrics import Metrics
from tap_autopilot.collector.pending import Pending
from tap_autopilot.collector.reader import Cursor, Event, Reader
from tap_autopilot.collector.sqlite import SqliteReader, SqliteStore
from tap_autopilot.collector.store import Store
from tap_autopilot.collector.track_calls import TrackCall, TrackCalls
from tap_autopilot.collector.writer import Writer
from tap_autopilot.exceptions import RunError, UserError
from tests.collector import destination as servers
from tests.collector.conftest import KEY, ROOT, TOKEN, Collector, Start, event, in_a_loop
from tests.collector.destination import Destination
from tests.collector.test_prune import state
from tests.conftest import PATIENCE, wait_until
from tests.fork_server import finished

BASIC = "Basic " + base64.b64encode(f"{servers.KEY}:".encode()).decode()


def send(collector: Collector, *ids: str, **more: Any) -> None:
    events = [{"type": "track", "event": "E", "messageId": one, **more} for one in ids]
    assert collector.post("/v1/batch", {"batch": events}).status_code == 200


def progress(collector: Collector, name: str = "one") -> dict[str, int]:
    """How far a destination has got, as the store says."""
    with open_reader(collector.database) as reader:
        found: dict[str, int] = reader.stats()["destinations"][name]
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
    with open_reader(collector.database) as reader:
        (event,) = reader.read(3, 1)
        assert second["messageId"] == f"{reader.store_id}-4-{event.received_at}"
    assert all(len(batch["batch"]) <= 100 and batch["sentAt"] for batch in destination.batches)
    assert destination.authorizations == {BASIC}
    wait_until(lambda: collector.metric('destination_sent_events{destination="one"}') == 252)
    assert json.loads(collector.run("--stats").stdout)["destinations"] == {
        "one": {"lag": 0, "sent": 252, "refused": 0}
    }


def test_which_events_are_forwarded(
    start: Start, destination: Destination, other: Destination
) -> None:
    """All track calls, from the start or from now on, or those of some names in any spelling."""
    collector = start()
    send(collector, "before")
    names = ["email_OPENED", "Email Clicked", "order-completed"]
    collector.restart(
        destinations=[
            destination.setting("start", **{"from": "start"}),
            other.setting("now", events=names),
        ]
    )
    spelled = ["Email Opened", "emailOpened", "Email Link Clicked", "Order Completed"]
    for name in (*spelled, "Other"):
        send(collector, name, event=name)
    opened = {"event": "Email Opened"}
    odd = [{**opened, "type": "Track", "messageId": "a"}, {**opened, "messageId": "b"},
           {**opened, "type": "page", "messageId": "no"}, {"messageId": "no event"}]  # fmt: skip
    collector.post("/v1/batch", {"batch": odd})
    webhook = json.dumps({**opened, "type": "", "messageId": "c"}).encode()
    assert collector.webhook(webhook) == 200
    collector.post("/v1/page", {**opened, "messageId": "no page"})
    collector.post("/v1/track", {**opened, "messageId": "d"})
    destination.wait_for(10)
    other.wait_for(8)
    assert destination.ids == ["before", *spelled, "Other", "a", "b", "c", "d"]
    assert other.ids == [*spelled, "a", "b", "c", "d"]
    forwarded = [event for batch in destination.batches for event in batch["batch"]]
    assert {event["type"] for event in forwarded} == {"track"}
    assert collector.stop() == 0
    assert not Path(f"{collector.database}-wal").exists()  # no connection was left open


def test_an_outage_loses_nothing_and_delays_no_other(
    start: Start, destination: Destination, other: Destination
) -> None:
    destination.answer = lambda _: 429
    collector = start(destinations=[destination.setting(), other.setting("other")])
    send(collector, "a", "b")
    other.wait_for(2)
    send(collector, "c")
    other.wait_for(3)
    wait_until(lambda: collector.metric('destination_lag_events{destination="one"}') == 3)
    oldest = 'destination_oldest_unsent_seconds{destination="%s"}'
    age = (time.time() * 1000 - collector.events()[0].received_at) / 1000
    assert age <= collector.metric(oldest % "one") <= age + PATIENCE
    wait_until(lambda: collector.metric(oldest % "other") == 0)
    wait_until(lambda: len(destination.tries) >= 2)
    collector.stop()  # first, or an accepted try might be cut off, and repeated
    destination.answer = lambda _: 200
    collector.restart()
    destination.wait_for(3)
    assert destination.ids == ["a", "b", "c"]
    assert other.ids == ["a", "b", "c"]


async def forwarded(
    database: str, bodies: list[bytes], open_reader: Callable[[], Reader], destination: Destination
) -> Cursor:
    """Store these events, and forward them until all have arrived. Returns the cursor saved."""
    with contextlib.closing(SqliteStore(database)) as store:
        store.append([event(body) for body in bodies])
        store.save_cursor("one", Cursor(0, 0, 0))
        metrics = Metrics()
        writer = Writer(store, Pending(0), metrics, 0, lambda _: None)
        (to,) = destination_list([destination.setting()])
        job = asyncio.create_task(Forwarder(to, TrackCalls(open_reader), writer, metrics).run())
        while len(destination.ids) < len(bodies) and not job.done():
            await asyncio.sleep(0.01)
        job.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await job
        await writer.close()
        return store.cursors()["one"]


def broken(event: Event, _: str) -> TrackCall:
    raise RuntimeError(event.name)


def test_an_event_that_cannot_be_forwarded_does_not_keep_others_from_being_stored(
    start: Start, destination: Destination
) -> None:
    constants = {"track_calls.as_track_call": broken, "server.AFTER_A_BUG": 0.02}
    collector = start(constants=constants, destinations=[destination.setting()])
    send(collector, "a")
    wait_until(lambda: collector.log.read_text().count("Unexpected RuntimeError at") > 1)
    send(collector, "b")
    assert collector.stop() == 0
    collector = start(destinations=[destination.setting()])  # and nothing was skipped
    destination.wait_for(2)
    assert destination.ids == ["a", "b"]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_WAIT", "SYNC_EVERY", "LOOK_EVERY"):
        monkeypatch.setattr(destinations, name, 0.01)


class FailingReader(SqliteReader):
    """A reader that reads one event at a time, and loses its connection after the first."""

    reads = 0

    def read(self, after: int, _: int) -> list[Event]:
        self.reads += 1
        if self.reads == 2:
            raise RunError("Lost the store.")
        return super().read(after, 1)


@pytest.mark.usefixtures("hasty")
@in_a_loop
async def test_an_interrupted_database_does_not_end_forwarding(
    destination: Destination, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    opened: list[SqliteReader] = []

    def open_reader() -> SqliteReader:
        opened.append(FailingReader(database))
        if len(opened) in (1, 3):
            raise UserError("Cannot open the store.")
        return opened[-1]

    bodies = [b'{"messageId":"1"}', b'{"messageId":"2"}']
    await forwarded(database, bodies, open_reader, destination)
    assert destination.ids == ["1", "2"]
    assert "Destination one: cannot use the store: Cannot open the store." in caplog.text
    assert "works again" not in caplog.text  # it always has


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Which events were read together."""
    found: list[list[int]] = []
    read = SqliteReader.read

    def noted(self: SqliteReader, after: int, limit: int) -> list[Event]:
        events = read(self, after, limit)
        found.append([one.seq for one in events])
        return events

    monkeypatch.setattr(SqliteReader, "read", noted)
    return found


@pytest.mark.usefixtures("hasty")
@in_a_loop
async def test_large_events_are_read_once(
    destination: Destination, database: str, reads: list[list[int]]
) -> None:
    """What does not fit into a batch of 475 kB is kept for the next one."""
    bodies = [b'{"messageId":"%d","x":"%s"}' % (n, b"x" * 30_000) for n in range(300)]
    cursor = await forwarded(database, bodies, lambda: SqliteReader(database), destination)
    assert destination.ids == [str(number) for number in range(300)]
    assert max(destination.sizes) < 480_000
    assert sorted(seq for seqs in reads for seq in seqs) == list(range(1, 301))
    assert cursor.seq >= 200  # saved at the end; the last batch may have been under way


def test_destinations_that_have_got_equally_far_read_together(
    database: str, store: Store, reads: list[list[int]]
) -> None:
    store.append([event(b'{"event":"E"}'), event(b'{"type":"page"}'), event(b'{"event":"E"}')])
    calls = TrackCalls(lambda: SqliteReader(database))
    for _ in range(4):
        found, up_to = calls.after(0)
        assert ([(one.seq, one.kind) for one in found], up_to) == ([(1, "e"), (3, "e")], 3)
    assert calls.after(3) == ([], 3)
    store.append([event()])
    assert calls.after(3)[1] == 4
    assert reads == [[1, 2, 3], [], [4]]
    calls.close()


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
    assert destination.authorizations == {BASIC}


def test_a_destination_that_left_the_settings_is_told_and_can_be_forgotten(
    start: Start, destination: Destination
) -> None:
    collector = start(destinations=[destination.setting("old"), destination.setting("one")])
    assert "still in the settings" in collector.refusal("--forget-destination", "old")
    collector.restart(destinations=[destination.setting("one")])
    assert "Destination old is no longer in the settings" in collector.log.read_text()
    refusal = collector.refusal("--forget-destination", "other")
    assert "no destination of this name" in refusal
    assert "old, one" in refusal
    done = collector.run("--forget-destination", "old")
    assert done.stdout == "Forgot destination old.\n", done.stderr
    assert json.loads(collector.run("--stats").stdout)["destinations"].keys() == {"one"}


def test_a_destination_is_not_forgotten_by_settings_that_do_not_know_it(
    start: Start, destination: Destination
) -> None:
    collector = start(destinations=[destination.setting("one")])
    forget = ["--database", collector.database, "--forget-destination", "one"]
    for running in (True, False):
        if not running:
            collector.stop()
        code, _, err = finished(main, forget, ROOT, {}, PATIENCE)
        said = "still in the settings" if running else "pass its --config"
        assert (code, said in err.decode()) == (2, True), err
    assert json.loads(collector.run("--stats").stdout)["destinations"].keys() == {"one"}
    collector.settings["destinations"] = []
    assert collector.run("--forget-destination", "one").stdout == "Forgot destination one.\n"


def loaded(collector: Collector) -> list[str]:
    """Options to prune the first event."""
    with open_reader(collector.database) as reader:
        path = state(collector.folder / "state.json", email_opened=[reader.store_id, 1])
    return ["--prune", "--state", path]


def test_events_not_yet_forwarded_are_not_pruned(start: Start, destination: Destination) -> None:
    destination.answer = lambda _: 500
    collector = start(destinations=[destination.setting()])
    send(collector, "a", event="Email Opened")
    prune = loaded(collector)
    without_settings = ["--database", collector.database, *prune]
    for running in (True, False):
        if not running:
            collector.stop()
        _, out, err = finished(main, without_settings, ROOT, {}, PATIENCE)
        done = collector.run(*prune)
        for stdout, stderr in ((out.decode(), err.decode()), (done.stdout, done.stderr)):
            assert stdout.startswith("Pruned 0 events ")
            assert "destination one has not received yet (lag: 1)" in stderr
    collector.settings["destinations"] = []
    assert collector.run(*prune).stdout.startswith("Pruned 1 event ")


def test_what_was_pruned_before_it_was_forwarded_is_told_and_counted(
    start: Start, destination: Destination
) -> None:
    destination.answer = lambda ids: 400 if "rejected" in ids else 200
    collector = start()
    send(collector, "rejected", event="Other")
    for name in ("a", "b", "erased"):
        send(collector, name, event="Email Opened", userId=name)
    collector.stop()
    assert collector.run("--erase", "erased").returncode == 0
    with open_reader(collector.database) as reader:
        path = state(collector.folder / "state.json", email_opened=[reader.store_id, 4])
    assert collector.run("--prune", "--state", path).stdout.startswith("Pruned 2 events ")
    collector.restart(destinations=[destination.setting(**{"from": "start"})])
    send(collector, "c", event="Email Opened")
    wait_until(lambda: progress(collector) == {"lag": 0, "sent": 1, "refused": 3})
    assert {*destination.ids} == {"c"}
    said = "WARNING Destination one: skips events that were pruned before they were forwarded, such"
    assert collector.log.read_text().count(f"{said} as event 2.") == 1


def test_a_command_with_other_settings_prunes_nothing_that_its_collector_has_not_forwarded(
    start: Start, destination: Destination
) -> None:
    destination.answer = lambda _: 500
    collector = start(destinations=[destination.setting()])
    send(collector, "a", event="Email Opened")
    collector.settings["destinations"] = []
    done = collector.run(*loaded(collector))
    assert done.stdout.startswith("Pruned 0 events ")
    assert "destination one has not received yet (lag: 1)" in done.stderr
    destination.answer = lambda _: 200
    wait_until(lambda: progress(collector)["sent"] == 1)
    assert collector.run(*loaded(collector)).stdout.startswith("Pruned 1 event ")


def test_a_new_destination_holds_pruning_back_only_if_it_starts_at_the_oldest_event(
    start: Start, destination: Destination
) -> None:
    collector = start()
    send(collector, "a", event="Email Opened")
    collector.stop()
    for origin, pruned in (("start", 0), ("now", 1)):
        collector.settings["destinations"] = [destination.setting(**{"from": origin})]
        done = collector.run(*loaded(collector))
        assert done.stdout.startswith(f"Pruned {amount(pruned, 'event')} ")


def test_another_collector_can_be_the_destination(start: Start, tmp_path_factory: Any) -> None:
    other = Collector(tmp_path_factory.mktemp("other")).start(fork=True)
    try:
        to_other = {"name": "other", "url": other.url + "/v1", "write_key": KEY}
        collector = start(destinations=json.dumps([to_other]))
        send(collector, "a", "b")
        wait_until(lambda: len(other.bodies()) >= 2)
        assert [json.loads(body)["messageId"] for body in other.bodies()] == ["a", "b"]
    finally:
        other.stop()
