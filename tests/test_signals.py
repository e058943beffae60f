"""Signals and pipes: how a run ends that is ended from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.server import Sandbox
from tests.conftest import COMMAND, KEY, Serve, Tap
from tests.invariants import Run, check

ACCOUNT = Account(contacts=450, segments=3, members=120)


@contextmanager
def running(tap: Tap, sandbox: Sandbox, **settings: object) -> Iterator[subprocess.Popen[bytes]]:
    """The command under way, with its output in files, so that nothing blocks it."""
    config = tap.file("config.json", tap.config(sandbox, **settings))
    with (
        (tap.folder / "out").open("wb") as out,
        (tap.folder / "err").open("wb") as err,
        subprocess.Popen([*COMMAND, "-c", config], stdout=out, stderr=err) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def blocked(tap: Tap, sandbox: Sandbox) -> Iterator[subprocess.Popen[bytes]]:
    """The command under way, stuck in writing to a pipe that nobody reads."""
    reader, writer = os.pipe()
    config = tap.file("config.json", tap.config(sandbox))
    with subprocess.Popen(
        [*COMMAND, "-c", config], stdout=writer, stderr=subprocess.PIPE
    ) as process:
        os.close(writer)
        wait_for_requests(sandbox, 4)
        time.sleep(0.5)
        yield process
    os.close(reader)


def finished(tap: Tap, process: subprocess.Popen[bytes]) -> Run:
    """The run once it is over, with the invariants checked."""
    process.wait(30)
    out, err = (tap.folder / name for name in ("out", "err"))
    return check(Run(process.returncode, out.read_bytes(), err.read_text(), KEY))


def wait_for_requests(sandbox: Sandbox, count: int) -> None:
    give_up = time.monotonic() + 10
    while len(sandbox.requests) < count and time.monotonic() < give_up:
        time.sleep(0.01)
    assert len(sandbox.requests) >= count


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "what", ["hang", "drip", "hang-body", "503,retry-after=60", "429,retry-after=60"]
)
def test_a_signal_ends_it_also_while_it_hangs_or_sleeps(
    tap: Tap, serve: Serve, number: signal.Signals, what: str
) -> None:
    sandbox = serve(ACCOUNT, f"/contacts@2-:{what}")
    with running(tap, sandbox, retry_timeout=300) as process:
        wait_for_requests(sandbox, 4)
        time.sleep(0.5)
        sent = time.monotonic()
        process.send_signal(number)
        run = finished(tap, process)
        assert time.monotonic() - sent < 2
    assert run.code == 128 + number
    assert run.last_words.startswith(f"CRITICAL Stopped by {number.name}")
    assert len(run.rows("contacts")) == 100
    rest = tap.sync(serve(ACCOUNT), state=run.state)
    ids = [row["contact_id"] for one in (run, rest) for row in one.rows("contacts")]
    assert ids == ACCOUNT.contact_ids


@pytest.mark.parametrize("after", [0.0, 0.05, 0.1, 0.2, 0.3, 0.4])
def test_a_signal_at_any_time_leaves_whole_lines(tap: Tap, serve: Serve, after: float) -> None:
    sandbox = serve(ACCOUNT, latency=0.05)
    with running(tap, sandbox) as process:
        wait_for_requests(sandbox, 1)
        time.sleep(after)
        process.terminate()
        run = finished(tap, process)
    assert run.code == 143


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("after", [0.05, 0.1, 0.15, 0.2])
def test_a_signal_while_it_starts_is_heard_as_soon_as_can_be(
    tap: Tap, serve: Serve, number: signal.Signals, after: float
) -> None:
    with running(tap, serve(ACCOUNT, "1-:hang")) as process:
        time.sleep(after)
        process.send_signal(number)
        process.wait(10)
    text = (tap.folder / "err").read_text()
    lines = text.splitlines()
    if process.returncode in (-number, 1):  # before it can hear of signals; 1 while Python starts
        assert process.returncode == -number or "init_import_site" in text
        return
    assert process.returncode == 128 + number
    critical = [line for line in lines if line.startswith("CRITICAL")]
    assert critical == lines[-1:]


def test_a_second_interrupt_ends_it_at_once(tap: Tap, serve: Serve) -> None:
    """Also where nothing can be written any more."""
    with blocked(tap, serve(Account(contacts=5_000))) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130
        assert time.monotonic() - sent < 0.5


def test_a_signal_ends_it_in_time_though_nobody_reads(tap: Tap, serve: Serve) -> None:
    with blocked(tap, serve(Account(contacts=5_000))) as process:
        sent = time.monotonic()
        process.terminate()
        assert process.wait(10) == 143
        assert time.monotonic() - sent < 5
        assert process.stderr is not None
        assert process.stderr.read().splitlines()[-1].startswith(b"CRITICAL Stopped by SIGTERM")


def test_the_reader_goes_away(tap: Tap, serve: Serve) -> None:
    sandbox = serve(Account(contacts=9_000, segments=0))
    config = tap.file("config.json", tap.config(sandbox))
    with subprocess.Popen(
        [*COMMAND, "-c", config], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(100_000)
        process.stdout.close()
        stderr = process.stderr.read().decode()
        process.wait(10)
    asked = len(sandbox.requests)
    assert process.returncode == 1
    assert asked < 20
    assert stderr.splitlines()[-1].startswith("CRITICAL The reader of stdout has gone away")
    check(Run(1, b"", stderr, KEY, killed=True))


@pytest.mark.parametrize(
    ("redirection", "said"),
    [("> /dev/full", "Cannot write to stdout: No space left"), (">&-", "Cannot write to stdout")],
)
def test_stdout_that_takes_nothing(tap: Tap, serve: Serve, redirection: str, said: str) -> None:
    sandbox = serve(ACCOUNT)
    config = tap.file("config.json", tap.config(sandbox))
    command = f"exec {' '.join(COMMAND)} -c {config} {redirection}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert len(sandbox.requests) <= 10


@pytest.mark.parametrize("redirection", ["2>&-", "2> /dev/full"])
def test_stderr_that_takes_nothing_does_not_matter(
    tap: Tap, serve: Serve, redirection: str
) -> None:
    sandbox = serve(ACCOUNT)
    config = tap.file("config.json", tap.config(sandbox))
    out = tap.folder / "out"
    command = f"exec {' '.join(COMMAND)} -c {config} {redirection} > {out}"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0
    lines = out.read_bytes()
    last = json.loads(lines.splitlines()[-1])
    assert last["type"] == "STATE"
    assert {str(one) for one in last["value"]["bookmarks"].values()} == {"{'progress': None}"}
    assert lines.count(b'"RECORD","stream":"contacts"') == 450


@pytest.mark.parametrize("arguments", ["--discover > /dev/full", "--discover >&-"])
def test_discovery_that_cannot_be_written_fails(arguments: str) -> None:
    command = f"exec {' '.join(COMMAND)} {arguments}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("CRITICAL Cannot write to stdout")
    assert len(done.stderr.splitlines()) == 1


def test_no_file_is_written_and_no_secret_is_in_the_arguments(tap: Tap, serve: Serve) -> None:
    sandbox = serve(ACCOUNT, latency=0.05)
    with running(tap, sandbox) as process:
        wait_for_requests(sandbox, 3)
        processes = Path("/proc")
        if processes.is_dir():
            assert KEY.encode() not in (processes / str(process.pid) / "cmdline").read_bytes()
        finished(tap, process)
    assert {path.name for path in tap.folder.iterdir()} == {"config.json", "out", "err"}
