"""A store open for writing, in any database."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from tap_autopilot.collector import shared_sql as sql
from tap_autopilot.collector.reader import Cursor, Event, OpenStore
from tap_autopilot.collector.received import Received
from tap_autopilot.collector.remnant import Remnant
from tap_autopilot.exceptions import RunError, UserError

PRUNE_BYTES = 2 * 2**20  # of a slice, unless a single event is larger; each MB may take a second
SWEEP_SLICE = 10_000  # deliveries


class Unavailable(RunError):
    """Nothing can be stored right now; a retry may succeed.

    Anyone may be told why, but `in_full` is for the log only.

    A commit that had begun may have stored the whole request all the same. If it is repeated, calls
    without a messageId are then stored twice.
    """

    def __init__(self, reason: str, details: str = "") -> None:
        super().__init__(reason)
        self.in_full = f"{reason}: {details.removesuffix('.')}" if details else reason


class InUse(UserError):
    """Another process is writing to the store."""


class StoreLost(RunError):
    """It is unknown what is on disk, so the process must end."""


class Loaded(NamedTuple):
    """Which events of a table are loaded: up to `seq` and, if set, not older than `since`."""

    seq: int
    since: str | None = None


# An event, what remains of it, and its fingerprint.
Reduced = tuple[Event, Remnant, bytes]


class Store(OpenStore):
    """A store open for writing, created if missing. Use it from one thread only."""

    prune_slice: ClassVar[int]  # events that a slice of pruning examines

    @abstractmethod
    def append(self, events: Sequence[Received]) -> int:
        """Commit these events, all or none, except duplicates; returns how many were new."""

    @abstractmethod
    def sweep(self, now: int) -> bool:
        """Forget deliveries whose hour has passed; whether there may be more.

        `now` is in epoch milliseconds.
        """

    @abstractmethod
    def owns(self, lock: str) -> bool:
        """Whether this process, of all that share the store, has this lock.

        Whoever has one of a destination's name is the one to forward events to it.
        """

    @abstractmethod
    def _execute(self, *changes: tuple[str, Iterable[tuple[Any, ...]]]) -> None:
        """Execute statements, each with the values of every one of its rows, in a transaction."""

    @abstractmethod
    def probe(self) -> int:
        """Commit something, to check that commits work; returns the new `probed`."""

    @abstractmethod
    def reduce(self, events: Sequence[Reduced], wiped: Sequence[int] = ()) -> int:
        """Replace events with what remains of them.

        In the same transaction, nothing remains of pruned events whose `seq` is among the `wiped`.
        Returns how many bytes that freed, apart from those that `release` will free.
        """

    @abstractmethod
    def forget_subjects(self, subjects: Iterable[bytes]) -> None:
        """Forget which deliveries were about these, by their digests. Repeats stay recognized."""

    # PostgreSQL looks after its disk itself.

    def free_bytes(self) -> int | None:
        """Free disk space; None if the store may be on another machine."""
        return None

    def begin_wipe(self) -> None:
        """Before bodies are to vanish from the disk, not only from the tables."""

    def end_wipe(self) -> bool:
        """After that: whether they have vanished. As long as someone is reading, they may not."""
        return True

    def release(self) -> int:
        """Give some unused space back to the disk; returns how many bytes, 0 if none is left."""
        return 0

    def is_wanted(self) -> bool:
        """Whether a collector waits for this process to close the store, and it may be closed.

        In PostgreSQL none ever has to.
        """
        return False

    def prunable(self, after: int, up_to: int) -> list[Event]:
        """A slice of the events with after < seq <= up_to that are not pruned yet."""
        rows = self._query(sql.PRUNABLE, after, up_to, self.prune_slice, PRUNE_BYTES)
        return [Event._make((*row, False)) for row in rows]

    def next_received_at(self, after: int) -> int | None:
        """When the first event after this `seq` that is not pruned was received, if there is one.

        In epoch milliseconds.
        """
        rows = self._query(sql.NEXT_RECEIVED_AT, after)
        return int(rows[0][0]) if rows else None

    def pruned_up_to(self) -> dict[str, Loaded]:
        """What `save_pruned_up_to` last saved."""
        rows = self._query("SELECT name, seq, since FROM pruned_up_to")
        return {name: Loaded(*loaded) for name, *loaded in rows}

    def save_pruned_up_to(self, tables: Mapping[str, Loaded]) -> None:
        """Save that the loaded events of these tables have been pruned."""
        self._execute((sql.SAVE_PRUNED_UP_TO, [(name, *tables[name]) for name in sorted(tables)]))

    def remnants(self, after: int) -> list[tuple[int, Remnant, int | None]]:
        """A slice of the pruned events after this `seq`: what remains, and the message's id."""
        rows = self._query(sql.REMNANTS, after, sql.WIPE_SLICE)
        return [(seq, Remnant(*remnant), message) for seq, *remnant, message in rows]

    def messages(self, after: int) -> list[tuple[int]]:
        """A slice of the ids of messages after this one."""
        return self._query(sql.MESSAGES, after, sql.WIPE_SLICE)

    def wipe_messages(self, numbers: Sequence[int]) -> None:
        """Wipe the properties of messages that no event needs anymore."""
        self._execute((sql.WIPE_MESSAGE, [(number,) for number in numbers]))

    def save_summary(
        self,
        after: int,
        up_to: int,
        messages: Iterable[tuple[bytes, bytes, int, int]],
        undated: Iterable[int],
    ) -> None:
        """Add to the summary of what events say about messages; see `summary.Summary`.

        Nothing is added unless it goes up to `after`, or is none yet; then it goes up to `up_to`.
        """
        self._execute(
            (sql.MOVE_SUMMARY, [(up_to, after)]),
            (sql.SUMMARIZE, ((*message, up_to) for message in messages)),
            (sql.NOTE_UNDATED, ((seq, up_to) for seq in undated)),
        )

    def forget_summary(self) -> bool:
        """Forget some of what erased events say, too; whether there is more.

        The rest is summarized again.
        """
        # A number that it never had, so that nothing that is being summarized will be saved.
        undo = (sql.UNDO_SUMMARY, [(-time.time_ns(),)])
        self._execute(undo, *((statement, [()]) for statement in sql.FORGET_SUMMARY))
        return bool(self._query(sql.ANY_SUMMARY))

    def save_cursor(self, destination: str, cursor: Cursor) -> None:
        """Save a destination's cursor, unless the saved one is ahead of it."""
        self._execute((sql.SAVE_CURSOR, [(destination, *cursor)]))

    def forget_cursor(self, destination: str) -> None:
        """Delete a destination's cursor."""
        self._execute((sql.FORGET_CURSOR, [(destination,)]))
