"""The interface of a writable store, for any database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple, Protocol

from tap_autopilot.collector.remnant import Remnant
from tap_autopilot.exceptions import RunError, UserError

FORMAT = 2  # of the store; an older one is upgraded, a newer one refused
PRUNE_SLICE = 200  # events that a slice of pruning examines
REPEAT_WINDOW = 3_600_000  # ms within which a repeated delivery without an id is a duplicate
DELIVERY = 12  # bytes of a key that all events of one delivery without ids share


class Received(NamedTuple):
    """An event on its way into the store.

    `name` is the event's name, for statistics. `key` is a digest that detects duplicates, or None.
    If `for_good`, a duplicate never counts as a new event; otherwise it does after an hour, or once
    another delivery about the same thing, given by the digest `about`, came between.
    """

    received_at: int
    source: str
    route: str
    name: str
    body: bytes
    key: bytes | None
    for_good: bool
    about: bytes | None = None


class Unavailable(RunError):
    """Nothing can be stored right now. No part of this request was stored; a retry may succeed."""


class InUse(UserError):
    """Another process is writing to the store."""


class StoreLost(RunError):
    """It is unknown what is on disk, so the process must end."""


# From an event's seq, source, route, name and body to what to keep of the body; None to keep all.
Pruner = Callable[[int, str, str, str, bytes], "Remnant | None"]


class Slice(NamedTuple):
    """What a slice of pruning did: up to which `seq`, how many events, how many bytes it freed."""

    seq: int
    pruned: int
    freed: int


class Loaded(NamedTuple):
    """Which events of a table are loaded: up to `seq` and, if set, not older than `since`."""

    seq: int
    since: str | None = None


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

    def probe(self) -> int:
        """Commit something, to check that commits work: how many times this was done."""

    def free_bytes(self) -> int | None:
        """Free disk space, if the store is on this machine."""

    def prune(self, after: int, up_to: int, prune: Pruner) -> Slice:
        """Prune some of the events with after < seq <= up_to that are not pruned yet."""

    def wipe(self, *, begins: bool) -> None:
        """Before and after bodies are to vanish from the disk, not only from the tables."""

    def wipe_pruned(self, after: int, choose: Callable[[Remnant], bool]) -> tuple[int | None, int]:
        """Wipe what remains of some of the pruned events after this `seq`, if chosen.

        Returns the `seq` of the last one it examined, None at the end, and how many it wiped.
        """

    def release(self) -> int:
        """Give some unused space back to the disk; returns how many bytes, 0 if none is left."""

    def pruned_up_to(self) -> dict[str, Loaded]:
        """What `save_pruned_up_to` last saved."""

    def save_pruned_up_to(self, tables: Mapping[str, Loaded]) -> None:
        """Save that the loaded events of these tables have been pruned."""

    def sweep(self, now: int) -> None:
        """Forget the deliveries whose hour has passed; `now` is in epoch milliseconds."""

    def owns(self, destination: str) -> bool:
        """Whether this collector, of all that share the store, is the one to forward events."""

    def cursors(self) -> dict[str, Cursor]:
        """The cursors of all destinations, former ones included, by name."""

    def save_cursor(self, destination: str, cursor: Cursor) -> None:
        """Save a destination's cursor, unless the saved one is ahead of it."""

    def forget_cursor(self, destination: str) -> None:
        """Delete a destination's cursor."""

    def close(self) -> None:
        """Close the database."""


def counts(events: Sequence[Received]) -> list[tuple[str, str, str, int, int]]:
    """How many events of each source, route and name, and when the last one was received."""
    found: dict[tuple[str, str, str], tuple[int, int]] = {}
    # Few of these differ: most events came with others of their kind.
    for (received_at, *kind), number in Counter(map(itemgetter(0, 1, 2, 3), events)).items():
        count, last = found.get(tuple(kind), (0, 0))
        found[tuple(kind)] = (count + number, max(last, received_at))
    return [(*kind, *values) for kind, values in sorted(found.items())]
