"""What a terminal shows during a run, on a screen that a terminal emulator draws."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pyte
import pytest

from tap_autopilot.amounts import duration
from tap_autopilot.api.client import Api
from tap_autopilot.config import Config
from tap_autopilot.rows.tally import Tally
from tap_autopilot.run import monitor
from tap_autopilot.run.terminal import as_table, back, fit, time_left
from tap_autopilot.sandbox.account import Account
from tap_autopilot.streams import STREAMS
from tests.conftest import COMMAND, PATIENCE, Clock, Serve, Tap, wait_until
from tests.recording import HeldSandbox, Sandbox
from tests.scripted import Scripted

ROOT = Path(__file__).parents[1]
ACCOUNT = Account(contacts=1000, segments=2, members=50)
IMPATIENT = [sys.executable, "-c", """
import sys
from tap_autopilot import cli
from tap_autopilot.run import report
report.SILENCE = 0.5
sys.exit(cli.main())
"""]  # fmt: skip


class Terminal:
    """A command with a terminal as stderr."""

    def __init__(self, command: list[str], folder: Path, columns: int, **environment: str) -> None:
        self.screen = pyte.HistoryScreen(columns or 80, 24, history=10_000)
        self.came = b""
        self.shots: list[list[str]] = []  # what was on the screen whenever the command paused
        self._stream = pyte.ByteStream(self.screen)
        self._master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=self.slave, cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", **environment},
        )  # fmt: skip

    def watch(self, until: Callable[[list[str]], bool] | None = None) -> None:
        """Draw what comes until the command ends, or the screen fulfills a condition."""
        reader = threading.Thread(target=self._wait, daemon=True)
        reader.start()
        with contextlib.suppress(OSError):  # the terminal's way of signaling the end
            while more := os.read(self._master, 65536):
                self.came += more
                self._stream.feed(more)
                self.shots.append(self.lines())
                if until is not None and until(self.shots[-1]):
                    self.process.kill()
        os.close(self._master)
        reader.join()

    def _wait(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)
        self.process.kill()
        os.close(self.slave)

    def lines(self) -> list[str]:
        """The lines that can be seen."""
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def all_lines(self) -> list[str]:
        """The lines that can be seen, and those that scrolled out of sight."""
        rows = [
            "".join(row[column].data for column in range(self.screen.columns)).rstrip()
            for row in self.screen.history.top
        ]
        return [*filter(None, rows), *self.lines()]


@pytest.fixture
def run(tap: Tap) -> Callable[..., Terminal]:
    """Run the command with the streams to select: `run(sandbox, "contacts", columns=50)`."""

    def start(sandbox: Sandbox, select: str, *options: str, command: Sequence[str] = COMMAND,
              columns: int = 100, settings: Any = None, **environment: str) -> Terminal:  # fmt: skip
        usual = tap.command(sandbox, "--select", select, *options, **(settings or {}))
        arguments = usual[len(COMMAND) :]
        return Terminal([*command, *arguments], tap.folder, columns, **environment)

    return start


Start = Callable[..., Terminal]


def test_a_line_shows_progress_and_a_table_the_result(serve: Serve, run: Start) -> None:
    sandbox = serve(ACCOUNT, "/contacts@4:429,retry-after=1", latency=0.3)
    terminal = run(sandbox, "contacts,lists", columns=300)
    terminal.watch()
    assert terminal.process.returncode == 0
    live = [line for shot in terminal.shots for line in shot if line.startswith("contacts  ")]
    assert [one for one in live if re.fullmatch(
        r"contacts  \d+ rows  \d+/s  \d+%  \d+ s left( +throttled)?  1 of 2 tables done", one)]  # fmt: skip
    assert [one for one in live if "throttled" in one]
    lines = terminal.all_lines()
    assert lines[0] == "INFO Reading contacts, lists."
    assert not any("429" in line for line in lines), "the live line says it"
    assert [line.split()[:2] for line in lines[-4:-1]] == [
        ["stream", "rows"],
        ["contacts", "1,000"],
        ["lists", "8"],
    ]
    assert re.fullmatch(r"INFO Complete: 1,008 rows in 2 tables, \d+ s\.", lines[-1])
    assert not any("METRIC" in line or re.search(r"\d+%", line) for line in lines)


@pytest.mark.parametrize("wide", [0, 40])
def test_it_is_never_wider_than_the_terminal_and_leaves_no_trace(
    serve: Serve, run: Start, wide: int
) -> None:
    terminal = run(serve(ACCOUNT, latency=0.2), "contacts", columns=wide)
    terminal.watch()
    for shot in terminal.shots:
        live = [line for line in shot if re.search(r"\d+ s left", line)]
        assert len(live) <= 1
        assert all(len(line) < (wide or 80) for line in live)
    assert [shot for shot in terminal.shots if any(re.search(r"\d+%", line) for line in shot)]
    assert not any(" left" in line for line in terminal.all_lines())


def test_lines_of_another_program_stay_whole(run: Start) -> None:
    """Such as the target's: it writes to the same terminal, whenever it likes."""
    others = [f"INFO other program, line {number}, {'wide ' * 4}{'x' * 107}" for number in range(5)]
    with HeldSandbox(ACCOUNT, page=3) as sandbox:
        terminal = run(sandbox, "contacts", columns=50)

        redrawn = back(50).encode()

        def other() -> None:
            for line in others:
                drawn = terminal.came.count(redrawn)
                wait_until(lambda: terminal.came.count(redrawn) > drawn + 1)  # noqa: B023
                os.write(terminal.slave, f"{line}\n".encode())
            sandbox.released.set()

        writer = threading.Thread(target=other)
        writer.start()
        terminal.watch()
        writer.join()
    assert terminal.process.returncode == 0
    text = "".join(terminal.all_lines())
    assert [text.count(line) for line in others] == [1] * len(others)
    assert "tables done" not in text
    assert " left" not in text
    assert any("left" in line for shot in terminal.shots for line in shot)


def test_rows_that_are_shown_are_not_mixed_with_progress(serve: Serve, run: Start) -> None:
    command = ["sh", "-c", 'exec "$@" >&2', "sh", *COMMAND]  # stdout is the terminal, too
    sandbox = serve(ACCOUNT, latency=0.3)
    terminal = run(sandbox, "lists", command=command, columns=200)
    terminal.watch()
    assert b"\x1b" not in terminal.came
    *_, warning, last = terminal.all_lines()
    assert warning.startswith("WARNING stdout is a terminal, so the rows were only shown; ")
    assert last.startswith("INFO Complete: 8 rows in 1 table, ")


def test_after_a_while_it_says_what_is_waited_for(serve: Serve, run: Start) -> None:
    sandbox = serve(ACCOUNT, "/contacts@3-:hang")
    terminal = run(sandbox, "contacts", command=IMPATIENT, columns=60)
    line = re.compile(r"contacts  200 rows  20%  waiting for GET /contacts/…, [1-9]\d* s")

    def waits(lines: list[str]) -> bool:
        return any(map(line.fullmatch, lines))

    terminal.watch(until=waits)
    assert waits(terminal.shots[-1])


@pytest.mark.parametrize(("arguments", "environment"), [(["-q"], {}), ([], {"TERM": "dumb"})])
def test_it_can_be_turned_off(
    serve: Serve, run: Start, arguments: list[str], environment: dict[str, str]
) -> None:
    sandbox = serve(ACCOUNT, latency=0.1)
    terminal = run(sandbox, "lists", *arguments, **environment)
    terminal.watch()
    assert terminal.process.returncode == 0
    assert b"\x1b" not in terminal.came
    assert terminal.all_lines()[-1].startswith("INFO Complete: 8 rows in 1 table, ")


def test_a_failed_run_ends_with_the_critical_line(serve: Serve, run: Start) -> None:
    sandbox = serve(None, "/contacts@2-:500")
    terminal = run(sandbox, "contacts", columns=400, settings={"retry_timeout": 0.2})
    terminal.watch()
    assert terminal.process.returncode == 1
    lines = terminal.all_lines()
    assert lines[-1].startswith("CRITICAL Not complete: contacts (GET /contacts/…: status 500")
    assert re.fullmatch(r"contacts +100  NOT complete, .*", lines[-2])


def test_the_table_does_not_show_the_key(run: Start) -> None:
    odd = {"contact_id": "a", "unsubscribed": "maybe"}
    with Scripted({"/contacts": {"contacts": [odd]}}) as sandbox:
        key = {"api_key": "unsubscribed"}  # as if a column had its name
        terminal = run(sandbox, "contacts", columns=400, settings=key)
        terminal.watch()
    (line,) = [line for line in terminal.all_lines() if line.startswith("contacts ")]
    assert "1 value did not fit ((API key) 1)" in line
    assert "unsubscribed" not in "".join(terminal.all_lines())


def test_a_closed_terminal_does_not_end_the_run(tap: Tap, serve: Serve) -> None:
    sandbox = serve(Account(contacts=1500, segments=0), "/contacts@6:500", latency=0.05)
    master, slave = pty.openpty()
    with (tap.folder / "out").open("wb") as out:
        process = subprocess.Popen(
            tap.command(sandbox), stdout=out, stderr=slave, cwd=tap.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        os.close(slave)
        os.read(master, 100)
        os.close(master)
        assert process.wait(PATIENCE) == 0
    assert (tap.folder / "out").read_bytes().count(b'"stream":"contacts","record"') == 1500


PARTS = [(3, "contacts"), (1, "5 rows"), (0, ""), (2, "41%")]


@pytest.mark.parametrize(
    ("width", "line"),
    [(80, "contacts  5 rows  41%"), (21, "contacts  5 rows  41%"), (20, "contacts  41%"),
     (12, "contacts"), (4, "cont"), (0, ""), (-1, "")],
)  # fmt: skip
def test_the_least_important_parts_go_first(width: int, line: str) -> None:
    assert fit(PARTS, width) == line


def test_the_table_breaks_long_notes_between_words() -> None:
    lines = [("contacts", 2300, "NOT complete, 132 values nulled (company_priority 22)"),
             ("lists", 8, "")]  # fmt: skip
    assert as_table(lines, 200) == (
        "stream     rows\n"
        "contacts  2,300  NOT complete, 132 values nulled (company_priority 22)\n"
        "lists         8\n"
    )
    assert as_table(lines, 40) == (
        "stream     rows\n"
        "contacts  2,300  NOT complete, 132\n"
        "          values nulled\n"
        "          (company_priority 22)\n"
        "lists         8\n"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (0.44, "0.4 s"), (1, "1 s"), (41.4, "41 s"), (119.4, "119 s"), (130, "2 min"),
     (3599, "1 h 0 min"), (11_100, "3 h 5 min")],
)  # fmt: skip
def test_lengths_of_time_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.2, ""), (0.5, "17 s left"), (0.999, "1 s left"), (1.0, ""), (1.2, "")]
)
def test_the_time_left_assumes_a_steady_pace(share: float, text: str) -> None:
    assert time_left(10, 0.2, share) == text


def test_the_time_left_is_that_of_the_listing_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(monitor, "time", clock)
    writer = mock.Mock(is_writing=False)
    api = Api(Config(api_key="key"))
    found = monitor.Monitor({"lists": STREAMS["lists"]}, {"lists": Tally("lists")}, api, writer)
    found.start({"lists"}, quiet=True)
    for now, share in [(1600, 0.5), (1900, 1.0), (1901, 0.1), (1903, 0.2)]:  # read a second time
        clock.now = now
        found.note_written("lists", share)
    assert (7, "16 s left") in found._progress()
