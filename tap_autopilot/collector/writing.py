"""What a store that can be written to offers, whichever database it is in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from tap_autopilot.exceptions import RunError, UserError

FORMAT = 1  # of the store; a newer one is refused
REPEAT_WINDOW = 3_600_000  # ms in which a delivery without an id counts as repeated


class Received(NamedTuple):
    """An event on its way into the store.

    `name` is what the event is called, for statistics. `key` is a digest by which it is recognised
    when it comes again, or None; `for_good` says that it never becomes a new event, otherwise it
    does after an hour.
    """

    received_at: int
    source: str
    route: str
    name: str
    body: bytes
    key: bytes | None
    for_good: bool


class Unavailable(Exception):
    """Nothing can be stored right now, and nothing of what was asked is; that may pass."""


class InUse(UserError):
    """Another process is writing to the store."""


class StoreLost(RunError):
    """What is on disk is in doubt, so that the process must end."""


# From an event's seq, source, route, name and body to what is kept of the body; None for all of it.
Pruner = Callable[[int, str, str, str, bytes], "bytes | None"]


class Cursor(NamedTuple):
    """How far a destination is: everything up to `seq` is sent or refused."""

    seq: int
    sent: int
    refused: int


class Store(Protocol):
    """A store open for writing. Its methods belong to one thread."""

    store_id: str

    @property
    def last_seq(self) -> int:
        """The `seq` of the newest event, 0 in an empty store."""

    def append(self, events: Sequence[Received]) -> int:
        """Commit these events, all or none, but for those already there; how many were new."""

    def probe(self) -> None:
        """Commit something, to see that it works."""

    def free_bytes(self) -> int | None:
        """Free space on the disk, if it is on a disk of this machine."""

    def prune(self, after: int, up_to: int, prune: Pruner) -> tuple[int, int]:
        """Prune a slice of the events with after < seq <= up_to.

        Returns the last `seq` looked at, `up_to` when done, and how many events were pruned.
        """

    def sweep(self, now: int) -> None:
        """Forget the deliveries whose hour was over at `now`, in epoch milliseconds."""

    def owns(self, destination: str) -> bool:
        """Whether this collector, of all that share the store, is the one to pass events on."""

    def cursor(self, destination: str) -> Cursor | None:
        """Where a destination is, None if it was never saved."""

    def save_cursor(self, destination: str, cursor: Cursor) -> None:
        """Remember where a destination is."""

    def stats(self) -> dict[str, Any]:
        """Facts about the store, for people and tools."""

    def close(self) -> None:
        """Let go of the database."""


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
