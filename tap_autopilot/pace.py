"""How fast requests are sent: a pace for all walks together, which finds the API's limit."""

from __future__ import annotations

import heapq
import itertools
import threading
import time

PUBLISHED_RATE = 5.0  # requests a second, the limit that Autopilot publishes
SLACK = 1.02  # the gaps are this much wider than the rate asks, for what the network bunches up
CATCH_UP = 0.01  # seconds by which a late request does not make all later ones late


class Pacer:
    """Lets requests through, one after another, never more than `ceiling` a second.

    It starts at the published rate and grows by a quarter with each answer. A 429 halves the rate;
    from then on it returns quickly to just below where that happened, and only creeps above it.
    Where several walks wait, the most urgent goes first.
    """

    def __init__(self, ceiling: float) -> None:
        self._ceiling = ceiling
        self._rate = min(PUBLISHED_RATE, ceiling)
        self._limit: float | None = None  # the rate that is known to be safe, once one was not
        self._creep = 0.0
        self._next = 0.0
        self._changed = 0.0  # when the rate was last cut
        self._paused_until = 0.0
        self._waiting: list[tuple[float, int]] = []
        self._tickets = itertools.count()
        self._turn = threading.Condition()

    def wait(self, urgency: float = 0.0) -> float:
        """Block until it is this request's turn; the moment it was let through."""
        with self._turn:
            ticket = (-urgency, next(self._tickets))
            heapq.heappush(self._waiting, ticket)
            while True:
                now = time.monotonic()
                if self._waiting[0] is not ticket:
                    self._turn.wait()
                elif now < self._next:
                    self._turn.wait(self._next - now)
                else:
                    break
            heapq.heappop(self._waiting)
            self._next = max(self._next, now - CATCH_UP) + SLACK / self._rate
            if self._waiting:
                self._turn.notify_all()
            return now

    def answered(self) -> None:
        """Tell of a request that was not throttled."""
        with self._turn:
            if self._limit is None:
                self._rate = min(self._rate * 1.25, self._ceiling)
            elif self._rate < self._limit:
                self._rate = min(self._rate + self._limit / 8, self._limit)
            else:
                self._rate = min(self._rate * (1 + self._creep), self._ceiling)

    def throttled(self, sent: float, wait: float) -> float:
        """Tell of a 429 to a request let through at `sent`; pause all walks for `wait` seconds.

        Gives back by how many seconds that made everyone's pause longer.
        """
        with self._turn:
            now = time.monotonic()
            if sent > self._changed:
                self._limit = self._rate * 0.98
                self._rate /= 2
                self._creep = self._creep / 2 or 0.001
                self._changed = now
            until = max(self._paused_until, now + wait)
            longer = until - max(self._paused_until, now)
            self._paused_until = until
            self._next = max(self._next, until)
            return longer
