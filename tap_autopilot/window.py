"""Which rows of a table a pass sends, where it does not send all of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass
class Window:
    """Lets rows through that changed at `since` or later.

    `newest` is the newest change of all up to `started`, when the pass began. What changed later
    may have been on a page that was read before.
    """

    since: datetime | None
    started: datetime | None
    newest: datetime | None

    def admits(self, changed: datetime | None) -> bool:
        """Whether a row that changed then is sent. One that does not tell always is."""
        if changed is None:
            return True
        if (
            self.started is not None
            and changed <= self.started
            and (self.newest is None or changed > self.newest)
        ):
            self.newest = changed
        return self.since is None or changed >= self.since
