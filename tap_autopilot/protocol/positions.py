"""Converts the positions of each source's walks to and from the state.

A source is one listing, or the members of each segment. Either way it knows which walks to read and
from where, how far they have come, and whether all are complete.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated, Any

import msgspec

from tap_autopilot.amounts import amount
from tap_autopilot.protocol.state import as_type
from tap_autopilot.sources.completeness import Census, Count, Doubt
from tap_autopilot.sources.listings import Position, Walk, members_of

MAX_OPEN = 2**19  # characters of begun segments, of up to 12 bytes; no state of 10 MB can be read

Bookmark = Annotated[str, msgspec.Meta(min_length=1)] | None
Segment = tuple[str, Bookmark, Census, int]  # one that is begun: its id, position, and if it failed


class OneListing:
    """A source with a single listing. Its state is the position of the next page."""

    def __init__(self, walk: Walk, mark: str) -> None:
        self._walk = walk
        self.mark = mark
        self.start_over()

    def start_over(self) -> None:
        """Forget what has been read."""
        self.position = Position()
        self.is_complete = False
        self.read = 0

    def resume(self, value: Any, marks: Collection[str | None]) -> bool:
        """Resume the reading if the state's has the one mark in `marks`; returns whether it has."""
        saved = as_type(value, tuple[Bookmark, Census, str])
        if saved is None or marks != {saved[2]}:
            return False
        self.position, self.mark = Position(*saved[:2]), saved[2]
        return True

    @property
    def was_interrupted(self) -> bool:
        """Whether an earlier run did not finish reading it."""
        return self.position != Position()

    def advance(self, _: Walk, after: Position | None, *, read: int) -> None:
        """Note that a page is written, the last if `after` is None.

        `read` is how many documents this reading has found so far; those of an earlier reading do
        not count.
        """
        self.read = read
        self.is_complete = after is None
        self.position = after or Position()

    def doubts(self) -> dict[Doubt, str]:
        """The doubts about the source as a whole, now that it is complete."""
        what = str(self._walk)
        is_fine = self.read or self._walk.optional
        return {} if is_fine else {Doubt.EMPTY: f"the API listed no {what} at all"}

    def value(self) -> Any:
        """Its entry in the state; None if there is nothing to resume."""
        return None if self.is_complete else [*_written(self.position), self.mark]


class EachSegment:
    """The members of each segment, in the order of the segments' ids.

    Its entry in the state does not grow with the number of segments. It has the last segment begun,
    the number of finished segments' members, the number of segments gone, null once another one
    exists, and, for each segment begun but not finished, the position and whether it failed.
    """

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.start_over()

    def start_over(self) -> None:
        """Forget what has been read."""
        self._through = ""
        self._gone: int | None = 0
        self._open: dict[str, Position] = {}
        self._failed: set[str] = set()
        self._ids: list[str] = []
        self._next = 0  # the first segment that is not begun
        self._known = False
        self.read = 0

    def resume(self, value: Any, marks: Collection[str | None]) -> bool:
        """Resume the reading if the state's has the one mark in `marks`; returns whether it has."""
        saved = as_type(value, tuple[str, Count, Count | None, list[Segment], str])
        if saved is None or marks != {saved[4]}:
            return False
        self._through, self.read, self._gone, segments, self.mark = saved
        self._open = {name: Position(bookmark, census) for name, bookmark, census, _ in segments}
        self._failed = {name for name, _, _, failed in segments if failed}
        return True

    @property
    def was_interrupted(self) -> bool:
        """Whether an earlier run did not finish reading it."""
        return bool(self._through)

    @property
    def is_complete(self) -> bool:
        """Whether the members of all segments have been read."""
        return self._known and self._next == len(self._ids) and not self._open

    def walks(self, segment_ids: Iterable[str]) -> list[tuple[Walk, Position]]:
        """The walks to read, given all segments. Those that failed last time come last.

        Of segments listed for the first time since the pass began, only those after the last one
        begun are part of it: the state does not name those finished before, so it cannot tell.
        """
        self._ids = ids = sorted(set(segment_ids))
        self._known = True
        self._next = sum(segment <= self._through for segment in ids)
        known = set(ids)
        self._open = {segment: at for segment, at in self._open.items() if segment in known}
        begun = {segment: at for segment, at in self._open.items() if segment not in self._failed}
        fresh = dict.fromkeys(ids[self._next :], Position())
        last = {segment: self._open[segment] for segment in self._open if segment in self._failed}
        self._failed.clear()
        return [(members_of(segment), at) for segment, at in {**begun, **fresh, **last}.items()]

    def advance(self, walk: Walk, after: Position | None, *, read: int) -> None:
        """Note that a page is written, the last of its segment if `after` is None.

        `read` is how many members this reading of the segment has found so far.
        """
        segment_id = self._reach(walk)
        self._gone = None
        if after is None:
            self.read += read
            del self._open[segment_id]
        else:
            self._open[segment_id] = after

    def note_gone(self, walk: Walk) -> None:
        """Note that a segment no longer exists and so has no members."""
        del self._open[self._reach(walk)]
        if self._gone is not None:
            self._gone += 1

    def note_failure(self, walk: Walk) -> None:
        """Note that a segment failed; the next run reads it last."""
        self._failed.add(self._reach(walk))

    def _reach(self, walk: Walk) -> str:
        """Note that a segment, and all before it, are being read; returns its id."""
        segment_id = str(walk.segment_id)
        while self._next < len(self._ids) and self._ids[self._next] <= segment_id:
            self._through = self._ids[self._next]
            self._open[self._through] = Position()
            self._next += 1
        return segment_id

    def doubts(self) -> dict[Doubt, str]:
        """The doubts about the source as a whole, now that it is complete."""
        if self._gone is not None and self._gone > 1:
            return {Doubt.ALL_GONE: f"all {self._gone:,} segments returned 404"}
        if self._ids and not self.read:
            segments = amount(len(self._ids), "segment")
            return {Doubt.EMPTY: f"the API listed no members of {segments} at all"}
        return {} if self._ids else {Doubt.EMPTY: "the API listed no smart segments at all"}

    def value(self) -> Any:
        """Its entry in the state; None if there is nothing to resume, or far too much."""
        if self.is_complete or sum(map(_length, self._open.items())) > MAX_OPEN:
            return None
        entries = [
            [segment, *_written(at), int(segment in self._failed)]
            for segment, at in self._open.items()
        ]
        return [self._through, self.read, self._gone, entries, self.mark]


Source = OneListing | EachSegment


def _length(unfinished: tuple[str, Position]) -> int:
    """About how many characters a segment that is not finished takes in the state."""
    segment, at = unfinished
    return len(segment) + len(at.bookmark or "") + len(at.census.highest or "") + 100


def _written(position: Position) -> list[Any]:
    return [position.bookmark, list(position.census)]
