"""The store of pushed events, as its readers see it. Nothing here writes to it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple, TypeVar

from tap_autopilot.collector.ids import MAX_ROW_ID, message_id, own_id
from tap_autopilot.collector.names import EMAIL_TABLES
from tap_autopilot.collector.remnant import Remnant, body_of, fingerprint, remains
from tap_autopilot.exceptions import UserError
from tap_autopilot.rfc3339 import rfc3339

FORMAT = 2  # of the store
POSTGRES = ("postgresql://", "postgres://")
MAX_BYTES = 16 * 2**20  # read at a time, unless a single event is larger
_ANY_EMAIL_EVENT = "Email Opened"
_FROM_CONTACTS = tuple(f"{table}:" for table in EMAIL_TABLES)  # how such ids begin

# In all statements, "?" stands for a value.
# Of some events, `next`, with their sizes: the first ones, of that many bytes together.
FITTING = """
SELECT seq FROM (SELECT seq, sum(size) OVER (ORDER BY seq) - size AS before FROM next) AS sized
WHERE before <= ?
"""
_READ = f"""
WITH next AS (
    SELECT * FROM
        (SELECT seq, length(body) AS size FROM events WHERE seq > ? ORDER BY seq LIMIT ?) AS whole
    UNION ALL
    SELECT * FROM (SELECT seq, 0 FROM pruned WHERE seq > ? ORDER BY seq LIMIT ?) AS remnants
    ORDER BY seq LIMIT ?
), fitting AS ({FITTING})
SELECT seq, received_at, source, route, name, body, false, NULL, NULL, NULL, NULL
FROM events JOIN fitting USING (seq)
UNION ALL
SELECT seq, received_at, source, route, name, NULL, true, contact, at, messages.body, rest
FROM pruned JOIN fitting USING (seq) JOIN kinds ON kinds.id = kind
    LEFT JOIN messages ON messages.id = message
ORDER BY seq
"""  # noqa: S608
# Each of these looks at one end of two indexes.
_FIRST = """
SELECT coalesce(min(seq), 0)
FROM (SELECT min(seq) AS seq FROM events UNION ALL SELECT min(seq) FROM pruned) AS firsts
"""
_LAST = """
SELECT coalesce(max(seq), 0)
FROM (SELECT max(seq) AS seq FROM events UNION ALL SELECT max(seq) FROM pruned) AS lasts
"""
_EVENT = "SELECT received_at, source, route, name, body FROM events WHERE seq = ?"
_PRUNED = "SELECT fingerprint FROM pruned WHERE seq = ?"

_SOURCES = """
SELECT source, CAST(sum(events) AS bigint), CAST(sum(pruned) AS bigint), max(last_received_at)
FROM kinds GROUP BY source ORDER BY 2 DESC
"""
_NAMES = """
SELECT name, CAST(sum(events) AS bigint) FROM kinds GROUP BY name ORDER BY 2 DESC, name LIMIT 1000
"""
_CURSORS = "SELECT destination, seq, sent, refused FROM cursors"
_SUMMARIES = """
SELECT digest, message, first, last FROM summaries WHERE digest > ? ORDER BY digest LIMIT 1000
"""
_UNDATED = "SELECT seq FROM undated WHERE seq > ? ORDER BY seq LIMIT 1000"
_SUMMARIZED = "SELECT coalesce(max(seq), 0) FROM summarized_up_to"

R = TypeVar("R", bound="Reader")


class Event(NamedTuple):
    """One pushed event.

    `seq` grows in the order of commits and is never reused. `received_at` is in epoch milliseconds.
    `source` is "segment", "hook" or "activity"; `route` is the path without its token: "track",
    "batch", "segment", "hooks/contact_added", "activity". `name` is the event's name. `body` is the
    JSON as received, without a write key and with a batch's common fields; an Activity Stream line
    that is not JSON is kept as text.
    A pruned event's `body` has only what identifies its contact, its time and its message.
    """

    seq: int
    received_at: int
    source: str
    route: str
    name: str
    body: bytes
    pruned: bool


class Cursor(NamedTuple):
    """A destination's progress: everything up to `seq` is sent or refused."""

    seq: int
    sent: int
    refused: int


class OpenStore(ABC):
    """What a store says of itself, whether it is open for reading or for writing."""

    store_id: str

    @abstractmethod
    def close(self) -> None:
        """Close the database."""

    @abstractmethod
    def _query(self, statement: str, *values: object) -> list[Any]:
        """The rows that a statement returns."""

    @property
    def last_seq(self) -> int:
        """The `seq` of the newest event, 0 in an empty store."""
        return int(self._query(_LAST)[0][0])

    @property
    def summarized_up_to(self) -> int:
        """The `seq` up to which there is a summary of what events say about messages.

        It is negative if the summary was forgotten.
        """
        return int(self._query(_SUMMARIZED)[0][0])

    @property
    def probed(self) -> int:
        """A number that grows with each test of the store with a write."""
        return int(self._query("SELECT probed FROM store")[0][0])

    def cursors(self) -> dict[str, Cursor]:
        """The cursors of all destinations, former ones included, by name."""
        return {name: Cursor(*cursor) for name, *cursor in self._query(_CURSORS)}


class Reader(OpenStore):
    """Reads a store while a collector may be writing to it."""

    @abstractmethod
    def _size(self) -> int:
        """Bytes on disk."""

    def read(self, after: int, limit: int) -> list[Event]:
        """At most `limit` events with a `seq` above `after`, in order; none at the end.

        Large events come in smaller batches of about 16 MB.
        """
        rows = self._query(_READ, after, limit, after, limit, limit, MAX_BYTES)
        return [_pruned_event(row) if row[6] else Event._make((*row[:6], False)) for row in rows]

    def id_of(self, event: Event, *, is_call: bool) -> str:
        """The messageId of an event that is a call; if it has no usable one, an id of its own.

        No sender may choose the id of another row: one of our own, or one made from a contact.
        """
        given = message_id(event.body) if is_call else ""
        is_ours = given.startswith((self.store_id, *_FROM_CONTACTS))
        if 0 < len(given) <= MAX_ROW_ID and not is_ours:
            return given
        return own_id(self.store_id, event.seq, event.received_at)

    def fingerprint(self, seq: int) -> str | None:
        """What distinguishes the event with this number from others; None if there is none.

        A copy of the store, or one restored from a backup, may have another event there. Pruning an
        event does not change its fingerprint.
        """
        for event in self._query(_EVENT, seq):
            return fingerprint(*event).hex()
        for (pruned,) in self._query(_PRUNED, seq):
            return bytes(pruned).hex()
        return None

    def summary(self) -> Iterator[Event]:
        """Events, few of them real, that say the same about messages as all up to that `seq`."""
        last = b""
        while rows := self._query(_SUMMARIES, last):
            for _, message, *times in rows:
                for at in times:
                    body = body_of(Remnant(None, at, message))
                    yield Event(0, 0, "segment", "track", _ANY_EMAIL_EVENT, body, True)
            last = rows[-1][0]
        seq = 0
        while numbers := self._query(_UNDATED, seq):
            for (seq,) in numbers:
                yield from map(_reduced, self.read(seq - 1, 1))

    def stats(self) -> dict[str, Any]:
        """What --stats prints. Computed from running counts, without a scan."""
        sources = self._query(_SOURCES)
        last = self.last_seq
        stats = {
            "store_id": self.store_id,
            "events": sum(events for _, events, _, _ in sources),
            "pruned": sum(pruned for _, _, pruned, _ in sources),
            "first_seq": int(self._query(_FIRST)[0][0]),
            "last_seq": last,
            "by_source": {source: events for source, events, _, _ in sources},
            "by_event": dict(self._query(_NAMES)),  # the most frequent ones of however many
            "last_received_at": {source: _time(at) for source, _, _, at in sources},
            "bytes": self._size(),
        }
        if cursors := self.cursors():
            stats["destinations"] = {
                name: {"lag": max(last - seq, 0), "sent": sent, "refused": refused}
                for name, (seq, sent, refused) in cursors.items()
            }
        return stats

    def __enter__(self: R) -> R:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pruned_event(row: Sequence[Any]) -> Event:
    return Event._make((*row[:5], body_of(Remnant._make(row[7:])), True))


def _reduced(event: Event) -> Event:
    """The event as if it were pruned."""
    if event.pruned:
        return event
    return event._replace(body=body_of(remains(event.source, event.body)))


def check_format(version: int, name: str, oldest: int = FORMAT) -> None:
    """Raise UserError if a store of that format cannot be used."""
    if version > FORMAT:
        raise UserError(
            f"The store {name} was written by a newer version of tap-autopilot; upgrade this one."
        )
    if version < oldest:
        raise UserError(
            f"The store {name} was written by an older version of tap-autopilot: upgrade the"
            " collector and start it, or run tap-autopilot-collector --check."
        )


_HOST = r"(?:\[[^]]*\]|(?:[\w.-]|%2[fF])*)(?::\d*)?"
# Anything else may be a password, such as one whose @ is escaped, too.
_PLACE = re.compile(rf"{_HOST}(?:,{_HOST})*(?:/[\w.-]*)?")


def shown(database: str) -> str:
    """The database without user, password and parameters, for messages."""
    if not database.startswith(POSTGRES):
        return database
    scheme, _, rest = database.partition("://")
    place, _, parameters = rest.partition("?")
    name = place.rpartition("@")[2]
    # An @ after that is a piece of a password, or ends one that contains a question mark.
    return f"{scheme}://{name if '@' not in parameters and _PLACE.fullmatch(name) else '…'}"


def _time(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
    return rfc3339(moment)
