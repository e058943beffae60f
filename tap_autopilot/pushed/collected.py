"""The collector's store as a source: pushed events, page by page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from tap_autopilot.api.parsing import decode_document
from tap_autopilot.collector.reader import open_reader, table_of
from tap_autopilot.exceptions import Retryable
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
        self._reader = open_reader(database)
        self.store_id = self._reader.store_id
        self.opened_at = datetime.now(timezone.utc)
        self.last = self._reader.last_seq

    def fingerprint(self, seq: int) -> str | None:
        """What distinguishes this event from others with the same `seq`; None if it is missing."""
        return self._reader.fingerprint(seq)

    def pages(self, after: Mapping[str, int], up_to: int | None = None) -> Iterator[EventPage]:
        """The events of each table with a `seq` above the one in `after`, in order."""
        last = self.last if up_to is None else up_to
        done = min(after.values(), default=last)
        while done < last:
            stored = self._reader.read(done, min(PAGE, last - done))
            stored = [event for event in stored if event.seq <= last]  # numbers may be missing
            fetched_at = datetime.now(timezone.utc)
            events: dict[str, list[Pushed]] = {}
            for seq, received_at, source, _, name, raw, pruned in stored:
                done = seq
                table = table_of(source, name)
                if table is not None and seq > after.get(table, last):
                    body, cleaned = _decode(raw)
                    unique = f"{self.store_id}-{seq}"
                    events.setdefault(table, []).append(
                        Pushed(seq, unique, received_at, name, body, pruned, cleaned)
                    )
            if not stored:  # the rest is missing
                done = last
            yield EventPage(events, done, fetched_at)

    def close(self) -> None:
        """Close the store."""
        self._reader.close()


def _decode(raw: bytes) -> tuple[Any, int]:
    """The body of an event; a line that is not JSON stays text."""
    try:
        body, cleaned = decode_document(raw)
    except Retryable:
        return raw.decode("utf-8", "replace").replace("\0", ""), 0
    is_deep = raw.count(b"{") + raw.count(b"[") > MAX_NESTED
    return shallow(body) if is_deep else body, cleaned
