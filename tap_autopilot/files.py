"""Files that the programs create."""

from __future__ import annotations

import os
from pathlib import Path


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
