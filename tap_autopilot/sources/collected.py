"""The collector's store as a source: what Autopilot pushed, page by page, and what is known by it.

The store is read from its first event by every run, as all of them are needed to tell which events
of the contacts' maps have been pushed. Rows are made only of what is new.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from tap_autopilot.api.answers import decode_document
from tap_autopilot.collector.store import open_reader, table_of
from tap_autopilot.exceptions import Retryable
from tap_autopilot.rows.merge import DESCRIPTION, Push, Pushes, hash_of, milliseconds
from tap_autopilot.rows.pushed import Pushed
from tap_autopilot.rows.times import from_epoch
from tap_autopilot.rows.values import MOST_NESTED, Row, shallow

PAGE = 1000  # events
CACHE_KIB = 8_192
MOST_DESCRIPTIONS = 10_000  # that are kept in memory
MOST_MESSAGES = 1000  # rows at a time


@dataclass(frozen=True)
class EventPage:
    """Some of the store's events by the table they belong in. `last` is the `seq` of the last."""

    events: dict[str, list[Pushed]]
    last: int
    cleaned: int
    fetched_at: datetime


class Collected:
    """A collector's store, as it is now: what comes later is left to the next run.

    Raises UserError where there is none, or it cannot be read.
    """

    def __init__(self, database: str) -> None:
        self._reader = open_reader(database)
        self.store_id = self._reader.store_id
        self.last = self._reader.last_seq

    def pages(self, after: Mapping[str, int]) -> Iterator[EventPage]:
        """The events of each table with a `seq` above the one that `after` gives for it."""
        done = min(after.values(), default=self.last)
        while done < self.last:
            found = self._reader.read(done, min(PAGE, self.last - done))
            fetched_at = datetime.now(timezone.utc)
            events: dict[str, list[Pushed]] = {}
            cleaned = 0
            for seq, received_at, source, _, name, raw, pruned in found:
                done = seq
                table = table_of(source, name)
                if table is not None and seq > after.get(table, self.last):
                    body, repaired = _decode(raw)
                    cleaned += repaired
                    event = Pushed(seq, f"{self.store_id}-{seq}", received_at, name, body, pruned)
                    events.setdefault(table, []).append(event)
            if not found:  # the rest was lost
                done = self.last
            yield EventPage(events, done, cleaned, fetched_at)

    def close(self) -> None:
        """Let go of the store."""
        self._reader.close()


def _decode(raw: bytes) -> tuple[Any, int]:
    """The body of an event; a line that is not JSON is text."""
    try:
        body, cleaned = decode_document(raw)
    except Retryable:
        return raw.decode("utf-8", "replace").replace("\0", ""), 0
    is_deep = raw.count(b"{") + raw.count(b"[") > MOST_NESTED
    return shallow(body) if is_deep else body, cleaned


class Known:
    """What the pushed emails of a store say, to compare the contacts with.

    It is kept in a private temporary database that SQLite moves from memory to the disk as it
    grows, and deletes by itself.
    """

    def __init__(self, kinds: Iterable[str]) -> None:
        self._kinds = list(kinds)
        self._numbers = {kind: number for number, kind in enumerate(self._kinds)}
        self._receiving: dict[str, int] = {}
        self._descriptions: dict[int, Sequence[Any] | None] = {}
        self._database = sqlite3.connect("", isolation_level=None)
        for statement in (
            f"PRAGMA cache_size = -{CACHE_KIB}",
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            # Of contacts and keys only hashes, as these are enough and are short.
            "CREATE TABLE pushes (who INTEGER, kind INTEGER, key INTEGER, at INTEGER)",
            f"""CREATE TABLE messages (
                email_id TEXT PRIMARY KEY, key INTEGER, {", ".join(DESCRIPTION)},
                disagree INTEGER DEFAULT 0, first INTEGER, last INTEGER
            ) WITHOUT ROWID""",
        ):
            self._database.execute(statement)

    def add(self, kind: str, rows: Sequence[Row], received: int) -> None:
        """Take note of pushed events of a kind; the first was received in that epoch ms."""
        self._receiving.setdefault(kind, received)
        number = self._numbers[kind]
        pushes = []
        messages: dict[tuple[Any, ...], list[int]] = {}
        for row in rows:
            at = milliseconds(row["timestamp"])
            message = row["email_id"]
            key = hash_of(message) if message else None
            contact = row["context_traits_contact_id"]
            if contact:
                who = hash((True, contact))
            else:
                email = row["context_traits_email"] or row["anonymous_id"] or ""
                who = hash((False, email.lower()))
            pushes.append((who, number, key, at))
            if message:
                said = (message, key, *(row[column] for column in DESCRIPTION))
                seen = messages.setdefault(said, [])
                if at is not None:
                    seen.append(at)
        run = self._database.executemany
        self._database.execute("BEGIN")
        run("INSERT INTO pushes VALUES (?, ?, ?, ?)", pushes)
        run(
            _DESCRIBE,
            [(*said, min(seen, default=None), max(seen, default=None))
             for said, seen in messages.items()],
        )  # fmt: skip
        self._database.execute("COMMIT")

    def complete(self) -> None:
        """Make it ready to be asked, now that all is known."""
        self._database.execute("CREATE INDEX pushes_of ON pushes (who, kind, key, at)")
        self._database.execute("CREATE INDEX messages_by_key ON messages (key)")

    def about(self, contacts: Collection[tuple[str, str | None]], now: int) -> Pushes:
        """What the store holds about contacts, each an id and an email."""
        by_contact: dict[tuple[str, str], list[Push]] = {}
        by_email: dict[tuple[str, str], list[Push]] = {}
        find = self._database.execute
        for contact_id, email in contacts:
            for who, name, found in (
                ((True, contact_id), contact_id, by_contact),
                ((False, (email or "").lower()), (email or "").lower(), by_email),
            ):
                if name:
                    for kind, key, at in find(_FIND, (hash(who),)):
                        found.setdefault((self._kinds[kind], name), []).append(Push(key, at))
        return Pushes(by_contact, by_email, self._describe, self._receiving, now)

    def messages(self) -> Iterator[list[Row]]:
        """A row for each message that any push described, some at a time."""
        cursor = self._database.execute(_MESSAGES)
        while found := cursor.fetchmany(MOST_MESSAGES):
            yield [
                {
                    "email_id": email_id,
                    **dict(zip(DESCRIPTION, _described(said), strict=True)),
                    "first_seen_at": None if first is None else from_epoch(first),
                    "last_seen_at": None if last is None else from_epoch(last),
                }
                for email_id, first, last, *said in found
            ]

    def _describe(self, key: int) -> Sequence[Any] | None:
        """The columns DESCRIPTION of the message with this key; None if no push was about it."""
        if key not in self._descriptions:
            if len(self._descriptions) == MOST_DESCRIPTIONS:
                self._descriptions.clear()
            found = self._database.execute(_BY_KEY, (key,)).fetchone()
            self._descriptions[key] = None if found is None else _described(found)
        return self._descriptions[key]


def _described(found: Sequence[Any]) -> Sequence[Any]:
    """Columns as SQLite has them, in which true is 1."""
    *texts, transactional = found
    return [*texts, None if transactional is None else bool(transactional)]


_FIND = "SELECT kind, key, at FROM pushes WHERE who = ?"
# A column on which pushes disagree is null.
_AGREED = ", ".join(
    f"CASE WHEN max(disagree & {1 << number}) = 0 AND count(DISTINCT {one}) = 1 THEN min({one}) END"
    for number, one in enumerate(DESCRIPTION)
)
_BY_KEY = f"SELECT {_AGREED} FROM messages WHERE key = ? GROUP BY key"  # noqa: S608
_MESSAGES = f"SELECT email_id, min(first), max(last), {_AGREED} FROM messages GROUP BY email_id"  # noqa: S608
_DISAGREE = " | ".join(
    f"(coalesce({one} <> excluded.{one}, 0) << {number})" for number, one in enumerate(DESCRIPTION)
)
_DESCRIBE = f"""
INSERT INTO messages (email_id, key, {", ".join(DESCRIPTION)}, first, last)
VALUES ({", ".join("?" * (len(DESCRIPTION) + 4))})
ON CONFLICT (email_id) DO UPDATE SET
    {", ".join(f"{one} = coalesce({one}, excluded.{one})" for one in DESCRIPTION)},
    disagree = disagree | {_DISAGREE},
    first = min(coalesce(first, excluded.first), coalesce(excluded.first, first)),
    last = max(coalesce(last, excluded.last), coalesce(excluded.last, last))
"""  # noqa: S608
