"""The file of a store in SQLite: its tables, who may write to it, and how it is opened."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import time
import urllib.parse
from functools import partial
from pathlib import Path

from tap_autopilot.arguments import shown_file
from tap_autopilot.collector import sqlite_seen
from tap_autopilot.collector.reader import FORMAT, check_format
from tap_autopilot.collector.shared_sql import PROBE, SUMMARY_TABLES
from tap_autopilot.collector.store import InUse
from tap_autopilot.collector.upgrade import sqlite_from_1
from tap_autopilot.exceptions import RunError, UserError
from tap_autopilot.files import BESIDE, check_owners, open_or_create

LOG = logging.getLogger(__name__)

APPLICATION_ID = 0x41504556  # "APEV" in the file's header
CHECKPOINT_PAGES = 4000
MAX_WAL = 32 * 2**20  # bytes that the WAL keeps on disk once it has been checkpointed
CACHE_KIB = 4_096
LOOK_EVERY = 0.05  # seconds, at a lock
WAIT_FOR_LOCKS = 5.0  # seconds, with locks inside the file
# Or what was pruned stays on the disk, beside other rows of its page, when its person is erased.
SECURE_DELETE = "PRAGMA secure_delete = FAST"
# A table that is there while the store is open, and after a kill.
OPENED = "CREATE TABLE IF NOT EXISTS opened (at)"
CLOSED = "DROP TABLE IF EXISTS opened"
# Numbers that only grow: with each transaction, so that any WAL has the first, and with each event.
AGE = """
SELECT probed, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0) FROM store
"""
# From then on, no WAL of another copy fits.
PART = "UPDATE store SET probed = probed + 1000000000000"
WAITING = 0x4000_0200  # the byte that a waiting collector locks, after all that SQLite locks
NOT_IN_FORMAT_1 = f"""
{sqlite_seen.TABLES}
CREATE TABLE kinds (
    id INTEGER PRIMARY KEY,
    source TEXT NOT NULL,
    route TEXT NOT NULL,
    name TEXT NOT NULL,
    events INTEGER NOT NULL,
    pruned INTEGER NOT NULL,
    last_received_at INTEGER NOT NULL,
    UNIQUE (source, route, name)
);
CREATE TABLE pruned (
    seq INTEGER PRIMARY KEY,
    received_at INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    contact TEXT,
    at INTEGER,
    message INTEGER,
    rest BLOB,
    fingerprint BLOB NOT NULL
);
CREATE TABLE messages (id INTEGER PRIMARY KEY, body BLOB NOT NULL UNIQUE);
CREATE TABLE pruned_up_to (name TEXT PRIMARY KEY, seq INTEGER NOT NULL, since TEXT) WITHOUT ROWID;
{SUMMARY_TABLES}
"""
SCHEMA = f"""
CREATE TABLE store (id TEXT NOT NULL, probed INTEGER NOT NULL DEFAULT 0);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    received_at INTEGER NOT NULL,
    source TEXT NOT NULL,
    route TEXT NOT NULL,
    name TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE cursors (
    destination TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    sent INTEGER NOT NULL,
    refused INTEGER NOT NULL
) WITHOUT ROWID;
{NOT_IN_FORMAT_1}
INSERT INTO store (id) VALUES (lower(hex(randomblob(16))));
"""  # noqa: S608
UPGRADES = {1: partial(sqlite_from_1, tables=NOT_IN_FORMAT_1)}  # by the format that each upgrades


def lock(path: Path, patience: float) -> int:
    """A descriptor of the file, locked against other writers; creates the file if missing.

    It must stay open as long as the connection: closing any descriptor of a file releases SQLite's
    locks on it. Waits up to `patience` seconds for another process, which is about to end, or does
    so once it sees that someone waits.
    """
    if path.name.endswith((*BESIDE, ".sock")):
        raise UserError(f"{shown_file(str(path))} is a file beside a store; name the store itself.")
    check_owners(path)
    _check_mount(path)
    _check_left(path)
    try:
        descriptor = open_or_create(path, os.O_RDWR, 0o640)
    except OSError as problem:
        if not path.parent.is_dir():
            shown = shown_file(str(path))
            raise UserError(f"Cannot open the store {shown}: its folder does not exist.") from None
        if isinstance(problem, PermissionError) and _is_locked(path):
            raise _in_use(path) from None
        raise UserError(
            f"Cannot open the store {path}: {problem.strerror}{_as_owner(path, '; run this')}."
        ) from None
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError:
            if time.monotonic() < deadline:
                with contextlib.suppress(OSError):  # another one waits, too
                    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, WAITING)
                time.sleep(LOOK_EVERY)
                continue
            os.close(descriptor)
            raise _in_use(path) from None


def _check_mount(path: str | Path) -> None:
    """Raise UserError if a container has only the database from outside, and another WAL."""
    if os.path.realpath(path) in _mounts():
        raise UserError(
            f"The store {path} is mounted by itself, without the newest events, which are in a file"
            " beside it. Mount its folder instead."
        )


def _check_left(path: Path) -> None:
    """Raise UserError if the newest events, which are in the WAL, would be lost."""
    left = wal(path)
    # In this order, because another process may just create a store.
    if _bytes(left) and not _bytes(path):
        raise UserError(
            f"The store {path} is missing, but {left} still has its newest events. Move the store"
            " back, or also move away what is left of it."
        )


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # if it is not just missing, the caller will learn why
        return 0


def _mounts() -> list[str]:
    """Where filesystems, folders and files are mounted; nothing if it is not Linux."""
    try:
        mounts = os.fsdecode(Path("/proc/self/mountinfo").read_bytes())
    except OSError:
        return []
    return [line.split()[4].replace("\\040", " ") for line in mounts.splitlines()]


def is_wanted(descriptor: int) -> bool:
    """Whether another process is waiting for our lock."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, WAITING)
    except (BlockingIOError, PermissionError):
        return True
    fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, WAITING)
    return False


def _is_locked(path: Path) -> bool:
    """Whether another process has locked a file that we may at most read."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _in_use(path: Path) -> InUse:
    return InUse(
        f"A collector or a command is using the store {path}. A collector's health is at /ready; to"
        " use the store without it, stop it first."
    )


def _as_owner(path: Path, advice: str = "") -> str:
    """Advice to be the file's owner; nothing if it has none, or we are."""
    try:
        is_ours = os.geteuid() == path.stat().st_uid
        return "" if is_ours else f"{advice} as its owner, {path.owner()}"
    except (OSError, KeyError):
        return ""


def open_for_writing(path: Path) -> sqlite3.Connection:
    """A connection for writing. It may be opened in one thread and used in another."""
    return sqlite3.connect(
        path.absolute(), isolation_level=None, check_same_thread=False, timeout=WAIT_FOR_LOCKS
    )


def prepare(connection: sqlite3.Connection, path: Path) -> str:
    """The id of the store, which is created if the file is empty, and upgraded if it is older."""
    has_wal = _bytes(wal(path)) > 0  # before the first statement; a reader may have created it
    if has_wal:
        _check_wal(path)
    connection.execute(SECURE_DELETE)  # first, because an upgrade deletes, too
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
        sync(path.parent)
    else:
        version = check(connection, str(path), oldest=1)
        if version < FORMAT:
            UPGRADES[version](connection)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {MAX_WAL}")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute(PROBE)  # creates the WAL file
    is_left = not has_wal and connection.execute("PRAGMA table_info(opened)").fetchone()
    if is_left:
        LOG.warning(
            "The store %s was not closed properly, but there is no %s: if it was moved or copied"
            " without that file, its newest events are missing. Do not add it now: that would"
            " damage the store.",
            path, wal(path).name,
        )  # fmt: skip
    with contextlib.suppress(sqlite3.OperationalError):  # on a full disk
        if is_left:
            connection.execute(PART)
        connection.execute(OPENED)
        connection.execute("PRAGMA wal_checkpoint")  # so that even a copy without the WAL shows it
    return store_id(connection, str(path))


def _check_wal(path: Path) -> None:
    """Raise UserError if the WAL is from another copy of the file, such as an earlier one.

    To be called by its only writer, before the first statement, which would begin to mix them.
    """
    try:
        alone = _age(path, "&immutable=1")
    except sqlite3.Error:  # as after a kill during a checkpoint
        return
    try:
        if all(now >= before for before, now in zip(alone, _age(path), strict=True)):
            return
    except sqlite3.OperationalError:  # the first statement will say so
        return
    except sqlite3.DatabaseError:  # pages of two copies make no database
        pass
    raise UserError(
        f"The store {path} does not match {wal(path)}, which must be from another copy of it, and"
        " would damage it. Move that file away, and keep it until all is well."
    )


def _age(path: Path, options: str = "") -> tuple[int, ...]:
    address = f"{_read_only(path)}{options}"
    with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
        return tuple(connection.execute(AGE).fetchone())


def wal(database: str | Path) -> Path:
    """Its file of recent changes. If a link leads to the database, that is where this is."""
    return Path(f"{os.path.realpath(database)}-wal")


class Immutable(sqlite3.Connection):
    """A connection to a file that no one is writing to. `seen` is what showed that."""

    seen: object


def is_outdated(connection: sqlite3.Connection, database: str) -> bool:
    """Whether someone has begun to write to such a file, so that what was just read is wrong."""
    return isinstance(connection, Immutable) and connection.seen != _look_at(database)


def _look_at(database: str) -> object:
    try:
        return Path(database).stat().st_mtime_ns, wal(database).exists()
    except OSError:
        return None


def open_read_only(database: str) -> sqlite3.Connection:
    """A connection that can only read; see `is_outdated`."""
    check_owners(database)
    _check_mount(database)
    seen = _look_at(database)
    address = _read_only(Path(database))
    try:
        connection = sqlite3.connect(
            address, uri=True, isolation_level=None, check_same_thread=False, timeout=WAIT_FOR_LOCKS
        )
    except sqlite3.Error as problem:
        advice = _as_owner(Path(database), "; run this")
        raise UserError(f"Cannot read the store {database}: {problem}{advice}.") from None
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.OperationalError as problem:
        is_open = wal(database).exists()
        if is_open and Path(f"{os.path.realpath(database)}-shm").exists():
            return connection
        connection.close()
        if _is_lock(problem):
            raise unreadable(database, problem) from None
        if is_open:
            raise UserError(
                f"The store {database} was not closed properly, as after a power cut, and only a"
                " writer can recover it: start its collector, or run tap-autopilot-collector"
                f" --check{_as_owner(Path(database))}."
            ) from None
        # No one is writing to it, as on a read-only disk.
        connection = sqlite3.connect(
            f"{address}&immutable=1", uri=True, isolation_level=None, check_same_thread=False,
            factory=Immutable,
        )  # fmt: skip
        connection.seen = seen
    except sqlite3.DatabaseError:
        pass  # the check that follows reports it
    return connection


def _read_only(path: Path) -> str:
    return f"file:{urllib.parse.quote(str(path.absolute()))}?mode=ro"


def check(connection: sqlite3.Connection, database: str, oldest: int = FORMAT) -> int:
    """The format of a store. Raises UserError for anything but a store, and for other formats."""
    try:
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.OperationalError as problem:
        raise unreadable(database, problem) from None
    except sqlite3.DatabaseError:
        application_id = None
    if application_id != APPLICATION_ID:
        raise UserError(f"{database} is not a collector store.")
    check_format(version, database, oldest)
    return int(version)


def store_id(connection: sqlite3.Connection, database: str) -> str:
    """The store's id. Raises UserError if the file is damaged."""
    try:
        row = connection.execute("SELECT id FROM store").fetchone()
    except sqlite3.Error as problem:
        raise unreadable(database, problem) from None
    if row is None:
        raise UserError(f"The store {database} is damaged: it has no id.")
    return str(row[0])


def unreadable(database: str, problem: sqlite3.Error) -> UserError | RunError:
    """The exception for an error while reading. Collectors never lock out readers for long."""
    if _is_lock(problem):
        return RunError(f"Another program has locked the store {database}. Try again later.")
    return UserError(f"Cannot read the store {database}: {problem}.")


def _is_lock(problem: sqlite3.Error) -> bool:
    return "is locked" in str(problem)


def sync(path: Path) -> None:
    """Make sure that a file, or a folder's list of files, is the same after a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def size(database: str) -> int:
    """The size of the files on disk."""
    files = [Path(database), wal(database)]
    return sum(file.stat().st_size for file in files if file.exists())
