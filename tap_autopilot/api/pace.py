"""How fast requests are sent: a pace for all walks together, which finds the API's limit."""

from __future__ import annotations

import collections
import contextlib
import heapq
import itertools
import math
import threading
import time

PUBLISHED_RATE = 5.0  # requests a second, the limit that Autopilot publishes
SLACK = 1.02  # the gaps are this much wider than the rate asks, for what the network bunches up
CATCH_UP = 0.01  # seconds by which a late request does not make all later ones late
WINDOW = 1.05  # seconds; what counts as the last second
MEMORY = 5.0  # seconds for which it is known what was sent; a 429 may take a while to arrive
LATELY = 2.0  # seconds
GROWTH = 1.25  # by each answer, while nothing was throttled
CREEP = 4e-6  # by each answer above the safe rate, times the number of answers since the last 429
SLOWEST = 1.0  # requests a second, below which no number of 429s brings the rate
SAFE = 0.99  # of the rate that the API has let through
SOON = 2.0  # seconds at the safe rate; with fewer answers between two 429s …
TOO_SOON = 0.95  # … this is what is left of it


class Pacer:
    """Lets requests through, one after another, never more than `ceiling` a second.

    The first second's worth of the published rate goes at once; from there the rate grows by a
    quarter with each answer. A 429 shows what the API lets through: the rate is cut to half of
    that, climbs back to just below it within a few answers, and only creeps from there. Where
    several walks wait, the most urgent goes first.
    """

    def __init__(self, ceiling: float) -> None:
        self._ceiling = ceiling
        self._rate = min(PUBLISHED_RATE, ceiling)
        self._at_once = int(self._rate)
        self._safe = math.inf
        self._answers = 0  # since the last 429
        self._sent: collections.deque[float] = collections.deque()  # within MEMORY
        self._next = -math.inf
        self._cut = -math.inf  # when the rate was last cut
        self._paused_until = -math.inf
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
            if self._waiting:
                self._turn.notify_all()
            self._let_through(now)
            return now

    def _let_through(self, now: float) -> None:
        self._sent.append(now)
        while self._sent[0] < now - MEMORY:
            self._sent.popleft()
        if self._at_once > 1:
            self._at_once -= 1
        else:
            self._next = max(self._next, now - CATCH_UP) + SLACK / self._rate
        most = math.ceil(self._ceiling)
        if len(self._sent) >= most:
            self._next = max(self._next, self._sent[-most] + SLACK)

    def delay(self) -> float:
        """Seconds until the next request may be sent, if it is the most urgent one."""
        return max(0.0, self._next - time.monotonic())

    @property
    def rate(self) -> float:
        """Requests a second, as far as it is known by now what the API lets through."""
        return self._rate

    def is_throttled(self) -> bool:
        """Whether the API has throttled a request just now, or everyone waits as it asked."""
        return time.monotonic() < max(self._cut + LATELY, self._paused_until)

    def answered(self) -> None:
        """Tell of a good answer. Nothing else may make the pace faster."""
        with self._turn:
            self._answers += 1
            if self._safe == math.inf:
                self._rate *= GROWTH
            elif self._rate < self._safe:
                self._rate = min(self._rate + self._safe / 4, self._safe)
            else:
                self._rate *= 1 + CREEP * self._answers
            self._rate = min(self._rate, self._ceiling)

    def throttled(self, sent: float, wait: float) -> float:
        """Tell of a 429 to a request let through at `sent`; pause all walks for `wait` seconds.

        Gives back by how many seconds that made everyone's pause longer.
        """
        with self._turn:
            now = time.monotonic()
            with contextlib.suppress(ValueError):
                self._sent.remove(sent)  # what is left was let through, or will be
            if sent > self._cut + 1:  # else it is still for what was sent before the cut
                least = min(SLOWEST, self._ceiling)
                let_through = sum(sent - WINDOW < one < sent for one in self._sent)
                held = min(self._rate, let_through) if let_through else self._rate / 2
                if self._answers < SOON * self._safe < math.inf:  # what seemed safe was not
                    held = min(held, TOO_SOON * self._safe)
                if self._answers or self._safe == math.inf:  # else it is still the same trouble
                    self._safe = max(SAFE * held, least)
                self._rate = max(self._safe / 2, least)
                self._cut = now
                self._answers = 0
            until = max(self._paused_until, now + wait)
            longer = until - max(self._paused_until, now)
            self._paused_until = until
            self._next = max(self._next, until)
            return longer
