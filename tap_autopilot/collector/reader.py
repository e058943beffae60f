"""The store of pushed events, as its readers see it.

    with open_reader("autopilot-events.db") as reader:
        for event in reader.read(after=0, limit=1000):
            print(event.seq, event.route, event.body)

A database is a file (SQLite) or a postgresql:// URL. Nothing here writes to it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from datetime import datetime, timezone
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeVar

from tap_autopilot.exceptions import UserError
from tap_autopilot.rfc3339 import rfc3339

POSTGRES = ("postgresql://", "postgres://")
MAX_BYTES = 16 * 2**20  # read at a time, unless a single event is larger
NO_DRIVER = "A postgresql:// store needs a driver: pip install 'tap-autopilot[postgres]'."

_EMAIL_TABLES = {
    "emaildelivered": "email_delivered",
    "emailopened": "email_opened",
    "emailclicked": "email_clicked",
    "emaillinkclicked": "email_clicked",
    "emailbounced": "email_bounced",
    "emailmarkedasspam": "email_marked_as_spam",
    "emailunsubscribed": "email_unsubscribed",
    "unsubscribed": "email_unsubscribed",
    "emailreplied": "email_replied",
}
_TABLES = {"hook": "contact_events", "activity": "activities"}

R = TypeVar("R")


class Event(NamedTuple):
    """One pushed event.

    `seq` grows in the order of commits and is never reused. `received_at` is in epoch milliseconds.
    `source` is "segment", "hook" or "activity"; `route` is the path without its token: "track",
    "batch", "segment", "hooks/contact_added", "activity". `name` is the event's name. `body` is the
    JSON as received, without a write key; an Activity Stream line that is not JSON is kept as text.
    A pruned event's `body` has only what identifies its contact, its time and its message.
    """

    seq: int
    received_at: int
    source: str
    route: str
    name: str
    body: bytes
    pruned: bool


class Reader(Protocol):
    """Reads a store while a collector may be writing to it."""

    store_id: str

    @property
    def last_seq(self) -> int:
        """The `seq` of the newest event, 0 in an empty store."""

    def read(self, after: int, limit: int) -> list[Event]:
        """At most `limit` events with a `seq` above `after`, in order; none at the end.

        Large events come in smaller batches of about 16 MB.
        """

    @property
    def probed(self) -> int:
        """How many times a collector has tested the store with a write."""

    def fingerprint(self, seq: int) -> str | None:
        """What tells the event with this number from any other; None if there is no such event.

        A copy of the store, or one restored from a backup, may have another event there. Pruning an
        event does not change its fingerprint.
        """

    def pruned(self) -> dict[str, int]:
        """How many events are pruned, by table; tables without any are left out."""

    def stats(self) -> dict[str, Any]:
        """Statistics about the store."""

    def forwarded(self) -> dict[str, int]:
        """The `seq` up to which events were forwarded, by destination."""

    def close(self) -> None:
        """Close the database."""

    def __enter__(self: R) -> R: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def shown(database: str) -> str:
    """The database without user, password and parameters, for messages."""
    if not database.startswith(POSTGRES):
        return database
    scheme, _, rest = database.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


@functools.lru_cache(maxsize=1000)  # called for each event, and most share their names
def kind_of(name: str) -> str:
    """What all names of the same Segment event have in common, in any case and spelling."""
    plain = re.sub(r"[\W_]", "", name).lower()
    return _EMAIL_TABLES.get(plain, plain or name)


@functools.lru_cache(maxsize=1000)
def table_of(source: str, name: str) -> str | None:
    """The table for events of this source and name; None if there is none.

    Segment calls are email events if their name, in any case and spelling, is what Segment or
    Autopilot calls such an event.
    """
    if source == "segment":
        return _EMAIL_TABLES.get(re.sub(r"[\W_]", "", name).lower())
    return _TABLES.get(source)


def open_reader(database: str) -> Reader:
    """A reader of an existing store. Raises UserError if it is missing or unreadable."""
    if database.startswith(POSTGRES):
        try:
            from tap_autopilot.collector.postgres import PostgresReader
        except ImportError:
            raise UserError(NO_DRIVER) from None

        return PostgresReader(database)
    from tap_autopilot.collector.sqlite import SqliteReader

    return SqliteReader(database)


def summary(query: Callable[..., list[Any]], store_id: str, size: int) -> dict[str, Any]:
    """What --stats prints. `size` is in bytes on disk."""
    ((first, last),) = query(_ENDS)
    kinds = query("SELECT source, name, events, pruned, last_received_at FROM kinds")
    kinds.sort(key=lambda kind: kind[2], reverse=True)
    by_source: dict[str, int] = {}
    by_event: dict[str, int] = {}
    latest: dict[str, int] = {}
    for source, name, events, _, received_at in kinds:
        by_source[source] = by_source.get(source, 0) + events
        by_event[name] = by_event.get(name, 0) + events
        latest[source] = max(latest.get(source, 0), received_at)
    found = {
        "store_id": store_id,
        "events": sum(by_source.values()),
        "pruned": sum(kind[3] for kind in kinds),
        "first_seq": first or 0,
        "last_seq": last or 0,
        "by_source": by_source,
        "by_event": by_event,
        "last_received_at": {source: _time(at) for source, at in latest.items()},
        "bytes": size,
    }
    cursors = query("SELECT destination, seq, sent, refused FROM cursors")
    if cursors:
        found["destinations"] = {
            name: {"lag": max((last or 0) - seq, 0), "sent": sent, "refused": refused}
            for name, seq, sent, refused in cursors
        }
    return found


def pruned_by_table(query: Callable[..., list[Any]]) -> dict[str, int]:
    """How many events are pruned, by table."""
    found: dict[str, int] = {}
    for source, name, count in query("SELECT source, name, pruned FROM kinds WHERE pruned > 0"):
        table = table_of(source, name)
        if table is not None:
            found[table] = found.get(table, 0) + count
    return found


def _time(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
    return rfc3339(moment)


# Each of these is a look at one end of an index.
_ENDS = """
SELECT
    (SELECT min(seq) FROM (
        SELECT min(seq) AS seq FROM events UNION ALL SELECT min(seq) FROM pruned) AS firsts),
    (SELECT max(seq) FROM (
        SELECT max(seq) AS seq FROM events UNION ALL SELECT max(seq) FROM pruned) AS lasts)
"""
