"""Which rows of a table a pass sends, where it does not send all of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass
class Window:
    """Lets rows through that changed at `since` or later, and notes the newest change of all."""

    since: datetime | None
    newest: datetime | None

    def admits(self, changed: datetime | None) -> bool:
        """Whether a row that changed then is sent. One that does not tell always is."""
        if changed is None:
            return True
        if self.newest is None or changed > self.newest:
            self.newest = changed
        return self.since is None or changed >= self.since
