"""The only writer to stdout: Singer messages as whole lines, a page at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import select
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from tap_autopilot.exceptions import RunError, Stopped
from tap_autopilot.rfc3339 import rfc3339

MAX_PIECES = 1000  # the most that one system call accepts
POLL = 1.0  # seconds

_encode = msgspec.json.Encoder(decimal_format="number").encode


class Writer:
    """Writes messages to a file descriptor.

    Nothing is buffered here: once `write` returns, the reader can read the lines. Works with
    blocking and non-blocking descriptors.
    """

    def __init__(self, descriptor: int) -> None:
        self.is_writing = False
        self.is_broken = False  # whether the reader is gone
        self._descriptor = descriptor
        self._stopped: Stopped | None = None
        self._blocked = False  # whether the descriptor was blocking before `finish_line`
        self._last = b""
        self._ended_early = b""  # the whole lines of a write that failed or was stopped

    def finish_line(self, stopped: Stopped) -> None:
        """Make the current `write` raise this at the end of its line. For signal handlers.

        Python retries a blocked write after a signal, so the descriptor must stop blocking.
        """
        self._stopped = stopped
        with contextlib.suppress(OSError):
            self._blocked = self._blocked or os.get_blocking(self._descriptor)
            os.set_blocking(self._descriptor, False)

    def write(self, pieces: Iterable[bytes]) -> None:
        """Write whole lines, given in pieces. Raises RunError if that fails.

        The last piece is a whole line, the STATE. If a signal ends the write before it, the STATE
        of the previous write is repeated, if there is room for it.
        """
        lines = [piece for piece in pieces if piece]
        self.is_writing = True
        try:
            self._write(lines)
        except BrokenPipeError:
            self.is_broken = True
            raise RunError(
                "Broken pipe: the reader of stdout closed it. If that was a target, see its log,"
                " then run again with the last STATE that it printed."
            ) from None
        except OSError as problem:
            name = errno.errorcode.get(problem.errno or 0, "unknown error")
            raise RunError(
                f"Cannot write to stdout: {problem.strerror} ({name}). Fix that, and run again."
            ) from None
        finally:
            self.is_writing = False
            if self._stopped is not None and self._blocked:
                with contextlib.suppress(OSError):  # other processes may share it
                    os.set_blocking(self._descriptor, True)
        self._last = lines[-1] if lines else self._last

    def written_early(self, stream: str) -> int:
        """How many of a stream's records were written by a write that ended early."""
        return self._ended_early.count(_record_of(stream))

    def _write(self, pieces: list[bytes]) -> None:
        remaining = [memoryview(piece) for piece in pieces]
        done = 0
        try:
            while remaining:
                if self._stopped is not None:
                    self._end(b"".join(pieces), done)
                    raise self._stopped
                try:
                    written = os.writev(self._descriptor, remaining[:MAX_PIECES])
                except BlockingIOError:
                    self._is_writable(POLL)
                    continue
                done += written
                while remaining and written >= len(remaining[0]):
                    written -= len(remaining.pop(0))
                if written:
                    remaining[0] = remaining[0][written:]
        except OSError:
            text = b"".join(pieces)
            self._ended_early = text[: text.rfind(b"\n", 0, done) + 1]
            raise

    def _end(self, text: bytes, done: int) -> None:
        """Write the rest of the line; unless that is the new STATE, repeat the last if it fits."""
        end = text.index(b"\n", done - 1) + 1 if done else 0
        rest = text[done:end]
        while rest:
            if self._is_writable(POLL):
                rest = rest[self._write_some(rest) :]
        self._ended_early = text[:end]
        if 0 < end < len(text) and len(self._last) <= select.PIPE_BUF and self._is_writable(POLL):
            self._write_some(self._last)

    def _write_some(self, text: bytes) -> int:
        """Write as much as possible without blocking; returns how much."""
        try:
            return os.write(self._descriptor, text[: select.PIPE_BUF])
        except BlockingIOError:
            return 0

    def _is_writable(self, seconds: float) -> bool:
        """Whether the descriptor accepts PIPE_BUF bytes, now or within `seconds`."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))


def message(value: Mapping[str, Any]) -> bytes:
    """A message as a line."""
    return _encode(value) + b"\n"


def encoded(values: Iterable[Any]) -> list[bytes]:
    """Values as JSON, encoded as in messages."""
    return list(map(_encode, values))


def record_lines(
    stream: str, rows: Sequence[bytes], version: int | None, extracted: datetime
) -> list[bytes]:
    """A RECORD message for each row, given as JSON, as pieces of lines.

    `version` is the pass's version, `extracted` when the rows were fetched, in UTC.
    """
    if not rows:
        return []
    before = _record_of(stream)
    after = b',"time_extracted":' + _encode(rfc3339(extracted, "microseconds"))
    if version is not None:
        after += b',"version":' + _encode(version)
    after += b"}\n"
    return [before, (after + before).join(rows), after]


def _record_of(stream: str) -> bytes:
    """The beginning of every RECORD message of a stream."""
    return b'{"type":"RECORD","stream":' + _encode(stream) + b',"record":'
