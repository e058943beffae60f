"""Rate limiting: one rate for all walks, which adapts to the API's limit."""

from __future__ import annotations

import collections
import contextlib
import heapq
import itertools
import math
import threading
import time

PUBLISHED_RATE = 5.0  # requests a second, the limit that Autopilot publishes
SLACK = 1.02  # gaps are this much wider than the rate needs, because the network bunches requests
CATCH_UP = 0.01  # seconds of delay that the next request may make up for
WINDOW = 1.05  # seconds that count as the last second
MEMORY = 5.0  # seconds for which sent requests are remembered; a 429 may take a while to arrive
REPORT_THROTTLED = 2.0  # seconds after a 429 during which to report throttling
GROWTH = 1.25  # per response, until the first 429
CREEP = 4e-6  # per response above the safe rate, times the responses since the last 429
SLOWEST = 1.0  # requests a second; 429s never push the rate below this
SAFE = 0.99  # the safe rate, as a share of the rate that the API let through
MIN_SAFE = 2.0  # seconds at the safe rate; if two 429s are closer together, it is too high
SAFE_CUT = 0.95  # the share to which it is then cut


class Pacer:
    """Lets requests through one at a time, at most `ceiling` a second, now `rate` a second.

    The first second's worth of requests is sent immediately; then the rate grows by a quarter per
    response. A 429 shows how much the API lets through: the rate drops to half of that, climbs back
    to just below it within a few responses, and only creeps up from there. If several walks are
    waiting, the most urgent goes first.
    """

    def __init__(self, ceiling: float) -> None:
        self._ceiling = ceiling
        self.rate = min(PUBLISHED_RATE, ceiling)
        self._burst = int(self.rate)  # requests that may still be sent immediately
        self._safe = math.inf
        self._responses = 0  # since the last 429
        self._sent: collections.deque[float] = collections.deque()  # within MEMORY
        self._next = -math.inf
        self._cut = -math.inf  # when the rate was last cut
        self._paused_until = -math.inf
        self._waiting: list[tuple[float, int]] = []
        self._tickets = itertools.count()
        self._turn = threading.Condition()

    def wait(self, urgency: float = 0.0) -> float:
        """Block until it is this request's turn; returns when it was let through."""
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
        if self._burst > 1:
            self._burst -= 1
        else:
            self._next = max(self._next, now - CATCH_UP) + SLACK / self.rate
        most = math.ceil(self._ceiling)
        if len(self._sent) >= most:
            self._next = max(self._next, self._sent[-most] + SLACK)

    def delay(self) -> float:
        """Seconds until the next request may be sent, if it is the most urgent one."""
        return max(0.0, self._next - time.monotonic())

    def is_throttled(self) -> bool:
        """Whether the API throttled a request recently, or the pause it asked for is not over."""
        return time.monotonic() < max(self._cut + REPORT_THROTTLED, self._paused_until)

    def note_success(self) -> None:
        """Note a successful response. Nothing else may raise the rate."""
        with self._turn:
            self._responses += 1
            if self._safe == math.inf:
                self.rate *= GROWTH
            elif self.rate < self._safe:
                self.rate = min(self.rate + self._safe / 4, self._safe)
            else:
                self.rate *= 1 + CREEP * self._responses
            self.rate = min(self.rate, self._ceiling)

    def throttle(self, sent: float, wait: float) -> float:
        """Note a 429 to a request sent at `sent`; pause all walks for `wait` seconds.

        Returns by how many seconds this extended the pause.
        """
        with self._turn:
            now = time.monotonic()
            with contextlib.suppress(ValueError):
                self._sent.remove(sent)  # the others got through, or still will
            if sent > self._cut + 1:  # otherwise the request is from before the cut
                least = min(SLOWEST, self._ceiling)
                let_through = sum(sent - WINDOW < other < sent for other in self._sent)
                held = min(self.rate, let_through) if let_through else self.rate / 2
                if self._responses < MIN_SAFE * self._safe < math.inf:  # the safe rate was too high
                    held = min(held, SAFE_CUT * self._safe)
                if self._responses or self._safe == math.inf:  # otherwise it is the same throttling
                    self._safe = max(SAFE * held, least)
                self.rate = max(self._safe / 2, least)
                self._cut = now
                self._responses = 0
            until = max(self._paused_until, now + wait)
            longer = until - max(self._paused_until, now)
            self._paused_until = until
            self._next = max(self._next, until)
            return longer
