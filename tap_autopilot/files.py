"""Files that the programs create, and small files that they read."""

from __future__ import annotations

import errno
import os
import select
import time
from pathlib import Path

MAX_SIZE = 10_000_000  # bytes; parsed JSON can take 25 times as much memory
PATIENCE = 60.0  # seconds to wait for whoever writes to a pipe


def read_small(path: str | Path) -> bytearray:
    """What is in a file, or comes through a pipe until it is closed. Raises OSError.

    This ends whatever the path names: an endless device, or a pipe that nobody writes to.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + PATIENCE
        content = bytearray()
        while len(content) <= MAX_SIZE:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError(errno.ETIMEDOUT, f"no end after {PATIENCE:g} s")
            part = os.read(descriptor, 1 << 20)
            if not part:
                return content
            content += part
    finally:
        os.close(descriptor)
    raise OSError(errno.EFBIG, f"larger than {MAX_SIZE // 1_000_000} MB")


def open_or_create(path: str | Path, flags: int, mode: int) -> int:
    """A descriptor of a file, which is created if missing. Raises OSError.

    A link to a file that exists is followed; nothing is created at the end of a link, which someone
    else may have planted.
    """
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        pass
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:  # another process was quicker, or it is a link to nothing
        return os.open(path, flags)


def is_same(path: str, other: str) -> bool:
    """Whether two paths name the same file, which need not exist."""
    return os.path.realpath(path) == os.path.realpath(other)
