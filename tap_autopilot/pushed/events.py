"""Reads a collector's store during a run: rows, and what they say about emails."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from tap_autopilot.amounts import amount
from tap_autopilot.protocol.schemas import load_schema
from tap_autopilot.protocol.selection import Selected
from tap_autopilot.pushed.collected import Collected
from tap_autopilot.pushed.index import PushedIndex
from tap_autopilot.pushed.rows import Pushed, compile_email, compile_rows
from tap_autopilot.rows.changed import ChangedSince
from tap_autopilot.rows.matching import Pushes
from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.times import as_datetime
from tap_autopilot.rows.values import Row, as_key
from tap_autopilot.sources.listings import Page
from tap_autopilot.streams import COLLECTED, EMAILS
from tap_autopilot.streams.pushed import EmailMessages

LOG = logging.getLogger(__name__)

MESSAGES = EmailMessages.name


@dataclass(frozen=True)
class PushedPage:
    """Rows of pushed events by stream; with them, `streams` are written up to the event `last`."""

    rows: dict[str, list[Row]]
    streams: frozenset[str]
    last: int
    fetched_at: datetime


class PushedEvents:
    """The pushed events of a run, for the selected streams that use the store.

    If contacts feed any of the email streams too, all kinds of email events are read from the first
    one on: contacts may have the same events, and each push describes its message for all kinds.
    """

    def __init__(
        self,
        database: str,
        selected: Iterable[Selected],
        tallies: Mapping[str, Tally],
        start_date: datetime | None,
    ) -> None:
        fed = {table.name: table for table in selected if COLLECTED in table.stream.sources}
        self._fed = fed
        self._collected = Collected(database)
        self.store = self._collected.store
        self._tallies = tallies
        self._since = ChangedSince(start_date, None)
        self._polled = {name for name, table in fed.items() if len(table.stream.sources) > 1}
        self._logs = {name for name, table in fed.items() if table.log_based}
        self._index: PushedIndex | None = None
        self._pruned: Counter[str] = Counter()
        self._dropped = {
            name: table.schema["properties"].keys() - table.sent["properties"].keys()
            for name, table in fed.items()
        }
        self._make = {
            name: compile_rows(name, table.schema, table.part, tallies[name])
            for name, table in fed.items()
            if name != MESSAGES
        }
        schemas = {name: load_schema(name) for name in EMAILS if self._polled or MESSAGES in fed}
        self._note = {name: compile_email(schema, schema, name) for name, schema in schemas.items()}

    def pages(self, positions: Mapping[str, int], sent: Mapping[str, int]) -> Iterator[PushedPage]:
        """All new events, given each stream's position; email messages come last.

        Warns of pruned events, except those that earlier runs have `sent`.
        """
        last = self.store.last
        merges = not self._polled.isdisjoint(positions)
        after = {name: position for name, position in positions.items() if name != MESSAGES}
        described = last
        if merges or MESSAGES in positions:
            self._index = PushedIndex(EMAILS)
            described = positions[MESSAGES] if MESSAGES in self._logs and not merges else 0
            after |= {name: min(after.get(name, described), described) for name in EMAILS}
        streams = frozenset(positions) - {MESSAGES}
        for page in self._collected.pages(after):
            rows = {
                name: rows
                for name, events in page.events.items()
                if (rows := self._rows(name, events, positions.get(name, last)))
            }
            for name in streams & page.events.keys():
                sent_up_to = max(positions[name], sent.get(name, 0))
                self._pruned[name] += sum(
                    event.pruned and event.seq > sent_up_to for event in page.events[name]
                )
            yield PushedPage(rows, streams, page.last, page.fetched_at)
        if MESSAGES in positions:
            yield from self._messages(described)
        if self._index is not None and merges:
            self._index.complete()
        else:
            self._index = None  # which is slow as long as it is not complete
        self._collected.close()
        for name, count in (+self._pruned).items():
            LOG.warning(
                "%s: %s can no longer be sent, because the store was pruned.",
                name, amount(count, "event"),
            )  # fmt: skip

    def _rows(self, name: str, events: Sequence[Pushed], position: int) -> list[Row]:
        """The rows to send. Events that were already sent or are not selected are only indexed."""
        new = [event for event in events if event.seq > position and not event.pruned]
        rows = self._make[name](new) if new else []
        if name in self._tallies:
            self._tallies[name].count_replaced(sum(event.cleaned for event in new))
        if name in EMAILS:
            if self._index is not None:
                old = [event for event in events if event.seq <= position or event.pruned]
                noted = [*map(self._note[name], old), *rows]
                self._index.add(name, noted, events[0].received_at)
            rows = [row for row in rows if self._since.admits(as_datetime(row["timestamp"]))]
        return self._as_sent(name, rows) if rows else []

    def _messages(self, described: int) -> Iterator[PushedPage]:
        """The messages in the index, completed by what events up to `described` say of them."""
        index, last = self._index, self.store.last
        assert index is not None
        if described > 0 and index.has_messages():
            summarized = self._collected.summarized_up_to
            for by_table in self._collected.summary():
                self._complete(index, by_table)
            # It may have been forgotten meanwhile, with a person who was erased.
            summarized = min(summarized, self._collected.summarized_up_to)
            for page in self._collected.pages(dict.fromkeys(EMAILS, summarized), described):
                self._complete(index, page.events)
                yield PushedPage({}, frozenset(), page.last, page.fetched_at)
        for rows in index.messages():
            rows = self._as_sent(MESSAGES, rows)
            yield PushedPage({MESSAGES: rows}, frozenset(), last, datetime.now(timezone.utc))
        yield PushedPage({}, frozenset([MESSAGES]), last, datetime.now(timezone.utc))

    def _complete(self, index: PushedIndex, events: Mapping[str, Sequence[Pushed]]) -> None:
        for name, pushed in events.items():
            index.describe(map(self._note[name], pushed), only_known=True)

    def _as_sent(self, name: str, rows: list[Row]) -> list[Row]:
        for column in self._dropped[name]:
            for row in rows:
                row.pop(column, None)
        return self._fed[name].as_sent(rows)

    def about(self, contacts: Iterable[Row], page: Page) -> Pushes | None:
        """What was pushed about a page's contacts, if any stream needs that."""
        if self._index is None:
            return None
        emails = {
            contact_id: as_key(contact.get("email"))
            for contact in contacts
            if (contact_id := as_key(contact.get("contact_id"))) is not None
        }
        now = min(self._collected.opened_at, page.date or page.fetched_at)
        return self._index.about(emails, round(now.timestamp() * 1000))
