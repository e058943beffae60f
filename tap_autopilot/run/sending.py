"""What a run sends of the rows it reads: everything, or only what changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from tap_autopilot.config import Config
from tap_autopilot.protocol.messages import records
from tap_autopilot.protocol.progress import Progress, Remembered
from tap_autopilot.protocol.selection import Selected
from tap_autopilot.protocol.state import Pass, State
from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.values import Row

NO_VERSIONS = "emit_activate_version_messages is false"


class Sending(Protocol):
    """Decides which rows become messages."""

    def load(self, state: State, selected: Sequence[Selected]) -> Remembered | None:
        """Find out what the target has, if the run can know."""

    def begin(self, progress: Progress, tallies: Mapping[str, Tally]) -> None:
        """Start or resume the passes, as the state says."""

    def schema(self, table: Selected) -> Mapping[str, Any]:
        """The schema of a table's SCHEMA message."""

    def records(
        self,
        name: str,
        rows: Sequence[Row],
        current: Pass,
        fetched_at: datetime,
        date: datetime | None,
    ) -> list[bytes]:
        """The RECORD messages for the rows of a page.

        `fetched_at` is when the page was fetched by our clock, `date` by the API's.
        """

    def pushed(self, name: str, rows: Sequence[Row], fetched_at: datetime) -> list[bytes]:
        """The RECORD messages for new rows of the collector's store."""

    def end(
        self, name: str, current: Pass, *, whole: bool, write: Callable[[Iterable[bytes]], None]
    ) -> bool:
        """End a complete pass. If it is `whole`, the rows that it did not see have been deleted.

        Messages about those go to `write`. Returns whether to send ACTIVATE_VERSION.
        """

    def withheld(self, current: Pass) -> str | None:
        """Why the target does not learn of deletions after a whole pass; None if it does."""

    def position(self) -> list[Any] | None:
        """What the next STATE says about the target's rows."""

    def close(self) -> None:
        """Release what the run has opened."""


def sending(config: Config) -> Sending:
    """The way of sending that the settings ask for."""
    if config.digests is None:
        return Everything()
    from tap_autopilot.run.changes import Changes  # only imported with digests

    return Changes(config, config.digests)


class Everything:
    """Sends every row. ACTIVATE_VERSION lets the target remove the others."""

    def __init__(self) -> None:
        self._tallies: Mapping[str, Tally] = {}

    def load(self, _state: State, _selected: Sequence[Selected]) -> None:
        """Nothing is known."""

    def begin(self, _progress: Progress, tallies: Mapping[str, Tally]) -> None:
        """Start counting."""
        self._tallies = tallies

    def schema(self, table: Selected) -> Mapping[str, Any]:
        """The selected columns."""
        return table.selected

    def records(
        self,
        name: str,
        rows: Sequence[Row],
        current: Pass,
        fetched_at: datetime,
        _date: datetime | None,
    ) -> list[bytes]:
        """A message for each row."""
        self._tallies[name].sent(rows)
        return records(name, rows, current.version, fetched_at)

    def pushed(self, name: str, rows: Sequence[Row], fetched_at: datetime) -> list[bytes]:
        """A message for each row; a log of events has no version."""
        self._tallies[name].sent(rows)
        return records(name, rows, None, fetched_at)

    def end(
        self, _name: str, current: Pass, *, whole: bool, write: Callable[[Iterable[bytes]], None]
    ) -> bool:
        """Announce the version after a whole pass."""
        del write
        return whole and current.version is not None

    def withheld(self, current: Pass) -> str | None:
        """The target learns of deletions only from the version."""
        return NO_VERSIONS if current.version is None else None

    def position(self) -> None:
        """Nothing is known of the target's rows."""

    def close(self) -> None:
        """Nothing is open."""
