"""How events get into a SQLite store: only those that are no duplicates."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from tap_autopilot.collector.store import DELIVERY, REPEAT_WINDOW, Received

MARK_FOR_GOOD = "INSERT OR IGNORE INTO seen (key) VALUES"
# Here a key also counts as new once its time has passed, or if its time is so far ahead, by more
# than another hour, that it must come from a wrong clock.
MARK_FOR_AN_HOUR = """
INSERT INTO seen (key, until, about) VALUES (?1, ?2 + ?3, ?4)
ON CONFLICT (key) DO UPDATE SET until = excluded.until
WHERE seen.until <= ?2 OR seen.until > ?2 + 2 * ?3
"""
FORGET_EARLIER = f"""
DELETE FROM seen WHERE about = ?1 AND substr(key, 1, {DELIVERY}) <> substr(?2, 1, {DELIVERY})
"""  # noqa: S608
INSERT = "INSERT INTO events (received_at, source, route, name, body) VALUES"
# Rows that a statement inserts, as many as fit. One by one, each would let the event loop's thread
# go first, and write AUTOINCREMENT's counter again.
ROWS = (100, 10, 1)

Execute = Callable[..., sqlite3.Cursor]


def insert_new(events: Sequence[Received], execute: Execute) -> list[Received]:
    """Insert these events, except duplicates; returns those that were inserted.

    Call it at the beginning of a transaction.
    """
    new = _mark(events, execute)
    _insert(INSERT, [event[:5] for event in new], execute)
    return new


def _insert(statement: str, rows: list[tuple[Any, ...]], execute: Execute) -> int:
    """Insert many rows with few statements; returns how many were inserted."""
    done = inserted = 0
    for most in ROWS:
        while len(rows) - done >= most:
            part = rows[done : done + most]
            row = f"({', '.join('?' * len(part[0]))})"
            values = tuple(chain.from_iterable(part))
            inserted += execute(f"{statement} {', '.join([row] * most)}", values).rowcount
            done += most
    return inserted


def _mark(events: Sequence[Received], execute: Execute) -> list[Received]:
    """Those events that are no duplicates; from now on, a repetition of one of them is.

    Begins the transaction anew if there are duplicates, which is unusual.
    """
    keys = sorted((event.key,) for event in events if event.for_good and event.key is not None)
    if _insert(MARK_FOR_GOOD, keys, execute) == len(keys):
        return [event for event in events if event.for_good or _is_new(event, execute)]
    execute("ROLLBACK")
    execute("BEGIN IMMEDIATE")
    return [event for event in events if _is_new(event, execute)]


def _is_new(event: Received, execute: Execute) -> bool:
    """Whether an event is no duplicate; from now on, a repetition of it is one."""
    if event.key is None:
        return True
    if event.for_good:
        return execute(f"{MARK_FOR_GOOD} (?)", (event.key,)).rowcount > 0
    marks = (event.key, event.received_at, REPEAT_WINDOW, event.about)
    if not execute(MARK_FOR_AN_HOUR, marks).rowcount:
        return False
    if event.about is not None:
        execute(FORGET_EARLIER, (event.about, event.key))
    return True
