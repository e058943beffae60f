"""The store in a SQLite file: one writing connection, and readers that never block it.

SQLite before 3.51.3 can damage a WAL that two connections write or checkpoint at the same time. So
a lock on the file lets only one process write, which uses a single connection, and readers open the
file read-only.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tap_autopilot.arguments import shown_file
from tap_autopilot.collector import sqlite_file
from tap_autopilot.collector.reader import LAST, MAX_BYTES, Event, Reader
from tap_autopilot.collector.remnant import Remnant, body_of, fingerprint
from tap_autopilot.collector.sqlite_seen import Execute, Seen, insert
from tap_autopilot.collector.store import (
    FORMAT,
    PRUNE_SLICE,
    Cursor,
    Loaded,
    Pruner,
    Received,
    Slice,
    StoreLost,
    Unavailable,
    counts,
)
from tap_autopilot.exceptions import UserError

RELEASE_PAGES = 500
WIPE_SLICE = 2000  # pruned events
INSERT = "INSERT INTO events (received_at, source, route, name, body) VALUES"
COUNT = """
INSERT INTO kinds (source, route, name, events, pruned, last_received_at)
VALUES (?, ?, ?, ?, 0, ?)
ON CONFLICT DO UPDATE SET events = events + excluded.events,
    last_received_at = max(last_received_at, excluded.last_received_at)
"""
INSERT_MESSAGE = "INSERT OR IGNORE INTO messages (body) VALUES (?)"
INSERT_PRUNED = """
INSERT INTO pruned (seq, received_at, kind, contact, at, message, rest, fingerprint)
SELECT ?1, ?2, kinds.id, ?6, ?7, (SELECT id FROM messages WHERE body = ?8), ?9, ?10
FROM kinds WHERE source = ?3 AND route = ?4 AND name = ?5
"""
COUNT_PRUNED = "UPDATE kinds SET pruned = pruned + 1 WHERE source = ? AND route = ? AND name = ?"
READ = """
SELECT seq, received_at, source, route, name, body, 0, NULL, NULL, NULL, NULL
FROM events WHERE seq > ?1
UNION ALL
SELECT seq, received_at, source, route, name, NULL, 1, contact, at, messages.body, rest
FROM pruned JOIN kinds ON kinds.id = kind LEFT JOIN messages ON messages.id = message
WHERE seq > ?1 ORDER BY seq LIMIT ?2
"""
PRUNABLE = """
SELECT seq, received_at, source, route, name, body FROM events
WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?
"""
ONE = "SELECT received_at, source, route, name, body FROM events WHERE seq = ?"
REMNANTS = "SELECT seq, contact, at, NULL, rest FROM pruned WHERE seq > ? ORDER BY seq LIMIT ?"
WIPE = "UPDATE pruned SET contact = NULL, at = NULL, message = NULL, rest = NULL WHERE seq = ?"
SAVE_CURSOR = """
INSERT INTO cursors VALUES (?, ?, ?, ?) ON CONFLICT (destination)
DO UPDATE SET seq = excluded.seq, sent = excluded.sent, refused = excluded.refused
WHERE cursors.seq <= excluded.seq
"""

T = TypeVar("T")


class SqliteReader(Reader):
    """Reads a store's file; see `reader.Reader`."""

    def __init__(self, database: str) -> None:
        self._database = database
        if not os.path.isfile(database):  # noqa: PTH113 - of a name that is too long, too
            raise UserError(f"There is no store at {shown_file(database)}.")
        self._connection = sqlite_file.open_read_only(database)
        try:
            if sqlite_file.check(self._connection, database) < FORMAT:
                raise UserError(
                    f"The store {database} was written by an older version of tap-autopilot."
                    " Upgrade the collector, or run tap-autopilot-collector --check."
                )
            self.store_id = str(self._query("SELECT id FROM store")[0][0])
        except BaseException:
            self._connection.close()
            raise

    def read(self, after: int, limit: int) -> list[Event]:
        """At most `limit` events with a `seq` above `after`, in order; fewer if they are large."""
        found = []
        size = 0
        try:
            for row in self._connection.execute(READ, (after, limit)):
                body = body_of(Remnant._make(row[7:])) if row[6] else row[5]
                event = Event._make((*row[:5], body, row[6] == 1))
                found.append(event)
                size += len(event.body)
                if size > MAX_BYTES:
                    break
        except sqlite3.Error as problem:
            raise self._unreadable(problem) from None
        return found

    def fingerprint(self, seq: int) -> str | None:
        """What tells the event with this number from any other; None if there is no such event."""
        if event := self._query(ONE, seq):
            return fingerprint(*event[0]).hex()
        pruned = self._query("SELECT fingerprint FROM pruned WHERE seq = ?", seq)
        return pruned[0][0].hex() if pruned else None

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _size(self) -> int:
        return sqlite_file.size(self._database)

    def _query(self, statement: str, *parameters: object) -> list[Any]:
        try:
            return self._connection.execute(statement, parameters).fetchall()
        except sqlite3.Error as problem:
            raise self._unreadable(problem) from None

    def _unreadable(self, problem: sqlite3.Error) -> UserError:
        return UserError(f"Cannot read the store {self._database}: {problem}.")


class SqliteStore:
    """A store's file open for writing, created if missing. See `store.Store`."""

    def __init__(self, database: str, patience: float = 0) -> None:
        self._path = Path(database).absolute()
        self._lock = sqlite_file.lock(self._path, patience)
        try:
            self._connection = sqlite_file.open_for_writing(self._path)
            self.store_id = sqlite_file.prepare(self._connection, self._path)
            self._seen = Seen(self._connection.execute)
        except sqlite3.Error as problem:
            os.close(self._lock)
            raise UserError(f"Cannot open the store {database}: {problem}.") from None
        except BaseException:
            os.close(self._lock)
            raise
        self._files = self._identity()

    @property
    def last_seq(self) -> int:
        """The `seq` of the newest event, 0 in an empty store."""
        return int(self._query(LAST)[0][0])

    def append(self, events: Sequence[Received]) -> int:
        """Commit these events, all or none, except duplicates; returns how many were new."""

        def add(execute: Execute) -> int:
            new = self._seen.add(events, execute)
            insert(INSERT, [event[:5] for event in new], execute)
            for kind in counts(new):
                execute(COUNT, kind)
            return len(new)

        new = self._commit(add)
        self._seen.committed()
        return new

    def probe(self) -> int:
        """Commit something, to check that commits work: how many times this was done."""
        self._commit(lambda execute: execute("UPDATE store SET probed = probed + 1"))
        return int(self._query("SELECT probed FROM store")[0][0])

    def free_bytes(self) -> int | None:
        """Free space on the disk."""
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize

    def prune(self, after: int, up_to: int, prune: Pruner) -> Slice:
        """Prune some of the events with after < seq <= up_to that are not pruned yet."""
        rows: list[tuple[Any, ...]] = []
        size = 0
        for row in self._connection.execute(PRUNABLE, (after, up_to, PRUNE_SLICE)):
            rows.append(row)
            size += len(row[5])
            if size > MAX_BYTES:
                break
        is_rest = len(rows) < PRUNE_SLICE and size <= MAX_BYTES
        after = up_to if is_rest else rows[-1][0]
        kept = [
            (*row[:5], *left, fingerprint(*row[1:]))
            for row in rows
            if (left := prune(row[0], *row[2:])) is not None
        ]

        def move(_: Execute) -> None:
            many = self._connection.executemany
            many("DELETE FROM events WHERE seq = ?", [row[:1] for row in kept])
            many(INSERT_MESSAGE, {(row[7],): None for row in kept if row[7] is not None})
            many(INSERT_PRUNED, kept)
            many(COUNT_PRUNED, [row[2:5] for row in kept])

        if not kept:
            return Slice(after, 0, 0)
        pages = self._pages()
        self._commit(move)
        self._vacuum()
        return Slice(after, len(kept), pages - self._pages())

    def wipe(self, *, begins: bool) -> None:
        """Before and after bodies are to vanish from the disk, not only from the tables."""
        self._query(f"PRAGMA secure_delete = {'ON' if begins else 'OFF'}")
        if not begins:  # the WAL still has the old pages
            self._query("PRAGMA wal_checkpoint(TRUNCATE)")

    def wipe_pruned(self, after: int, choose: Callable[[Remnant], bool]) -> tuple[int | None, int]:
        """Wipe what remains of some of the pruned events after this `seq`, if chosen."""
        rows = self._query(REMNANTS, after, WIPE_SLICE)
        chosen = [(seq,) for seq, *left in rows if choose(Remnant(*left))]
        if chosen:
            self._commit(lambda _: self._connection.executemany(WIPE, chosen))
        return (rows[-1][0] if rows else None), len(chosen)

    def release(self) -> int:
        """Give some unused space back to the disk; returns how many bytes, 0 if none is left."""
        pages = self._pages()
        self._vacuum()
        return pages - self._pages()

    def _pages(self) -> int:
        """The size of all pages, in bytes."""
        ((pages,),), ((size,),) = self._query("PRAGMA page_count"), self._query("PRAGMA page_size")
        return int(pages * size)

    def _vacuum(self) -> None:
        try:  # as a script, because sqlite3 stops a single statement after one page
            self._connection.executescript(f"PRAGMA incremental_vacuum({RELEASE_PAGES})")
        except sqlite3.Error as problem:
            raise self._trouble(problem) from None

    def pruned_up_to(self) -> dict[str, Loaded]:
        """What `save_pruned_up_to` last saved."""
        rows = self._query("SELECT name, seq, since FROM pruned_up_to")
        return {name: Loaded(*loaded) for name, *loaded in rows}

    def save_pruned_up_to(self, tables: Mapping[str, Loaded]) -> None:
        """Save that the loaded events of these tables have been pruned."""
        statement = "INSERT OR REPLACE INTO pruned_up_to VALUES (?, ?, ?)"
        rows = [(name, *loaded) for name, loaded in tables.items()]
        self._commit(lambda _: self._connection.executemany(statement, rows))

    def sweep(self, now: int) -> None:
        """Forget deliveries older than an hour."""
        self._commit(lambda execute: execute("DELETE FROM deliveries WHERE until <= ?", (now,)))

    def owns(self, destination: str) -> bool:  # noqa: ARG002 - only one process has the file
        """True: this collector forwards events, because it is the only one."""
        return True

    def cursors(self) -> dict[str, Cursor]:
        """The cursors of all destinations, former ones included, by name."""
        rows = self._query("SELECT destination, seq, sent, refused FROM cursors")
        return {name: Cursor(*cursor) for name, *cursor in rows}

    def save_cursor(self, destination: str, cursor: Cursor) -> None:
        """Save a destination's cursor, unless the saved one is ahead of it."""
        self._commit(lambda execute: execute(SAVE_CURSOR, (destination, *cursor)))

    def forget_cursor(self, destination: str) -> None:
        """Delete a destination's cursor."""
        statement = "DELETE FROM cursors WHERE destination = ?"
        self._commit(lambda execute: execute(statement, (destination,)))

    def close(self) -> None:
        """Close the file, then release the lock."""
        self._connection.close()
        os.close(self._lock)

    def _commit(self, change: Callable[[Execute], T]) -> T:
        """Run `change` in a transaction; returns once that is on disk.

        Raises Unavailable if nothing was written, StoreLost if that is unknown.
        """
        execute = self._connection.cursor().execute
        try:
            execute("BEGIN IMMEDIATE")
            result = change(execute)
            execute("COMMIT")
        except sqlite3.Error as problem:
            trouble = self._trouble(problem)
            if isinstance(trouble, Unavailable) and self._connection.in_transaction:
                execute("ROLLBACK")
            raise trouble from None
        if self._identity() != self._files:
            raise StoreLost(f"The store {self._path} was moved or deleted while in use.")
        return result

    def _trouble(self, problem: sqlite3.Error) -> Unavailable | StoreLost:
        """The exception for an error: nothing was written, or it is unknown what was written."""
        reason = str(problem)
        if "is full" in reason or "is locked" in reason:
            return Unavailable(reason)
        return StoreLost(f"The store {self._path} cannot be written: {reason}.")

    def _identity(self) -> list[tuple[int, int] | None]:
        """The identity of the files, because SQLite keeps writing to deleted files."""
        found: list[tuple[int, int] | None] = []
        for path in (str(self._path), f"{self._path}-wal"):
            try:
                status = os.stat(path)  # noqa: PTH116
                found.append((status.st_dev, status.st_ino))
            except OSError:
                found.append(None)
        return found

    def _query(self, statement: str, *parameters: object) -> list[Any]:
        return self._connection.execute(statement, parameters).fetchall()
