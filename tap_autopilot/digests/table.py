"""One table of a digests file, for comparison with each page of rows."""

from __future__ import annotations

import bisect
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from tap_autopilot.digests.records import NEVER, Kept, Rows, record_at

BLOCKS = 4  # kept unpacked, plus one for each walk
UNSEEN, SEEN, SENT = 0, 1, 2


class Compared(NamedTuple):
    """Which of a page's rows, by index, are `changed` or `new` to the target.

    `seen` are the unchanged rows that no earlier page contained, by their numbers in the base, as
    [from, to, from, to …].
    """

    changed: list[int]
    new: list[int]
    seen: list[int]


class _Unpacked:
    """A block in memory, for keys from `low` to below `high`."""

    def __init__(self, low: str, high: str | None, start: int, rows: Rows) -> None:
        self.low, self.high, self.start = low, high, start
        self.keys, self.digests = rows

    @cached_property
    def known(self) -> dict[str, int]:
        """The place of each key."""
        return dict(zip(self.keys, range(len(self.keys)), strict=True))


class Table:
    """The rows of a table in the base, in sorted blocks, and which of them this pass has seen.

    Memory: a byte for each row, a few hundred bytes for each block, and the blocks in use.
    """

    def __init__(self, kept: Kept, descriptor: int) -> None:
        self.kept = kept
        self.descriptor = descriptor
        self.firsts: list[str] = []  # keys, one for each block
        self.starts = array("Q", [0])  # the number of each block's first row; last, of all rows
        self.places: list[tuple[int, int]] = []  # offset and length of each block's record
        self.marks = bytearray()
        self._unpacked: OrderedDict[int, _Unpacked] = OrderedDict()
        self._room = BLOCKS

    def add(self, first: str, marks: bytes | bytearray, offset: int, length: int) -> None:
        """Add a block at the end, with the marks of its rows."""
        self.firsts.append(first)
        self.starts.append(self.starts[-1] + len(marks))
        self.places.append((offset, length))
        self.marks += marks

    def make_room(self, walks: int) -> None:
        """Keep enough blocks unpacked for this many walks."""
        self._room = BLOCKS + walks

    def block(self, number: int) -> Rows:
        """The rows of a block."""
        rows: Rows = record_at(self.descriptor, *self.places[number]).rows()
        return rows

    def mark(self, ranges: Sequence[int]) -> None:
        """Note rows as seen, given as [from, to, from, to …]."""
        for start, stop in zip(ranges[::2], ranges[1::2], strict=True):
            self.marks[start:stop] = bytes((SEEN,)) * (stop - start)

    def compare(self, keys: Sequence[str], digests: array[int]) -> Compared:
        """Compare rows, sorted by key, with the base, and mark them.

        A row that this pass has sent is sent again if it occurs again, because it may have changed
        and changed back.
        """
        if not self.firsts:
            return Compared([], list(range(len(keys))), [])
        found = Compared([], [], [])
        at = 0
        while at < len(keys):
            block = self._block_for(keys[at])
            at += self._all_alike(block, keys, digests, at, found) or self._one_by_one(
                block, keys, digests, at, found
            )
        return found

    def _all_alike(
        self,
        block: _Unpacked,
        keys: Sequence[str],
        digests: array[int],
        at: int,
        found: Compared,
    ) -> int:
        """The usual case: the next rows equal the block's; returns how many, or 0 if any differ."""
        first = bisect.bisect_left(block.keys, keys[at])
        count = min(len(block.keys) - first, len(keys) - at)
        row = block.start + first
        if (
            block.keys[first : first + count] != keys[at : at + count]
            or block.digests[first : first + count] != digests[at : at + count]
            or self.marks[row : row + count] != bytes(count)
        ):
            return 0
        self.marks[row : row + count] = bytes((SEEN,)) * count
        found.seen.extend((row, row + count))
        return count

    def _one_by_one(
        self,
        block: _Unpacked,
        keys: Sequence[str],
        digests: array[int],
        at: int,
        found: Compared,
    ) -> int:
        """Compare the next rows that belong in the block; returns how many."""
        low, high, start, marks = block.low, block.high, block.start, self.marks
        known, stored = block.known, block.digests
        seen: list[int] = []
        number = at
        for number in range(at, len(keys)):
            key = keys[number]
            if key < low or (high is not None and key >= high):
                break
            place = known.get(key)
            if place is None:
                found.new.append(number)
                continue
            row = start + place
            if stored[place] == NEVER:
                marks[row] = SENT
                found.new.append(number)
            elif stored[place] != digests[number] or marks[row] == SENT:
                marks[row] = SENT
                found.changed.append(number)
            elif not marks[row]:
                marks[row] = SEEN
                seen.append(row)
        else:
            number += 1
        found.seen.extend(ranges_of(seen))
        return number - at

    def unseen(self) -> Iterator[str]:
        """The keys of all rows that this pass has not seen."""
        at = self.marks.find(UNSEEN)
        while at >= 0:
            number = bisect.bisect_right(self.starts, at) - 1
            start, stop = self.starts[number], self.starts[number + 1]
            keys = self.block(number).keys
            for row in range(at, stop):
                if self.marks[row] == UNSEEN:
                    yield keys[row - start]
            at = self.marks.find(UNSEEN, stop)

    def _block_for(self, key: str) -> _Unpacked:
        """The block to which a key belongs."""
        number = max(bisect.bisect_right(self.firsts, key) - 1, 0)
        found = self._unpacked.get(number)
        if found is None:
            low = self.firsts[number] if number else ""
            high = self.firsts[number + 1] if number + 1 < len(self.firsts) else None
            found = _Unpacked(low, high, self.starts[number], self.block(number))
            self._unpacked[number] = found
            if len(self._unpacked) > self._room:
                self._unpacked.popitem(last=False)
        else:
            self._unpacked.move_to_end(number)
        return found


def ranges_of(numbers: list[int]) -> list[int]:
    """Numbers as [from, to, from, to …]."""
    if not numbers:
        return []
    first, last = numbers[0], numbers[-1]
    if last - first + 1 == len(numbers) and all(map(int.__lt__, numbers, numbers[1:])):
        return [first, last + 1]
    found: list[int] = []
    for one in sorted(numbers):
        if found and found[-1] == one:
            found[-1] = one + 1
        else:
            found += (one, one + 1)
    return found
