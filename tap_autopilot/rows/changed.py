"""Which rows to send in a pass that does not send them all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class ChangedSince:
    """Admits rows that changed at `since` or later.

    `until` is when the pass began; later times are in the future, so `newer` ignores them.
    """

    since: datetime | None
    until: datetime | None

    def admits(self, changed: datetime | None) -> bool:
        """Whether to send a row that changed at this time. Rows without a time are always sent."""
        return changed is None or self.since is None or changed >= self.since

    def newer(self, newest: datetime | None, changed: datetime | None) -> datetime | None:
        """The newer of two changes, ignoring unknown and future ones."""
        if changed is None or self.until is None or changed > self.until:
            return newest
        return changed if newest is None else max(newest, changed)
