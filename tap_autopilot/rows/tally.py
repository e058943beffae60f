"""Counters for the log: everything is counted, and the first of each kind is logged."""

from __future__ import annotations

import collections
import logging
from collections.abc import Sequence

from tap_autopilot.amounts import amount
from tap_autopilot.rows.values import ADDITIONAL, Row

LOG = logging.getLogger(__name__)

# Unknown fields that are named in the log and the report, and the characters of a name. Documents
# may have any number of any length; the others are counted together.
MAX_NAMES, MAX_NAME = 100, 100


class Tally:
    """Counters for one stream: rows written, documents skipped, values without a column.

    `rows` includes the `deleted` ones; `unchanged` ones were not written. Of the events in the
    contacts' maps, `pushed` were also pushed, `waiting` may still be, `missed` should have been.
    """

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self._log = logging.LoggerAdapter(LOG, {"stream_name": stream})
        self.rows = 0
        self.unchanged = 0
        self.deleted = 0
        self.skipped = 0
        self.replaced = 0
        self.pushed = self.waiting = self.missed = 0
        self.misfits: collections.Counter[str] = collections.Counter()
        self._noted: dict[int, tuple[Row, list[tuple[str, str]]]] = {}  # by the id of their row
        self.unknown: collections.Counter[str] = collections.Counter()

    def skip(self, reason: str) -> None:
        """Count a document that made no row."""
        if not self.skipped:
            self._log.warning("%s: skipped a document: %s.", self.stream, reason)
        self.skipped += 1

    def note_misfit(self, column: str, row: Row, kept_in: str = ADDITIONAL) -> None:
        """Note a value that does not fit its column; it counts only if its row is sent."""
        self._noted.setdefault(id(row), (row, []))[1].append((column, kept_in))

    def count_misfits(self, row: Row) -> None:
        """Count what was noted for a row."""
        for column, kept_in in self._noted.pop(id(row), (row, ()))[1]:
            self.count_misfit(column, kept_in)

    def count_sent(self, rows: Sequence[Row]) -> None:
        """Count the rows of a page that are sent; forget what was noted for its other rows."""
        self.rows += len(rows)
        if self._noted:
            for row in rows:
                self.count_misfits(row)
            self._noted.clear()

    def count_misfit(self, column: str, kept_in: str = ADDITIONAL) -> None:
        """Count a value that does not fit its column; another column keeps it."""
        if column not in self.misfits:
            self._log.warning(
                "%s: a value does not fit column %s; kept in %s.", self.stream, column, kept_in
            )
        self.misfits[column] += 1

    def count_unknown(self, name: str) -> None:
        """Count a field that has no column."""
        if name not in self.unknown:
            if len(self.unknown) >= MAX_NAMES or len(name) > MAX_NAME:
                name = "(others)"
            else:
                self._log.info(
                    "%s: no column for field %r; kept in %s.", self.stream, name, ADDITIONAL
                )
        self.unknown[name] += 1

    def count_replaced(self, count: int) -> None:
        """Count characters that were removed or replaced."""
        if count and not self.replaced:
            self._log.warning("%s: replaced characters that are not valid Unicode.", self.stream)
        self.replaced += count

    def notes(self) -> list[str]:
        """Everything worth reporting besides the number of rows."""
        columns = ", ".join(f"{column} {count:,}" for column, count in self.misfits.items())
        misfits, unknown = self.misfits.total(), self.unknown.total()
        counts = (
            (self.deleted, f"{self.deleted:,} of them deleted"),
            (self.unchanged, f"{self.unchanged:,} unchanged"),
            (self.skipped, f"{amount(self.skipped, 'document')} skipped"),
            (self.pushed, f"{self.pushed:,} skipped as already pushed"),
            (self.missed, f"{self.missed:,} missed by the collector"),
            (self.waiting, f"{self.waiting:,} too recent, left for the next run"),
            (misfits, f"{amount(misfits, 'value')} did not fit ({columns})"),
            (unknown, f"{amount(unknown, 'value')} without a column"),
            (self.replaced, f"{amount(self.replaced, 'character')} replaced"),
        )
        return [text for count, text in counts if count]
