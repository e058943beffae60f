"""The pacer against simulated servers with rate limits, on a simulated clock."""

from __future__ import annotations

import bisect
import collections
import heapq
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tap_autopilot.api import pace
from tap_autopilot.api.pace import Pacer
from tests.conftest import PATIENCE, Clock, wait_until


def sliding(limit: int) -> Callable[[float], bool]:
    """At most `limit` requests in any second."""
    allowed: collections.deque[float] = collections.deque()

    def allows(at: float) -> bool:
        while allowed and allowed[0] <= at - 1:
            allowed.popleft()
        if len(allowed) < limit:
            allowed.append(at)
            return True
        return False

    return allows


def bucket(limit: int) -> Callable[[float], bool]:
    """`limit` requests a second, plus what was unused in the second before."""
    tokens, last = float(limit), Clock.now

    def allows(at: float) -> bool:
        nonlocal tokens, last
        tokens, last = min(limit, tokens + (at - last) * limit), at
        if tokens >= 1:
            tokens -= 1
            return True
        return False

    return allows


def fixed(limit: int) -> Callable[[float], bool]:
    """At most `limit` requests in each second of the clock; refused requests count."""
    seconds: collections.Counter[int] = collections.Counter()

    def allows(at: float) -> bool:
        seconds[int(at)] += 1
        return seconds[int(at)] <= limit

    return allows


@dataclass
class Outcome:
    """The times at which requests arrived, answered and throttled ones."""

    answered: list[float]
    throttled: list[float]

    def after(self, start: float) -> Outcome:
        return Outcome(
            [at for at in self.answered if at >= start],
            [at for at in self.throttled if at >= start],
        )

    @property
    def share(self) -> float:
        return len(self.throttled) / (len(self.answered) + len(self.throttled))

    @property
    def rate(self) -> float:
        return (len(self.answered) - 1) / (self.answered[-1] - self.answered[0])

    @property
    def most_in_a_second(self) -> int:
        arrivals = sorted(self.answered + self.throttled)
        return max(bisect.bisect_left(arrivals, at + 1) - n for n, at in enumerate(arrivals))


def simulate(
    monkeypatch: pytest.MonkeyPatch,
    allows: Callable[[float], bool],
    ceiling: float,
    latency: float,
    count: int = 1500,
) -> Outcome:
    """Eight walks send requests as fast as the pacer allows."""
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    pacer, rng = Pacer(ceiling), random.Random(1)
    ready = [clock.now] * 8
    under_way: list[tuple[float, int, float, float]] = []
    outcome, number = Outcome([], []), 0
    while len(outcome.answered) < count:
        sends = max(ready[0], pacer._next, clock.now) if ready else float("inf")
        if not under_way or sends <= under_way[0][0]:
            clock.now = sends + rng.random() * 0.0005
            heapq.heappop(ready)
            pacer._let_through(clock.now)
            arrives = clock.now + latency / 2 * (1 + rng.random() * 0.1)
            number += 1
            heapq.heappush(under_way, (arrives + latency / 2, number, clock.now, arrives))
            continue
        at, _, sent, arrived = heapq.heappop(under_way)
        clock.now = max(clock.now, at)
        if allows(arrived):
            pacer.note_success()
            outcome.answered.append(arrived)
            heapq.heappush(ready, clock.now)
        else:
            pacer.throttle(sent, 0)
            outcome.throttled.append(arrived)
            heapq.heappush(ready, clock.now + rng.random())
    return outcome


@pytest.mark.parametrize("latency", [0.02, 0.1])
@pytest.mark.parametrize(("limit", "ceiling"), [(5, 20), (7, 20), (20, 20), (20, 100), (50, 100)])
@pytest.mark.parametrize("server", [sliding, bucket, fixed])
def test_it_finds_the_rate_that_the_api_allows(
    monkeypatch: pytest.MonkeyPatch,
    server: Callable[[int], Callable[[float], bool]],
    limit: int,
    ceiling: float,
    latency: float,
) -> None:
    whole = simulate(monkeypatch, server(limit), ceiling, latency)
    steady = whole.after(Clock.now + (whole.answered[-1] - Clock.now) / 3)
    assert steady.rate >= 0.92 * limit
    assert steady.share <= 0.035
    assert whole.most_in_a_second <= ceiling


@pytest.mark.parametrize("ceiling", [0.5, 3, 5, 20, 33.3])
def test_the_ceiling_holds_in_every_second(monkeypatch: pytest.MonkeyPatch, ceiling: float) -> None:
    whole = simulate(monkeypatch, lambda _: True, ceiling, 0.02, count=120)
    assert whole.most_in_a_second <= max(1, ceiling + 1)
    assert whole.rate >= 0.94 * ceiling


def test_it_speeds_up_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = simulate(monkeypatch, lambda _: True, 100, 0.02, count=200)
    assert whole.answered[49] - whole.answered[0] < 1.2


def test_an_outage_of_429s_does_not_leave_it_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Clock.now
    whole = simulate(monkeypatch, lambda at: not start + 1 < at < start + 61, 20, 0.1, count=600)
    after = [at for at in whole.answered if at > start + 61]
    assert after[0] < start + 63
    assert after[99] - after[0] < 45


def test_a_pause_holds_for_all_and_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    pacer = Pacer(1000)
    sent = [pacer.wait() for _ in range(3)]
    assert pacer.throttle(sent[0], 0.4) == pytest.approx(0.4)
    clock.now += 0.1
    assert pacer.throttle(sent[1], 0.4) == pytest.approx(0.1)
    assert pacer.delay() == pytest.approx(0.4)


def test_the_most_urgent_goes_first() -> None:
    pacer = Pacer(1000)
    pacer.throttle(pacer.wait(), PATIENCE)
    order: list[tuple[float, float]] = []

    def walk(urgency: float) -> None:
        order.append((pacer.wait(urgency), urgency))

    urgencies = (1.0, 7.0, 3.0, float("inf"))
    threads = [threading.Thread(target=walk, args=(urgency,)) for urgency in urgencies]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(pacer._waiting) == len(threads))
    with pacer._turn:
        pacer._next = time.monotonic()
        pacer._turn.notify_all()
    for thread in threads:
        thread.join()
    assert [urgency for _, urgency in sorted(order)] == [float("inf"), 7.0, 3.0, 1.0]
