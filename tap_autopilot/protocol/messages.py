"""The one writer of stdout: Singer messages as whole lines, a page at a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from tap_autopilot.exceptions import RunError

MOST_PIECES = 1000  # that the operating system takes at once

_encode = msgspec.json.Encoder(decimal_format="number").encode


class Writer:
    """Writes messages to a file descriptor.

    What is written is not buffered here: once a call returns, the reader can have it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, pieces: Iterable[bytes]) -> None:
        """Write whole lines, given in pieces, in one go. Raises RunError if that fails."""
        left = [memoryview(piece) for piece in pieces if piece]
        try:
            while left:
                written = os.writev(self._descriptor, left[:MOST_PIECES])
                while left and written >= len(left[0]):
                    written -= len(left.pop(0))
                if written:
                    left[0] = left[0][written:]
        except BrokenPipeError:
            raise RunError(
                "The reader of stdout has gone away. If it was a target, see its messages, then run"
                " again with the last STATE that it gave out."
            ) from None
        except OSError as problem:
            name = errno.errorcode.get(problem.errno or 0, "unknown error")
            raise RunError(f"Cannot write to stdout: {problem.strerror} ({name}).") from None


def message(value: Mapping[str, Any]) -> bytes:
    """A message as a line."""
    return _encode(value) + b"\n"


def records(
    stream: str, rows: Collection[Mapping[str, Any]], version: int | None, extracted: datetime
) -> list[bytes]:
    """A RECORD message for each row, in pieces of lines.

    `version` is that of the pass, `extracted` when the rows were fetched, in UTC.
    """
    if not rows:
        return []
    before = b'{"type":"RECORD","stream":' + _encode(stream) + b',"record":'
    after = b',"time_extracted":' + _encode(extracted.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    if version is not None:
        after += b',"version":' + _encode(version)
    after += b"}\n"
    return [before, (after + before).join(map(_encode, rows)), after]
