"""The store in a SQLite file: one writing connection, and readers that never block it.

SQLite before 3.51.3 can damage a WAL that two connections write or checkpoint at the same time. So
a lock on the file lets only one process write, which uses a single connection, and readers open the
file read-only.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tap_autopilot.arguments import shown_file
from tap_autopilot.collector import sqlite_file
from tap_autopilot.collector.reader import Reader
from tap_autopilot.collector.received import (
    Received,
    counts,
    pruned_counts,
    row_of,
    source_route_name,
)
from tap_autopilot.collector.shared_sql import ADD_TO_KIND, COUNT_PRUNED, PROBE, WIPE
from tap_autopilot.collector.sqlite_seen import Seen, insert
from tap_autopilot.collector.store import SWEEP_SLICE, Reduced, Store, StoreLost, Unavailable
from tap_autopilot.exceptions import UserError

RELEASE_PAGES = 100
BRIEF_CHECKPOINT_PAGES = 1000
INSERT = "INSERT INTO events (received_at, source, route, name, body) VALUES"
COUNT = f"""
INSERT INTO kinds (source, route, name, events, pruned, last_received_at)
VALUES (?, ?, ?, ?, 0, ?)
{ADD_TO_KIND}
"""  # noqa: S608
INSERT_MESSAGE = "INSERT OR IGNORE INTO messages (body) VALUES (?)"
SWEEP = """
DELETE FROM deliveries WHERE key IN (SELECT key FROM deliveries WHERE until <= ? LIMIT ?)
"""
INSERT_PRUNED = """
INSERT INTO pruned (seq, received_at, kind, contact, at, message, rest, fingerprint)
SELECT ?1, ?2, kinds.id, ?6, ?7, (SELECT id FROM messages WHERE body = ?8), ?9, ?10
FROM kinds WHERE source = ?3 AND route = ?4 AND name = ?5
"""


class SqliteReader(Reader):
    """Reads a store's file; see `reader.Reader`."""

    def __init__(self, database: str) -> None:
        self._database = database
        if not os.path.isfile(database):  # noqa: PTH113 - of a name that is too long, too
            raise UserError(
                f"There is no store at {shown_file(database)}."
                " A collector creates it when it starts."
            )
        self._open()

    def _open(self) -> None:
        self._connection = sqlite_file.open_read_only(self._database)
        try:
            sqlite_file.check(self._connection, self._database)
            self.store_id = sqlite_file.store_id(self._connection, self._database)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _size(self) -> int:
        return sqlite_file.size(self._database)

    def _query(self, statement: str, *values: object) -> list[Any]:
        rows: list[Any] = []
        problem = None
        try:
            rows = self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            problem = error
        if sqlite_file.is_outdated(self._connection, self._database):  # a collector has started
            self.close()
            self._open()
            return self._query(statement, *values)
        if problem is not None:
            raise sqlite_file.unreadable(self._database, problem)
        return rows


class SqliteStore(Store):
    """A store's file open for writing, created if missing. See `store.Store`."""

    prune_slice = 30  # others wait for it

    def __init__(self, database: str, patience: float = 0) -> None:
        self._path = Path(database).absolute()
        self._wal = sqlite_file.wal(self._path)
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
        self._is_wiping = False

    def append(self, events: Sequence[Received]) -> int:
        """Commit these events, all or none, except duplicates; returns how many were new."""
        execute = self._connection.cursor().execute
        with self._transaction():
            new = self._seen.add(events, execute)
            insert(INSERT, list(map(row_of, new)), execute)
            for kind in counts(new):
                execute(COUNT, kind)
        self._seen.committed()
        return len(new)

    def free_bytes(self) -> int | None:
        """Free space on the disk."""
        disk = os.statvfs(self._wal.parent)
        return disk.f_bavail * disk.f_frsize

    def reduce(self, events: Sequence[Reduced], wiped: Sequence[int] = ()) -> int:
        """Replace events with what remains of them; `release` then gives their space back."""
        rows = [
            (event.seq, event.received_at, *source_route_name(event), *remnant, mark)
            for event, remnant, mark in events
        ]
        messages = {(remnant.message,): None for _, remnant, _ in events if remnant.message}

        with self._briefly():
            self._execute(
                (INSERT_MESSAGE, [*messages]),
                (INSERT_PRUNED, rows),
                (COUNT_PRUNED, pruned_counts([event for event, _, _ in events])),
                (WIPE, [(seq,) for seq in wiped]),
                # Last, because a page freed in this transaction is reused as it is.
                ("DELETE FROM events WHERE seq = ?", [(event.seq,) for event, _, _ in events]),
            )
        return 0

    def probe(self) -> int:
        """Commit a transaction, which counts as all of them do."""
        self._execute()
        return self.probed

    def forget_subjects(self, subjects: Iterable[bytes]) -> None:
        """Forget which deliveries were about these; the deliveries stay."""
        forget = "UPDATE deliveries SET about = NULL WHERE about = ?"
        with self._briefly():
            self._execute((forget, [(subject,) for subject in subjects]))

    def begin_wipe(self) -> None:
        """Before bodies are to vanish from the disk, not only from the tables."""
        self._is_wiping = True
        self._query("PRAGMA secure_delete = ON")

    def end_wipe(self) -> bool:
        """After that: whether they have vanished. As long as someone is reading, they may not."""
        self._query(sqlite_file.SECURE_DELETE)
        self._query("PRAGMA busy_timeout = 0")  # others wait for the store
        try:  # the WAL still has the old pages
            ((is_busy, _, _),) = self._query("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._query(f"PRAGMA busy_timeout = {sqlite_file.WAIT_FOR_LOCKS * 1000:.0f}")
        self._query(PROBE)  # or an empty WAL would look, after a kill, as if it was lost
        return not is_busy

    def release(self) -> int:
        """Give some unused space back to the disk; returns how many bytes, 0 if none is left."""
        pages = self._pages()
        with self._briefly():
            try:  # as a script, because sqlite3 stops a single statement after one page
                self._connection.executescript(f"PRAGMA incremental_vacuum({RELEASE_PAGES})")
            except sqlite3.Error as problem:
                raise self._trouble(problem) from None
            self.probe()
        return pages - self._pages()

    def _pages(self) -> int:
        """The size of all pages, in bytes."""
        ((pages,),), ((size,),) = self._query("PRAGMA page_count"), self._query("PRAGMA page_size")
        return int(pages * size)

    def sweep(self, now: int) -> bool:
        """Forget deliveries older than an hour; whether there may be more."""
        with self._transaction():
            return self._connection.execute(SWEEP, (now, SWEEP_SLICE)).rowcount == SWEEP_SLICE

    def owns(self, lock: str) -> bool:  # noqa: ARG002
        """True, because only one process has the file."""
        return True

    def is_wanted(self) -> bool:
        """Whether a collector waits for this process to close the store, and it may be closed.

        It may not during an erasure, which another one could not complete: the events that connect
        the ids of a person may be gone.
        """
        return not self._is_wiping and sqlite_file.is_wanted(self._lock)

    def close(self) -> None:
        """Close the file, then release the lock."""
        with suppress(sqlite3.Error):  # as on a full disk
            self._connection.execute(PROBE)
            self._connection.execute(sqlite_file.CLOSED)
        self._connection.close()
        os.close(self._lock)

    @contextmanager
    def _briefly(self) -> Iterator[None]:
        """Hold up requests less: leave the fsync to the next one, and checkpoint often.

        A power cut may undo what is done like this, but no request.
        """
        execute = self._connection.execute
        execute("PRAGMA synchronous = NORMAL")
        execute(f"PRAGMA wal_autocheckpoint = {BRIEF_CHECKPOINT_PAGES}")
        try:
            yield
        finally:
            execute("PRAGMA synchronous = FULL")
            execute(f"PRAGMA wal_autocheckpoint = {sqlite_file.CHECKPOINT_PAGES}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """A transaction, which is on disk afterwards, unless done `_briefly`.

        Raises Unavailable if nothing was written, StoreLost if that is unknown.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(PROBE)  # see sqlite_file.AGE
            yield
            self._connection.execute("COMMIT")
        except sqlite3.Error as problem:
            trouble = self._trouble(problem)
            if isinstance(trouble, Unavailable) and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise trouble from None
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        if self._identity() != self._files:
            raise StoreLost(f"The store {self._path} was moved or deleted while in use.")

    def _trouble(self, problem: sqlite3.Error) -> Unavailable | StoreLost:
        """The exception for an error: nothing was written, or it is unknown what was written."""
        reason = str(problem)
        if "is full" in reason or "is locked" in reason:
            return Unavailable(reason)
        return StoreLost(f"The store {self._path} cannot be written: {reason}.")

    def _identity(self) -> list[tuple[int, int] | None]:
        """The identity of the files, because SQLite keeps writing to deleted files."""
        files: list[tuple[int, int] | None] = []
        for path in (self._path, self._wal):
            try:
                status = os.stat(path)  # noqa: PTH116
                files.append((status.st_dev, status.st_ino))
            except OSError:
                files.append(None)
        return files

    def _query(self, statement: str, *values: object) -> list[Any]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as problem:
            raise self._trouble(problem) from None

    def _execute(self, *changes: tuple[str, Iterable[tuple[Any, ...]]]) -> None:
        with self._transaction():
            for statement, rows in changes:
                self._connection.executemany(statement, rows)
