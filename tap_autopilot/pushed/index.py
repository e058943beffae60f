"""An index of a store's pushed email events, for comparison with the contacts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tap_autopilot.exceptions import RunError
from tap_autopilot.pushed.matching import DESCRIPTION, Occurrence, Pushes, hash_of, milliseconds
from tap_autopilot.rows.times import from_epoch
from tap_autopilot.rows.values import Row

CACHE_KIB = 8_192
MAX_DESCRIPTIONS = 10_000  # kept in memory
MAX_MESSAGES = 1000  # rows at a time
STEPS = 100_000  # SQLite steps between checks for pending signals


class PushedIndex:
    """Pushed events by kind and contact, and the messages that they described.

    They are kept in a private temporary database that SQLite moves from memory to disk as it grows,
    and deletes at the end. Raises RunError if there is not enough space for it.
    """

    def __init__(self, kinds: Iterable[str]) -> None:
        self._kinds = list(kinds)
        self._numbers = {kind: number for number, kind in enumerate(self._kinds)}
        self._receiving: dict[str, int] = {}
        self._descriptions: dict[int, Sequence[Any] | None] = {}
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.set_progress_handler(lambda: 0, STEPS)
        with _storage_errors():
            for statement in (
                f"PRAGMA cache_size = -{CACHE_KIB}",
                "PRAGMA journal_mode = OFF",
                "PRAGMA synchronous = OFF",
                # Hashes of contacts and keys are enough, and short.
                "CREATE TABLE pushes (who INTEGER, kind INTEGER, key INTEGER, at INTEGER)",
                f"""CREATE TABLE messages (
                    email_id TEXT PRIMARY KEY, key INTEGER, {", ".join(DESCRIPTION)},
                    disagree INTEGER DEFAULT 0, first INTEGER, last INTEGER
                ) WITHOUT ROWID""",
            ):
                self._database.execute(statement)

    def add(self, kind: str, rows: Sequence[Row], received: int) -> None:
        """Add pushed events of a kind; `received` is when the first one arrived, in epoch ms."""
        self._receiving.setdefault(kind, received)
        number = self._numbers[kind]
        pushes = []
        messages: dict[tuple[Any, ...], list[int]] = {}
        for row in rows:
            at = milliseconds(row["timestamp"])
            message = row["email_id"]
            key = hash_of(message) if message else None
            contact = row["context_traits_contact_id"]
            email = row["context_traits_email"] or row["anonymous_id"] or ""
            who = _by_id(contact) if contact else _by_email(email)
            pushes.append((who, number, key, at))
            if message:
                description = (message, key, *(row[column] for column in DESCRIPTION))
                seen = messages.setdefault(description, [])
                if at is not None:
                    seen.append(at)
        described = [
            (*description, min(seen, default=None), max(seen, default=None))
            for description, seen in messages.items()
        ]
        with _storage_errors():
            self._database.execute("BEGIN")
            self._database.executemany("INSERT INTO pushes VALUES (?, ?, ?, ?)", pushes)
            self._database.executemany(_DESCRIBE, described)
            self._database.execute("COMMIT")

    def complete(self) -> None:
        """Build the indexes once everything is added."""
        with _storage_errors():
            self._database.execute("CREATE INDEX pushes_of ON pushes (who, kind, key, at)")
            self._database.execute("CREATE INDEX messages_by_key ON messages (key)")

    def about(self, contacts: Mapping[str, str | None], now: int) -> Pushes:
        """The pushes about these contacts, whose emails are given by id, as of `now`.

        Pushes without a contact id belong to the first contact with their email.
        """
        owners = {email.lower(): one for one, email in reversed([*contacts.items()]) if email}
        by_contact: dict[tuple[str, str], list[Occurrence]] = {}
        with _storage_errors():
            for whose, names in ((_by_id, {one: one for one in contacts}), (_by_email, owners)):
                for name, contact_id in names.items():
                    for kind, key, at in self._database.execute(_FIND, (whose(name),)):
                        found = by_contact.setdefault((self._kinds[kind], contact_id), [])
                        found.append(Occurrence(key, at))
        return Pushes(by_contact, self._describe, self._receiving, now)

    def messages(self) -> Iterator[list[Row]]:
        """A row for each message that any push described, in batches."""
        with _storage_errors():
            cursor = self._database.execute(_MESSAGES)
        while found := cursor.fetchmany(MAX_MESSAGES):
            yield [
                {
                    "email_id": email_id,
                    **dict(zip(DESCRIPTION, _described(description), strict=True)),
                    "first_seen_at": None if first is None else from_epoch(first),
                    "last_seen_at": None if last is None else from_epoch(last),
                }
                for email_id, first, last, *description in found
            ]

    def _describe(self, key: int) -> Sequence[Any] | None:
        """The DESCRIPTION columns of the message with this key; None if it was never pushed."""
        if key not in self._descriptions:
            if len(self._descriptions) == MAX_DESCRIPTIONS:
                self._descriptions.clear()
            found = self._database.execute(_BY_KEY, (key,)).fetchone()
            self._descriptions[key] = None if found is None else _described(found)
        return self._descriptions[key]


def _by_id(contact_id: str) -> int:
    return hash((True, contact_id))


def _by_email(email: str) -> int:
    return hash((False, email.lower()))


@contextmanager
def _storage_errors() -> Iterator[None]:
    """Explain errors such as a full disk."""
    try:
        yield
    except sqlite3.Error as problem:
        raise RunError(
            f"Cannot store pushed events in a temporary file: {problem}. Free some disk space, or"
            " set SQLITE_TMPDIR to a folder on another disk."
        ) from None


def _described(found: Sequence[Any]) -> Sequence[Any]:
    """The columns that SQLite returned, in which true is 1, as Python values."""
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
