"""Files that the programs create, and small files that they read."""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
import time
from collections.abc import Collection
from pathlib import Path

from tap_autopilot.arguments import shown_file
from tap_autopilot.exceptions import UserError

MAX_SIZE = 10_000_000  # bytes; parsed JSON can take 25 times as much memory
BESIDE = ("-wal", "-shm", "-journal")  # what SQLite appends to the names of its other files
WAIT_FOR_WRITER = 60.0  # seconds; whoever writes to a pipe


def read_small(path: str | Path) -> bytearray:
    """What is in a file, or comes through a pipe until it is closed. Raises OSError.

    This always ends, whatever the path names: an endless device, or a pipe that nobody writes to.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + WAIT_FOR_WRITER
        content = bytearray()
        while len(content) <= MAX_SIZE:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError(errno.ETIMEDOUT, f"no end after {WAIT_FOR_WRITER:g} s")
            part = os.read(descriptor, 1 << 20)
            if not part:
                return content
            content += part
    finally:
        os.close(descriptor)
    raise OSError(errno.EFBIG, f"larger than {MAX_SIZE // 1_000_000} MB")


def guard_descriptors() -> None:
    """Open whichever of stdin, stdout and stderr is closed.

    Otherwise the next file or socket would take its place, and what is logged would go there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            if os.open(os.devnull, os.O_RDONLY) != descriptor:
                raise
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


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


def database_files(database: str | Path) -> list[Path]:
    """A SQLite database, and the files that it may have beside it."""
    return [Path(f"{database}{suffix}") for suffix in ("", *BESIDE)]


def check_owners(database: str | Path) -> None:
    """Raise UserError if another user may have planted a SQLite database, or a file beside it."""
    for path in database_files(database):
        check_owner(path)


def check_owner(path: Path, trusted: Collection[int] = ()) -> None:
    """Raise UserError if another user may have planted this file, in a folder such as /tmp.

    It may belong to us, root, the folder's owner or one of the `trusted`. Where the folder is not
    sticky, its mode protects nothing.
    """
    for place in {path.absolute(), Path(os.path.realpath(path))}:
        try:
            folder, file = place.parent.stat(), place.lstat()
        except OSError:  # it is missing, or the caller will learn why
            continue
        is_open = stat.S_IWOTH | stat.S_ISVTX
        owners = {os.geteuid(), 0, folder.st_uid, *trusted}
        if folder.st_mode & is_open == is_open and file.st_uid not in owners:
            raise UserError(
                f"{shown_file(str(place))} belongs to another user, who may have planted it: anyone"
                " can create files in its folder. Use a folder of your own."
            )


def is_same(path: str | Path, other: str | Path) -> bool:
    """Whether two paths name the same file, which need not exist."""
    try:
        return Path(path).samefile(other)  # it may have two names
    except OSError:
        return os.path.realpath(path) == os.path.realpath(other)
