"""Slow work for requests, in a few threads.

Senders take turns. All that have shown no secret share theirs and a thread, and few of them may
wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from tap_autopilot import logs
from tap_autopilot.collector.events import Contents
from tap_autopilot.collector.request import Refusal, Request
from tap_autopilot.collector.turns import Turns

THREADS = 2  # each holds one decompressed body
THREADS_FOR_STRANGERS = 1
MAX_WAITING = 200  # for each secret
MAX_STRANGERS_WAITING = 20  # senders that have shown no secret

Result = Contents | Refusal


class _Job(NamedTuple):
    request: Request
    work: Callable[[], Result]
    done: Callable[[Result], None]


class Threads:
    """Threads, and the requests that wait for one. For use in the event loop's thread."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(THREADS, "parser")
        self._waiting: Turns[_Job] = Turns()
        self._running = self._running_strangers = 0
        self._closed = False

    def run(
        self,
        request: Request,
        work: Callable[[], Result],
        done: Callable[[Result], None],
    ) -> None:
        """Do this work in a thread, and pass its result to `done`, unless the sender has gone.

        Raises Refusal if too many requests are waiting.
        """
        if self._closed:
            raise Refusal(503, "shutting down")
        waiting = self._waiting.of(request.secret)
        limit = MAX_WAITING if request.is_known else MAX_STRANGERS_WAITING
        if len(waiting) >= limit:
            present = [job for job in waiting if not job.request.gone]
            waiting.clear()
            waiting.extend(present)
            if len(waiting) >= limit:
                raise Refusal(503, "too many requests are waiting for a thread")
        waiting.append(_Job(request, work, done))
        self._start()

    def close(self) -> None:
        """Refuse the requests that are waiting."""
        self._closed = True
        self._executor.shutdown(wait=False)
        waiting, self._waiting = self._waiting, Turns()
        for job in waiting:
            job.done(Refusal(503, "shutting down"))

    def _start(self) -> None:
        while self._running < THREADS and (job := self._next()) is not None:
            self._running += 1
            self._running_strangers += not job.request.is_known
            future = asyncio.get_running_loop().run_in_executor(self._executor, job.work)
            future.add_done_callback(partial(self._finished, job))

    def _next(self) -> _Job | None:
        busy = [None] if self._running_strangers == THREADS_FOR_STRANGERS else []
        while (job := self._waiting.next(busy)) is not None:
            if not job.request.gone:
                return job
        return None

    def _finished(self, job: _Job, future: asyncio.Future[Result]) -> None:
        self._running -= 1
        self._running_strangers -= not job.request.is_known
        if error := future.exception():
            logs.log_bug(error)
            job.done(Refusal(500, "unexpected error; the collector's log says where"))
        elif not job.request.gone:
            job.done(future.result())
        self._start()
