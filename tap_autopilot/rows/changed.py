"""Which rows to send in a pass that does not send them all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass
class ChangedSince:
    """Admits rows that changed at `since` or later, and keeps the `newest` change.

    `until` is when the pass began; later times are in the future, so `newest` ignores them.
    """

    since: datetime | None
    until: datetime | None
    newest: datetime | None = None

    def admits(self, changed: datetime | None) -> bool:
        """Whether to send a row that changed at this time. Rows without a time are always sent."""
        return changed is None or self.since is None or changed >= self.since

    def note(self, changed: datetime | None) -> None:
        """Note when a row changed, whether it is sent or not."""
        if not (changed is None or self.until is None or changed > self.until):
            self.newest = max(changed, self.newest or changed)
