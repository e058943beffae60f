"""The store in PostgreSQL, which several collectors on several machines can share.

Its tables are in their own schema, `autopilot_collector`. A writer takes a lock before it draws
sequence numbers, so that events become visible in the order of `seq`; otherwise a reader that has
seen number 7 would miss a number 6 committed later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from tap_autopilot.collector.postgres_address import check_address
from tap_autopilot.collector.postgres_sql import (
    COUNT,
    COUNT_ALL,
    COUNT_PRUNED,
    FORGET_EARLIER,
    INSERT,
    INSERT_MESSAGE,
    MARK_SEEN,
    MOVE,
    NAME,
    ONE,
    PRUNABLE,
    PRUNED_IN_FORMAT_1,
    READ,
    REMNANTS,
    SAVE_CURSOR,
    SAVE_PRUNED_UP_TO,
    SCHEMA,
    SIZE,
    TAKE_LOCK,
    WIPE,
)
from tap_autopilot.collector.reader import LAST, MAX_BYTES, Event, Reader, shown
from tap_autopilot.collector.remnant import Remnant, body_of, fingerprint
from tap_autopilot.collector.store import (
    DELIVERY,
    FORMAT,
    PRUNE_SLICE,
    REPEAT_WINDOW,
    Cursor,
    Loaded,
    Pruner,
    Received,
    Slice,
    Unavailable,
    counts,
)
from tap_autopilot.exceptions import RunError, UserError

LOCK = 0x4150_4556  # "APEV"; a writer holds it from drawing numbers until its events are visible
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
WIPE_SLICE = 2000  # pruned events

Connection = psycopg.Connection[tuple[Any, ...]]


class PostgresReader(Reader):
    """Reads a store in PostgreSQL; see `reader.Reader`."""

    def __init__(self, database: str) -> None:
        self._shown = shown(database)
        self._connection = _connect(database, FOR_READING)
        self._connection.autocommit = True  # a reader may pause for longer than a transaction may
        try:
            self.store_id, version = _check(self._connection, self._shown)
            if version < FORMAT:
                raise UserError(
                    f"The store {self._shown} was written by an older version of tap-autopilot;"
                    " upgrade the collector."
                )
        except BaseException:
            self._connection.close()
            raise

    def read(self, after: int, limit: int) -> list[Event]:
        """At most `limit` events with a `seq` above `after`, in order; fewer if they are large."""
        rows = self._query(READ, {"after": after, "limit": limit, "bytes": MAX_BYTES})
        return [
            Event._make((*row[:5], body_of(Remnant._make(row[7:])) if row[6] else row[5], row[6]))
            for row in rows
        ]

    def fingerprint(self, seq: int) -> str | None:
        """What distinguishes the event with this number from others; None if there is none."""
        if event := self._query(ONE, (seq,)):
            return fingerprint(*event[0]).hex()
        pruned = self._query("SELECT fingerprint FROM pruned WHERE seq = %s", (seq,))
        return pruned[0][0].hex() if pruned else None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _size(self) -> int:
        return int(self._query(SIZE)[0][0])

    def _query(self, statement: str, parameters: Any = None) -> list[Any]:
        try:
            cursor = self._connection.cursor(binary=True)
            return cursor.execute(statement.encode(), parameters).fetchall()
        except psycopg.OperationalError as problem:
            raise RunError(f"Lost the store {self._shown}: {type(problem).__name__}.") from None
        except psycopg.Error as problem:
            raise UserError(
                f"Cannot read the store {self._shown}: {type(problem).__name__}."
            ) from None


class PostgresStore:
    """A store in PostgreSQL open for writing, created if missing. See `store.Store`."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._connection: Connection | None = _connect(database, FOR_WRITING)
        self._owned: set[str] = set()
        try:
            self._connection.execute(TAKE_LOCK, (LOCK,))
            self._connection.execute(SCHEMA)
            self._connection.execute(NAME, (FORMAT,))
            self.store_id, version = _check(self._connection, shown(database))
            if version < FORMAT:
                _upgrade(self._connection)
            self._connection.commit()
        except psycopg.Error as problem:
            reason = str(problem).partition("\n")[0]
            raise UserError(f"Cannot open the store {shown(database)}: {reason}.") from None

    @property
    def last_seq(self) -> int:
        """The `seq` of the newest event, 0 in an empty store."""
        return int(self._query(LAST)[0][0])

    def append(self, events: Sequence[Received]) -> int:
        """Commit these events, all or none, except duplicates; returns how many were new."""
        with self._transaction() as connection:
            connection.execute(TAKE_LOCK, (LOCK,))
            new = [one for some in _without_successors(events) for one in _new(some, connection)]
            if new:
                columns = [list(column) for column in zip(*(one[:5] for one in new), strict=True)]
                connection.execute(INSERT, columns)
                connection.cursor().executemany(COUNT, counts(new))
        return len(new)

    def probe(self) -> int:
        """Commit something, to check that commits work: how many times this was done."""
        return int(self._query("UPDATE store SET probed = probed + 1 RETURNING probed")[0][0])

    def free_bytes(self) -> int | None:
        """None: the server's disk is unknown."""
        return None

    def prune(self, after: int, up_to: int, prune: Pruner) -> Slice:
        """Prune some of the events with after < seq <= up_to that are not pruned yet."""
        rows = self._query(PRUNABLE, (after, up_to, PRUNE_SLICE, MAX_BYTES))
        freed = 0
        kept = []
        for row in rows:
            left = prune(row[0], *row[2:])
            if left is not None:
                freed += len(row[5]) - sum(len(part) for part in left if isinstance(part, bytes))
                kept.append(_moved(row, left))
        with self._transaction() as connection:
            _move(connection, kept)
        return Slice(rows[-1][0] if rows else up_to, len(kept), freed)

    def wipe(self, *, begins: bool) -> None:
        """Nothing: what is deleted vanishes from the disk when PostgreSQL reuses its space."""

    def wipe_pruned(self, after: int, choose: Callable[[Remnant], bool]) -> tuple[int | None, int]:
        """Wipe what remains of some of the pruned events after this `seq`, if chosen."""
        rows = self._query(REMNANTS, (after, WIPE_SLICE))
        chosen = [seq for seq, *left in rows if choose(Remnant(*left))]
        with self._transaction() as connection:
            connection.execute(WIPE, (chosen,))
        return (rows[-1][0] if rows else None), len(chosen)

    def release(self) -> int:
        """0: PostgreSQL itself reuses the space, once it has vacuumed the table."""
        return 0

    def pruned_up_to(self) -> dict[str, Loaded]:
        """What `save_pruned_up_to` last saved."""
        rows = self._query("SELECT name, seq, since FROM pruned_up_to")
        return {name: Loaded(*loaded) for name, *loaded in rows}

    def save_pruned_up_to(self, tables: Mapping[str, Loaded]) -> None:
        """Save that the loaded events of these tables have been pruned."""
        with self._transaction() as connection:
            connection.cursor().executemany(
                SAVE_PRUNED_UP_TO, [(name, *loaded) for name, loaded in sorted(tables.items())]
            )

    def sweep(self, now: int) -> None:
        """Forget deliveries older than an hour."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM seen WHERE until <= %s", (now,))

    def owns(self, destination: str) -> bool:
        """Whether this collector, of all that share the store, is the one to forward events."""
        if destination not in self._owned:
            query = "SELECT pg_try_advisory_lock(%s, hashtext(%s))"
            if self._query(query, (LOCK, destination))[0][0]:
                self._owned.add(destination)
        return destination in self._owned

    def cursors(self) -> dict[str, Cursor]:
        """The cursors of all destinations, former ones included, by name."""
        rows = self._query("SELECT destination, seq, sent, refused FROM cursors")
        return {name: Cursor(*cursor) for name, *cursor in rows}

    def save_cursor(self, destination: str, cursor: Cursor) -> None:
        """Save a destination's cursor, unless the saved one is ahead of it."""
        with self._transaction() as connection:
            connection.execute(SAVE_CURSOR, (destination, *cursor))

    def forget_cursor(self, destination: str) -> None:
        """Delete a destination's cursor."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM cursors WHERE destination = %s", (destination,))

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """A transaction on a working connection. Raises Unavailable.

        A failed commit may have taken effect all the same. That does no harm: senders resend the
        events, because they got no 200, and duplicates are dropped.
        """
        try:
            if self._connection is None:
                self._connection = _connect(self._database, FOR_WRITING)
            with self._connection.transaction():
                yield self._connection
        except (psycopg.Error, UserError) as problem:
            self._drop_connection()
            raise Unavailable(f"the database is unreachable ({type(problem).__name__})") from None

    def _query(self, statement: str, parameters: Any = None) -> list[Any]:
        with self._transaction() as connection:
            cursor = connection.cursor(binary=True)
            return cursor.execute(statement.encode(), parameters).fetchall()

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._owned.clear()


def _without_successors(events: Sequence[Received]) -> Iterator[list[Received]]:
    """The events in groups, each without another delivery about the same thing."""
    group: list[Received] = []
    deliveries: dict[bytes, bytes | None] = {}
    for event in events:
        if event.about is not None:
            delivery = event.key and event.key[:DELIVERY]
            if deliveries.setdefault(event.about, delivery) != delivery:
                yield group
                group, deliveries = [], {event.about: delivery}
        group.append(event)
    yield group


def _new(events: Sequence[Received], connection: Connection) -> list[Received]:
    """The events that are not duplicates; from now on, repeats of them are."""
    keys = {one.key: one for one in reversed(events) if one.key is not None}
    cursor = connection.cursor(binary=True)
    cursor.execute(
        MARK_SEEN,
        {
            "keys": list(keys),
            "untils": [_until(one) for one in keys.values()],
            "abouts": [one.about for one in keys.values()],
            "window": REPEAT_WINDOW,
        },
    )
    fresh = {key for (key,) in cursor.fetchall()}
    told = [(one.about, key) for key, one in keys.items() if key in fresh and one.about is not None]
    if told:
        cursor.execute(FORGET_EARLIER, (*map(list, zip(*told, strict=True)), DELIVERY, DELIVERY))
    new = []
    for event in events:
        if event.key is None:
            new.append(event)
        elif event.key in fresh:
            fresh.remove(event.key)
            new.append(event)
    return new


def _moved(row: tuple[Any, ...], left: Remnant) -> dict[str, Any]:
    return {
        "seq": row[0], "received_at": row[1], "kind": row[2:5], "mark": fingerprint(*row[1:]),
        **left._asdict(),
    }  # fmt: skip


def _move(connection: Connection, kept: Sequence[dict[str, Any]]) -> None:
    """Replace events with what remains of them."""
    cursor = connection.cursor()
    messages = {row["message"] for row in kept if row["message"] is not None}
    cursor.executemany(INSERT_MESSAGE, [(body,) for body in sorted(messages)])
    moved: Counter[tuple[str, ...]] = Counter()
    for row in kept:
        parameters = {name: value for name, value in row.items() if name != "kind"}
        moved[row["kind"]] += cursor.execute(MOVE, parameters).rowcount
    # In a fixed order, so that those who update the same rows never wait for each other.
    cursor.executemany(COUNT_PRUNED, [(count, *kind) for kind, count in sorted(moved.items())])


def _upgrade(connection: Connection) -> None:
    """Upgrade a store of format 1, which kept pruned events among the others."""
    connection.execute(COUNT_ALL)
    while rows := connection.execute(PRUNED_IN_FORMAT_1, (10_000,)).fetchall():
        _move(connection, [_moved(row, Remnant(rest=row[5])) for row in rows])
    connection.execute("UPDATE store SET format = %s", (FORMAT,))


def _until(event: Received) -> int | None:
    return None if event.for_good else event.received_at + REPEAT_WINDOW


def _connect(database: str, options: str) -> Connection:
    check_address(database)
    try:
        return psycopg.connect(database, options=options, **CONNECT)  # type: ignore[arg-type]
    except psycopg.Error as problem:
        first = str(problem).strip().partition("\n")[0]
        reason = first.removeprefix("connection failed: ").removeprefix("connection is bad: ")
        raise UserError(f"Cannot open the store {shown(database)}: {reason.strip()}.") from None


def _check(connection: Connection, name: str) -> tuple[str, int]:
    """The id and format of a store. Raises UserError for any other database."""
    try:  # with the schema's name, or it is skipped if permission for it is missing
        row = connection.execute("SELECT id, format FROM autopilot_collector.store").fetchone()
    except psycopg.errors.UndefinedTable:
        row = None
    except psycopg.Error as problem:
        reason = str(problem).partition("\n")[0]
        raise UserError(f"Cannot read the store {name}: {reason}.") from None
    if row is None:
        raise UserError(f"There is no store at {name}.")
    if row[1] > FORMAT:
        raise UserError(
            f"The store {name} was written by a newer version of tap-autopilot; upgrade this one."
        )
    return str(row[0]), row[1]
