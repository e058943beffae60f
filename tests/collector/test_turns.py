"""Taking turns: strangers leave half of the time to others."""

from __future__ import annotations

import asyncio
import time

from tap_autopilot.collector.turns import SHORT, OneByOne

CALLS = 20
TOOK = 4 * SHORT


def test_calls_leave_as_much_time_as_they_take_to_other_threads() -> None:
    """Or a commit, whose thread needs the interpreter often, would wait for each call."""

    async def scenario() -> float:
        turns = OneByOne(asyncio.get_running_loop())
        ended = asyncio.Event()
        count = 0

        def call() -> None:
            nonlocal count
            time.sleep(TOOK)
            count += 1
            if count == CALLS:
                ended.set()
            else:
                turns.add(object(), call)

        started = time.perf_counter()
        turns.add(object(), call)
        await ended.wait()
        return time.perf_counter() - started

    assert asyncio.run(scenario()) >= CALLS * TOOK + (CALLS - 1) * TOOK
