"""Live progress in a terminal: one line, redrawn in place."""

from __future__ import annotations

import contextlib
import math
import os
import textwrap
import threading
from collections.abc import Callable, Sequence

from tap_autopilot import logs
from tap_autopilot.amounts import duration

REDRAW_EVERY = 0.2  # seconds
SILENCE = 5.0  # seconds without progress until the line says what the run is waiting for
UNUSABLE = (OSError, ValueError)  # the terminal is gone
THEIRS = 240  # columns of a long line of another program
GAP = "  "
USUAL_WIDTH = 80  # if the terminal does not say

Part = tuple[int, str]  # its importance, and its text


class Live:
    """The live line of a run.

    It stands below the cursor, with room for what other programs write: as long as that fits there
    until the next redraw, it stays whole.
    """

    def __init__(self, parts: Callable[[], Sequence[Part]]) -> None:
        """`parts` returns what to show, from left to right."""
        self._parts = parts
        self._stderr = logs.stderr()
        self._lock = threading.RLock()  # a signal may arrive while the line is drawn
        self._is_drawn = False
        self._ended = threading.Event()
        logs.write_above(self._write)
        threading.Thread(target=self._redraw, name="live", daemon=True).start()

    def _redraw(self) -> None:
        with contextlib.suppress(*UNUSABLE):
            while not self._ended.wait(REDRAW_EVERY):
                with self._lock:
                    if not self._ended.is_set():
                        self._draw()

    def _draw(self, above: str = "") -> None:
        erase = logs.ERASE if self._is_drawn else ""
        columns = screen_width()
        line = fit(self._parts(), columns - 1)
        self._is_drawn = True
        self._stderr.write(erase + above + "\n" * room(columns) + line + back(columns))

    def _write(self, line: str) -> None:
        with contextlib.suppress(*UNUSABLE), self._lock:
            self._draw(f"{line}\n")

    def close(self) -> None:
        """Erase the line."""
        self._ended.set()
        logs.write_above(None)
        with contextlib.suppress(*UNUSABLE), self._lock:
            if self._is_drawn:
                self._stderr.write(logs.ERASE)


def room(columns: int) -> int:
    """How many lines there are between the cursor and the live line: at least two."""
    return max(2, math.ceil(THEIRS / columns))


def back(columns: int) -> str:
    """What moves the cursor from the live line to where other programs write."""
    return f"\x1b[{room(columns)}A\r"


def fit(parts: Sequence[Part], width: int) -> str:
    """The parts on one line, leaving out the least important ones if they don't all fit."""
    parts = [part for part in parts if part[1]]
    while len(GAP.join(text for _, text in parts)) > width and len(parts) > 1:
        parts.remove(min(parts))
    return GAP.join(text for _, text in parts)[: max(width, 0)]


def screen_width() -> int:
    """How many columns the terminal has. Raises OSError if it is gone."""
    return os.get_terminal_size(logs.STDERR).columns or USUAL_WIDTH


def as_table(lines: Sequence[tuple[str, int, str]], width: int) -> str:
    """A table of streams, their rows, and notes, which are wrapped to `width` columns."""
    texts = [("stream", "rows", ""), *((name, f"{rows:,}", notes) for name, rows, notes in lines)]
    wide, narrow = (max(len(line[column]) for line in texts) for column in (0, 1))
    indent = min(wide + narrow + 2 * len(GAP), width // 4)
    return "".join(
        "\n".join(
            textwrap.wrap(
                f"{name:{wide}}{GAP}{rows:>{narrow}}{GAP}{notes}".rstrip(),
                max(width, 1),
                subsequent_indent=" " * indent,
            )
        )
        + "\n"
        for name, rows, notes in texts
    )


def time_left(seconds: float, began: float, share: float) -> str:
    """How long the rest takes, if the share grew from `began` in `seconds`."""
    if not began < share < 1:
        return ""
    return f"{duration(max(1, math.ceil(seconds * (1 - share) / (share - began))))} left"
