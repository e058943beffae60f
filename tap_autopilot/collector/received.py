"""Events on their way into a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from tap_autopilot.collector.reader import Event

REPEAT_WINDOW = 3_600_000  # ms within which a repeated delivery without an id is a duplicate
DELIVERY = 12  # bytes of a digest that all events of one delivery without ids share


class Received(NamedTuple):
    """An event on its way into the store.

    `name` is the event's name, for statistics. `digest` detects duplicates, or is None.
    If `for_good`, a duplicate never counts as a new event; otherwise it does after an hour, or once
    another delivery about the same thing, given by the digest `about`, came between.
    """

    received_at: int
    source: str
    route: str
    name: str
    body: bytes
    digest: bytes | None
    for_good: bool
    about: bytes | None = None


# Of an event, received or stored.
row_of = attrgetter("received_at", "source", "route", "name", "body")
source_route_name = attrgetter("source", "route", "name")


def counts(events: Sequence[Received]) -> list[tuple[str, str, str, int, int]]:
    """How many events of each source, route and name, and when the last one was received."""
    kinds = list(map(source_route_name, events))
    last = dict(zip(kinds, [event.received_at for event in events], strict=True))
    return [(*kind, number, last[kind]) for kind, number in sorted(Counter(kinds).items())]


def pruned_counts(events: Sequence[Event]) -> list[tuple[int, str, str, str]]:
    """How many of these events are of each source, route and name.

    In a fixed order, so that those who update the same rows never wait for each other.
    """
    kinds = Counter(map(source_route_name, events))
    return [(count, *kind) for kind, count in sorted(kinds.items())]
