"""Warnings about refused requests and dropped repeats: at most one a minute of each kind.

Senders soon stop retrying, so whoever runs the collector must hear of it in time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tap_autopilot.amounts import amount

LOG = logging.getLogger(__name__)

EVERY = 60.0  # seconds
MAX_REASONS = 3  # in a line; some name a number, so that there may be very many
UNREAD = "refused"  # the route of requests that were refused before their headers were read
OTHER = "other"  # the route of paths below no endpoint, such as those that scanners try


class Notices:
    """What has not been logged yet. `clock` returns seconds. For use in the event loop's thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # How many, and why: the reasons are the keys.
        self._untold: dict[tuple[str, int], tuple[int, dict[str, None]]] = {}
        self._told_at: dict[tuple[str, int], float] = {}
        self._repeated = 0

    def note_refusal(self, route: str, status: int, reason: str) -> None:
        """Note a response other than 200, and warn of the first one at once."""
        response = (route, status)
        count, reasons = self._untold.get(response, (0, {}))
        if len(reasons) < MAX_REASONS:
            reasons[reason.rstrip(".")] = None
        self._untold[response] = count + 1, reasons
        if self._is_due(response):
            self._tell(response)

    def tell_rest(self, *, at_end: bool = False) -> None:
        """Warn of what came after the first one. Call it now and then, and at the end."""
        for response in [*self._untold]:
            if at_end or self._is_due(response):
                self._tell(response)

    def repeated(self, total: int) -> None:
        """Warn of repeats since the last call; `total` are all since the start."""
        if total > self._repeated:
            LOG.warning(
                "Dropped %s: the same messageId again, or the same delivery within an hour.",
                amount(total - self._repeated, "duplicate event"),
            )
        self._repeated = total

    def _is_due(self, response: tuple[str, int]) -> bool:
        return self._clock() - self._told_at.get(response, -EVERY) >= EVERY

    def _tell(self, response: tuple[str, int]) -> None:
        route, status = response
        self._told_at[response] = self._clock()
        count, reasons = self._untold.pop(response)
        what = amount(count, "unread request" if route == UNREAD else f"{route} request")
        LOG.warning("Turned away %s with status %d: %s.", what, status, "; ".join(reasons))
