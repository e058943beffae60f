"""The statements and tables that a store has in any database; "?" stands for a value."""

from __future__ import annotations

from tap_autopilot.collector.reader import FITTING

WIPE_SLICE = 500  # pruned events, which take at most 80 kB each, or messages

PROBE = "UPDATE store SET probed = probed + 1"
ADD_TO_KIND = """
ON CONFLICT (source, route, name) DO UPDATE SET events = kinds.events + excluded.events,
    last_received_at = CASE WHEN excluded.last_received_at > kinds.last_received_at
        THEN excluded.last_received_at ELSE kinds.last_received_at END
"""
COUNT_PRUNED = "UPDATE kinds SET pruned = pruned + ? WHERE source = ? AND route = ? AND name = ?"
PRUNABLE = f"""
WITH next AS (
    SELECT seq, length(body) AS size FROM events WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?
)
SELECT seq, received_at, source, route, name, body FROM events
WHERE seq IN ({FITTING}) ORDER BY seq
"""  # noqa: S608
NEXT_RECEIVED_AT = "SELECT received_at FROM events WHERE seq > ? ORDER BY seq LIMIT 1"
SAVE_CURSOR = """
INSERT INTO cursors VALUES (?, ?, ?, ?) ON CONFLICT (destination)
DO UPDATE SET seq = excluded.seq, sent = excluded.sent, refused = excluded.refused
WHERE cursors.seq <= excluded.seq
"""
FORGET_CURSOR = "DELETE FROM cursors WHERE destination = ?"
SAVE_PRUNED_UP_TO = """
INSERT INTO pruned_up_to VALUES (?, ?, ?)
ON CONFLICT (name) DO UPDATE SET seq = excluded.seq, since = excluded.since
"""
SUMMARY_TABLES = """
CREATE TABLE IF NOT EXISTS summaries (
    digest bytea PRIMARY KEY, message bytea NOT NULL, first bigint NOT NULL, last bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS undated (seq bigint PRIMARY KEY);
CREATE TABLE IF NOT EXISTS summarized_up_to (id integer PRIMARY KEY, seq bigint NOT NULL);
"""
# Another process may save or forget a summary at the same time. So both begin with this row, for
# which the other one waits.
MOVE_SUMMARY = """
INSERT INTO summarized_up_to VALUES (1, ?)
ON CONFLICT (id) DO UPDATE SET seq = excluded.seq WHERE summarized_up_to.seq = ?
"""
SUMMARIZE = """
INSERT INTO summaries SELECT ?, ?, ?, ? FROM summarized_up_to WHERE seq = ?
ON CONFLICT (digest) DO UPDATE SET
    first = CASE WHEN excluded.first < summaries.first THEN excluded.first ELSE summaries.first END,
    last = CASE WHEN excluded.last > summaries.last THEN excluded.last ELSE summaries.last END
"""
NOTE_UNDATED = """
INSERT INTO undated SELECT ? FROM summarized_up_to WHERE seq = ? ON CONFLICT DO NOTHING
"""
UNDO_SUMMARY = """
INSERT INTO summarized_up_to VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET seq = excluded.seq
"""
FORGET_SUMMARY = (
    f"""
    DELETE FROM summaries
    WHERE digest IN (SELECT digest FROM summaries ORDER BY digest LIMIT {WIPE_SLICE})
    """,  # noqa: S608
    f"""
    DELETE FROM undated WHERE seq IN (SELECT seq FROM undated ORDER BY seq LIMIT {WIPE_SLICE})
    """,  # noqa: S608
)
ANY_SUMMARY = "SELECT 1 FROM summaries UNION ALL SELECT 1 FROM undated LIMIT 1"
REMNANTS = """
SELECT seq, contact, at, body, rest, message FROM pruned LEFT JOIN messages ON messages.id = message
WHERE seq > ? ORDER BY seq LIMIT ?
"""
MESSAGES = "SELECT id FROM messages WHERE id > ? ORDER BY id LIMIT ?"
WIPE_MESSAGE = "DELETE FROM messages WHERE id = ?"
WIPE = "UPDATE pruned SET contact = NULL, at = NULL, message = NULL, rest = NULL WHERE seq = ?"
