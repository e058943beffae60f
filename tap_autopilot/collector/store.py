"""A store open for writing, in any database."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple

from tap_autopilot.collector.reader import FITTING, Cursor, Event, OpenStore
from tap_autopilot.collector.remnant import Remnant
from tap_autopilot.exceptions import RunError, UserError

PRUNE_BYTES = 2 * 2**20  # of a slice, unless a single event is larger; each MB may take a second
WIPE_SLICE = 500  # pruned events or descriptions of messages, which take at most 80 kB each
SWEEP_SLICE = 10_000  # deliveries
REPEAT_WINDOW = 3_600_000  # ms within which a repeated delivery without an id is a duplicate
DELIVERY = 12  # bytes of a key that all events of one delivery without ids share

PROBE = "UPDATE store SET probed = probed + 1"
ADD_TO_KIND = """
ON CONFLICT (source, route, name) DO UPDATE SET events = kinds.events + excluded.events,
    last_received_at = CASE WHEN excluded.last_received_at > kinds.last_received_at
        THEN excluded.last_received_at ELSE kinds.last_received_at END
"""
COUNT = f"""
INSERT INTO kinds (source, route, name, events, pruned, last_received_at)
VALUES (?, ?, ?, ?, 0, ?)
{ADD_TO_KIND}
"""  # noqa: S608
COUNT_PRUNED = "UPDATE kinds SET pruned = pruned + ? WHERE source = ? AND route = ? AND name = ?"
PRUNABLE = f"""
WITH next AS (
    SELECT seq, length(body) AS size FROM events WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?
)
SELECT seq, received_at, source, route, name, body FROM events
WHERE seq IN ({FITTING}) ORDER BY seq
"""  # noqa: S608
SAVE_CURSOR = """
INSERT INTO cursors VALUES (?, ?, ?, ?) ON CONFLICT (destination)
DO UPDATE SET seq = excluded.seq, sent = excluded.sent, refused = excluded.refused
WHERE cursors.seq <= excluded.seq
"""
FORGET_CURSOR = "DELETE FROM cursors WHERE destination = ?"
SAVE_PRUNED_UP_TO = """
INSERT INTO pruned_up_to VALUES (?, ?, ?)
ON CONFLICT (name) DO UPDATE SET seq = excluded.seq, since = excluded.since
"""
SUMMARY_TABLES = """
CREATE TABLE IF NOT EXISTS summaries (
    digest bytea PRIMARY KEY, message bytea NOT NULL, first bigint NOT NULL, last bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS undated (seq bigint PRIMARY KEY);
CREATE TABLE IF NOT EXISTS summarized_up_to (id integer PRIMARY KEY, seq bigint NOT NULL);
"""
# Another process may save or forget a summary at the same time. So both begin with this row, for
# which the other one waits.
MOVE_SUMMARY = """
INSERT INTO summarized_up_to VALUES (1, ?)
ON CONFLICT (id) DO UPDATE SET seq = excluded.seq WHERE summarized_up_to.seq = ?
"""
SUMMARIZE = """
INSERT INTO summaries SELECT ?, ?, ?, ? FROM summarized_up_to WHERE seq = ?
ON CONFLICT (digest) DO UPDATE SET
    first = CASE WHEN excluded.first < summaries.first THEN excluded.first ELSE summaries.first END,
    last = CASE WHEN excluded.last > summaries.last THEN excluded.last ELSE summaries.last END
"""
NOTE_UNDATED = """
INSERT INTO undated SELECT ? FROM summarized_up_to WHERE seq = ? ON CONFLICT DO NOTHING
"""
FORGET_SUMMARY = (
    # A number that it did not have, so that nothing that is being summarized will be saved.
    """
    INSERT INTO summarized_up_to VALUES (1, -1)
    ON CONFLICT (id) DO UPDATE SET seq = -abs(summarized_up_to.seq) - 1
    """,
    f"""
    DELETE FROM summaries
    WHERE digest IN (SELECT digest FROM summaries ORDER BY digest LIMIT {WIPE_SLICE})
    """,  # noqa: S608
    f"""
    DELETE FROM undated WHERE seq IN (SELECT seq FROM undated ORDER BY seq LIMIT {WIPE_SLICE})
    """,  # noqa: S608
)
ANY_SUMMARY = "SELECT 1 FROM summaries UNION ALL SELECT 1 FROM undated LIMIT 1"
REMNANTS = """
SELECT seq, contact, at, body, rest, message FROM pruned LEFT JOIN messages ON messages.id = message
WHERE seq > ? ORDER BY seq LIMIT ?
"""
MESSAGES = "SELECT id, body FROM messages WHERE id > ? ORDER BY id LIMIT ?"
WIPE_MESSAGE = "DELETE FROM messages WHERE id = ?"
WIPE = "UPDATE pruned SET contact = NULL, at = NULL, message = NULL, rest = NULL WHERE seq = ?"


class Received(NamedTuple):
    """An event on its way into the store.

    `name` is the event's name, for statistics. `key` is a digest that detects duplicates, or None.
    If `for_good`, a duplicate never counts as a new event; otherwise it does after an hour, or once
    another delivery about the same thing, given by the digest `about`, came between.
    """

    received_at: int
    source: str
    route: str
    name: str
    body: bytes
    key: bytes | None
    for_good: bool
    about: bytes | None = None


# Of an event, received or stored.
row_of = attrgetter("received_at", "source", "route", "name", "body")
source_route_name = attrgetter("source", "route", "name")


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
    def owns(self, destination: str) -> bool:
        """Whether this collector, of all that share the store, is the one to forward events."""

    @abstractmethod
    def _execute(self, *changes: tuple[str, Iterable[tuple[Any, ...]]]) -> None:
        """Execute statements, each with the values of every one of its rows, in a transaction."""

    @abstractmethod
    def prune(self, pruned: Sequence[tuple[Event, Remnant, bytes]]) -> int:
        """Replace events with what remains of them, and their fingerprints.

        Returns how many bytes that freed, apart from those that `release` will free.
        """

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

    def probe(self) -> int:
        """Commit something, to check that commits work: how many times this was done."""
        self._execute((PROBE, [()]))
        return self.probed

    def prunable(self, after: int, up_to: int) -> list[Event]:
        """A slice of the events with after < seq <= up_to that are not pruned yet."""
        rows = self._query(PRUNABLE, after, up_to, self.prune_slice, PRUNE_BYTES)
        return [Event._make((*row, False)) for row in rows]

    def pruned_up_to(self) -> dict[str, Loaded]:
        """What `save_pruned_up_to` last saved."""
        rows = self._query("SELECT name, seq, since FROM pruned_up_to")
        return {name: Loaded(*loaded) for name, *loaded in rows}

    def save_pruned_up_to(self, tables: Mapping[str, Loaded]) -> None:
        """Save that the loaded events of these tables have been pruned."""
        self._execute((SAVE_PRUNED_UP_TO, [(name, *tables[name]) for name in sorted(tables)]))

    def remnants(self, after: int) -> list[tuple[int, Remnant, int | None]]:
        """A slice of the pruned events after this `seq`: what remains, and the message's id."""
        rows = self._query(REMNANTS, after, WIPE_SLICE)
        return [(seq, Remnant(*remnant), message) for seq, *remnant, message in rows]

    def wipe(self, numbers: Sequence[int]) -> None:
        """Wipe what remains of these pruned events."""
        self._execute((WIPE, [(seq,) for seq in numbers]))

    def messages(self, after: int) -> list[tuple[int, bytes]]:
        """A slice of the messages' properties after this id."""
        return self._query(MESSAGES, after, WIPE_SLICE)

    def wipe_messages(self, numbers: Sequence[int]) -> None:
        """Wipe the properties of messages that no event needs anymore."""
        self._execute((WIPE_MESSAGE, [(number,) for number in numbers]))

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
            (MOVE_SUMMARY, [(up_to, after)]),
            (SUMMARIZE, ((*message, up_to) for message in messages)),
            (NOTE_UNDATED, ((seq, up_to) for seq in undated)),
        )

    def forget_summary(self) -> bool:
        """Forget some of what erased events say, too; whether there is more.

        The rest is summarized again.
        """
        self._execute(*((statement, [()]) for statement in FORGET_SUMMARY))
        return bool(self._query(ANY_SUMMARY))

    def save_cursor(self, destination: str, cursor: Cursor) -> None:
        """Save a destination's cursor, unless the saved one is ahead of it."""
        self._execute((SAVE_CURSOR, [(destination, *cursor)]))

    def forget_cursor(self, destination: str) -> None:
        """Delete a destination's cursor."""
        self._execute((FORGET_CURSOR, [(destination,)]))


def counts(events: Sequence[Received]) -> list[tuple[str, str, str, int, int]]:
    """How many events of each source, route and name, and when the last one was received."""
    kinds = list(map(source_route_name, events))
    last = dict(zip(kinds, [event.received_at for event in events], strict=True))
    return [(*kind, number, last[kind]) for kind, number in sorted(Counter(kinds).items())]


def pruned_counts(events: Sequence[Event]) -> list[tuple[int, str, str, str]]:
    """How many of these events are of each source, route and name.

    In a fixed order, so that those who update the same rows never wait for each other.
    """
    kinds = Counter(map(source_route_name, events))
    return [(count, *kind) for kind, count in sorted(kinds.items())]
