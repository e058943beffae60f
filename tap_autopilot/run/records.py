"""What the pages of the API become: RECORD messages for every table that a page feeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tap_autopilot.exceptions import RunError
from tap_autopilot.protocol.progress import Progress
from tap_autopilot.protocol.selection import Selected
from tap_autopilot.rows.names import compile_pick
from tap_autopilot.run.sending import Sending
from tap_autopilot.sources.listings import Page
from tap_autopilot.streams import COLLECTED, DIGESTS

if TYPE_CHECKING:
    from tap_autopilot.pushed.events import PushedEvents

MAX_VALUES = 16_000_000  # of all rows of a page, null or not


class Records:
    """Turns pages into RECORD messages, and updates the passes of their streams."""

    def __init__(
        self,
        selected: Sequence[Selected],
        progress: Progress,
        pushed: PushedEvents | None,
        sends: Sending,
    ) -> None:
        self._progress, self._pushed, self._sends = progress, pushed, sends
        # What the streams that only use parts of documents read of them.
        self._reads = {table.name: table.stream.reads for table in selected}
        self._pick = compile_pick({field for reads in self._reads.values() for field in reads})
        self._columns = {table.name: len(table.part["properties"]) for table in selected}
        self._make = {
            table.name: table.compile(sends.tallies[table.name])
            for table in selected
            if not set(table.stream.sources) <= {COLLECTED, DIGESTS}
        }

    def of(self, page: Page, names: Sequence[str]) -> Iterator[list[bytes]]:
        """The messages of a page for these streams, in lists.

        Raises RunError if the page is too large for a table's columns.
        """
        reads = any(self._reads[name] for name in names)
        parts = list(map(self._pick, page.documents)) if reads else []
        pushes = self._pushed.about(parts, page) if self._pushed and reads else None
        is_sent = False
        for name in names:
            largest, columns = page.census.largest_page, self._columns[name]
            if largest * columns > MAX_VALUES:
                raise RunError(
                    f"GET {page.walk.path}: a page of {largest:,} {page.walk.documents} is too"
                    f" large for a table of {columns:,} columns. Deselect some."
                )
            self._progress.note_start(name, page.date)
            current, tally = self._progress.pass_of(name), self._sends.tallies[name]
            documents = parts if self._reads[name] else page.documents
            window, skipped = current.window, tally.skipped
            for rows in self._make[name](documents, window, pushes):
                lines = self._sends.records(name, rows, current.version, page.fetched_at)
                is_sent = is_sent or bool(lines)
                yield lines
            newest = window.newest if window else None
            current.note_page(newest, page.doubts, skips=tally.skipped > skipped)
        if is_sent:
            self._sends.tallies[names[0]].count_replaced(page.cleaned)
