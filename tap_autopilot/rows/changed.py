"""Which rows a pass sends if it does not send all of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class ChangedSince:
    """Lets rows through that changed at `since` or later.

    Times after `until`, when the pass began, lie in the future and tell nothing.
    """

    since: datetime | None
    until: datetime | None

    def admits(self, changed: datetime | None) -> bool:
        """Whether to send a row that changed then. Rows without a time are always sent."""
        return changed is None or self.since is None or changed >= self.since

    def newer(self, newest: datetime | None, changed: datetime | None) -> datetime | None:
        """The newer of two changes that are known and not in the future."""
        if changed is None or self.until is None or changed > self.until:
            return newest
        return changed if newest is None else max(newest, changed)
