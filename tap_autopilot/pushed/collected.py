"""The collector's store as a source: pushed events, page by page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from typing import Any

from tap_autopilot.api.lenient import MAX_WEIGHT, SMALL, weight_of
from tap_autopilot.api.parsing import decode_document
from tap_autopilot.collector.database import open_reader
from tap_autopilot.collector.names import table_of
from tap_autopilot.collector.reader import Event
from tap_autopilot.protocol.resuming import Store
from tap_autopilot.pushed.rows import Pushed
from tap_autopilot.rows.values import MAX_NESTED, shallow

PAGE = 300  # events; larger pages do not fit into the processor's caches


@dataclass(frozen=True)
class EventPage:
    """Some of the store's events, by table. `last` is the `seq` of the last one."""

    events: dict[str, list[Pushed]]
    last: int
    fetched_at: datetime


class Collected:
    """A collector's store as of now; later events are left for the next run.

    Raises UserError if there is no store, or it cannot be read.
    """

    def __init__(self, database: str) -> None:
        self._reader = reader = open_reader(database)
        self.opened_at = datetime.now(timezone.utc)
        self.store = Store(reader.store_id, reader.last_seq, reader.fingerprint)

    def pages(self, after: Mapping[str, int], up_to: int | None = None) -> Iterator[EventPage]:
        """The events of each table with a `seq` above the one in `after`, in order."""
        last = self.store.last if up_to is None else up_to
        done = min(after.values(), default=last)
        while done < last:
            stored = self._reader.read(done, min(PAGE, last - done))
            stored = [event for event in stored if event.seq <= last]  # numbers may be missing
            fetched_at = datetime.now(timezone.utc)
            for part in _parts(stored):
                yield EventPage(self._by_table(part, after), part[-1].seq, fetched_at)
            done = stored[-1].seq if stored else last  # otherwise the rest is missing
            if not stored:
                yield EventPage({}, last, fetched_at)

    def summary(self) -> Iterator[dict[str, list[Pushed]]]:
        """Events by table that say the same about messages as all up to `summarized_up_to`."""
        events = self._reader.summary()
        while page := [*islice(events, PAGE)]:
            yield from map(self._by_table, _parts(page))

    def _by_table(
        self, events: Sequence[Event], after: Mapping[str, int] | None = None
    ) -> dict[str, list[Pushed]]:
        """These events by table: all, or those after the position of their table."""
        by_table: dict[str, list[Pushed]] = {}
        for event in events:
            table = table_of(event.source, event.name)
            if table and (after is None or event.seq > after.get(table, event.seq)):
                by_table.setdefault(table, []).append(self._pushed(event))
        return by_table

    @property
    def summarized_up_to(self) -> int:
        """The last event in the store's summary, see `summary`."""
        return self._reader.summarized_up_to

    def _pushed(self, event: Event) -> Pushed:
        body, cleaned = _decode(event.body)
        is_call = event.source == "segment" and body.__class__ is dict and not event.pruned
        id_ = self._reader.id_of(event, is_call=is_call)
        return Pushed(event.seq, id_, event.received_at, event.name, body, event.pruned, cleaned)

    def close(self) -> None:
        """Close the store."""
        self._reader.close()


def _parts(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    """Events in parts that may be in memory at one time; usually all of them."""
    first = total = 0
    for number, event in enumerate(events):
        total += len(event.body) if len(event.body) < SMALL // PAGE else weight_of(event.body)
        if total > MAX_WEIGHT and number > first:
            yield events[first:number]
            first, total = number, weight_of(event.body)
    if events:
        yield events[first:]


def _decode(raw: bytes) -> tuple[Any, int]:
    """The body of an event; one that is not JSON, or has too much in it, stays text."""
    try:
        body, cleaned = decode_document(raw)
    except ValueError:
        return raw.decode("utf-8", "replace").replace("\0", ""), 0
    is_deep = raw.count(b"{") + raw.count(b"[") > MAX_NESTED
    return shallow(body) if is_deep else body, cleaned
