"""The store in PostgreSQL, which several collectors on several machines can share.

Its tables are in their own schema, `autopilot_collector`. A writer takes a lock before it draws
sequence numbers, so that events become visible in the order of `seq`; otherwise a reader that has
seen number 7 would miss a number 6 committed later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from tap_autopilot.collector import postgres_sql as sql
from tap_autopilot.collector.postgres_address import check_address
from tap_autopilot.collector.reader import FORMAT, Reader, check_format, shown
from tap_autopilot.collector.received import (
    DELIVERY,
    REPEAT_WINDOW,
    Received,
    counts,
    pruned_counts,
    row_of,
)
from tap_autopilot.collector.shared_sql import COUNT_PRUNED, PROBE, WIPE
from tap_autopilot.collector.store import SWEEP_SLICE, Reduced, Store, Unavailable
from tap_autopilot.collector.upgrade import postgres_from_1
from tap_autopilot.exceptions import RunError, UserError

LOCK = 0x4150_4556  # "APEV"; a writer holds it from drawing numbers until its events are visible
MAX_REASON = 300  # characters
CONNECT = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # ms
}
OPTIONS = "-c search_path=autopilot_collector -c client_encoding=UTF8"
# If a machine vanishes while it holds the lock, the server must soon notice.
LET_GO = (
    "-c idle_in_transaction_session_timeout=10000 -c tcp_keepalives_idle=10"
    " -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 -c tcp_user_timeout=20000"
)
FOR_WRITING = f"{OPTIONS} -c synchronous_commit=on -c statement_timeout=60000 {LET_GO}"
FOR_READING = f"{OPTIONS} -c default_transaction_read_only=on"

ENCODINGS = ("UTF8", "SQL_ASCII")  # that any event's name can be stored in
Connection = psycopg.Connection[tuple[Any, ...]]
UPGRADES = {1: postgres_from_1}  # by the format that each upgrades


class PostgresReader(Reader):
    """Reads a store in PostgreSQL; see `reader.Reader`."""

    def __init__(self, database: str) -> None:
        self._shown = shown(database)
        self._connection = _connect(database, FOR_READING)
        self._connection.autocommit = True  # a reader may pause for longer than a transaction may
        try:
            self.store_id, version = _check(self._connection, self._shown)
            check_format(version, self._shown)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _size(self) -> int:
        return int(self._query(sql.SIZE)[0][0])

    def _query(self, statement: str, *values: object) -> list[Any]:
        try:
            return _rows(self._connection, statement, values)
        except psycopg.OperationalError as problem:
            raise RunError(f"Lost the store {self._shown}: {_reason(problem)}.") from None
        except psycopg.Error as problem:
            raise UserError(f"Cannot read the store {self._shown}: {_reason(problem)}.") from None


class PostgresStore(Store):
    """A store in PostgreSQL open for writing, created if missing. See `store.Store`.

    Its space is reused by the server itself, once that has vacuumed the tables.
    """

    prune_slice = 2000  # nobody waits for it

    def __init__(self, database: str) -> None:
        self._database = database
        self._connection: Connection | None = _connect(database, FOR_WRITING)
        self._owned: set[str] = set()
        encoding = self._connection.info.parameter_status("server_encoding")
        if encoding not in ENCODINGS:
            raise UserError(
                f"Cannot open the store {shown(database)}: its database has the encoding"
                f" {encoding}, which lacks most characters; create one with ENCODING 'UTF8'."
            )
        try:
            self._connection.execute(sql.TAKE_LOCK, (LOCK,))
            if _rows(self._connection, sql.IS_MISSING, ()) == [(True,)]:
                self._connection.execute(sql.SCHEMA)
                self._connection.execute(sql.NAME, (FORMAT,))
            self.store_id, version = _check(self._connection, shown(database))
            check_format(version, shown(database), oldest=1)
            if version < FORMAT:
                self._connection.execute(sql.SCHEMA)
                UPGRADES[version](self._connection)
            self._connection.execute(PROBE)  # or it would start without permission to write
            self._connection.execute(sql.ADVANCE)
            self._connection.commit()
        except psycopg.Error as problem:
            raise UserError(
                f"Cannot open the store {shown(database)}: {_reason(problem)}."
            ) from None

    def append(self, events: Sequence[Received]) -> int:
        """Commit these events, all or none, except duplicates; returns how many were new."""
        with self._transaction() as connection:
            connection.execute(sql.TAKE_LOCK, (LOCK,))
            new = [
                event for group in _without_successors(events) for event in _new(group, connection)
            ]
            if new:
                connection.execute(sql.INSERT, _columns(map(row_of, new)))
                connection.execute(sql.COUNT, _columns(counts(new)))
        return len(new)

    def reduce(self, events: Sequence[Reduced], wiped: Sequence[int] = ()) -> int:
        """Replace events with what remains of them; returns the size of the bodies."""
        messages = {remnant.message for _, remnant, _ in events if remnant.message is not None}
        moved = []
        with self._transaction() as connection:
            cursor = connection.cursor()
            cursor.executemany(sql.INSERT_MESSAGE, [(body,) for body in sorted(messages)])
            for event, remnant, mark in events:
                known = {"seq": event.seq, "received_at": event.received_at, "mark": mark}
                if cursor.execute(sql.MOVE, {**known, **remnant._asdict()}).rowcount:
                    moved.append(event)
            cursor.executemany(_translated(COUNT_PRUNED), pruned_counts(moved))
            cursor.executemany(_translated(WIPE), [(seq,) for seq in wiped])
        return sum(len(event.body) for event in moved)

    def probe(self) -> int:
        """Commit a change of the count."""
        self._execute((PROBE, [()]))
        return self.probed

    def forget_subjects(self, subjects: Iterable[bytes]) -> None:
        """Forget which deliveries were about these; the deliveries stay."""
        forget = "UPDATE seen SET about = NULL WHERE about = ?"
        self._execute((forget, [(subject,) for subject in subjects]))

    def sweep(self, now: int) -> bool:
        """Forget deliveries older than an hour; whether there may be more."""
        with self._transaction() as connection:
            return connection.execute(sql.SWEEP, (now, SWEEP_SLICE)).rowcount == SWEEP_SLICE

    def owns(self, lock: str) -> bool:
        """Whether this process, of all that share the store, has this lock."""
        query = "SELECT pg_try_advisory_lock(?, hashtext(?))"
        if lock not in self._owned and self._query(query, LOCK, lock)[0][0]:
            self._owned.add(lock)
        return lock in self._owned

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """A transaction on a working connection. Raises Unavailable.

        A failed commit may have taken effect all the same, see `Unavailable`.
        """
        is_new = self._connection is None  # and maybe of another server
        try:
            connection = self._connection or _connect(self._database, FOR_WRITING)
        except UserError as problem:
            raise Unavailable("the database is unreachable", str(problem)) from None
        self._connection = connection
        try:
            with connection.transaction():
                if is_new:
                    connection.execute(sql.TAKE_LOCK, (LOCK,))
                    connection.execute(sql.ADVANCE)
                yield connection
        except psycopg.Error as problem:
            connection.close()
            self._connection = None
            self._owned.clear()
            kind = type(problem).__name__
            raise Unavailable(f"the database failed ({kind})", _reason(problem)) from None

    def _query(self, statement: str, *values: object) -> list[Any]:
        with self._transaction() as connection:
            return _rows(connection, statement, values)

    def _execute(self, *changes: tuple[str, Iterable[tuple[Any, ...]]]) -> None:
        with self._transaction() as connection:
            for statement, rows in changes:
                connection.cursor().executemany(_translated(statement), rows)


def _without_successors(events: Sequence[Received]) -> Iterator[list[Received]]:
    """The events in groups, each without another delivery about the same thing."""
    group: list[Received] = []
    deliveries: dict[bytes, bytes | None] = {}
    for event in events:
        if event.about is not None:
            delivery = event.digest and event.digest[:DELIVERY]
            if deliveries.setdefault(event.about, delivery) != delivery:
                yield group
                group, deliveries = [], {event.about: delivery}
        group.append(event)
    yield group


def _new(events: Sequence[Received], connection: Connection) -> list[Received]:
    """The events that are not duplicates; from now on, repeats of them are."""
    keyed = {event.digest: event for event in reversed(events) if event.digest is not None}
    cursor = connection.cursor(binary=True)
    cursor.execute(
        sql.MARK_SEEN,
        {
            "keys": list(keyed),
            "untils": [
                None if event.for_good else event.received_at + REPEAT_WINDOW
                for event in keyed.values()
            ],
            "abouts": [event.about for event in keyed.values()],
            "window": REPEAT_WINDOW,
        },
    )
    fresh = {key for (key,) in cursor.fetchall()}
    # A thing has one delivery here, maybe of many events; one of its keys is enough.
    latest = {about: key for key in fresh if (about := keyed[key].about) is not None}
    if latest:
        cursor.execute(sql.FORGET_EARLIER, ([*latest], [*latest.values()], DELIVERY, DELIVERY))
    new = []
    for event in events:
        if event.digest is None:
            new.append(event)
        elif event.digest in fresh:
            fresh.remove(event.digest)
            new.append(event)
    return new


def _columns(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _rows(connection: Connection, statement: str, values: Sequence[object]) -> list[Any]:
    cursor = connection.cursor(binary=True)
    return cursor.execute(_translated(statement), values or None).fetchall()


def _translated(statement: str) -> bytes:
    """A statement with the placeholders of psycopg instead of question marks."""
    return statement.replace("?", "%s").encode()


def _connect(database: str, options: str) -> Connection:
    check_address(database)
    try:
        return psycopg.connect(database, options=options, **CONNECT)  # type: ignore[arg-type]
    except psycopg.Error as problem:
        reason = _reason(problem)
        reason = reason.removeprefix("connection failed: ").removeprefix("connection is bad: ")
        raise UserError(f"Cannot open the store {shown(database)}: {reason.strip()}.") from None


def _reason(problem: psycopg.Error) -> str:
    """The first line of an error, which a server may make as long as it likes."""
    return str(problem).strip().partition("\n")[0][:MAX_REASON]


def _check(connection: Connection, name: str) -> tuple[str, int]:
    """The id and format of a store. Raises UserError for any other database."""
    try:  # with the schema's name, or it is skipped if permission for it is missing
        row = connection.execute("SELECT id, format FROM autopilot_collector.store").fetchone()
    except psycopg.errors.UndefinedTable:
        row = None
    except psycopg.Error as problem:
        raise UserError(f"Cannot read the store {name}: {_reason(problem)}.") from None
    if row is None:
        raise UserError(f"There is no store at {name}. A collector creates it when it starts.")
    return str(row[0]), row[1]
