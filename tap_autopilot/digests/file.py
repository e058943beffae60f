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
from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from tap_autopilot.exceptions import RunError, UserError
from tap_autopilot.files import check_owners, database_files, open_or_create

LOG = logging.getLogger(__name__)

TABLES = {
    "rows": """("table" integer, key text, digest integer, sent integer, new integer,
        primary key ("table", key)) without rowid""",
    "seen": '("table" integer, low text, high text, step integer)',
    "gone": """("table" integer, key text, step integer,
        primary key ("table", key)) without rowid""",
    "steps": "(number integer primary key, content text, checksum integer)",
}
ASIDE = ".damaged"
FOREIGN = "is another program's database"
OF_THE_DISK = ("unable to open", "disk I/O error", "disk is full")  # in SQLite's messages
MANY = 1000  # rows or ranges in memory at a time
LIMIT = 2**63  # of checksums
OF_TABLE, OF_KEY, OF_SENT, OF_NEW = 0x2545F4914F6CDD1D, 0x5851F42D4C957F2D, 0x27D4EB2F, 0x369DEA0F

# Rows go in and out as JSON, many at a time: `sqlite3` releases Python's lock at every row, and the
# threads that read the API would take it each time. A digest of 0 differs from every row.
SUM = """
select sum(digest >> 32), sum(digest & 0xffffffff), sum(sent), sum(new),
    cast(group_concat(key, char(0)) as blob) from
    (select * from rows where "table" = ? and key > ? order by key limit ?)"""
COUNT = """
select count(*), sum(digest >> 32), sum(digest & 0xffffffff) from
    (select digest from rows where "table" = ? and key between ? and ? limit ?)"""
LOOK_UP = """
select json_group_object(rows.key, json_array(digest, sent, new)) from json_each(?2) as wanted
    cross join rows where "table" = ?1 and rows.key = wanted.value"""
SEND = """
insert into rows select ?1, key, value, ?2, ?2 from json_each(?3) where true
    on conflict ("table", key) do update set digest = excluded.digest, sent = excluded.sent,
    new = case when rows.new < 0 then excluded.new else rows.new end"""
SEEN = 'select low, high from seen where "table" = ? and step > ? order by low'
UNSEEN = """
select json_group_object(key, json_array(digest, sent, new)) from
    (select rows.* from json_each(?2) as gap cross join rows
    where "table" = ?1 and rows.key > max(json_extract(gap.value, '$[0]'), ?5)
    and rows.key < coalesce(json_extract(gap.value, '$[1]'), x'') and sent <= ?3 limit ?4)"""
BURY = """insert into gone select ?1, value, ?3 from json_each(?2)"""
FORGET = """delete from seen where "table" in (select value from json_each(?))"""
DELETE = """delete from rows where "table" = ? and key in (select value from json_each(?))"""
GONE = """select key from gone where "table" = ? and key > ? order by 1 limit ?"""
GO_BACK = (
    """update rows set digest = 0, sent = 0, new = case when new > ?1 then -1 else new end
    where sent > ?1""",
    """insert or ignore into rows select "table", key, 0, 0, -1 from gone where step > ?1""",
    "delete from seen where step > ?1",
)

Row = Sequence[int]
DIGEST, SENT, NEW = range(3)  # of a row
NEVER = -1  # instead of the step `new`: the target may not even have the row


class File:
    """A file that no other run may use at the same time, and its checksum.

    Raises UserError if it cannot be opened or is in use.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(os.path.realpath(path))
        if trouble(self.path) == FOREIGN:  # opening it would already change it
            raise UserError(f"The digests file {self.path} {FOREIGN}.")
        self._db = _open(Path(path))  # not resolved: nothing is created at the end of a link
        self._of_rows = self._of_others = 0  # parts of the checksum
        self._waiting: list[tuple[str, Any]] = []  # statements of the next step
        self._sends = False  # whether the next step sends rows

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
        self._db.execute("delete from gone where key is null")  # fails if it seems read-only
        return True

    def empty(self) -> None:
        """Start a new database, whatever there was."""
        self._of_rows = self._of_others = 0
        with self.step():
            for name, columns in TABLES.items():
                self._db.execute(f"drop table if exists {name}")
                self._db.execute(f"create table {name} {columns}")

    def move_aside(self) -> None:
        """Move a damaged file aside, and create a new one."""
        self._db.close()
        aside = f"{self.path}{ASIDE}"
        number = 1
        while os.path.lexists(aside):
            number += 1
            aside = f"{self.path}{ASIDE}-{number}"
        files = zip(database_files(self.path), database_files(aside), strict=True)
        for path, new in reversed([*files]):  # the database last
            try:
                path.replace(new)
            except FileNotFoundError:
                continue
            except OSError as problem:
                raise UserError(
                    f"Cannot rename {self.path}, which is damaged: {problem.strerror}."
                ) from None
        LOG.warning("What was in %s is now in %s.", self.path, aside)
        self._db = _open(self.path)

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
                f"Cannot use the digests file {self.path}: {problem}. Fix that, and run again"
                " with the last STATE that the target printed."
            ) from None

    def close(self) -> None:
        """Close and unlock the file."""
        self._db.close()

    # Reading.

    def steps(self) -> sqlite3.Cursor:
        """The number and content of each step, the last one first."""
        return self._db.execute("select number, content from steps order by 1 desc")

    def count(self, table: int, low: str, high: str, most: int) -> tuple[int, int]:
        """How many rows there are between two keys, at `most`, and the sum of their digests."""
        count, upper, lower = self._row(COUNT, table, low, high, most)
        return count, ((upper or 0) << 32) + (lower or 0)

    def look_up(self, table: int, keys: Sequence[str]) -> dict[str, Row]:
        """The rows with these keys, if there are any."""
        rows: dict[str, Row] = self._json(LOOK_UP, table, encode(keys))
        return rows

    def gone(self, table: int) -> Iterator[list[str]]:
        """The keys of the rows that were buried, in batches."""
        after = ""
        with self.errors():
            while batch := [key for (key,) in self._db.execute(GONE, (table, after, MANY))]:
                yield batch
                after = batch[-1]

    def _gaps(self, table: int, since: int) -> Iterator[str]:
        """The gaps between the ranges of keys that the pass has seen, in batches."""
        reach = ""
        seen = self._db.execute(SEEN, (table, since))
        while ranges := seen.fetchmany(MANY):
            gaps = []
            for low, high in ranges:
                gaps.append((reach, low))
                reach = max(reach, high)
            yield encode(gaps)
        yield encode([(reach, None)])

    def _row(self, query: str, *values: Any) -> Any:
        return self._db.execute(query, values).fetchone()

    def _json(self, query: str, *values: Any) -> Any:
        return msgspec.json.decode(self._row(query, *values)[0])

    # Writing, which keeps the checksum. The statements of a step wait for its end.

    def see(self, table: int, low: str, high: str, step: int) -> None:
        """Note a range of keys as seen."""
        self._of_others += _mixed(table, low, high, step)
        self._waiting.append(("insert into seen values (?, ?, ?, ?)", (table, low, high, step)))

    def send(
        self, table: int, digests: Mapping[str, int], known: Mapping[str, Row | None], step: int
    ) -> None:
        """Note the rows in `known` as sent, which has them as they are in the file, if there."""
        sent = {key: digests[key] for key in known}
        before = {key: row for key, row in known.items() if row is not None}
        kept = [row[NEW] for row in before.values() if row[NEW] != NEVER]
        new = sum(kept) + (len(sent) - len(kept)) * step
        keys = [*map(str.encode, sent)]
        self._of_rows += _weight(table, keys, sum(sent.values()), len(sent) * step, new)
        self._of_rows -= _weight_of(table, before)
        self._waiting.append((SEND, (table, step, encode(sent))))
        self._sends = True

    def bury(self, table: int, since: int, step: int) -> bool:
        """Bury the rows that no step after `since` saw or sent; returns whether there are any."""
        has_buried = False
        with self.step(sends=True):
            after = ""  # the last row buried; looking again at those before it takes quadratic time
            for gaps in self._gaps(table, since):
                while rows := self._json(UNSEEN, table, gaps, since, MANY, after):
                    keys = encode(list(rows))
                    self._db.execute(BURY, (table, keys, step))
                    self._db.execute(DELETE, (table, keys))
                    self._of_rows -= _weight_of(table, rows)
                    self._of_others += sum(_mixed(table, key, None, step) for key in rows)
                    has_buried, after = True, max(rows)
        return has_buried

    def end_step(self, number: int, content: str) -> None:
        """End a step with what is known after it."""
        with self.step(sends=self._sends):
            for statement, values in self._waiting:
                self._db.execute(statement, values)
            self._db.execute(
                "insert into steps values (?, ?, ?)", (number, content, self._checksum)
            )
            self._db.execute("commit")
        self._waiting.clear()
        self._sends = False

    def go_back(self, number: int, tables: int, ended: Sequence[int]) -> None:
        """Return to a step. Of tables whose pass has `ended`, forget what it saw."""
        with self.step():
            if self._row("select max(number) from steps") != (number,):
                for statement in GO_BACK:
                    self._db.execute(statement, (number,))
                self._of_rows = self._sum_rows(tables)
            self._db.execute("delete from gone")
            self._db.execute("delete from steps where number <> ?", (number,))
            self._db.execute(FORGET, (encode(ended),))
            self._of_others = self._sum_others()
            self._db.execute("update steps set checksum = ?", (self._checksum,))

    # The checksum finds what SQLite does not: flipped bits, or an old file beside a newer `-wal`.

    @property
    def _checksum(self) -> int:
        return (self._of_rows + self._of_others) % LIMIT

    def check(self, tables: int) -> None:
        """Compute the checksum of these tables. Raises ValueError if it is not the last step's."""
        self._of_rows, self._of_others = self._sum_rows(tables), self._sum_others()
        last = self._row("select checksum from steps order by number desc limit 1")
        if last != (self._checksum,):
            raise ValueError

    def _sum_rows(self, tables: int) -> int:
        total = 0
        for table in range(tables):
            after = ""
            while (totals := self._row(SUM, table, after, MANY))[-1]:
                upper, lower, sent, new, text = totals
                keys = text.split(b"\0")
                after = keys[-1].decode()
                total += _weight(table, keys, (upper << 32) + lower, sent, new)
        return total

    def _sum_others(self) -> int:
        rows = 'select * from seen union all select "table", key, null, step from gone'
        return sum(_mixed(*row) for row in self._db.execute(rows))


def trouble(path: Path) -> str | None:
    """Why an existing file cannot be the digests file, if so. Changes nothing.

    Raises UserError if another user may have planted it.
    """
    check_owners(path)
    if not os.path.isfile(path) or path.stat().st_size == 0:  # noqa: PTH113 - of a long name, too
        return None
    # As if nobody were writing to it, without its `-wal`: enough to see whose it is.
    address = f"file:{urllib.parse.quote(str(path.absolute()))}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as db:
            tables = {name for (name,) in db.execute("select name from sqlite_master")}
    except sqlite3.Error:
        return "is damaged, or not a digests file"
    return None if tables <= TABLES.keys() else FOREIGN


def _weight(table: int, keys: Collection[bytes], digests: int, sent: int, new: int) -> int:
    """What rows add to the checksum, given their keys and the sums of their other columns."""
    of_keys = sum(map(crc32, keys)) * OF_KEY
    return digests + of_keys + sent * OF_SENT + new * OF_NEW + len(keys) * table * OF_TABLE


def _weight_of(table: int, rows: Mapping[str, Row]) -> int:
    digests, sent, new = map(sum, zip(*rows.values(), strict=True)) if rows else (0, 0, 0)
    return _weight(table, [*map(str.encode, rows)], digests, sent, new)


def _mixed(*values: Any) -> int:
    """What a range or a tombstone adds to the checksum."""
    return int.from_bytes(blake2b(msgspec.json.encode(values), digest_size=8).digest(), "big")


def encode(value: Any) -> str:
    """A value as JSON."""
    return msgspec.json.encode(value).decode()


def _open(path: Path) -> sqlite3.Connection:
    """Open or create a file, and lock it. If it is damaged, reading it will raise that again."""
    check_owners(path)
    try:
        os.close(open_or_create(path, os.O_RDWR, 0o600))
    except OSError as problem:
        raise UserError(f"Cannot open the digests file {path}: {problem.strerror}.") from None
    if not path.is_file():
        raise UserError(f"The digests file {path} is not a regular file.")
    try:  # absolute, because SQLite keeps :memory: and file:…?mode=memory in memory
        db = sqlite3.connect(path.absolute(), timeout=0, isolation_level=None)
    except sqlite3.Error as problem:
        raise UserError(f"Cannot open the digests file {path}: {problem}.") from None
    try:
        db.execute("pragma locking_mode = exclusive")
        db.execute("pragma journal_mode = wal")
        db.execute("begin exclusive")
        db.execute("commit")
    except (sqlite3.Error, UnicodeDecodeError) as problem:
        is_locked = "database is locked" in str(problem)
        if is_locked or not is_damage(problem):
            db.close()
            why = "it is in use by another run" if is_locked else problem
            raise UserError(f"Cannot open the digests file {path}: {why}.") from None
    return db


def is_damage(problem: Exception) -> bool:
    """Whether SQLite found the file damaged, and not the disk unable to read it."""
    return not any(text in str(problem) for text in OF_THE_DISK)
