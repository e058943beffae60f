"""Compaction: makes a new file by merging the journal of the old one into its sorted rows.

Neither is held in memory. The pages of a journal form a few sorted sequences, which are merged with
the rows of the old file as both are read from front to back. Blocks without changes are copied as
they are, without unpacking them.
"""

from __future__ import annotations

import bisect
import heapq
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple

from tap_autopilot.digests.records import (
    MAGIC,
    NEVER,
    UNKNOWN,
    Block,
    Header,
    Left,
    Position,
    Ready,
    Record,
    Rows,
    Seen,
    framed,
    packed,
    record_at,
    value_at,
)
from tap_autopilot.digests.table import SEEN, UNSEEN, Table

ROWS = 512  # in a block, usually
FEWEST = 128  # in a block, unless it is the only one


class Pages:
    """Where a table's rows are in a journal: a few sequences of records, each of them sorted.

    If `unsure`, the target may have other versions of the rows, or none.
    """

    def __init__(self, *, unsure: bool = False) -> None:
        self._unsure = unsure
        self._ends: list[str] = []  # an upper bound of each sequence's keys, in order
        self._sequences: list[array[int]] = []  # offset, length, offset, length …

    def __bool__(self) -> bool:
        """Whether there are any rows."""
        return bool(self._sequences)

    def add(self, low: str, high: str, offset: int, length: int) -> None:
        """Add a record to the sequence that ends closest before it, or start a new sequence."""
        at = bisect.bisect_left(self._ends, low) - 1
        sequence = array("Q")
        if at >= 0:
            del self._ends[at]
            sequence = self._sequences.pop(at)
        sequence.extend((offset, length))
        place = bisect.bisect_left(self._ends, high)
        self._ends.insert(place, high)
        self._sequences.insert(place, sequence)

    def runs(self, descriptor: int) -> Iterator[Rows]:
        """All rows in order, in batches; of duplicates, the last."""
        heads: list[tuple[str, int, Rows, Iterator[tuple[int, Rows]]]] = []

        def push(offset: int, rows: Rows, rest: Iterator[tuple[int, Rows]]) -> None:
            if not rows.keys:
                offset, rows = next(rest, (0, rows))
            if rows.keys:
                heapq.heappush(heads, (rows.keys[0], offset, rows, rest))

        for sequence in self._sequences:
            push(0, EMPTY, self._read(descriptor, sequence))
        while heads:
            first, offset, rows, rest = heapq.heappop(heads)
            until = heads[0][0] if heads else None
            if first == until:  # a later record has the same row
                push(offset, rows.part(1), rest)
                continue
            stop = len(rows.keys) if until is None else bisect.bisect_left(rows.keys, until)
            yield rows.part(0, stop)
            push(offset, rows.part(stop), rest)

    def _read(self, descriptor: int, sequence: array[int]) -> Iterator[tuple[int, Rows]]:
        for offset, length in zip(sequence[::2], sequence[1::2], strict=True):
            record = record_at(descriptor, offset, length)
            rows = record.rows()
            if self._unsure:
                kind = NEVER if isinstance(record, Left) else UNKNOWN
                rows = Rows(rows.keys, array("Q", [kind]) * len(rows.keys))
            yield offset, rows


class Base:
    """A new file, written from front to back."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = file
        self._file.write(MAGIC)
        self.position = Position(len(MAGIC), b"")
        self._add(header)

    def _add(self, record: Record | bytes) -> tuple[int, int]:
        offset = self.position.offset
        written, check = framed(record, self.position.check)
        self._file.write(written)
        self.position = Position(offset + len(written), check)
        return offset, len(written)

    def add_table(
        self,
        old: Table,
        sent: Pages,
        unsure: Pages,
        new: Table,
        number: int,
        *,
        dropping: bool,
        outdated: bool,
    ) -> None:
        """Write the rows of a table: those of the old file, and those that were sent since.

        If `dropping`, leave out rows of the old file that were not seen. Of `unsure` rows, and of
        all rows if their digests are `outdated`, keep only the keys.
        """
        parts = _merged(
            _parts(old, dropping=dropping), _Runs(sent.runs(old.descriptor)), _with_sent
        )
        parts = _merged(parts, _Runs(unsure.runs(old.descriptor)), _with_unsure)
        group = _Group(outdated=outdated)
        for part in parts:
            if isinstance(part, _Clean) and not outdated and not 0 < len(group.keys) < FEWEST:
                self._write(group, new, number, least=1)
                place = self._add(value_at(old.descriptor, *old.places[part.at]))
                new.add(part.first, part.marks, *place)
            else:
                group.add(part.unpacked() if isinstance(part, _Clean) else part)
                self._write(group, new, number, least=2 * ROWS)
        self._write(group, new, number, least=1)

    def _write(self, group: _Group, new: Table, number: int, *, least: int) -> None:
        """Write blocks while at least this many rows are waiting."""
        while len(group.keys) >= least:
            count = len(group.keys)
            count = ROWS if count >= 2 * ROWS else count if count <= ROWS else count // 2
            rows, marks = group.take(count)
            block = Block(number, rows.keys[0], *packed(rows))
            new.add(rows.keys[0], marks, *self._add(block))

    def end(self, tables: Iterable[Table]) -> Position:
        """Write which rows have been seen, and the end of the base."""
        for number, table in enumerate(tables):
            ranges = list(_marked(table.marks))
            if ranges:
                self._add(Seen(number, ranges))
        self._add(Ready())
        return self.position


def _marked(marks: bytearray) -> Iterator[int]:
    """The numbers of the marked rows, as [from, to, from, to …]."""
    start = marks.find(SEEN)
    while start >= 0:
        stop = marks.find(UNSEEN, start)
        yield start
        yield stop if stop >= 0 else len(marks)
        start = marks.find(SEEN, stop) if stop >= 0 else -1


# Merging. Rows go from step to step in sorted parts; a block is unpacked only if it changes.

EMPTY = Rows([], array("Q"))


class _Part(NamedTuple):
    """Some rows and their marks."""

    rows: Rows
    marks: bytes | bytearray


class _Clean(NamedTuple):
    """A block of the old file, unchanged so far."""

    old: Table
    at: int

    @property
    def first(self) -> str:
        return self.old.firsts[self.at]

    @property
    def until(self) -> str | None:
        """The first key of the next block; None if there is none."""
        following = self.at + 1
        return self.old.firsts[following] if following < len(self.old.firsts) else None

    @property
    def marks(self) -> bytearray:
        return self.old.marks[self.old.starts[self.at] : self.old.starts[self.at + 1]]

    def unpacked(self) -> _Part:
        return _Part(self.old.block(self.at), self.marks)


class _Runs:
    """Sorted rows waiting to be merged."""

    def __init__(self, runs: Iterator[Rows]) -> None:
        self._runs = runs
        self._rest = EMPTY

    def before(self, until: str | None) -> Iterator[Rows]:
        """The rows before a key, in batches; all rows if it is None."""
        while self.is_before(until):
            keys = self._rest.keys
            stop = len(keys) if until is None else bisect.bisect_left(keys, until)
            found, self._rest = self._rest.part(0, stop), self._rest.part(stop)
            yield found

    def is_before(self, until: str | None) -> bool:
        """Whether there is a row before a key; any row if it is None."""
        if not self._rest.keys:
            self._rest = next(self._runs, EMPTY)
        return bool(self._rest.keys) and (until is None or self._rest.keys[0] < until)


def _parts(old: Table, *, dropping: bool) -> Iterator[_Part | _Clean]:
    """The blocks of the old file, if `dropping` without the rows that were not seen."""
    for at in range(len(old.firsts)):
        block = _Clean(old, at)
        if not dropping or UNSEEN not in block.marks:
            yield block
            continue
        (keys, digests), marks = block.unpacked()
        kept = [n for n, mark in enumerate(marks) if mark]
        rows = Rows([keys[n] for n in kept], array("Q", [digests[n] for n in kept]))
        yield _Part(rows, bytes([marks[n] for n in kept]))


def _merged(
    parts: Iterable[_Part | _Clean], runs: _Runs, combined: Callable[[_Part, Rows], _Part]
) -> Iterator[_Part | _Clean]:
    """Parts and runs, both in order, combined where they overlap."""
    for part in parts:
        if isinstance(part, _Clean):
            for run in runs.before(part.first):
                yield combined(_Part(EMPTY, b""), run)
            if not runs.is_before(part.until):
                yield part
                continue
            part = part.unpacked()
        (rows, marks), done = part, 0
        for run in runs.before(rows.keys[-1] + "\0" if rows.keys else ""):
            stop = bisect.bisect_right(rows.keys, run.keys[-1], done)
            yield combined(_Part(rows.part(done, stop), marks[done:stop]), run)
            done = stop
        yield _Part(rows.part(done), marks[done:])
    for run in runs.before(None):
        yield combined(_Part(EMPTY, b""), run)


def _with_sent(part: _Part, run: Rows) -> _Part:
    """A part updated with rows that were sent, which count as seen."""
    if not part.rows.keys:
        return _Part(run, bytes((SEEN,)) * len(run.keys))
    found = _by_key(part)
    found |= {key: (digest, SEEN) for key, digest in zip(*run, strict=True)}
    return _sorted(found)


def _with_unsure(part: _Part, run: Rows) -> _Part:
    """A part updated with rows or tombstones that were sent, but not confirmed by the target."""
    found = _by_key(part)
    for key, digest in zip(*run, strict=True):
        known = found.get(key)
        found[key] = (NEVER, UNSEEN) if known is None else (digest, known[1])
    return _sorted(found)


def _by_key(part: _Part) -> dict[str, tuple[int, int]]:
    rows, marks = part
    return dict(zip(rows.keys, zip(rows.digests, marks, strict=True), strict=True))


def _sorted(found: dict[str, tuple[int, int]]) -> _Part:
    keys = sorted(found)
    digests = array("Q", [found[key][0] for key in keys])
    return _Part(Rows(keys, digests), bytes([found[key][1] for key in keys]))


class _Group:
    """Rows waiting to be written."""

    def __init__(self, *, outdated: bool) -> None:
        self.keys: list[str] = []
        self._digests = array("Q")
        self._marks = bytearray()
        self._outdated = outdated

    def add(self, part: _Part) -> None:
        self.keys += part.rows.keys
        self._digests += part.rows.digests
        self._marks += part.marks

    def take(self, count: int) -> tuple[Rows, bytearray]:
        digests, marks = self._digests[:count], self._marks[:count]
        if self._outdated:
            digests = array("Q", [NEVER if one == NEVER else UNKNOWN for one in digests])
        rows = Rows(self.keys[:count], digests)
        del self.keys[:count], self._digests[:count], self._marks[:count]
        return rows, marks
