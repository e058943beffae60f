"""The records of a digests file, and the check that chains them.

After MAGIC the file consists of records: a length, a check, and a value in MessagePack. The check
covers the value and the previous check, so a `Position` after a record vouches for everything
before it. The records, in order:

    Header            whose rows these are, and the position that this file was made from
    Block …           the rows of each table, sorted, a few hundred at a time
    Seen …            which of these rows the current pass has already seen
    Ready             the end of the base; the journal follows
    Shaped, Began, Seen, Sent, Left, Ended …
                      what a run saw and sent, a few records for each page

A file is made from its predecessor and replaces it atomically. After that, records are only
appended. A record is on disk before the rows that it names can reach the target. So the target may
or may not have the rows in the journal after the position that the target has confirmed.
"""

from __future__ import annotations

import os
import struct
import zlib
from array import array
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from tap_autopilot.exceptions import RunError

MAGIC = b"tap-autopilot digests 1\n"
DIGEST = 8  # bytes
UNKNOWN = 2**64 - 1  # instead of a digest: the target may have another version of the row
NEVER = 2**64 - 2  # instead of a digest: the target may not even have the row
BETWEEN_COLUMNS, BETWEEN_KEYS = "\0", "\0\0"  # keys are never empty and contain no U+0000
BEYOND = 6  # characters after a common prefix, enough to tell most keys apart
HIGHEST = "\U0010ffff"

MOST = 2**30  # bytes in a record

_HEAD = struct.Struct("<I8s")
_LEVEL = 4  # of compression


class Position(NamedTuple):
    """A place in a file, and the check of everything before it."""

    offset: int
    check: bytes


class Rows(NamedTuple):
    """Keys, and the digest of each row."""

    keys: list[str]
    digests: array[int]

    def part(self, start: int, stop: int | None = None) -> Rows:
        """Some of the rows."""
        return Rows(self.keys[start:stop], self.digests[start:stop])


class Damaged(RunError):
    """The file does not contain what was written to it."""

    def __init__(self) -> None:
        super().__init__("The digests file changed while it was in use. Run again.")


class Kept(msgspec.Struct, array_like=True):
    """What the file knows about a table besides its rows.

    `shape` is a digest of what its rows look like. `born` is when it was first filled, in epoch
    milliseconds, which is also the version of its rows. `passes` counts finished passes. A table is
    `settled` once a pass has ended without doubt, and `activated` once its version was announced.
    `began` is when the current pass began.
    """

    name: str
    shape: bytes
    born: int
    passes: int = 0
    settled: bool = False
    activated: bool = False
    began: str | None = None


class Header(msgspec.Struct, array_like=True, tag="h"):
    """`account` is a digest of the account's address and key, made with `salt`."""

    salt: bytes
    account: bytes
    made_from: tuple[int, bytes] | None
    tables: list[Kept]


class Block(msgspec.Struct, array_like=True, tag="b"):
    """Some rows of the table with this number in the header. `first` is the first of their keys."""

    table: int
    first: str
    count: int
    digests: bytes
    keys: bytes

    def rows(self) -> Rows:
        """The rows."""
        return _unpacked(self.count, self.digests, self.keys)


class Seen(msgspec.Struct, array_like=True, tag="s"):
    """Rows of the base that were seen unchanged, by number, as [from, to, from, to …]."""

    table: int
    ranges: list[int]


class Ready(msgspec.Struct, array_like=True, tag="r"):
    """The end of the base."""


class Shaped(msgspec.Struct, array_like=True, tag="c"):
    """The rows of a table have another shape from here on."""

    table: int
    shape: bytes


class Began(msgspec.Struct, array_like=True, tag="p"):
    """A pass over a table began."""

    table: int
    at: str


class Sent(msgspec.Struct, array_like=True, tag="n"):
    """Rows that were sent, sorted. Their keys lie between `low` and `high`, which are short."""

    table: int
    low: str
    high: str
    count: int
    digests: bytes
    keys: bytes

    def rows(self) -> Rows:
        """The rows."""
        return _unpacked(self.count, self.digests, self.keys)


class Left(msgspec.Struct, array_like=True, tag="l"):
    """Rows that tombstones were sent for, sorted, as in `Sent`."""

    table: int
    low: str
    high: str
    count: int
    digests: bytes
    keys: bytes

    def rows(self) -> Rows:
        """The rows."""
        return _unpacked(self.count, self.digests, self.keys)


class Ended(msgspec.Struct, array_like=True, tag="e"):
    """A pass ended. If `dropped`, the rows it did not see are deleted. The rest is as in `Kept`."""

    table: int
    dropped: bool
    settled: bool
    activated: bool


Record = Header | Block | Seen | Ready | Shaped | Began | Sent | Left | Ended

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


def bounds(keys: list[str]) -> tuple[str, str]:
    """A lower bound of the first and an upper bound of the last of some keys, both short."""
    first, last = keys[0], keys[-1]
    common = 0
    while first[common : common + 1] == last[common : common + 1] != "":
        common += 1
    return first[: common + BEYOND], last[: common + BEYOND] + HIGHEST


def packed(rows: Rows) -> tuple[int, bytes, bytes]:
    """Rows as fields of a record: their number, their digests unless all are 0, and their keys."""
    digests = rows.digests.tobytes() if any(rows.digests) else b""
    return len(rows.keys), digests, zlib.compress(BETWEEN_KEYS.join(rows.keys).encode(), _LEVEL)


def _unpacked(count: int, digests: bytes, keys: bytes) -> Rows:
    found = array("Q", digests or bytes(DIGEST * count))
    return Rows(zlib.decompress(keys).decode().split(BETWEEN_KEYS), found)


def framed(record: Record | bytes, before: bytes) -> tuple[bytes, bytes]:
    """A record, or its encoded value, as written to a file, and its check."""
    value = record if isinstance(record, bytes) else _encode(record)
    check = blake2b(value, key=before, digest_size=DIGEST).digest()
    return _HEAD.pack(len(value), check) + value, check


def value_at(descriptor: int, offset: int, length: int) -> bytes:
    """The encoded value of the record at this offset, with this total length."""
    return os.pread(descriptor, length, offset)[_HEAD.size :]


def record_at(descriptor: int, offset: int, length: int) -> Any:
    """The record at this offset, with this total length; it was checked when the file was opened.

    Raises Damaged if the file has changed since.
    """
    try:
        return _decode(value_at(descriptor, offset, length))
    except (OSError, msgspec.DecodeError):
        raise Damaged from None


def scan(descriptor: int) -> Iterator[tuple[Record, int, Position]]:
    """The records of a file, where each begins, and the position after it.

    Raises Damaged at anything but a whole record.
    """
    with open(descriptor, "rb", buffering=2**20, closefd=False) as file:
        file.seek(0)
        if file.read(len(MAGIC)) != MAGIC:
            raise Damaged
        offset, check = len(MAGIC), b""
        while head := file.read(_HEAD.size):
            length, wanted = _HEAD.unpack(head) if len(head) == _HEAD.size else (MOST, b"")
            value = file.read(length) if length < MOST else b""
            check = blake2b(value, key=check, digest_size=DIGEST).digest()
            if check != wanted:
                raise Damaged
            try:
                record = _decode(value)
            except msgspec.DecodeError:
                raise Damaged from None
            start, offset = offset, offset + _HEAD.size + length
            yield record, start, Position(offset, check)
