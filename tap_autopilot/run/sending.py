"""What a run sends of the rows it reads: everything, or only what changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from tap_autopilot.protocol.messages import encoded, record_lines
from tap_autopilot.protocol.progress import Progress
from tap_autopilot.protocol.resuming import Remembered
from tap_autopilot.protocol.selection import Selected
from tap_autopilot.protocol.state import Pass
from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.values import Row

NO_VERSIONS = "emit_activate_version_messages is false"


class Sending:
    """Sends every row; ACTIVATE_VERSION then lets the target remove the others.

    A subclass may know what the target has, and send less.
    """

    def __init__(self, tallies: Mapping[str, Tally]) -> None:
        self.tallies = tallies

    def load(
        self, _position: Any, _selected: Sequence[Selected], _versioned: Collection[str]
    ) -> Remembered | None:
        """Find out what the target has, if the run can know, as of the state's `position`.

        Rows of `versioned` streams have a version.
        """
        return None

    def start(self, _progress: Progress) -> None:
        """Note which passes start and which resume, before anything is read."""

    def schema(self, table: Selected) -> Mapping[str, Any]:
        """The schema of a table's SCHEMA message."""
        return table.sent

    def records(
        self, name: str, rows: Sequence[Row], version: int | None, fetched_at: datetime
    ) -> list[bytes]:
        """The RECORD messages for the rows of a page, which was fetched at `fetched_at`."""
        self.tallies[name].count_sent(rows)
        return record_lines(name, encoded(rows), version, fetched_at)

    def pushed(self, name: str, rows: Sequence[Row], fetched_at: datetime) -> list[bytes]:
        """The RECORD messages for new rows of the collector's store, a log without a version."""
        return self.records(name, rows, None, fetched_at)

    def tombstones(self, _name: str, _version: int | None) -> Iterable[list[bytes]]:
        """Messages, in batches, about the rows that a whole pass did not see."""
        return ()

    def end(self, _name: str, current: Pass, *, whole: bool) -> bool:
        """End a complete pass; returns whether to send ACTIVATE_VERSION.

        If it is `whole`, the rows that it did not see have been deleted.
        """
        return whole and current.version is not None

    def withheld(self, current: Pass) -> str | None:
        """Why the target does not learn of deletions after a whole pass; None if it does."""
        return NO_VERSIONS if current.version is None else None

    def save(self) -> list[Any] | None:
        """Remember what is sent; returns what the next STATE says about it."""
        return None

    def close(self) -> None:
        """Release what the run has opened."""
