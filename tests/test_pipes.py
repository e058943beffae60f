"""Pipes that nobody reads, that are full or closed, and what a run leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tap_autopilot import logs
from tap_autopilot.sandbox.account import Account
from tests.conftest import COMMAND, KEY, PATIENCE, Serve, Tap, wait_until
from tests.invariants import Run, check, untimed
from tests.test_signals import ACCOUNT, ROOT, blocked, drained, finished, running, wait_for_requests


def test_a_nonblocking_pipe_gets_whole_lines(tap: Tap, serve: Serve) -> None:
    account = Account(contacts=350, segments=0)
    with blocked(tap, serve(account), blocking=False) as (process, reader):
        out = drained(reader)
        assert process.wait(PATIENCE) == 0
    run = check(Run(0, out, (tap.folder / "err").read_text(), KEY))
    assert len(run.rows("contacts")) == 350


@contextmanager
def full_pipe() -> Iterator[int]:
    """The write end of a full pipe that nobody reads."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    yield writer
    os.close(writer)
    os.close(reader)


@pytest.mark.parametrize("faults", [[], ["/contacts@2-:hang"]])
def test_a_stderr_that_nobody_reads_does_not_hold_up_the_run(
    tap: Tap, serve: Serve, faults: list[str]
) -> None:
    sandbox = serve(ACCOUNT, *faults)
    command = tap.command(sandbox)
    with full_pipe() as stderr, (tap.folder / "out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=stderr, cwd=ROOT)
        if faults:
            wait_until(lambda: b'"RECORD","stream":"contacts"' in (tap.folder / "out").read_bytes())
            wait_for_requests(sandbox, 4)
            process.terminate()
        try:
            assert process.wait(PATIENCE) == (143 if faults else 0)
        finally:
            process.kill()
    run = Run(process.returncode, (tap.folder / "out").read_bytes(), "")
    assert len(run.rows("contacts")) == (100 if faults else 450)
    assert run.messages[-1]["type"] == "STATE"


@contextmanager
def full_terminal(*, room: int = 0) -> Iterator[int]:
    """A terminal that shows nothing any more, as after Ctrl-S, with room for about so many bytes."""
    terminal, stderr = pty.openpty()
    os.set_blocking(stderr, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(stderr, b"x" * 4096)
            time.sleep(0.01)  # the terminal takes them
    os.set_blocking(stderr, True)
    if room:
        os.read(terminal, room)
    yield stderr
    os.close(stderr)
    os.close(terminal)


def test_a_stopped_terminal_does_not_hold_up_the_run(tap: Tap, serve: Serve) -> None:
    command = tap.command(serve(ACCOUNT))
    with full_terminal() as stderr:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, cwd=ROOT)
        try:
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.wait()


def test_a_terminal_with_room_for_less_than_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be written to, but a blocking write would wait for the rest."""
    monkeypatch.setattr(logs, "WAIT_FOR_READER", 0)
    with full_terminal(room=2000) as stderr:
        monkeypatch.setattr(logs, "STDERR", stderr)
        writing = threading.Thread(target=logs.Stderr().write, args=["x" * 70_000], daemon=True)
        writing.start()
        writing.join(PATIENCE / 4)
        assert not writing.is_alive()


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (0, 1, "Broken pipe"),
        (
            signal.SIGINT,  # which counts as the cause even if the target ends first
            130,
            "Stopped by SIGINT; to resume, run again with the last STATE that the target printed.",
        ),
    ],
)
def test_the_reader_goes_away(tap: Tap, serve: Serve, number: int, code: int, said: str) -> None:
    sandbox = serve(Account(contacts=9_000, segments=0))
    command = tap.command(sandbox)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(100_000)
        process.send_signal(number)
        process.stdout.close()
        stderr = process.stderr.read().decode()
        process.wait(PATIENCE)
    asked = len(sandbox.requests)
    assert process.returncode == code
    assert asked < 20
    assert f"Z CRITICAL {said}" in stderr.splitlines()[-1]
    check(Run(code, b"", stderr, KEY, killed=True))


@pytest.mark.parametrize(
    ("redirection", "said"),
    [
        ("> /dev/full", "No space left on device (ENOSPC). Fix that, and run again."),
        (">&-", "Cannot write to stdout"),
    ],
)
def test_an_unwritable_stdout_fails_the_run(
    tap: Tap, serve: Serve, redirection: str, said: str
) -> None:
    sandbox = serve(ACCOUNT)
    command = f"exec {shlex.join(tap.command(sandbox))} {redirection}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert len(sandbox.requests) <= 10


@pytest.mark.parametrize("redirection", ["2>&-", "2> /dev/full"])
def test_an_unwritable_stderr_does_not_matter(tap: Tap, serve: Serve, redirection: str) -> None:
    out = tap.folder / "out"
    command = f"exec {shlex.join(tap.command(serve(ACCOUNT)))} {redirection} > {out}"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0
    lines = out.read_bytes()
    last = json.loads(lines.splitlines()[-1])
    assert last["type"] == "STATE"
    assert {one["progress"] for one in last["value"]["bookmarks"].values()} == {None}
    assert lines.count(b'"RECORD","stream":"contacts"') == 450


@pytest.mark.parametrize(
    "arguments", ["--discover >&-", *(f"--{it} > /dev/full" for it in ("about", "version"))]
)
def test_output_that_cannot_be_written_is_one_line(arguments: str) -> None:
    command = f"exec {' '.join(COMMAND)} {arguments}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert untimed(done.stderr).startswith("CRITICAL Cannot write to stdout")
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
