"""Signals: how they end a run."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.exceptions import Stopped
from tap_autopilot.protocol.messages import Writer
from tap_autopilot.run import signals
from tap_autopilot.sandbox.account import Account
from tests.conftest import KEY, PATIENCE, Serve, Tap, wait_until
from tests.invariants import Run, check, untimed
from tests.recording import Sandbox

ROOT = Path(__file__).parents[1]
ACCOUNT = Account(contacts=450, segments=3, members=120)
MANY = Account(contacts=900, segments=0)


@contextmanager
def running(tap: Tap, sandbox: Sandbox, **settings: object) -> Iterator[subprocess.Popen[bytes]]:
    """The running command, with its output in files, so that nothing blocks it."""
    command = tap.command(sandbox, **settings)
    with (
        (tap.folder / "out").open("wb") as out,
        (tap.folder / "err").open("wb") as err,
        subprocess.Popen(command, stdout=out, stderr=err) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def finished(tap: Tap, process: subprocess.Popen[bytes]) -> Run:
    """Wait for the run to end, and check its invariants."""
    process.wait(PATIENCE)
    out, err = (tap.folder / name for name in ("out", "err"))
    return check(Run(process.returncode, out.read_bytes(), err.read_text(), KEY))


def wait_for_requests(sandbox: Sandbox, count: int) -> None:
    wait_until(lambda: len(sandbox.requests) >= count)


@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("hang", signal.SIGINT),
        ("drip", signal.SIGHUP),
        ("503,retry-after=60", signal.SIGTERM),
        ("429,retry-after=60", signal.SIGTERM),
    ],
)
def test_a_signal_ends_it_even_while_it_hangs_or_sleeps(
    tap: Tap, serve: Serve, what: str, number: signal.Signals
) -> None:
    sandbox = serve(ACCOUNT, f"/contacts@2-:{what}")
    with running(tap, sandbox, retry_timeout=300) as process:
        wait_for_requests(sandbox, 4)
        wait_until(lambda: b'"RECORD","stream":"contacts"' in (tap.folder / "out").read_bytes())
        sent = time.monotonic()
        process.send_signal(number)
        run = finished(tap, process)
        assert time.monotonic() - sent < 40  # rather than 60, or 300
    assert run.code == 128 + number
    assert run.last_words.startswith(f"CRITICAL Stopped by {number.name}")
    assert len(run.rows("contacts")) == 100
    rest = tap.sync(serve(ACCOUNT), state=run.state)
    ids = [row["contact_id"] for one in (run, rest) for row in one.rows("contacts")]
    assert ids == ACCOUNT.contact_ids


def hasty(line_within: float) -> list[str]:
    """The command with shorter time limits, to keep the tests short."""
    return [sys.executable, "-c", f"""
import sys
from tap_autopilot import __main__
from tap_autopilot.run import signals
signals.STOP_WITHIN, signals.LINE_WITHIN = 0.5, {line_within}
sys.exit(__main__.main())
"""]  # fmt: skip


@contextmanager
def blocked(
    tap: Tap, sandbox: Sandbox, *, blocking: bool = True, line_within: float = PATIENCE
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The running command, stuck writing to a pipe that nobody reads, and the pipe's other end."""
    reader, writer = os.pipe()
    os.set_blocking(writer, blocking)
    config = tap.file("config.json", tap.config(sandbox))
    with (tap.folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [*hasty(line_within), "-c", config], stdout=writer, stderr=err, cwd=ROOT
        )
    os.close(writer)
    try:
        wait_until(lambda: waiting_in(reader) > 60_000)
        yield process, reader
    finally:
        process.kill()
        process.wait()
        os.close(reader)


def waiting_in(reader: int) -> int:
    """How many bytes wait in a pipe, which holds 65,536."""
    (count,) = struct.unpack("i", fcntl.ioctl(reader, termios.FIONREAD, bytes(4)))
    return int(count)


def is_delivered(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has noticed all signals sent to it, as far as the system can tell."""
    status = Path(f"/proc/{process.pid}/status")
    return not status.exists() or "ShdPnd:\t0000000000000000" in status.read_text()


def drained(reader: int) -> bytes:
    """Everything that comes out of a pipe until its writer ends."""
    out = b""
    while more := os.read(reader, 65536):
        out += more
    return out


@pytest.mark.parametrize("blocking", [True, False])
def test_a_signal_while_the_target_flushes_ends_it_after_the_current_line(
    tap: Tap, serve: Serve, blocking: bool
) -> None:
    with blocked(tap, serve(MANY), blocking=blocking) as (process, reader):
        process.terminate()
        wait_until(lambda: is_delivered(process))
        time.sleep(0.8)
        assert process.poll() is None
        out = drained(reader)
        assert process.wait(PATIENCE) == 143
    run = check(Run(143, out, (tap.folder / "err").read_text(), KEY))
    assert len(run.of("RECORD")) > 0
    assert len(run.rows("contacts")) < 100, "not even a page"
    rest = tap.sync(serve(MANY), state=run.state)
    assert len(rest.rows("contacts")) == 900


def test_a_second_signal_ends_it_after_the_current_line(tap: Tap, serve: Serve) -> None:
    with blocked(tap, serve(MANY)) as (process, reader):
        for _ in range(3):
            process.send_signal(signal.SIGINT)
            wait_until(lambda: is_delivered(process))
        out = drained(reader)
        assert process.wait(PATIENCE) == 130
    run = check(Run(130, out, (tap.folder / "err").read_text(), KEY))
    assert len(run.rows("contacts")) < 100


def test_a_signal_ends_it_in_time_even_if_nobody_reads(tap: Tap, serve: Serve) -> None:
    with blocked(tap, serve(MANY), line_within=1) as (process, _):
        process.terminate()
        assert process.wait(PATIENCE) == 143
    last = (tap.folder / "err").read_text().splitlines()[-1]
    assert "Z CRITICAL Stopped by SIGTERM" in last


@pytest.mark.parametrize(
    ("new", "repeats"),
    [([b"RECORD\n", b"STATE %0999999d\n" % 2], False), ([b"%01000000d\n" % 1, b"STATE 2\n"], True)],
)
def test_a_stopped_write_ends_with_the_latest_state(new: list[bytes], repeats: bool) -> None:
    """The signal arrives in the middle of the long line."""
    reader, descriptor = os.pipe()
    os.set_blocking(descriptor, False)
    writer = Writer(descriptor)
    writer.write([b"STATE 1\n"])

    def write() -> None:
        with os.fdopen(descriptor, "wb"), pytest.raises(Stopped):
            writer.write(new)

    thread = threading.Thread(target=write)
    with os.fdopen(reader, "rb") as out:
        thread.start()
        begun = out.read(500_000)
        writer.finish_line(Stopped(signal.SIGTERM))
        written = begun + out.read()
    thread.join()
    assert written == b"STATE 1\n" + (new[0] + b"STATE 1\n" if repeats else b"".join(new))


def test_the_time_limits_are_as_documented() -> None:
    assert signals.STOP_WITHIN + signals.TICK < 5
    assert signals.LINE_WITHIN == 20


def test_an_ignored_hangup_does_not_end_the_run(tap: Tap, serve: Serve) -> None:
    """As with nohup."""
    sandbox = serve(ACCOUNT, latency=0.3)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with running(tap, sandbox) as process:
            wait_for_requests(sandbox, 4)
            process.send_signal(signal.SIGHUP)
            assert finished(tap, process).code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_just_before_the_end_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = signals.restore

    def late(before: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        restore(before)

    monkeypatch.setattr(signals, "restore", late)
    stops: list[Stopped] = []
    with signals.graceful_stop(stops.append, Writer(1), lambda *_: {}):
        pass
    assert len(stops) == 1
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("tap_autopilot.cli", signal.SIGHUP),
        ("tap_autopilot.run.sync", signal.SIGTERM),
        ("requests", signal.SIGINT),
    ],
)
def test_a_signal_during_the_imports_is_one_line(
    tap: Tap, module: str, number: signal.Signals
) -> None:
    """The signal arrives just before that module is imported."""
    script = f"""
import os, runpy, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "{module}":
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Finder())
runpy.run_module("tap_autopilot", run_name="__main__", alter_sys=True)
"""
    config = tap.file("config.json", tap.config())
    done = subprocess.run(
        [sys.executable, "-c", script, "-c", config],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 128 + number
    assert untimed(done.stderr).startswith(f"CRITICAL Stopped by {number.name}")
    assert done.stderr != untimed(done.stderr)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
