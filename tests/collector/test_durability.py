"""After a 200 the event is on disk, once, whatever happens to the process, disk or database."""

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
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import requests

from tap_autopilot.collector import writer
from tap_autopilot.collector.metrics import Metrics
from tap_autopilot.collector.sqlite import SqliteStore
from tap_autopilot.collector.store import Received
from tests.collector.conftest import COMMAND, KEY, TOKEN, Collector, Start
from tests.conftest import PATIENCE, wait_until
from tests.soak.collector import kill_under_load


def test_acknowledged_events_survive_kills_and_are_forwarded(tmp_path: Path) -> None:
    done = kill_under_load(tmp_path, kills=4)
    assert done.acknowledged > 50
    assert done.stored >= done.acknowledged
    assert done.answers > 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_shuts_it_down_gracefully(start: Start, number: int) -> None:
    collector = start()
    idle = collector.connect()
    slow = collector.connect()
    slow.sendall(b"POST /v1/track HTTP/1.1\r\nContent-Length: 10\r\n\r\n{")
    assert collector.post("/v1/track", b"{}").status_code == 200
    time.sleep(0.1)
    started = time.monotonic()
    assert collector.stop(number) == 0
    assert time.monotonic() - started < 5
    assert slow.recv(4096).startswith(b"HTTP/1.1 503")
    assert idle.recv(4096) == b""
    assert "CRITICAL" not in collector.log.read_text()
    assert not Path(f"{collector.database}-wal").exists()
    assert collector.bodies() == [b"{}"]


def stop_amid(
    collector: Collector, send: Callable[[int], None], *, workers: int, after: float
) -> None:
    """Stop a collector some seconds after these senders began."""
    threads = [threading.Thread(target=send, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    time.sleep(after)
    assert collector.stop() == 0
    for thread in threads:
        thread.join()


def test_requests_accepted_before_a_signal_get_a_response(start: Start) -> None:
    collector = start()
    acknowledged: list[int] = []

    def send(worker: int) -> None:
        for number in range(1000):
            try:
                answer = collector.post("/v1/track", {"messageId": f"{worker}-{number}"})
            except requests.ConnectionError:
                return
            if answer.status_code == 200:
                acknowledged.append(1)

    stop_amid(collector, send, workers=4, after=0.7)
    assert len(acknowledged) == len(collector.events())


def test_requests_that_wait_for_a_thread_get_a_503_at_the_end(start: Start) -> None:
    collector = start()
    slow = b'{"batch":[%s%s]}' % (b"[" * 900_000, b"]" * 900_000)
    statuses: list[int] = []

    def send(_: int) -> None:
        with contextlib.suppress(requests.ConnectionError):  # those that have a thread
            statuses.append(collector.post("/v1/batch", slow).status_code)

    stop_amid(collector, send, workers=8, after=0.5)
    assert 503 in statuses
    assert set(statuses) <= {200, 503}
    assert "ERROR" not in collector.log.read_text()


def test_a_second_signal_ends_it_immediately(start: Start) -> None:
    collector = start()
    assert collector.process is not None
    with sqlite3.connect(collector.database, isolation_level=None) as blocker:
        blocker.execute("BEGIN IMMEDIATE")  # keeps a request pending
        waiting = collector.connect()
        waiting.sendall(f"POST /hooks/{TOKEN} HTTP/1.1\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        time.sleep(0.3)
        collector.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        started = time.monotonic()
        assert collector.stop(signal.SIGTERM) == 128 + signal.SIGTERM
        assert time.monotonic() - started < 1
        waiting.close()
    blocker.close()
    assert "Z CRITICAL " in collector.log.read_text().splitlines()[-1]


def test_a_locked_database_is_a_503(start: Start) -> None:
    collector = start()
    with sqlite3.connect(collector.database, isolation_level=None) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        answer = collector.post("/v1/track", {"messageId": "1"})
        assert answer.status_code == 503
        assert "Retry-After" in answer.headers
        assert time.monotonic() - started < 3
        started = time.monotonic()
        assert collector.post("/v1/track", {"messageId": "2"}).status_code == 503
        assert time.monotonic() - started < 1
        assert requests.get(collector.url + "/ready", timeout=9).status_code == 503
        assert requests.get(collector.url + "/health", timeout=9).status_code == 200
        blocker.execute("ROLLBACK")
    blocker.close()
    wait_until(lambda: requests.get(collector.url + "/ready", timeout=9).status_code == 200)
    for number in ("1", "2"):
        assert collector.post("/v1/track", {"messageId": number}).status_code == 200
    assert sorted(json.loads(body)["messageId"] for body in collector.bodies()) == ["1", "2"]


def test_a_deleted_database_ends_it(start: Start) -> None:
    collector = start()
    assert collector.post("/v1/track", b"{}").status_code == 200
    Path(collector.database).unlink()
    with pytest.raises(requests.ConnectionError):
        collector.post("/v1/track", b"{}")
    assert collector.process is not None
    assert collector.process.wait(timeout=5) == 1
    assert "Z CRITICAL " in collector.log.read_text().splitlines()[-1]


def test_low_disk_space_is_a_503(start: Start) -> None:
    collector = start(min_free_mb=10**9)
    answer = collector.post("/v1/track", b"{}")
    assert answer.status_code == 503
    assert "min_free_mb" in answer.json()["message"]
    assert requests.get(collector.url + "/ready", timeout=9).status_code == 503
    assert collector.run("--check").returncode == 2


def test_trouble_is_noticed_while_nothing_is_received(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHECK_EVERY", 0.05)
    monkeypatch.setattr(writer, "CHECK_SPACE_EVERY", 0)
    monkeypatch.setattr(writer, "RETRY_EVERY", 0.05)
    store = SqliteStore(str(tmp_path / "events.db"))

    async def run() -> None:
        failures: list[BaseException] = []
        one = writer.Writer(store, writer.Pending(1), Metrics(), 50, failures.append)
        for free, troubled in ((100, False), (10, True), (100, False)):
            monkeypatch.setattr(store, "free_bytes", partial(int, free))
            deadline = time.monotonic() + PATIENCE
            while (one.trouble is not None) != troubled:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
        await one.close()
        assert failures == []

    asyncio.run(run())
    store.close()


def test_a_commit_waits_a_moment_for_the_senders_just_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GATHER", 10)  # in effect, half of what a commit takes
    store = SqliteStore(str(tmp_path / "events.db"))
    append = store.append
    commits: list[int] = []

    def append_slowly(events: Sequence[Received]) -> int:
        commits.append(len(events))
        time.sleep(0.5)
        return append(events)

    monkeypatch.setattr(store, "append", append_slowly)

    async def run() -> None:
        one = writer.Writer(store, writer.Pending(1 << 20), Metrics(), 0, print)
        loop = asyncio.get_running_loop()
        done = [loop.create_future() for _ in range(3)]
        events = [Received(0, "segment", "track", "E", b"{}", None, True)]

        def store_again(_: object) -> None:
            one.store(events, done[2].set_result)

        done[0].add_done_callback(store_again)
        one.store(events, done[0].set_result)
        while not commits:
            await asyncio.sleep(0.01)
        one.store(events, done[1].set_result)  # waits for the disk, and then for the first sender
        assert await asyncio.gather(*done) == [None, None, None]
        await one.close()

    asyncio.run(run())
    assert commits == [1, 2]
    store.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", disk], check=False
    ).returncode:
        pytest.skip("cannot mount a small disk here")
    collector = Collector(tmp_path, database=str(disk / "events.db")).start()
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
    collector = Collector(tmp_path)
    calls = tmp_path / "calls"
    trace = "trace=pwrite64,fsync,fdatasync,write,writev,sendto,sendmsg"
    process = subprocess.Popen(
        ["strace", "-f", "-y", "-s", "30", "-e", trace, "-o", calls, *collector.command()],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    collector.url = process.stdout.readline().split()[-1]
    for number in range(3):
        assert collector.post("/v1/track", {"messageId": str(number)}).status_code == 200
    found: list[str] = []
    for line in calls.read_text().splitlines():
        for mark, call in (
            (r"pwrite64\(.*events\.db-wal", "write"),
            (r"(fsync|fdatasync)\(.*events\.db-wal", "fsync"),
            (r"HTTP/1.1 200", "answer"),
        ):
            if re.search(mark, line) and found[-1:] != [call]:
                found.append(call)
    os.kill(int(calls.read_text().split()[0]), signal.SIGTERM)
    process.wait(timeout=20)
    process.stdout.close()
    assert found[-9:] == ["write", "fsync", "answer"] * 3


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize(
    "fault",
    ["fdatasync,fsync:error=EIO:when=30+", "pwrite64:error=EIO:when=60+"],
)
def test_an_io_error_ends_it_before_anything_more_is_acknowledged(
    tmp_path: Path, fault: str
) -> None:
    collector = Collector(tmp_path)
    process = subprocess.Popen(
        ["strace", "-f", "-o", "/dev/null", "-e", "trace=fdatasync,fsync,pwrite64",
         "-e", f"inject={fault}", *collector.command()],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    collector.url = process.stdout.readline().split()[-1]
    acknowledged = set()
    for number in range(100):
        try:
            answer = collector.post("/v1/track", {"messageId": str(number)})
        except requests.ConnectionError:
            break
        assert answer.status_code == 200
        acknowledged.add(str(number))
    _, log = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "Z CRITICAL " in log.splitlines()[-1]
    stored = [json.loads(body)["messageId"] for body in collector.bodies()]
    assert len(acknowledged) > 3
    assert acknowledged <= set(stored)
    assert len(stored) == len(set(stored))


def test_it_does_not_start_without_a_secret(tmp_path: Path) -> None:
    collector = Collector(tmp_path, write_keys=[], webhook_secrets=[], hook_tokens=[])
    done = collector.run()
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("CRITICAL")
    offered = lines[0].split()[-1]
    assert len(offered) >= 20
    assert offered != collector.run().stderr.split()[-1]
    assert not Path(collector.database).exists()


def test_a_second_collector_on_the_same_file_is_refused(start: Start) -> None:
    collector = start()
    done = collector.run()
    assert done.returncode == 2
    assert "A collector is using" in done.stderr
    assert collector.post("/v1/track", b"{}").status_code == 200


def test_stats_refuses_a_file_that_is_not_a_store(tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    done = collector.run("--stats")
    assert (done.returncode, done.stdout) == (2, "")
    assert not Path(collector.database).exists()
    Path(collector.database).write_text("hello")
    for option in ("--stats", "--check"):
        done = collector.run(option)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("CRITICAL")
    assert Path(collector.database).read_text() == "hello"


def test_stats_and_check(start: Start) -> None:
    collector = start()
    collector.post("/v1/batch", {"batch": [{"type": "track", "event": "E"}, {"type": "page"}]})
    collector.post(f"/hooks/{TOKEN}/contact_added", {})
    found = json.loads(collector.run("--stats").stdout)
    assert found["bytes"] > 0
    assert len(found.pop("store_id")) == 32
    del found["bytes"]
    assert found.pop("last_received_at").keys() == {"segment", "hook"}
    assert found == {
        "events": 3,
        "pruned": 0,
        "first_seq": 1,
        "last_seq": 3,
        "by_source": {"segment": 2, "hook": 1},
        "by_event": {"E": 1, "page": 1, "contact_added": 1},
    }
    assert collector.run("--check").returncode == 2  # it is in use
    collector.stop()
    done = collector.run("--check")
    assert done.returncode == 0
    assert "works" in done.stdout


@pytest.mark.parametrize("option", ["--stats", "--about", "--help"])
def test_a_reader_of_stdout_that_has_gone_is_told_in_one_line(start: Start, option: str) -> None:
    collector = start()
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, *collector.arguments(option)], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr.endswith(b" CRITICAL Cannot write to stdout: Broken pipe.\n")
    assert done.stderr.count(b"\n") == 1


def test_it_serves_even_if_nobody_reads_where_it_listens(tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    with collector.log.open("a") as log:
        collector.process = subprocess.Popen(collector.command(), stdout=writer, stderr=log)
    os.close(writer)
    try:
        wait_until(lambda: "/activity is on" in collector.log.read_text())
    finally:
        assert collector.stop() == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"listen": "nowhere"}, "listen"),
        ({"hook_tokens": ["short"]}, "20 characters"),
        ({"hook_tokens": ["with/slash-in-the-middle"]}, "URL"),
        ({"max_body_mb": "much"}, "max_body_mb"),
        ({"max_body_mb": 64}, "max_pending_mb must be larger"),
        ({"write_keys": 5}, "write_keys"),
        ({"database": "/nowhere/at/all.db"}, "/nowhere/at/all.db"),
        ({"listen": "192.0.2.1:80"}, "Cannot listen"),
    ],
)
def test_invalid_settings(tmp_path: Path, settings: dict[str, object], said: str) -> None:
    done = Collector(tmp_path, **settings).run()
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert KEY not in done.stderr


def test_settings_come_from_the_environment_too(tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    done = collector.run("--listen", "nowhere", TAP_AUTOPILOT_COLLECTOR_MAX_BODY_MB="x")
    assert "max_body_mb" in done.stderr
    assert "listen" in done.stderr
    about = collector.run("--about", "--format", "json").stdout
    assert json.loads(about)["settings"]["properties"]["write_keys"]["secret"] is True
    assert collector.run("--about", "--format", "markdown").stdout.startswith("| setting")
    assert collector.run("--version").stdout.startswith("tap-autopilot-collector ")
    assert collector.run("--unknown=s3cret", "s3cret").returncode == 2
    assert "s3cret" not in collector.run("--unknown=s3cret", "s3cret").stderr
