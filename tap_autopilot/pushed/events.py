"""Reads a collector's store during a run: rows, and what they say about emails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from tap_autopilot.protocol.schemas import load_schema
from tap_autopilot.protocol.selection import Selected
from tap_autopilot.pushed.collected import Collected, EventPage
from tap_autopilot.pushed.index import PushedIndex
from tap_autopilot.pushed.rows import compile_email, compile_rows
from tap_autopilot.rows.changed import ChangedSince
from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.times import as_datetime
from tap_autopilot.rows.values import Row, as_key
from tap_autopilot.sources.listings import Page
from tap_autopilot.streams import COLLECTED, EMAILS
from tap_autopilot.streams.base import Merge
from tap_autopilot.streams.pushed import EmailMessages


@dataclass(frozen=True)
class PushedPage:
    """Rows of pushed events by stream. `last` is the `seq` of the last event in them."""

    rows: dict[str, list[Row]]
    last: int
    fetched_at: datetime


class PushedEvents:
    """The pushed events of a run, for the selected streams that use the store.

    If any email stream is selected, all kinds of events are read, because a push of one kind
    describes its message for the others too.
    """

    def __init__(
        self,
        collected: Collected,
        selected: Iterable[Selected],
        tallies: Mapping[str, Tally],
        start_date: datetime | None,
    ) -> None:
        self._collected = collected
        self._tallies = tallies
        self._since = ChangedSince(start_date, None)
        fed = {one.stream.name: one for one in selected if COLLECTED in one.stream.sources}
        is_about_emails = not fed.keys().isdisjoint([*EMAILS, EmailMessages.name])
        self._index = PushedIndex(EMAILS) if is_about_emails else None
        self._fed = fed
        self._dropped = {
            name: one.schema["properties"].keys() - one.selected["properties"].keys()
            for name, one in fed.items()
        }
        self._make = {
            name: compile_rows(name, one.schema, one.part, tallies[name])
            for name, one in fed.items()
            if name != EmailMessages.name
        }
        schemas = {name: load_schema(name) for name in EMAILS if is_about_emails}
        self._note = {
            name: compile_email(schema, schema, name, EMAILS[name].event_text)
            for name, schema in schemas.items()
        }

    def pages(self, positions: Mapping[str, int]) -> Iterator[PushedPage]:
        """All new events, given each stream's position; email messages come last."""
        knows = self._index is not None and not positions.keys().isdisjoint(
            [*EMAILS, EmailMessages.name]
        )
        after = {name: at for name, at in positions.items() if name in self._make}
        after |= dict.fromkeys(EMAILS, 0) if knows else {}
        for page in self._collected.pages(after):
            rows = {name: self._rows(name, page, positions) for name in page.events}
            sent = {name: some for name, some in rows.items() if some}
            yield PushedPage(sent, page.last, page.fetched_at)
        self._collected.close()
        if self._index is not None and knows:
            self._index.complete()
            if EmailMessages.name in positions:
                for some in self._index.messages():
                    some = self._without_deselected(EmailMessages.name, some)
                    now = datetime.now(timezone.utc)
                    yield PushedPage({EmailMessages.name: some}, self._collected.last, now)

    def _rows(self, name: str, page: EventPage, positions: Mapping[str, int]) -> list[Row]:
        """The rows to send. Events that were already sent or are not selected are only indexed."""
        position = positions.get(name, self._collected.last)
        new = [one for one in page.events[name] if one.seq > position and not one.pruned]
        rows = self._make[name](new) if new else []
        if self._index is not None and name in EMAILS:
            old = [one for one in page.events[name] if one.seq <= position or one.pruned]
            received = page.events[name][0].received_at
            self._index.add(name, [*map(self._note[name], old), *rows], received)
            rows = [one for one in rows if self._since.admits(as_datetime(one["timestamp"]))]
        if new:
            self._tallies[name].clean(sum(one.cleaned for one in new))
        return self._fed[name].as_sent(self._without_deselected(name, rows)) if rows else []

    def _without_deselected(self, name: str, rows: list[Row]) -> list[Row]:
        for column in self._dropped[name]:
            for row in rows:
                row.pop(column, None)
        return rows

    def about(self, contacts: Iterable[Row], page: Page) -> Merge | None:
        """Merges events of a page's contacts with the pushed ones, if any stream needs that."""
        if self._index is None:
            return None
        found = {
            contact_id: as_key(contact.get("email"))
            for contact in contacts
            if (contact_id := as_key(contact.get("contact_id"))) is not None
        }
        now = min(self._collected.opened_at, page.date or page.fetched_at)
        return self._index.about(found, round(now.timestamp() * 1000)).merge
