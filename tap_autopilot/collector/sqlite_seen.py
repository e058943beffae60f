"""How a SQLite store recognizes events that it has already.

Each event has a digest, its key. In an index of digests, each new one lands on another page, so a
commit that added them to a large index would write a page for each event. So a commit only appends
its keys to a log, as one row, and they stay in memory as well. Once there are many, they are moved
to the index in order, some now and then, so that neighbors share a page.
"""

from __future__ import annotations

import functools
import sqlite3
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from tap_autopilot.collector.received import DELIVERY, REPEAT_WINDOW, Received

KEY = 16  # bytes
KEYS_IN_LOG = 16_384  # keys to collect before they are moved
PACE = 2  # keys to move for each new one
STEP = 1000  # keys to move at once
# The index has 12 bytes of a key: a number to find it by, and the rest. If two keys have the same
# number, as in three of a million stores with ten million events, it has only the first, so that a
# repetition of the other one may be stored.
TABLES = """
CREATE TABLE seen (number INTEGER PRIMARY KEY, rest INTEGER NOT NULL);
CREATE TABLE seen_log (id INTEGER PRIMARY KEY, keys BLOB NOT NULL);
CREATE TABLE deliveries (key BLOB PRIMARY KEY, until INTEGER NOT NULL, about BLOB) WITHOUT ROWID;
CREATE INDEX deliveries_until ON deliveries (until);
CREATE INDEX deliveries_about ON deliveries (about) WHERE about IS NOT NULL;
"""
IN_INDEX = struct.Struct(f">qi{KEY - 12}x")
# A delivery also counts as new once its time has passed, or if its time is so far ahead, by more
# than another hour, that it must come from a wrong clock.
MARK_FOR_AN_HOUR = """
INSERT INTO deliveries (key, until, about) VALUES (?1, ?2 + ?3, ?4)
ON CONFLICT (key) DO UPDATE SET until = excluded.until
WHERE deliveries.until <= ?2 OR deliveries.until > ?2 + 2 * ?3
"""
FORGET_EARLIER = f"""
DELETE FROM deliveries
WHERE about = ? AND substr(key, 1, {DELIVERY}) <> ?
"""  # noqa: S608
# Rows that a statement takes, as many as fit. One by one, each would let the event loop's thread
# go first, and write AUTOINCREMENT's counter again.
ROWS = (128, 64, 32, 16, 8, 4, 2, 1)

Execute = Callable[..., sqlite3.Cursor]


class Seen:
    """The keys of a store."""

    def __init__(self, execute: Execute) -> None:
        """Read the log."""
        self._logged: set[bytes] = set()  # keys that are in the log only
        self._moving: set[bytes] = set()  # keys that are in the log and may be in the index
        self._to_move: list[bytes] = []  # those that the index lacks, in order, last ones first
        self._due = 0  # how many of these to move by now
        self._end = 0  # the last row of the log with keys that are being moved
        self._row = 0  # the last row of the log
        self._added: set[bytes] = set()  # by a transaction that is not committed yet
        self._added_row = 0  # the last row of the log if it is committed
        self._moved = 0
        for row, keys in execute("SELECT id, keys FROM seen_log ORDER BY id"):
            self._logged.update(keys[at : at + KEY] for at in range(0, len(keys), KEY))
            self._row = row
        if len(self._logged) >= KEYS_IN_LOG:
            self._begin_to_move(self._indexed(self._logged, execute))

    def add(self, events: Sequence[Received], execute: Execute) -> list[Received]:
        """Those events that are no duplicates; from now on, a repetition of one of them is.

        Call it in a transaction, and then `committed`.
        """
        keys = [event.digest for event in events if event.for_good and event.digest is not None]
        new = set(keys)
        known = new & self._logged | new & self._moving | self._indexed(new, execute)
        new -= known
        if len(new) < len(events):
            events = list(_without_repeats(events, known, execute))
        self._added, self._added_row = new, self._row
        if new:
            row = execute("INSERT INTO seen_log (keys) VALUES (?)", (b"".join(new),)).lastrowid
            self._added_row = row or 0
        self._moved = self._move(execute) if self._due >= STEP else 0
        return list(events)

    def committed(self) -> None:
        """Remember what was added and moved."""
        if self._moved:
            del self._to_move[-self._moved :]
            self._due = 0
            if not self._to_move:
                self._moving = set()
        if self._to_move:
            self._due += PACE * len(self._added)
        self._logged |= self._added
        self._row = self._added_row
        if len(self._logged) >= KEYS_IN_LOG and not self._to_move:
            self._begin_to_move(set())

    def _move(self, execute: Execute) -> int:
        """Move the keys that are due; returns how many."""
        part = self._to_move[-self._due :]
        insert("INSERT OR IGNORE INTO seen VALUES", list(in_index(reversed(part))), execute)
        if len(part) == len(self._to_move):
            execute("DELETE FROM seen_log WHERE id <= ?", (self._end,))
        return len(part)

    def _begin_to_move(self, indexed: set[bytes]) -> None:
        """Begin to move the keys of the log, except for those that the index has already."""
        self._moving, self._logged = self._logged, set()
        self._to_move = sorted(self._moving - indexed, reverse=True)
        self._end = self._row

    def _indexed(self, keys: Collection[bytes], execute: Execute) -> set[bytes]:
        """Those of these keys that the index has."""
        numbers = sorted(number for number, _ in in_index(keys))
        indexed: set[tuple[int, int]] = set()
        for part in _parts(numbers):
            indexed.update(execute(_look_up(len(part)), part))
        return {key for key in keys if IN_INDEX.unpack(key) in indexed} if indexed else set()


def in_index(keys: Iterable[bytes]) -> Iterator[tuple[int, int]]:
    """What the index has of these keys."""
    return IN_INDEX.iter_unpack(b"".join(keys))


def insert(statement: str, rows: Sequence[tuple[Any, ...]], execute: Execute) -> None:
    """Insert many rows with few statements."""
    for part in _parts(rows):
        values = tuple(chain.from_iterable(part))
        execute(_insert(statement, len(part), len(values) // len(part)), values)


@functools.cache
def _insert(statement: str, rows: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"{statement} {', '.join([row] * rows)}"


@functools.cache
def _look_up(numbers: int) -> str:
    return f"SELECT * FROM seen WHERE number IN ({', '.join('?' * numbers)})"  # noqa: S608


def _parts(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Parts of a few sizes, so that few statements are enough."""
    done = 0
    for size in ROWS:
        while len(rows) - done >= size:
            yield rows[done : done + size]
            done += size


def _without_repeats(
    events: Iterable[Received], known: set[bytes], execute: Execute
) -> Iterator[Received]:
    known = set(known)
    latest: dict[bytes, bytes] = {}  # the delivery about each thing
    for event in events:
        if event.digest is None:
            yield event
        elif event.for_good:
            if event.digest not in known:
                known.add(event.digest)
                yield event
        elif _mark(event, execute):
            delivery = event.digest[:DELIVERY]
            # Once is enough, or it would look at the whole delivery again for each of its events.
            if event.about is not None and latest.get(event.about) != delivery:
                latest[event.about] = delivery
                execute(FORGET_EARLIER, (event.about, delivery))
            yield event


def _mark(event: Received, execute: Execute) -> bool:
    """Mark a delivery as received; returns whether it is new."""
    marks = (event.digest, event.received_at, REPEAT_WINDOW, event.about)
    return execute(MARK_FOR_AN_HOUR, marks).rowcount > 0
