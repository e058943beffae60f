"""The interface of a writable store, for any database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from tap_autopilot.exceptions import RunError, UserError

FORMAT = 1  # of the store; a newer one is refused
PRUNE_SPAN = 20_000  # events examined by a slice of pruning, most of which may be pruned already
PRUNE_SLICE = 500  # events that a slice may prune
REPEAT_WINDOW = 3_600_000  # ms within which a repeated delivery without an id is a duplicate


class Received(NamedTuple):
    """An event on its way into the store.

    `name` is the event's name, for statistics. `key` is a digest that detects duplicates, or None.
    If `for_good`, a duplicate never counts as a new event; otherwise it does after an hour.
    """

    received_at: int
    source: str
    route: str
    name: str
    body: bytes
    key: bytes | None
    for_good: bool


class Unavailable(RunError):
    """Nothing can be stored right now. No part of this request was stored; a retry may succeed."""


class InUse(UserError):
    """Another process is writing to the store."""


class StoreLost(RunError):
    """It is unknown what is on disk, so the process must end."""


# From an event's seq, source, route, name and body to what to keep of the body; None to keep all.
Pruner = Callable[[int, str, str, str, bytes], "bytes | None"]


class Cursor(NamedTuple):
    """A destination's progress: everything up to `seq` is sent or refused."""

    seq: int
    sent: int
    refused: int


class Store(Protocol):
    """A store open for writing. Use it from one thread only."""

    store_id: str

    @property
    def last_seq(self) -> int:
        """The `seq` of the newest event, 0 in an empty store."""

    def append(self, events: Sequence[Received]) -> int:
        """Commit these events, all or none, except duplicates; returns how many were new."""

    def probe(self) -> None:
        """Commit something, to check that commits work."""

    def free_bytes(self) -> int | None:
        """Free disk space, if the store is on this machine."""

    def prune(self, after: int, up_to: int, prune: Pruner) -> tuple[int, int]:
        """Prune a slice of the events with after < seq <= up_to.

        Returns the `seq` up to which it examined them, and how many were pruned.
        """

    def sweep(self, now: int) -> None:
        """Forget the deliveries whose hour has passed; `now` is in epoch milliseconds."""

    def owns(self, destination: str) -> bool:
        """Whether this collector, of all that share the store, is the one to forward events."""

    def cursor(self, destination: str) -> Cursor | None:
        """A destination's cursor, None if it was never saved."""

    def save_cursor(self, destination: str, cursor: Cursor) -> None:
        """Save a destination's cursor."""

    def stats(self) -> dict[str, Any]:
        """Statistics about the store."""

    def close(self) -> None:
        """Close the database."""


def summary(query: Callable[..., list[Any]], store_id: str, size: int) -> dict[str, Any]:
    """What --stats prints. `size` is in bytes on disk."""
    ((events, first, last),) = query(
        "SELECT count(*), coalesce(min(seq), 0), coalesce(max(seq), 0) FROM events"
    )
    by_source: dict[str, int] = {}
    by_event: dict[str, int] = {}
    counts = query(
        "SELECT source, name, count(*) FROM events GROUP BY source, name ORDER BY 3 DESC"
    )
    for source, name, count in counts:
        by_source[source] = by_source.get(source, 0) + count
        by_event[name] = by_event.get(name, 0) + count
    found = {
        "store_id": store_id,
        "events": events,
        "first_seq": first,
        "last_seq": last,
        "by_source": by_source,
        "by_event": by_event,
        "bytes": size,
    }
    cursors = query("SELECT destination, seq, sent, refused FROM cursors")
    if cursors:
        found["destinations"] = {
            name: {"lag": last - seq, "sent": sent, "refused": refused}
            for name, seq, sent, refused in cursors
        }
    return found
