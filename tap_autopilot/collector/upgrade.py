"""Upgrades older stores, each to today's format at once, which has today's tables.

To change a table of the store, change it for new stores (`sqlite_file`, `postgres_sql`), raise
`reader.FORMAT`, add an upgrade from the format before it, for both databases, here and to
`UPGRADES` in `sqlite_file` and `postgres`, and see to it that the older ones end with the same.

Format 1, of versions before 1.0.0, kept pruned events in the table of the others, and all keys in
one index; it had no counts.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from tap_autopilot.collector import postgres_sql, sqlite_seen
from tap_autopilot.collector.reader import FORMAT
from tap_autopilot.collector.remnant import Remnant, fingerprint

IN_SQLITE = """
INSERT OR IGNORE INTO seen SELECT in_index(key, 0), in_index(key, 1)
FROM seen_before WHERE until IS NULL ORDER BY key;
INSERT INTO deliveries (key, until) SELECT key, until FROM seen_before WHERE until IS NOT NULL;
DROP TABLE seen_before;
INSERT INTO kinds (source, route, name, events, pruned, last_received_at)
SELECT source, route, name, count(*), sum(pruned), max(received_at)
FROM events GROUP BY source, route, name;
INSERT INTO pruned (seq, received_at, kind, rest, fingerprint)
SELECT seq, received_at, kinds.id, body, fingerprint(received_at, source, route, name, body)
FROM events JOIN kinds USING (source, route, name) WHERE events.pruned = 1 ORDER BY seq;
DELETE FROM events WHERE pruned = 1;
"""
COUNT = """
INSERT INTO kinds (source, route, name, events, pruned, last_received_at)
SELECT source, route, name, count(*), count(*) FILTER (WHERE pruned), max(received_at)
FROM events GROUP BY source, route, name
"""
PRUNED = """
SELECT seq, received_at, source, route, name, body FROM events WHERE pruned ORDER BY seq LIMIT %s
"""
SLICE = 10_000  # pruned events in memory


def sqlite_from_1(connection: sqlite3.Connection, tables: str) -> None:
    """Add the tables that are missing and fill them: all, or nothing if it is interrupted."""
    connection.create_function("fingerprint", 5, fingerprint)
    connection.create_function(
        "in_index", 2, lambda key, part: sqlite_seen.IN_INDEX.unpack(key)[part]
    )
    connection.executescript(
        f"BEGIN IMMEDIATE; ALTER TABLE seen RENAME TO seen_before; {tables} {IN_SQLITE}"
        f" PRAGMA user_version = {FORMAT}; COMMIT;"
    )


def postgres_from_1(connection: Any) -> None:
    """Fill the tables that were missing, which exist by now; the caller commits."""
    connection.execute(COUNT)
    while rows := connection.execute(PRUNED, (SLICE,)).fetchall():
        for seq, *event in rows:
            known = {"seq": seq, "received_at": event[0], "mark": fingerprint(*event)}
            remnant = Remnant(rest=event[-1])
            connection.execute(postgres_sql.MOVE, {**known, **remnant._asdict()})
    connection.execute("UPDATE store SET format = %s", (FORMAT,))
