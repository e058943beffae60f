"""The store in a SQLite file: one writing connection, and readers that never block it.

SQLite before 3.51.3 can damage a WAL that two connections write or checkpoint at the same time. So
a lock on the file lets only one process write, which uses a single connection, and readers open the
file read-only.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tap_autopilot.arguments import shown_file
from tap_autopilot.collector.store import MAX_BYTES, Event
from tap_autopilot.collector.writing import (
    FORMAT,
    PRUNE_SLICE,
    PRUNE_SPAN,
    REPEAT_WINDOW,
    Cursor,
    InUse,
    Pruner,
    Received,
    StoreLost,
    Unavailable,
    summary,
)
from tap_autopilot.exceptions import UserError

APPLICATION_ID = 0x41504556  # "APEV" in the file's header
CHECKPOINT_PAGES = 4000
CACHE_KIB = 16_384
VACUUM_PAGES = 1000  # released to the disk with each slice
SCHEMA = """
CREATE TABLE store (id TEXT NOT NULL, probed INTEGER NOT NULL DEFAULT 0);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    received_at INTEGER NOT NULL,
    source TEXT NOT NULL,
    route TEXT NOT NULL,
    name TEXT NOT NULL,
    body BLOB NOT NULL,
    pruned INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE seen (key BLOB PRIMARY KEY, until INTEGER) WITHOUT ROWID;
CREATE INDEX seen_until ON seen (until) WHERE until IS NOT NULL;
CREATE TABLE cursors (
    destination TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    sent INTEGER NOT NULL,
    refused INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO store (id) VALUES (lower(hex(randomblob(16))));
"""
MARK_FOR_GOOD = "INSERT OR IGNORE INTO seen (key) VALUES (?)"
# Here a key also counts as new once its time has passed, or if its time is so far ahead, by more
# than another hour, that it must come from a wrong clock.
MARK_FOR_AN_HOUR = """
INSERT INTO seen (key, until) VALUES (?1, ?2 + ?3)
ON CONFLICT (key) DO UPDATE SET until = excluded.until
WHERE seen.until <= ?2 OR seen.until > ?2 + 2 * ?3
"""
INSERT = "INSERT INTO events (received_at, source, route, name, body) VALUES (?, ?, ?, ?, ?)"
INSERT_PRUNED = """
INSERT INTO events (seq, received_at, source, route, name, body, pruned)
VALUES (?, ?, ?, ?, ?, ?, 1)
"""
READ = """
SELECT seq, received_at, source, route, name, body, pruned FROM events
WHERE seq > ? ORDER BY seq LIMIT ?
"""
PRUNABLE = """
SELECT seq, received_at, source, route, name, body FROM events
WHERE seq > ? AND seq <= ? AND pruned = 0 ORDER BY seq
"""

T = TypeVar("T")


class SqliteReader:
    """Reads a store's file; see `tap_autopilot.collector.store.Reader`."""

    def __init__(self, database: str) -> None:
        self._database = database
        if not os.path.isfile(database):  # noqa: PTH113 - of a name that is too long, too
            raise UserError(f"There is no store at {shown_file(database)}.")
        self._connection = _read_only(database)
        try:
            self.store_id = _check(self._connection, database)
        except BaseException:
            self._connection.close()
            raise

    @property
    def last_seq(self) -> int:
        """The `seq` of the newest event, 0 in an empty store."""
        return int(self._query("SELECT coalesce(max(seq), 0) FROM events")[0][0])

    def read(self, after: int, limit: int) -> list[Event]:
        """At most `limit` events with a `seq` above `after`, in order; fewer if they are large."""
        found = []
        size = 0
        try:
            for row in self._connection.execute(READ, (after, limit)):
                event = Event._make((*row[:-1], row[-1] == 1))
                found.append(event)
                size += len(event.body)
                if size > MAX_BYTES:
                    break
        except sqlite3.Error as problem:
            raise self._unreadable(problem) from None
        return found

    def stats(self) -> dict[str, Any]:
        """Statistics about the store."""
        return summary(self._query, self.store_id, _size(self._database))

    def forwarded(self) -> dict[str, int]:
        """The `seq` up to which events were forwarded, by destination."""
        return dict(self._query("SELECT destination, seq FROM cursors"))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> SqliteReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _query(self, statement: str, *parameters: object) -> list[Any]:
        try:
            return self._connection.execute(statement, parameters).fetchall()
        except sqlite3.Error as problem:
            raise self._unreadable(problem) from None

    def _unreadable(self, problem: sqlite3.Error) -> UserError:
        return UserError(f"Cannot read the store {self._database}: {problem}.")


class SqliteStore:
    """A store's file open for writing, created if missing. See `writing.Store`."""

    def __init__(self, database: str) -> None:
        self._path = Path(database)
        self._lock = _lock(self._path)
        try:
            self._connection = _writing(database)
            self.store_id = self._prepare()
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
        return int(self._query("SELECT coalesce(max(seq), 0) FROM events")[0][0])

    def append(self, events: Sequence[Received]) -> int:
        """Commit these events, all or none, except duplicates; returns how many were new."""

        def insert(execute: Callable[..., sqlite3.Cursor]) -> int:
            new = []
            for event in events:
                key = event.key
                if key is None:
                    marked = 1
                elif event.for_good:
                    marked = execute(MARK_FOR_GOOD, (key,)).rowcount
                else:
                    marked = execute(
                        MARK_FOR_AN_HOUR, (key, event.received_at, REPEAT_WINDOW)
                    ).rowcount
                if marked:
                    new.append(event[:5])
            self._connection.executemany(INSERT, new)
            return len(new)

        return self._commit(insert)

    def probe(self) -> None:
        """Commit something, to check that commits work."""
        self._commit(lambda execute: execute("UPDATE store SET probed = probed + 1"))

    def free_bytes(self) -> int | None:
        """Free space on the disk."""
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize

    def prune(self, after: int, up_to: int, prune: Pruner) -> tuple[int, int]:
        """Prune some events with after < seq <= up_to; returns the last `seq`, and how many."""
        rows: list[tuple[Any, ...]] = []
        size = 0
        up_to = min(up_to, after + PRUNE_SPAN)
        for row in self._connection.execute(PRUNABLE, (after, up_to)):
            rows.append(row)
            size += len(row[5])
            if len(rows) == PRUNE_SLICE or size > MAX_BYTES:
                up_to = row[0]
                break
        kept = [
            (*row[:5], left)
            for row in rows
            if (left := prune(row[0], row[2], row[3], row[4], row[5])) is not None
        ]

        def replace(execute: Callable[..., sqlite3.Cursor]) -> None:
            # An UPDATE would leave half-empty pages behind.
            for row in kept:
                execute("DELETE FROM events WHERE seq = ?", row[:1])
            self._connection.executemany(INSERT_PRUNED, kept)

        self._commit(replace)
        try:  # as a script, because sqlite3 stops a single statement after one page
            self._connection.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
        except sqlite3.Error as problem:
            raise self._trouble(problem) from None
        return up_to, len(kept)

    def sweep(self, now: int) -> None:
        """Forget deliveries older than an hour."""
        self._commit(lambda execute: execute("DELETE FROM seen WHERE until <= ?", (now,)))

    def owns(self, destination: str) -> bool:  # noqa: ARG002 - only one process has the file
        """True: this collector forwards events, because it is the only one."""
        return True

    def cursor(self, destination: str) -> Cursor | None:
        """A destination's cursor, None if it was never saved."""
        query = "SELECT seq, sent, refused FROM cursors WHERE destination = ?"
        rows = self._query(query, destination)
        return Cursor(*rows[0]) if rows else None

    def save_cursor(self, destination: str, cursor: Cursor) -> None:
        """Save a destination's cursor."""
        self._commit(
            lambda execute: execute(
                "INSERT OR REPLACE INTO cursors VALUES (?, ?, ?, ?)", (destination, *cursor)
            )
        )

    def stats(self) -> dict[str, Any]:
        """Statistics about the store."""
        return summary(self._query, self.store_id, _size(str(self._path)))

    def close(self) -> None:
        """Close the file, then release the lock."""
        self._connection.close()
        os.close(self._lock)

    def _prepare(self) -> str:
        """The id of the store, which is created if the file is empty."""
        connection = self._connection
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
            _sync_folder(self._path.parent)
        found = _check(connection, str(self._path))
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute("UPDATE store SET probed = probed + 1")  # creates the WAL file
        return found

    def _commit(self, change: Callable[[Callable[..., sqlite3.Cursor]], T]) -> T:
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


def _lock(path: Path) -> int:
    """A descriptor of the file, locked against other writers; creates the file if missing.

    It must stay open as long as the connection: closing any descriptor of a file releases SQLite's
    locks on it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    except FileNotFoundError:
        shown = shown_file(str(path))
        raise UserError(f"Cannot open the store {shown}: its folder does not exist.") from None
    except OSError as problem:
        raise UserError(f"Cannot open the store {path}: {problem.strerror}.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise InUse(f"A collector is using the store {path}. Check its health at /ready.") from None
    return descriptor


def _writing(database: str) -> sqlite3.Connection:
    """A connection for writing. It may be opened in one thread and used in another."""
    return sqlite3.connect(database, isolation_level=None, check_same_thread=False, timeout=5)


def _read_only(database: str) -> sqlite3.Connection:
    """A connection that can only read."""
    address = f"file:{urllib.parse.quote(str(Path(database).absolute()))}?mode=ro"
    connection = sqlite3.connect(
        address, uri=True, isolation_level=None, check_same_thread=False, timeout=5
    )
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.OperationalError:
        if Path(f"{database}-wal").exists():
            return connection
        connection.close()  # no one is writing to it, and no one can, as on a read-only disk
        connection = sqlite3.connect(
            f"{address}&immutable=1", uri=True, isolation_level=None, check_same_thread=False
        )
    except sqlite3.DatabaseError:
        pass  # the check that follows reports it
    return connection


def _check(connection: sqlite3.Connection, database: str) -> str:
    """The id of a store. Raises UserError for any other file."""
    try:
        (kind,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if kind != APPLICATION_ID:
            raise UserError(f"{database} is not a collector store.")
        if version > FORMAT:
            raise UserError(
                f"The store {database} was written by a newer version of tap-autopilot;"
                " upgrade this one."
            )
        return str(connection.execute("SELECT id FROM store").fetchone()[0])
    except sqlite3.OperationalError as problem:
        raise UserError(f"Cannot read the store {database}: {problem}.") from None
    except sqlite3.DatabaseError:
        raise UserError(f"{database} is not a collector store.") from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(database: str) -> int:
    """The size of the files on disk."""
    files = [Path(database), Path(f"{database}-wal")]
    return sum(file.stat().st_size for file in files if file.exists())
