"""Which rows to send if a pass does not send all of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class ChangedSince:
    """Admits rows that changed at `since` or later.

    Times after `until`, when the pass began, are in the future and are ignored.
    """

    since: datetime | None
    until: datetime | None

    def admits(self, changed: datetime | None) -> bool:
        """Whether to send a row that changed at that time. Rows without a time are always sent."""
        return changed is None or self.since is None or changed >= self.since

    def newer(self, newest: datetime | None, changed: datetime | None) -> datetime | None:
        """The newer of two changes, ignoring unknown and future ones."""
        if changed is None or self.until is None or changed > self.until:
            return newest
        return changed if newest is None else max(newest, changed)
