"""Slow work for requests, in a few threads.

Senders that have shown a secret go first. The others get one thread, and few of them may wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from tap_autopilot import logs
from tap_autopilot.collector.events import Contents
from tap_autopilot.collector.request import Refusal, Request

THREADS = 2  # each holds one decompressed body
THREADS_FOR_STRANGERS = 1
MAX_WAITING = 200
MAX_STRANGERS = 20  # of these, senders that have shown no secret

Result = Contents | Refusal


class _Job(NamedTuple):
    request: Request
    is_known: bool
    work: Callable[[], Result]
    done: Callable[[Result], None]


class Threads:
    """Threads, and the requests that wait for one. For use in the event loop's thread."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(THREADS, "parser")
        self._known: deque[_Job] = deque()
        self._strangers: deque[_Job] = deque()
        self._running = self._running_strangers = 0
        self._closed = False

    def run(
        self,
        request: Request,
        is_known: bool,
        work: Callable[[], Result],
        done: Callable[[Result], None],
    ) -> None:
        """Do this work in a thread, and pass its result to `done`, unless the sender has gone.

        Raises Refusal if too many requests are waiting.
        """
        if self._closed:
            raise Refusal(503, "shutting down")
        waiting, limit = self._known, MAX_WAITING
        if not is_known:
            waiting, limit = self._strangers, MAX_STRANGERS
        if len(waiting) >= limit:
            present = [job for job in waiting if not job.request.gone]
            waiting.clear()
            waiting.extend(present)
            if len(waiting) >= limit:
                raise Refusal(503, "too many requests are waiting for a thread")
        waiting.append(_Job(request, is_known, work, done))
        self._start()

    def close(self) -> None:
        """Refuse the requests that are waiting."""
        self._closed = True
        self._executor.shutdown(wait=False)
        for waiting in (self._known, self._strangers):
            while waiting:
                waiting.popleft().done(Refusal(503, "shutting down"))

    def _start(self) -> None:
        while self._running < THREADS and (job := self._next()) is not None:
            self._running += 1
            self._running_strangers += not job.is_known
            future = asyncio.get_running_loop().run_in_executor(self._executor, job.work)
            future.add_done_callback(partial(self._finished, job))

    def _next(self) -> _Job | None:
        for waiting in (self._known, self._strangers):
            if waiting is self._strangers and self._running_strangers >= THREADS_FOR_STRANGERS:
                break
            while waiting:
                job = waiting.popleft()
                if not job.request.gone:
                    return job
        return None

    def _finished(self, job: _Job, future: asyncio.Future[Result]) -> None:
        self._running -= 1
        self._running_strangers -= not job.is_known
        if error := future.exception():
            logs.log_bug(error)
            job.done(Refusal(500, "unexpected error; the collector's log says where"))
        elif not job.request.gone:
            job.done(future.result())
        self._start()
