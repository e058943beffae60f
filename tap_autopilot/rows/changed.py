"""Which rows of a table a pass sends, where it does not send all of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass
class Window:
    """Lets rows through that changed at `since` or later.

    `newest` is the newest change among those up to `started`, when the pass began; a time that lies
    in the future tells nothing.
    """

    since: datetime | None
    started: datetime | None
    newest: datetime | None

    def admits(self, changed: datetime | None) -> bool:
        """Whether a row that changed then is sent. One that does not tell always is."""
        if changed is None:
            return True
        if self.since is not None and changed < self.since:
            return False
        if self.started is not None and changed <= self.started:
            self.newest = max(changed, self.newest or changed)
        return True
