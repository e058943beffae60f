"""Group commit: one thread owns the store, and concurrent requests share a commit."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import chain
from typing import Any, TypeVar

from tap_autopilot import logs
from tap_autopilot.collector.metrics import Metrics
from tap_autopilot.collector.pending import Pending
from tap_autopilot.collector.received import Received
from tap_autopilot.collector.store import Store, StoreLost, Unavailable
from tap_autopilot.collector.turns import Turns

LOG = logging.getLogger(__name__)

STORE_WITHIN = 2.0  # seconds for a commit, and for events from their arrival until they are on disk
MAX_IN_A_COMMIT = 16 * 2**20  # bytes
MANY = 10_000  # events, with which a commit is full, since it takes up to half a second
CHECK_SPACE_EVERY = 0.5  # seconds
SWEEP_EVERY = 60.0  # seconds
SWEEP_AGAIN = 0.2  # seconds, while there is more
RETRY_EVERY = 0.5  # seconds, while nothing can be stored
CHECK_EVERY = 5.0  # seconds, while nothing is received
SLOW = f"the database is slow: a commit is taking more than {STORE_WITHIN:g} s"
LATE = f"the database is slow: events waited more than {STORE_WITHIN:g} s"
GATHER = 0.005  # seconds at most that a commit waits for more requests
LIGHT = 128 * 1024  # bytes; a commit of fewer takes the disk longer to sync than to write
HEAVY = 500  # events; a request of more has a commit of its own
OVERHEAD = 200  # bytes per event on top of its body

T = TypeVar("T")


Done = Callable[[Unavailable | None], None]


class _Work:
    """Events for the thread to store, and whom to tell about it."""

    __slots__ = ("_done", "events", "is_settled", "sender", "since", "size")

    def __init__(
        self, events: Sequence[Received], size: int, done: Done, sender: bytes | None
    ) -> None:
        self.events = events
        self.size = size
        self.sender = sender
        self._done = done
        self.since = time.monotonic()
        self.is_settled = False

    def settle(self, problem: Unavailable | None) -> None:
        """Tell the result, the first time that this is called."""
        if self.is_settled:
            return
        self.is_settled = True
        try:
            self._done(problem)
        except Exception as error:  # noqa: BLE001 - a bug, from which other requests must not suffer
            logs.log_bug(error)


class _Queue:
    """Requests that wait for a commit, which those of few events share.

    A request of many has a commit of its own, and at most every second one is of that kind. Senders
    take turns.
    """

    def __init__(self) -> None:
        self._light: Turns[_Work] = Turns()
        self._heavy: Turns[_Work] = Turns()
        self._was_heavy = False  # what was taken last
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[_Work]:
        return chain(self._light, self._heavy)

    def add(self, work: _Work) -> None:
        """Add a request at the end."""
        queue = self._heavy if len(work.events) > HEAVY else self._light
        queue.of(work.sender).append(work)
        self._count += 1

    def take(self) -> list[_Work]:
        """Take what the next commit is to store."""
        heavy = None if self._was_heavy and self._light else self._heavy.next()
        self._was_heavy = heavy is not None
        group = list(self._to_share()) if heavy is None else [heavy]
        self._count -= len(group)
        return group

    def _to_share(self) -> Iterator[_Work]:
        size = events = 0
        while size < MAX_IN_A_COMMIT and events < MANY and (work := self._light.next()):
            yield work
            size += work.size
            events += len(work.events)


class Writer:
    """Commits events in its own thread. Call its methods, but for `post`, from the event loop's.

    `failed` is called there, once, if it is unknown what is on disk.
    """

    def __init__(
        self,
        store: Store,
        pending: Pending,
        metrics: Metrics,
        min_free: int,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._store = store
        self._pending = pending
        self._metrics = metrics
        self._min_free = min_free
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._queue = _Queue()
        self._tasks: deque[tuple[Callable[[Store], Any], Future[Any]]] = deque()
        self._group: list[_Work] = []  # what is being committed
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._enough = math.inf  # requests in the queue to wake the thread
        self._expected = 0  # requests that were answered last, or waited meanwhile
        self._gather_until = 0.0  # when to stop waiting for as many
        self._closing = False
        self._reason: str | None = None  # why nothing can be stored
        self._next_space_check = self._next_sweep = 0.0
        self._committing_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()
        self._watch = self._loop.call_later(0.1, self._fail_late)

    @property
    def trouble(self) -> str | None:
        """Why events cannot be stored right now; None if they can."""
        if self._closing:
            return "shutting down"
        since = self._committing_since
        if since is not None and time.monotonic() - since > STORE_WITHIN:
            return SLOW
        return self._reason

    def store(self, events: Sequence[Received], done: Done, sender: bytes | None = None) -> None:
        """Store these events, and call `done` once they are on disk, or cannot be stored.

        Senders, known by the digests of their secrets, take turns.
        Raises Unavailable if it is known already that they cannot be stored.
        """
        size = sum([len(event.body) for event in events]) + OVERHEAD * len(events)
        if problem := self.trouble or self._pending.reserve(size, sender):
            raise Unavailable(problem)
        with self._lock:
            self._queue.add(_Work(events, size, done, sender))
            if len(self._queue) >= self._enough:
                self._wake.notify()

    def post(self, task: Callable[[Store], T]) -> Future[T]:
        """Have a task run in the store's thread. Any thread may call this."""
        future: Future[T] = Future()
        with self._lock:
            self._tasks.append((task, future))
            self._wake.notify()
        return future

    async def run(self, task: Callable[[Store], T]) -> T:
        """Run a task in the store's thread, and return its result."""
        return await asyncio.wrap_future(self.post(task))

    async def close(self) -> None:
        """Commit what was accepted, and end the thread."""
        with self._lock:
            self._closing = True
            self._wake.notify()
        self._watch.cancel()
        while self._thread.is_alive():
            await asyncio.sleep(0.01)

    def _fail_late(self) -> None:
        """Fail requests that have waited too long.

        A commit that has begun may still succeed, see `Unavailable`.
        """
        late = time.monotonic() - STORE_WITHIN
        with self._lock:
            waiting = [*self._group, *self._queue]
        for work in waiting:
            if work.since < late:
                work.settle(Unavailable(self._reason or LATE))
        self._watch = self._loop.call_later(0.1, self._fail_late)

    # ---- the thread

    def _run(self) -> None:
        try:
            while True:
                with self._lock:
                    while not (self._queue or self._tasks or self._closing):
                        if not self._wait(1, RETRY_EVERY if self._reason else CHECK_EVERY):
                            break  # time to check whether events can be stored
                    if self._closing and not self._queue and not self._tasks:
                        return
                    self._gather()
                    self._group = self._queue.take()
                    tasks = list(self._tasks)
                    self._tasks.clear()
                self._committing_since = time.monotonic()
                self._commit(self._group)
                self._group = []
                for task, future in tasks:
                    self._run_task(task, future)
                self._committing_since = None
        except BaseException as error:  # noqa: BLE001 - the collector must not continue without its store
            self._tell(self._failed, error)

    def _gather(self) -> None:
        """Wait a moment for more requests, so that the disk has to sync once and not twice.

        Those whose senders were just answered usually come at once.
        """
        seconds = self._gather_until - time.monotonic()
        if 0 < len(self._queue) < self._expected and seconds > 0 and not self._tasks:
            self._wait(self._expected, seconds)

    def _wait(self, requests: int, seconds: float) -> bool:
        """Wait for this many requests, or something else to do; whether it came in time."""
        self._enough = requests
        in_time = self._wake.wait(seconds)
        self._enough = math.inf
        return in_time

    def _expect(self, requests: int, size: int, seconds: float) -> None:
        """After a commit: expect as many requests again, for less time than they would save."""
        with self._lock:
            self._expected = requests + len(self._queue)
        gather = min(GATHER, seconds / 2) if size < LIGHT else 0
        self._gather_until = time.monotonic() + gather

    def _commit(self, group: list[_Work]) -> None:
        events = [event for work in group if not work.is_settled for event in work.events]
        problem: Unavailable | None = None
        started = time.perf_counter()
        new = 0
        try:
            self._check_space()
            if time.monotonic() >= self._next_sweep:
                self._next_sweep = time.monotonic() + SWEEP_EVERY
                if self._store.sweep(int(time.time() * 1000)):
                    self._next_sweep = time.monotonic() + SWEEP_AGAIN
            if events:
                new = self._store.append(events)
            elif self._reason:
                self._store.probe()
            self._set_problem(None)
        except Unavailable as error:
            problem = error
            self._set_problem(error)
        if group:
            size = sum(work.size for work in group)
            if events and problem is None:
                took = time.perf_counter() - started
                self._expect(len(group), size, took)
                self._metrics.committed(events, new, took)
            self._tell(self._settle, group, problem)

    def _check_space(self) -> None:
        if time.monotonic() < self._next_space_check:
            return
        free = self._store.free_bytes()
        if free is not None and free < self._min_free:
            raise Unavailable(
                f"the disk has {free >> 20} MB left, less than min_free_mb ({self._min_free >> 20})"
            )
        self._next_space_check = time.monotonic() + CHECK_SPACE_EVERY

    def _set_problem(self, problem: Unavailable | None) -> None:
        reason = None if problem is None else str(problem)
        if reason != self._reason:
            if problem is None:
                LOG.info("Events can be stored again.")
            else:
                LOG.error("Cannot store events right now: %s; senders get 503.", problem.in_full)
        self._reason = reason

    def _run_task(self, task: Callable[[Store], Any], future: Future[Any]) -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(task(self._store))
            except StoreLost:
                raise
            except Exception as error:  # noqa: BLE001 - for whoever asked
                future.set_exception(error)

    def _tell(self, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed, so nothing is waiting anymore
            if function is self._failed:
                raise

    def _settle(self, group: list[_Work], problem: Unavailable | None) -> None:
        for work in group:
            self._pending.release(work.size, work.sender)
            work.settle(problem)
