"""The digests file: a SQLite database, locked, with a checksum of its own.

Each page of a run is a *step*: a transaction that is on disk before the page's rows can reach the
target. The STATE that follows them names the step, so the last STATE that the target kept says
which steps it has confirmed. Of rows sent later it may have any version, or none. Every run first
goes back to the confirmed step. The tables of the file:

    rows    every row that was sent; `sent` is the step that sent it last, and before the step `new`
            the target cannot have had it
    seen    ranges of keys; the current pass found or sent all rows in them
    gone    rows for which a tombstone was sent
    steps   what was known after each step, and a checksum of the other tables
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import urllib.parse
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from tap_autopilot.exceptions import RunError, UserError
from tap_autopilot.files import open_or_create

LOG = logging.getLogger(__name__)

TABLES = {
    "rows": """("table" integer, key text, digest integer, sent integer, new integer,
        primary key ("table", key)) without rowid""",
    "seen": """("table" integer, low text, high text, step integer,
        primary key ("table", low, high, step)) without rowid""",
    "gone": """("table" integer, key text, step integer,
        primary key ("table", key)) without rowid""",
    "steps": "(number integer primary key, content text, checksum integer)",
}
ASIDE = ".damaged"
FOREIGN = "is another program's database"
MANY = 1000  # rows or ranges in memory at a time
LIMIT = 2**63  # of checksums
OF_TABLE, OF_KEY, OF_SENT, OF_NEW = 0x2545F4914F6CDD1D, 0x5851F42D4C957F2D, 0x27D4EB2F, 0x369DEA0F

SUM = """
select count(*), sum(digest >> 32), sum(digest & 0xffffffff), sum(sent), sum(new),
    cast(group_concat(key, char(0)) as blob) from
    (select * from rows where "table" = ? and key > ? order by key limit ?)"""


class File:
    """A file that no other run may use at the same time.

    Raises UserError if it cannot be opened or is in use.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(os.path.realpath(path))
        self._db = _open(Path(path))  # not resolved: nothing is created at the end of a link

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Run a statement."""
        return self._db.execute(statement, values)

    def row(self, statement: str, *values: Any) -> Any:
        """The first row that a query finds, or None."""
        return self._db.execute(statement, values).fetchone()

    def json(self, query: str, *values: Any) -> Any:
        """What a query finds, as one JSON value."""
        return msgspec.json.decode(self.row(query, *values)[0])

    def is_ours(self) -> bool:
        """Whether it has our tables; False if it is new. Raises ValueError if it is damaged."""
        tables = dict(self._db.execute("select name, sql from sqlite_master"))
        if not tables:
            return False
        if not tables.keys() <= TABLES.keys():
            raise UserError(f"The digests file {self.path} {FOREIGN}.")
        if tables != {name: f"CREATE TABLE {name} {columns}" for name, columns in TABLES.items()}:
            raise ValueError
        if self._db.execute("pragma integrity_check").fetchall() != [("ok",)]:
            raise ValueError
        self._db.execute("delete from gone where key is null")  # fails if it seems to be read-only
        return True

    def empty(self) -> None:
        """Start a new database, whatever there was. A damaged file is moved aside."""
        try:
            self._db.execute("begin")
            for name in TABLES:
                self._db.execute(f"drop table if exists {name}")
        except sqlite3.Error:  # it is damaged
            self._db.close()
            aside = self.path.with_name(self.path.name + ASIDE)
            for suffix in ("-journal", "-wal", ""):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self.path}{suffix}").replace(f"{aside}{suffix}")
            LOG.warning("What was in %s is now in %s.", self.path, aside)
            self._db = _open(self.path)
        with self.step():
            for name, columns in TABLES.items():
                self._db.execute(f"create table {name} {columns}")

    @contextlib.contextmanager
    def step(self, *, sends: bool = False) -> Iterator[None]:
        """Part of a step's transaction, which an error rolls back as a whole.

        A step that `sends` rows is on disk when it is committed. A power cut may undo another step.
        """
        with self.errors():
            if not self._db.in_transaction:
                self._db.execute(f"pragma synchronous = {'full' if sends else 'normal'}")
                self._db.execute("begin")
            yield

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Explain what SQLite raises."""
        try:
            yield
        except sqlite3.Error as problem:
            self._db.close()
            raise RunError(
                f"Cannot write the digests file {self.path}: {problem}. Fix that, and run again"
                " with the last STATE that the target printed."
            ) from None

    def close(self) -> None:
        """Close and unlock the file."""
        self._db.close()

    # Checksums find what SQLite does not: flipped bits, or an old file beside a newer `-wal`.

    def sum_of_rows(self, tables: int) -> int:
        """The checksum of the rows of this many tables."""
        total = 0
        for table in range(tables):
            after = ""
            while (totals := self.row(SUM, table, after, 10 * MANY))[0]:
                count, upper, lower, sent, new, text = totals
                keys = text.split(b"\0")
                after = keys[-1].decode()
                total += (upper << 32) + lower + sum(map(crc32, keys)) * OF_KEY
                total += sent * OF_SENT + new * OF_NEW + count * table * OF_TABLE
        return total

    def sum_of_others(self) -> int:
        """The checksum of the ranges and tombstones."""
        rows = 'select * from seen union all select "table", key, null, step from gone'
        return sum(mixed(*row) for row in self._db.execute(rows))


def trouble(path: Path) -> str | None:
    """Why an existing file cannot be the digests file, if so. Changes nothing."""
    if not path.is_file() or path.stat().st_size == 0:
        return None
    # As if nobody were writing to it, without its `-wal`: enough to see whose it is.
    address = f"file:{urllib.parse.quote(str(path.absolute()))}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as db:
            tables = {name for (name,) in db.execute("select name from sqlite_master")}
    except sqlite3.Error:
        return "is damaged, or not a digests file"
    return None if tables <= TABLES.keys() else FOREIGN


def weight(table: int, key: str, digest: int, sent: int, new: int) -> int:
    """What a row adds to the checksum, which thus can be summed by column."""
    of_key = crc32(key.encode()) * OF_KEY
    return digest + of_key + sent * OF_SENT + new * OF_NEW + table * OF_TABLE


def mixed(*values: Any) -> int:
    """What a range or a tombstone adds to the checksum."""
    return int.from_bytes(blake2b(msgspec.json.encode(values), digest_size=8).digest(), "big")


def _open(path: Path) -> sqlite3.Connection:
    """Open or create a file, and lock it. The connection is closed if the file is damaged."""
    try:
        os.close(open_or_create(path, os.O_RDWR, 0o600))
    except OSError as problem:
        raise UserError(f"Cannot open the digests file {path}: {problem.strerror}.") from None
    if not path.is_file():
        raise UserError(f"The digests file {path} is not a regular file.")
    try:
        db = sqlite3.connect(path, timeout=0, isolation_level=None)
    except sqlite3.Error as problem:
        raise UserError(f"Cannot open the digests file {path}: {problem}.") from None
    try:
        db.execute("pragma locking_mode = exclusive")
        db.execute("pragma journal_mode = wal")
        db.execute("begin exclusive")
        db.execute("commit")
    except sqlite3.Error as problem:
        db.close()
        if "database is locked" in str(problem):
            raise UserError(f"The digests file {path} is in use by another run.") from None
        if "unable to open" in str(problem):
            raise UserError(f"Cannot open the digests file {path}: {problem}.") from None
    return db
