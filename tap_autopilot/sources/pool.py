"""Reads several walks in parallel and hands their pages to one thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from tap_autopilot.api.client import Client
from tap_autopilot.exceptions import RunError, Stopped, TapError, Unreachable, UserError
from tap_autopilot.sources.listings import Failure, Page, Position, Walk
from tap_autopilot.sources.reading import MAX_REMEMBERED, pages

AHEAD = 2  # pages per thread that may be requested but not written yet


class NotTried(RunError):
    """A walk was cancelled before it began."""


class Pool:
    """Reads walks on a few threads; `results` hands their pages to the calling thread.

    A thread requests a page only when at most one of its pages is still unprocessed. That limits
    memory, and lets a slow consumer slow down the reading.
    """

    def __init__(
        self, concurrency: int, client: Callable[[], Client], *, check_totals: bool
    ) -> None:
        self._concurrency = concurrency
        self._client = client
        self._check_totals = check_totals
        self._max_remembered = MAX_REMEMBERED // concurrency
        self._threads = 0
        self._unfinished = 0
        self._cancelled: set[str] = set()
        self._stopped: Stopped | None = None
        self._todo: queue.SimpleQueue[tuple[Walk, Position]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Page | Failure | BaseException, Callable[[], None]]] = (
            queue.SimpleQueue()
        )

    def add(self, walk: Walk, start: Position) -> None:
        """Queue a walk."""
        self._unfinished += 1
        self._todo.put((walk, start))
        if self._threads < min(self._concurrency, self._unfinished):
            self._threads += 1
            threading.Thread(target=self._work, name=f"walk-{self._threads}", daemon=True).start()

    def stop(self, stopped: Stopped) -> None:
        """Make `results` raise this next. Safe to call from a signal handler."""
        self._stopped = stopped
        self._done.put((stopped, _nothing))

    def check(self) -> None:
        """Raise what `stop` was given, if it was called."""
        if self._stopped is not None:
            raise self._stopped

    def cancel(self, source: str) -> None:
        """Cancel the walks of a source that have not started: they fail with NotTried."""
        self._cancelled.add(source)

    def results(self) -> Iterator[Page | Failure]:
        """The pages of all walks, in order for each walk, and a Failure for each walk that fails.

        Asking for the next result marks the previous result as processed. Raises errors that affect
        more than one walk.
        """
        while self._unfinished:
            result, release = self._done.get()
            self.check()
            if isinstance(result, BaseException):
                raise result
            if isinstance(result, Failure):
                if isinstance(result.error, (UserError, Unreachable)):
                    raise result.error
                self._unfinished -= 1
            elif result.after is None:
                self._unfinished -= 1
            yield result
            release()

    def _work(self) -> None:
        try:
            client = self._client()
            ahead = threading.Semaphore(AHEAD)
            while True:
                walk, start = self._todo.get()
                ahead.acquire()
                try:
                    if walk.source in self._cancelled:
                        raise NotTried(f"GET {walk.path}: not tried.")
                    for page in pages(
                        walk, start, client,
                        check_totals=self._check_totals, max_remembered=self._max_remembered,
                    ):  # fmt: skip
                        self._done.put((page, ahead.release))
                        ahead.acquire()
                except TapError as error:
                    error.__traceback__ = error.__context__ = None  # they hold the response
                    self._done.put((Failure(walk, error), _nothing))
                client.forget()
                ahead.release()
        except BaseException as error:  # a bug; the run must not wait for this thread
            self._done.put((error, _nothing))


def _nothing() -> None:
    """Nothing to release."""
