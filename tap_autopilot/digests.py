"""What the target has: for every table, the keys of its rows, and a digest of each row.

Knows nothing of HTTP, Singer or stdout. Here a row is just a key and some bytes.

The file is a SQLite database. Each page of a run is a *step*: a transaction that is on disk before
the page's rows can reach the target. The STATE that follows them names the step, so the last STATE
that the target kept says which steps it has confirmed. Of rows sent later it may have any version,
or none. Every run first goes back to the confirmed step. The tables of the file:

    rows    every row that was sent; `sent` is the step that sent it last, and before the step `new`
            the target cannot have had it
    seen    ranges of keys; the current pass found or sent all rows in them
    gone    rows for which a tombstone was sent
    steps   what was known after each step, and a checksum of the other tables
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from tap_autopilot.exceptions import RunError, UserError
from tap_autopilot.files import open_or_create

TABLES = {
    "rows": """("table" integer, key text, digest integer, sent integer, new integer,
        primary key ("table", key)) without rowid""",
    "seen": """("table" integer, low text, high text, step integer,
        primary key ("table", low, high, step)) without rowid""",
    "gone": """("table" integer, key text, step integer,
        primary key ("table", key)) without rowid""",
    "steps": "(number integer primary key, content text, checksum integer)",
}
DIGEST, SENT, NEW = range(3)  # of a row as it is read
NEVER = -1  # instead of the step `new`: the target may not even have the row
FEW = 16  # rows looked up by key
MANY = 1000  # rows or ranges in memory at a time
LIMIT = 2**63  # of checksums
OF_TABLE, OF_KEY, OF_SENT, OF_NEW = 0x2545F4914F6CDD1D, 0x5851F42D4C957F2D, 0x27D4EB2F, 0x369DEA0F

# Rows go in and out as JSON, many at a time: `sqlite3` releases Python's lock at every row, and the
# threads that read the API would take it each time. A digest of 0 differs from every row.
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
SEEN = """
select json_group_array(json_array(low, high, step)) from
    (select * from seen where "table" = ? and (low, high, step) > (?, ?, ?)
    order by low, high, step limit ?)"""
UNSEEN = """
select json_group_object(key, json_array(digest, sent, new)) from
    (select rows.* from json_each(?2) as gap cross join rows
    where "table" = ?1 and rows.key > json_extract(gap.value, '$[0]')
    and rows.key < coalesce(json_extract(gap.value, '$[1]'), x'') and sent <= ?3 limit ?4)"""
BURY = """insert into gone select ?1, value, ?3 from json_each(?2)"""
DELETE = """delete from rows where "table" = ? and key in (select value from json_each(?))"""
SUM = """
select count(*), sum(digest >> 32), sum(digest & 0xffffffff), sum(sent), sum(new),
    cast(group_concat(key, char(0)) as blob) from
    (select * from rows where "table" = ? and key > ? order by key limit ?)"""
GO_BACK = (
    """update rows set digest = 0, sent = 0, new = case when new > ?1 then -1 else new end
    where sent > ?1""",
    """insert or ignore into rows select "table", key, 0, 0, -1 from gone where step > ?1""",
    "delete from seen where step > ?1",
)

_decode = msgspec.json.decode


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()


class Start(NamedTuple):
    """How a run starts a table: whether its pass is `resumed`, and `born` if it is new."""

    shape: bytes
    born: int
    resumed: bool


class Table(msgspec.Struct, array_like=True):
    """What the file knows about a table besides its rows.

    `shape` is a digest of what its rows look like, empty if the target has confirmed none of them.
    `born` is when it was first filled, in epoch milliseconds, and the version of its rows. `passes`
    counts finished passes. A table is `settled` once a pass has ended without doubt, `activated`
    once its version was announced. The steps of the current pass come after `since`; it has `began`
    once a page was read.
    """

    name: str
    shape: bytes = b""
    born: int = 0
    since: int = 0
    passes: int = 0
    settled: bool = False
    activated: bool = False
    began: str | None = None


class _Content(msgspec.Struct, array_like=True):
    """The content of a step. `account` is a digest of the account's address and key."""

    salt: bytes
    account: bytes
    run: bytes  # random, so that no two runs have the same tokens
    tables: list[Table]


@dataclass
class _Page:
    """A page's rows: the digest of each, and how they compare with the file."""

    table: int
    digests: Mapping[str, int]
    seen: list[tuple[str, str]] = field(default_factory=list)  # ranges
    differ: dict[str, list[int] | None] = field(default_factory=dict)  # as in the file, if there


class Digests:
    """What the target has, in a file that no other run may use at the same time.

    `doubt` says why the file cannot be trusted, in which case it counts as empty. Raises UserError
    if the file cannot be opened or is in use.
    """

    def __init__(self, path: str, account: str) -> None:
        self._path = Path(path).resolve()
        self._account = account
        self._content = _Content(secrets.token_bytes(8), b"", secrets.token_bytes(8), [])
        self._numbers: dict[str, int] = {}  # of the tables
        self._resumable: list[int] = []  # by table; rows sent after this step may be part of a pass
        self._number = 0  # of the last step
        self._token = ""
        self._checksum = 0
        self._waiting: list[tuple[str, Any]] = []  # statements of the next step
        self._compared: set[str] = set()  # tables with rows in the next step
        self._changed = self._sends = False  # since the last step
        self.doubt: str | None = None
        self._db = _open(Path(path))  # not resolved: nothing is created at the end of a link

    def load(self, position: Any) -> None:
        """Read the file, and go back to the step that a state names; `begin` makes it permanent.

        A missing file is no reason for doubt if the state does not name a step.
        """
        try:
            self.doubt = self._load(position)
        except (sqlite3.Error, msgspec.MsgspecError, MemoryError, TypeError, ValueError):
            self._db.close()  # `begin` will replace the file
            self.doubt = f"{self._path} is damaged, or from another version of the tap"

    def _load(self, position: Any) -> str | None:
        tables = dict(self._db.execute("select name, sql from sqlite_master"))
        if not tables:
            return f"{self._path} is missing" if position is not None else None
        if tables.keys().isdisjoint(TABLES):
            raise UserError(f"The digests file {self._path} is another program's database.")
        if tables != {name: f"CREATE TABLE {name} {columns}" for name, columns in TABLES.items()}:
            raise ValueError
        if self._db.execute("pragma integrity_check").fetchall() != [("ok",)]:
            raise ValueError
        self._db.execute("delete from gone where key is null")  # fails if it seems to be read-only
        _, text, checksum = self._row("select * from steps order by number desc limit 1")
        content = _decode(text, type=_Content)
        rows = self._sum_of_rows(len(content.tables))
        if checksum != (rows + self._sum_of_others()) % LIMIT:
            raise ValueError
        if position is None:
            return "the state does not record what the target has"
        if content.account != self._mark(content.salt):
            return f"{self._path} belongs to another account or API key"
        for number, text in self._db.execute("select number, content from steps order by 1 desc"):
            if position == [number, _token(number, text)]:
                break
        else:
            return f"{self._path} is not the file that the state refers to"
        known = _decode(text, type=_Content).tables
        known += [Table(table.name) for table in content.tables[len(known) :]]
        self._number, self._content.salt, self._content.tables = number, content.salt, known
        self._go_back(rows)
        return None

    def _go_back(self, rows: int) -> None:
        """Return to the step that the target has confirmed; `rows` is the checksum of the rows."""
        number = self._number
        with self._step():
            if self._row("select max(number) from steps") != (number,):
                for statement in GO_BACK:
                    self._db.execute(statement, (number,))
                rows = self._sum_of_rows(len(self._content.tables))
            self._db.execute("delete from gone")
            self._db.execute("delete from steps where number <> ?", (number,))
            for place, table in enumerate(self._content.tables):
                if table.began is None:
                    self._db.execute('delete from seen where "table" = ?', (place,))
            self._checksum = rows + self._sum_of_others()
            self._db.execute("update steps set checksum = ?", (self._checksum % LIMIT,))

    def remembered(self) -> dict[str, int]:
        """The tables in the file, and the versions of their rows."""
        return {table.name: table.born for table in self._content.tables if table.shape}

    def begun(self) -> set[str]:
        """The tables whose current pass is in the file."""
        return {table.name for table in self._content.tables if table.began is not None}

    def reshaped(self, shapes: Mapping[str, bytes]) -> set[str]:
        """The tables whose shape has changed."""
        tables = [table for table in self._content.tables if table.shape and table.name in shapes]
        return {table.name for table in tables if shapes[table.name] != table.shape}

    def begin(self, starts: Mapping[str, Start]) -> None:
        """Start the run's tables. A file in doubt is emptied."""
        if not self._number:
            self._empty()
        tables = self._content.tables
        known = {table.name for table in tables}
        tables += [Table(name) for name in starts if name not in known]
        self._numbers = {table.name: place for place, table in enumerate(tables)}
        now = self._number
        self._resumable = [now if table.began is None else table.since for table in tables]
        for name, start in starts.items():
            table = self.table(name)
            table.born = table.born if table.shape else start.born
            table.shape = start.shape
            if table.began is None or not start.resumed:
                table.began, table.since = None, now
        self._content.account = self._mark(self._content.salt)
        self._changed = True
        self.flush()

    def _empty(self) -> None:
        try:
            self._db.execute("begin")
            for name in TABLES:
                self._db.execute(f"drop table if exists {name}")
        except sqlite3.Error:  # it is damaged
            self._db.close()
            for suffix in ("", "-wal", "-journal"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            self._db = _open(self._path)
        with self._step():
            for name, columns in TABLES.items():
                self._db.execute(f"create table {name} {columns}")

    # The pass.

    def table(self, name: str) -> Table:
        """What is known about a table besides its rows."""
        return self._content.tables[self._numbers[name]]

    def began(self, name: str, at: str) -> None:
        """Note when a pass began, unless that is already noted."""
        table = self.table(name)
        if table.began is None:
            table.began, self._changed = at, True

    def compare(
        self, name: str, keys: Sequence[str], rows: Iterable[bytes]
    ) -> list[tuple[int, bool]]:
        """Compare a page's rows with what the target has, and note them as seen or sent.

        Returns the index of each row to send, and whether the row is new to the target. If a row
        occurs twice, the last counts.
        """
        if not keys:
            return []
        if name in self._compared:
            self.flush()  # rows are compared with those of earlier steps
        self._compared.add(name)
        salt = self._content.salt + self.table(name).shape
        hashes = [blake2b(row, digest_size=8, salt=salt).digest() for row in rows]
        digests = array("q", b"".join(hashes))
        places = dict(zip(keys, range(len(keys)), strict=True))
        page = _Page(self._numbers[name], {key: digests[at] for key, at in places.items()})
        with self._errors():
            self._compare(page, sorted(places))
        for low, high in page.seen:
            self._see(page.table, low, high, self._number + 1)
        if page.differ:
            self._send(page)
        self._changed = True
        differ = page.differ.items()
        return sorted((places[key], row is None or row[NEW] == NEVER) for key, row in differ)

    def _compare(self, page: _Page, keys: list[str]) -> None:
        """Compare sorted rows with those in the file from the first to the last of them."""
        low, high = keys[0], keys[-1]
        digests = [page.digests[key] for key in keys]
        count, upper, lower = self._row(COUNT, page.table, low, high, len(keys) + 1)
        if not count:
            page.differ.update(dict.fromkeys(keys))
        elif count == len(keys) and (upper << 32) + lower == sum(digests):
            page.seen.append((low, high))
        elif len(keys) > FEW:
            half = len(keys) // 2
            self._compare(page, keys[:half])
            self._compare(page, keys[half:])
        else:
            known: dict[str, list[int]] = _decode(self._row(LOOK_UP, page.table, _encode(keys))[0])
            same = [key for key in keys if key in known and known[key][DIGEST] == page.digests[key]]
            page.differ.update({key: known.get(key) for key in keys if key not in same})
            alone = count > len(known)  # there are rows between them that the page does not have
            page.seen += [(key, key) for key in same] if alone else [(low, high)] if same else []

    def _send(self, page: _Page) -> None:
        """Note rows as sent. Those that the pass had seen before remain so if it goes back."""
        step, resumable = self._number + 1, self._resumable[page.table]
        for key, row in page.differ.items():
            new = step if row is None or row[NEW] == NEVER else row[NEW]
            self._checksum += _weight(page.table, key, page.digests[key], step, new)
            if row is not None:
                self._checksum -= _weight(page.table, key, *row)
                if row[SENT] > resumable:
                    self._see(page.table, key, key, row[SENT])
        sent = {key: page.digests[key] for key in page.differ}
        self._waiting.append((SEND, (page.table, step, _encode(sent))))
        self._sends = True

    def _see(self, *row: Any) -> None:
        self._waiting.append(("insert into seen values (?, ?, ?, ?)", row))
        self._checksum += _mixed(*row)

    def bury(self, name: str) -> Iterator[list[str]]:
        """Mark the rows that the pass did not see as deleted. Yields their keys, in batches."""
        self.flush()
        table, since, step = self._numbers[name], self.table(name).since, self._number + 1
        self._sends = True
        with self._step():
            for gaps in self._gaps(table, since):
                while rows := _decode(self._row(UNSEEN, table, gaps, since, MANY)[0]):
                    keys = _encode(list(rows))
                    self._db.execute(BURY, (table, keys, step))
                    self._db.execute(DELETE, (table, keys))
                    for key, row in rows.items():
                        self._checksum -= _weight(table, key, *row)
                        self._checksum += _mixed(table, key, None, step)
                    self._changed = True
        self.flush()
        select, after = 'select key from gone where "table" = ? and key > ? order by 1 limit ?', ""
        while batch := [key for (key,) in self._db.execute(select, (table, after, MANY))]:
            yield batch
            after = batch[-1]

    def _gaps(self, table: int, since: int) -> Iterator[str]:
        """The gaps between the ranges of keys that the pass has seen, in batches."""
        reach, last = "", ("", "", 0)
        while ranges := _decode(self._row(SEEN, table, *last, MANY)[0]):
            gaps = []
            for low, high, step in ranges:
                if step > since:
                    gaps.append((reach, low))
                    reach = max(reach, high)
            yield _encode(gaps)
            last = ranges[-1]
        yield _encode([(reach, None)])

    def end(self, name: str, *, whole: bool, activated: bool) -> None:
        """Note that a pass ended; `whole` if every row that it did not see got a tombstone."""
        table = self.table(name)
        table.passes, table.began = table.passes + 1, None
        table.settled, table.activated = table.settled or whole, table.activated or activated
        self._changed = True

    def flush(self) -> None:
        """End a step, if anything has changed; `position` then names it.

        If rows were sent, it is on disk now. A power cut may undo another step, and its token.
        """
        if not self._changed:
            return
        with self._step():
            for statement, values in self._waiting:
                self._db.execute(statement, values)
            self._number += 1
            content = _encode(self._content)
            step = self._number, content, self._checksum % LIMIT
            self._db.execute("insert into steps values (?, ?, ?)", step)
            self._db.execute("commit")
        self._token = _token(self._number, content)
        self._waiting.clear()
        self._compared.clear()
        self._changed = self._sends = False

    @property
    def position(self) -> list[Any]:
        """The last step, for the state."""
        return [self._number, self._token]

    def close(self) -> None:
        """Close and unlock the file."""
        self._db.close()

    @contextlib.contextmanager
    def _step(self) -> Iterator[None]:
        """Part of a step's transaction, which an error rolls back as a whole."""
        with self._errors():
            if not self._db.in_transaction:
                self._db.execute(f"pragma synchronous = {'full' if self._sends else 'normal'}")
                self._db.execute("begin")
            yield

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as problem:
            self._db.close()
            raise RunError(
                f"Cannot write the digests file {self._path}: {problem}. Fix that, and run again"
                " with the last STATE that the target printed."
            ) from None

    def _row(self, statement: str, *values: Any) -> Any:
        return self._db.execute(statement, values).fetchone()

    # Checksums find what SQLite does not: flipped bits, or an old file beside a newer `-wal`.

    def _sum_of_rows(self, tables: int) -> int:
        total = 0
        for table in range(tables):
            after = ""
            while (totals := self._row(SUM, table, after, 10 * MANY))[0]:
                count, upper, lower, sent, new, text = totals
                keys = text.split(b"\0")
                after = keys[-1].decode()
                total += (upper << 32) + lower + sum(map(crc32, keys)) * OF_KEY
                total += sent * OF_SENT + new * OF_NEW + count * table * OF_TABLE
        return total

    def _sum_of_others(self) -> int:
        rows = 'select * from seen union all select "table", key, null, step from gone'
        return sum(_mixed(*row) for row in self._db.execute(rows))

    def _mark(self, salt: bytes) -> bytes:
        return blake2b(self._account.encode(), key=salt, digest_size=8).digest()


def _weight(table: int, key: str, digest: int, sent: int, new: int) -> int:
    """What a row adds to the checksum, which thus can be summed by column."""
    of_key = crc32(key.encode()) * OF_KEY
    return digest + of_key + sent * OF_SENT + new * OF_NEW + table * OF_TABLE


def _mixed(*values: Any) -> int:
    """What a range or a tombstone adds to the checksum."""
    return int.from_bytes(blake2b(msgspec.json.encode(values), digest_size=8).digest(), "big")


def _token(number: int, content: str) -> str:
    return blake2b(f"{number} {content}".encode(), digest_size=8).hexdigest()


def _open(path: Path) -> sqlite3.Connection:
    """Open or create a file, and lock it. The connection is closed if the file is damaged."""
    try:
        os.close(open_or_create(path, os.O_RDWR, 0o600))
    except OSError as problem:
        raise UserError(f"Cannot open the digests file {path}: {problem.strerror}.") from None
    if not path.is_file():
        raise UserError(f"The digests file {path} is not a regular file.")
    db = sqlite3.connect(path, timeout=0, isolation_level=None)
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
