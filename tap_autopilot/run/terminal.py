"""Live progress in a terminal: one line per stream."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence

from tqdm import tqdm

from tap_autopilot import logs

OFTEN = 0.1  # seconds between updates
UNUSABLE = (OSError, ValueError)  # the terminal is gone


class Live:
    """A live line on stderr for each stream. Log lines appear above the live lines."""

    def __init__(self, streams: Sequence[str]) -> None:
        self._started = time.monotonic()
        self._drawn = 0.0
        self._width = max(map(len, streams))
        self._known: dict[str, tuple[int, float | None]] = {}
        self._stderr = logs.Stderr()
        self._lines = {
            stream: tqdm(
                desc=stream,
                bar_format="{desc}",
                position=number,
                leave=False,
                dynamic_ncols=True,
                file=self._stderr,
            )
            for number, stream in enumerate(streams)
        }
        self._began: dict[str, float] = {}
        logs.write_above(self._write)

    def _write(self, line: str) -> None:
        with contextlib.suppress(*UNUSABLE):
            tqdm.write(line, file=self._stderr)

    def show(self, stream: str, rows: int, share: float | None, *, throttled: bool) -> None:
        """Update a stream's line; `share` is the part read so far, if known."""
        now = time.monotonic()
        self._known[stream] = rows, share
        if share is not None:
            self._began.setdefault(stream, share)
        with contextlib.suppress(*UNUSABLE):
            if share == 1:
                self._draw(stream, now, throttled=False)
                del self._known[stream]  # its line stays unchanged
            if now - self._drawn > OFTEN:
                self._drawn = now
                for name in self._known:
                    self._draw(name, now, throttled=throttled)

    def _draw(self, stream: str, now: float, *, throttled: bool) -> None:
        (rows, share), seconds = self._known[stream], now - self._started
        parts = [f"{stream:{self._width}}", f"{rows:>10,} rows", f"{rows / seconds:>8,.0f}/s"]
        if share:
            parts.append(f"{min(share, 1):4.0%}")
        if share and self._began[stream] < share < 1:
            left = seconds * (1 - share) / (share - self._began[stream])
            parts.append(f"{clock(left)} left")
        if throttled:
            parts.append("throttled by the API")
        self._lines[stream].set_description_str("  ".join(parts))

    def close(self, summary: Iterable[tuple[str, int, str]]) -> None:
        """Replace the lines with a table: stream, rows, notes."""
        logs.write_above(None)
        with contextlib.suppress(*UNUSABLE):
            self._close(summary)

    def _close(self, summary: Iterable[tuple[str, int, str]]) -> None:
        for line in reversed(self._lines.values()):
            line.close()
        lines = [
            ("stream", "rows", ""),
            *((name, f"{rows:,}", more) for name, rows, more in summary),
        ]
        wide, narrow = (max(len(line[column]) for line in lines) for column in (0, 1))
        for name, rows_text, more in lines:
            self._stderr.write(f"{name:{wide}}  {rows_text:>{narrow}}  {more}".rstrip() + "\n")


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
