"""An index of a store's pushed email events, for comparison with the contacts."""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tap_autopilot.exceptions import RunError
from tap_autopilot.rows.matching import DESCRIPTION, NO_KEY, NO_TIME, Pushes, hash_of
from tap_autopilot.rows.times import from_epoch, to_epoch
from tap_autopilot.rows.values import MAX_KEY, Row

CACHE_KIB = 8_192
MAX_DESCRIPTIONS = 10_000  # kept in memory
MAX_KEYS = 100_000  # of messages, kept in memory unless there are more
MAX_PUSHES = 2**24  # about the contacts of a page; more need a sender that makes them up
MAX_TEXT = 500  # characters; no real subject is as long
MAX_MESSAGES, MAX_LENGTH = 1000, 2**22  # rows at a time, and characters
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
        self._keys: set[int] | None = None  # of all messages, once they are complete
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
                f"CREATE TABLE described (key INTEGER PRIMARY KEY, {', '.join(DESCRIPTION)})",
            ):
                self._database.execute(statement)

    def add(self, kind: str, rows: Sequence[Row], received: int) -> None:
        """Add pushed events of a kind; `received` is when the first one arrived, in epoch ms."""
        self._receiving.setdefault(kind, received)
        number = self._numbers[kind]
        pushes = []
        for row in rows:
            message, contact_id = row["email_id"], row["context_traits_contact_id"]
            who = _by_id(contact_id) if contact_id else _by_email(_email(row))
            key = hash_of(message) if message else NO_KEY
            at = to_epoch(row["timestamp"])
            pushes.append((who, number, key, NO_TIME if at is None else at))
        self._insert("INSERT INTO pushes VALUES (?, ?, ?, ?)", pushes)
        self.describe(rows)

    def describe(self, rows: Iterable[Row], *, only_known: bool = False) -> None:
        """Add what pushed events say about their messages, or only about messages added before."""
        times: dict[tuple[Any, ...], list[int]] = {}
        for row in rows:
            message = row["email_id"]
            if message and len(message) <= MAX_KEY:
                description = (message, hash_of(message), *(row[name] for name in DESCRIPTION))
                seen = times.setdefault(description, [])
                at = to_epoch(row["timestamp"])
                if at is not None:
                    seen.append(at)
        if only_known:
            times = {
                description: seen
                for description, seen in times.items()
                if self._knows(description[0])
            }
        messages = [
            (*description, min(seen, default=None), max(seen, default=None))
            for description, seen in times.items()
        ]
        self._insert(_DESCRIBE, messages)

    def _insert(self, statement: str, values: Iterable[tuple[Any, ...]]) -> None:
        with _storage_errors():
            self._database.execute("BEGIN")
            self._database.executemany(statement, values)
            self._database.execute("COMMIT")

    def _knows(self, message: str) -> bool:
        query = "SELECT 1 FROM messages WHERE email_id = ?"
        return any(self._query(query, message))

    def _query(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        with _storage_errors():
            yield from self._database.execute(query, values)

    def complete(self) -> None:
        """Build the indexes once everything is added."""
        with _storage_errors():
            self._database.execute("CREATE INDEX pushes_of ON pushes (who, kind, key, at)")
            self._database.execute(_DESCRIBE_KEYS)
        keys = {key for (key,) in self._query(_KEYS)}
        self._keys = keys if len(keys) < MAX_KEYS else None

    def about(self, contacts: Mapping[str, str | None], now: int) -> Pushes:
        """The pushes about these contacts, whose emails are given by id, as of `now`.

        Pushes without a contact id belong to the first contact with their email.
        """
        owners = {
            _plain(email): contact_id
            for contact_id, email in reversed([*contacts.items()])
            if email
        }
        names = [(_by_id(contact_id), contact_id) for contact_id in contacts]
        names += [(_by_email(email), contact_id) for email, contact_id in owners.items()]
        by_contact: dict[tuple[str, str], array[int]] = {}
        left = MAX_PUSHES
        for who, contact_id in names:
            for kind, *push in self._query(_FIND, who, left):
                left -= 1
                pushes = by_contact.setdefault((self._kinds[kind], contact_id), array("q"))
                pushes.extend(push)
        return Pushes(by_contact, self._describe, self._receiving, now)

    def has_messages(self) -> bool:
        """Whether any event described a message."""
        return any(self._query("SELECT 1 FROM messages LIMIT 1"))

    def messages(self) -> Iterator[list[Row]]:
        """A row for each message that any push described, in batches."""
        batch: list[Row] = []
        length = 0
        for email_id, first, last, *columns in self._query(_MESSAGES):
            description = _described(columns)
            batch.append(
                {
                    "email_id": email_id,
                    **dict(zip(DESCRIPTION, description, strict=True)),
                    "first_seen_at": None if first is None else from_epoch(first),
                    "last_seen_at": None if last is None else from_epoch(last),
                }
            )
            length += len(email_id) + sum(len(text) for text in description[:-1] if text)
            if len(batch) == MAX_MESSAGES or length > MAX_LENGTH:
                yield batch
                batch, length = [], 0
        if batch:
            yield batch

    def _describe(self, key: int) -> Sequence[Any] | None:
        """The DESCRIPTION columns of the message with this key; None if it was never pushed.

        Those with more than MAX_TEXT characters are None, because each of its events has them.
        """
        if self._keys is not None and key not in self._keys:  # ten times as fast as a query
            return None
        if key not in self._descriptions:
            if len(self._descriptions) == MAX_DESCRIPTIONS:
                self._descriptions.clear()
            columns = next(self._query(_BY_KEY, key), None)
            self._descriptions[key] = None if columns is None else _described(columns)
        return self._descriptions[key]


def _email(row: Row) -> str:
    """The email address by which a push names its contact: in its own field, or as another id."""
    ids = (row["anonymous_id"], row["user_id"])
    another = next((address for address in ids if address and "@" in address), row["anonymous_id"])
    return row["context_traits_email"] or another or ""


def _by_id(contact_id: str) -> int:
    return hash((True, contact_id))


def _by_email(email: str) -> int:
    return hash((False, _plain(email)))


def _plain(email: str) -> str:
    return email.strip().lower()


@contextmanager
def _storage_errors() -> Iterator[None]:
    """Explain errors such as a full disk."""
    try:
        yield
    except sqlite3.Error as problem:
        raise RunError(
            f"Cannot keep pushed events in a temporary file: {problem}. Free some disk space, or"
            " set SQLITE_TMPDIR to a folder on another disk."
        ) from None


def _described(columns: Sequence[Any]) -> Sequence[Any]:
    """The columns that SQLite returned, in which true is 1, as Python values."""
    *texts, transactional = columns
    return [*texts, None if transactional is None else bool(transactional)]


_FIND = "SELECT kind, key, at FROM pushes WHERE who = ? LIMIT ?"
# A column on which pushes disagree is null.
_AGREED = ", ".join(
    f"CASE WHEN max(disagree & {1 << number}) = 0 AND count(DISTINCT {name}) = 1"
    f" THEN min({name}) END AS {name}"
    for number, name in enumerate(DESCRIPTION)
)
_IN_SHORT = ", ".join(
    f"CASE WHEN length({name}) <= {MAX_TEXT} THEN {name} END" for name in DESCRIPTION
)
_DESCRIBE_KEYS = f"""
INSERT INTO described SELECT key, {_IN_SHORT}
FROM (SELECT key, {_AGREED} FROM messages GROUP BY key)
"""  # noqa: S608
_KEYS = f"SELECT key FROM described LIMIT {MAX_KEYS}"  # noqa: S608
_BY_KEY = f"SELECT {', '.join(DESCRIPTION)} FROM described WHERE key = ?"  # noqa: S608
_MESSAGES = f"SELECT email_id, min(first), max(last), {_AGREED} FROM messages GROUP BY email_id"  # noqa: S608
_DISAGREE = " | ".join(
    f"(coalesce({name} <> excluded.{name}, 0) << {number})"
    for number, name in enumerate(DESCRIPTION)
)
_DESCRIBE = f"""
INSERT INTO messages (email_id, key, {", ".join(DESCRIPTION)}, first, last)
VALUES ({", ".join("?" * (len(DESCRIPTION) + 4))})
ON CONFLICT (email_id) DO UPDATE SET
    {", ".join(f"{name} = coalesce({name}, excluded.{name})" for name in DESCRIPTION)},
    disagree = disagree | {_DISAGREE},
    first = min(coalesce(first, excluded.first), coalesce(excluded.first, first)),
    last = max(coalesce(last, excluded.last), coalesce(excluded.last, last))
"""  # noqa: S608
