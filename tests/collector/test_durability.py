"""After a 200 the event is on disk, once, whatever happens to the process, disk or database.

At the end, what was accepted gets a response, and nothing delays the exit for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import requests

from tap_autopilot.collector import server, writer
from tap_autopilot.collector.metrics import Metrics
from tap_autopilot.collector.pending import Pending
from tap_autopilot.collector.received import Received
from tap_autopilot.collector.store import Store, Unavailable
from tests.collector.conftest import Collector, Start, event, in_a_loop, sending, stuck
from tests.conftest import PATIENCE, wait_until
from tests.soak.collector import kill_under_load


def test_acknowledged_events_survive_kills_and_are_forwarded(tmp_path: Path) -> None:
    done = kill_under_load(tmp_path, kills=4, most=150, fork=True)
    assert done.stored >= done.acknowledged >= 4


def test_a_locked_database_is_a_503(start: Start) -> None:
    collector = start(constants={"writer.STORE_WITHIN": 0.2})

    def status(number: str) -> int:
        return collector.post("/v1/track", {"messageId": number}).status_code

    with closing(sqlite3.connect(collector.database, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        assert status("1") == 503
        assert status("2") == 503  # without waiting
        assert collector.get("/ready").status_code == 503
        assert collector.get("/health").status_code == 200
    wait_until(lambda: collector.get("/ready").status_code == 200)
    wait_until(lambda: status("1") == 200)
    wait_until(lambda: status("2") == 200)
    assert sorted(json.loads(body)["messageId"] for body in collector.bodies()) == ["1", "2"]


def test_a_deleted_database_ends_it(start: Start) -> None:
    collector = start()
    assert collector.post("/v1/track", b"{}").status_code == 200
    Path(collector.database).unlink()
    with pytest.raises(requests.ConnectionError):
        collector.post("/v1/track", b"{}")
    assert collector.process.wait(PATIENCE) == 1
    assert "Z CRITICAL " in collector.log.read_text().splitlines()[-1]


def test_a_new_store_is_announced(start: Start) -> None:
    """As in a container without its volume, or with another working directory."""
    collector = start()
    said = f"storing events in {collector.database} (new store "
    assert collector.log.read_text().count(said) == 1
    assert collector.post("/v1/track", {}).status_code == 200
    collector.restart()
    assert collector.log.read_text().count(said) == 1


def test_low_disk_space_is_a_503(start: Start) -> None:
    collector = start(min_free_mb=10**9)
    answer = collector.post("/v1/track", b"{}")
    assert answer.status_code == 503
    assert "min_free_mb" in answer.json()["message"]
    ready = collector.get("/ready")
    assert ready.status_code == 503
    assert "min_free_mb" in ready.json()["message"]
    assert collector.metric("ready") == 0
    collector.stop()
    assert "min_free_mb" in collector.run("--check").stderr


@in_a_loop
async def test_trouble_is_noticed_while_nothing_is_received(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHECK_EVERY", 0.05)
    monkeypatch.setattr(writer, "CHECK_SPACE_EVERY", 0)
    monkeypatch.setattr(writer, "RETRY_EVERY", 0.05)

    failures: list[BaseException] = []
    one = writer.Writer(store, Pending(1), Metrics(), 50, failures.append)
    for free, troubled in ((100, False), (10, True), (100, False)):
        monkeypatch.setattr(store, "free_bytes", partial(int, free))
        while (one.trouble is not None) != troubled:
            await asyncio.sleep(0.02)
    await one.close()
    assert failures == []


@in_a_loop
async def test_a_sweep_soon_goes_on_with_what_is_left(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHECK_EVERY", 0.02)
    left = iter([True, True, False])
    swept: list[bool] = []

    def sweep(_: int) -> bool:
        swept.append(next(left))
        return swept[-1]

    monkeypatch.setattr(store, "sweep", sweep)
    one = writer.Writer(store, Pending(1), Metrics(), 0, print)
    while len(swept) < 3:
        await asyncio.sleep(0.02)
    await one.close()


@in_a_loop
async def test_a_task_that_fails_does_nothing_and_ends_nothing(store: Store) -> None:
    failures: list[BaseException] = []
    one = writer.Writer(store, Pending(1), Metrics(), 0, failures.append)
    with pytest.raises(OverflowError):
        await one.run(lambda store: store.save_summary(0, 5, [], [1, 2**64]))
    assert await one.run(lambda store: (store.append([event()]), store.summarized_up_to)) == (1, 0)
    await one.close()
    assert failures == []


@in_a_loop
async def test_what_waits_from_one_sender_leaves_room_for_others(store: Store) -> None:
    pending = Pending(5 * (writer.OVERHEAD + len(event().body)))
    one = writer.Writer(store, pending, Metrics(), 0, print)
    done: list[Unavailable | None] = []
    accepted: list[bytes] = []
    for sender in (*[b"a"] * 5, b"b", b"c"):
        with contextlib.suppress(Unavailable):
            one.store([event()], done.append, sender)
            accepted.append(sender)
    assert accepted == [b"a"] * 4 + [b"b"]
    await one.close()
    await asyncio.sleep(0)
    assert (done, pending.bytes) == ([None] * 5, 0)


@in_a_loop
async def test_a_slow_database_is_told_from_a_slow_commit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(store, "append", lambda _: go_on.wait(PATIENCE) and 1)
    monkeypatch.setattr(writer, "STORE_WITHIN", 0.1)
    one = writer.Writer(store, Pending(1 << 20), Metrics(), 0, print)
    done: list[Unavailable | None] = []
    one.store([event()], done.append)
    while not done or not one.trouble:
        await asyncio.sleep(0.02)
    assert str(done[0]) == "the database is slow: events waited more than 2 s"
    assert one.trouble == "the database is slow: a commit is taking more than 2 s"
    go_on.set()
    await one.close()


H = writer.HEAVY + 1


@pytest.mark.parametrize(
    ("requests", "commits"),
    [  # of which the first is being committed when the others arrive
        (
            [(H, b"a"), (H, b"a"), (H, b"a"), (1, b"b"), (1, b"c"), (H + 1, b"b")],
            [H, 2, H, H + 1, H],
        ),
        ([(1, b"a"), (40, b"a"), (40, b"a"), (40, b"a"), (1, b"b")], [1, 81, 40]),
        ([(1, b"a")] * 3, [1, 2]),
    ],
    ids=["many events", "many requests", "few"],
)
@in_a_loop
async def test_requests_share_commits_but_none_waits_for_all_of_another_sender(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    requests: list[tuple[int, bytes]],
    commits: list[int],
) -> None:
    monkeypatch.setattr(writer, "MANY", 50)
    append = store.append
    committed: list[int] = []
    go_on = threading.Event()

    def append_slowly(events: Sequence[Received]) -> int:
        committed.append(len(events))
        go_on.wait(PATIENCE)
        return append(events)

    monkeypatch.setattr(store, "append", append_slowly)
    monkeypatch.setattr(writer, "STORE_WITHIN", PATIENCE)
    one = writer.Writer(store, Pending(1 << 20), Metrics(), 0, print)
    done = []
    for count, sender in requests:
        done.append(asyncio.get_running_loop().create_future())
        one.store([event()] * count, done[-1].set_result, sender)
        while not committed:
            await asyncio.sleep(0.01)
    go_on.set()
    assert await asyncio.gather(*done) == [None] * len(requests)
    await one.close()
    assert committed == commits


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", disk], check=False
    ).returncode:
        pytest.skip("cannot mount a small disk here")
    collector = Collector(tmp_path, database=str(disk / "events.db")).start(fork=True)
    try:
        acknowledged = []
        for number in range(600):
            body = {"messageId": f"{number}", "text": "x" * 10_000}
            answer = collector.post("/v1/track", body)
            assert answer.status_code in (200, 503)
            if answer.status_code == 200:
                acknowledged.append(str(number))
            elif len(acknowledged) > 50:
                break
        assert answer.status_code == 503
        assert [json.loads(body)["messageId"] for body in collector.bodies()] == acknowledged
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        wait_until(lambda: collector.post("/v1/track", {"messageId": "after"}).status_code == 200)
        assert collector.stop() == 0
        assert len(collector.events()) == len(acknowledged) + 1
    finally:
        collector.stop(signal.SIGKILL)
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_response_comes_after_write_and_fsync(tmp_path: Path) -> None:
    """As strace sees the process."""
    calls = tmp_path / "calls"
    trace = "trace=pwrite64,fsync,fdatasync,write,writev,sendto,sendmsg"
    collector = Collector(tmp_path)
    collector.under = ["strace", "-f", "-y", "-s", "30", "-e", trace, "-o", str(calls)]
    collector.start()
    for number in range(3):
        assert collector.post("/v1/track", {"messageId": str(number)}).status_code == 200
    of = collector.process.pid
    (traced,) = Path(f"/proc/{of}/task/{of}/children").read_text().split()
    os.kill(int(traced), signal.SIGTERM)
    collector.process.wait(PATIENCE)
    found: list[str] = []
    for line in calls.read_text().splitlines():
        for mark, call in (
            (r"pwrite64\(.*events\.db-wal", "write"),
            (r"(fsync|fdatasync)\(.*events\.db-wal", "fsync"),
            (r"HTTP/1.1 200", "answer"),
        ):
            if re.search(mark, line) and found[-1:] != [call]:
                found.append(call)
    while found[-1] != "answer":  # at the end
        found.pop()
    assert found[-9:] == ["write", "fsync", "answer"] * 3


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize(
    "fault", ["fdatasync,fsync:error=EIO:when=30+", "pwrite64:error=EIO:when=130+"]
)
def test_an_io_error_ends_it_before_anything_more_is_acknowledged(
    tmp_path: Path, fault: str
) -> None:
    collector = Collector(tmp_path)
    traced = ["strace", "-f", "-o", "/dev/null", "-e", "trace=fdatasync,fsync,pwrite64"]
    collector.under = [*traced, "-e", f"inject={fault}"]
    collector.start()
    acknowledged = set()
    for number in range(100):
        try:
            answer = collector.post("/v1/track", {"messageId": str(number)})
        except requests.ConnectionError:
            break
        if answer.status_code == 200:
            acknowledged.add(str(number))
    assert collector.process.wait(PATIENCE) == 1
    assert "Z CRITICAL " in collector.log.read_text().splitlines()[-1]
    stored = [json.loads(body)["messageId"] for body in collector.bodies()]
    assert len(acknowledged) > 3
    assert acknowledged <= set(stored)
    assert len(stored) == len(set(stored))


HALF_A_REQUEST = b"POST /v1/track HTTP/1.1\r\nContent-Length: 10\r\n\r\n{"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_shuts_it_down_gracefully(start: Start, number: int) -> None:
    assert server.LAST_RESPONSES + server.LAST_COMMIT < 5
    collector = start(constants={"server.LAST_RESPONSES": 0.2, "http.LINGER": PATIENCE})
    with collector.connect() as idle, collector.connect() as slow:
        slow.sendall(HALF_A_REQUEST)
        assert collector.post("/v1/track", b"{}").status_code == 200
        assert collector.stop(number) == 0
        assert slow.recv(4096).startswith(b"HTTP/1.1 503")
        assert idle.recv(4096) == b""
    assert "CRITICAL" not in collector.log.read_text()
    assert not Path(f"{collector.database}-wal").exists()
    assert collector.bodies() == [b"{}"]


def test_a_socket_that_cannot_be_deleted_delays_nothing(start: Start) -> None:
    collector = start()
    path = Path(f"{collector.database}.sock")
    path.unlink()
    path.mkdir()
    assert collector.stop() == 0


def test_requests_accepted_before_a_signal_get_a_response(start: Start) -> None:
    collector = start()
    acknowledged: list[int] = []

    def send(worker: int, _: threading.Event) -> None:
        with contextlib.suppress(requests.ConnectionError):
            for number in range(10_000):
                answer = collector.post("/v1/track", {"messageId": f"{worker}-{number}"})
                if answer.status_code == 200:
                    acknowledged.append(number)

    with sending(send, 4):
        wait_until(lambda: len(acknowledged) >= 20)
        assert collector.stop() == 0
    assert len(acknowledged) == len(collector.events())


def test_requests_that_wait_for_a_thread_get_a_503_at_the_end(start: Start) -> None:
    collector = start(constants={"events.from_batch": stuck, "server.LAST_RESPONSES": 0.2})
    body = b'{"batch":[]}'.ljust(200_000)
    answers: list[int] = []

    def send(*_: object) -> None:
        try:
            answers.append(collector.post("/v1/batch", body).status_code)
        except requests.ConnectionError:  # those that have a thread
            answers.append(0)

    with sending(send, 6):
        wait_until(lambda: collector.metric("pending_bytes") == 6 * len(body))
        assert collector.stop() == 0
    assert sorted(answers) == [0, 0, 503, 503, 503, 503]
    assert "ERROR" not in collector.log.read_text()


def test_a_second_signal_ends_it_immediately(start: Start) -> None:
    collector = start(constants={"http.LINGER": PATIENCE})
    with collector.connect() as slow:  # would hold it up
        slow.sendall(HALF_A_REQUEST)
        assert collector.post("/v1/track", b"{}").status_code == 200
        collector.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "Shutting down." in collector.log.read_text())
        assert collector.stop() == 128 + signal.SIGTERM
    assert "Z CRITICAL " in collector.log.read_text().splitlines()[-1]
