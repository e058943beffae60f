"""Queues that take turns, so that no sender waits for everything that another one has sent."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator
from itertools import chain
from typing import Generic, TypeVar

SHORT = 0.001  # seconds that calls may take without a pause

T = TypeVar("T")


class Turns(Generic[T]):
    """A queue for each sender, by the digest of its secret, or None."""

    def __init__(self) -> None:
        self._queues: dict[bytes | None, deque[T]] = {}  # the one whose turn it is comes first

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(self._queues.values())

    def of(self, sender: bytes | None) -> deque[T]:
        """The queue of one sender."""
        return self._queues.setdefault(sender, deque())

    def next(self, busy: Collection[bytes | None] = ()) -> T | None:
        """Take the first of the sender whose turn it is; None if only `busy` ones are waiting."""
        for sender in list(self._queues):
            if sender in busy:
                continue
            queue = self._queues[sender] = self._queues.pop(sender)  # now the last one
            if queue:
                return queue.popleft()
        return None


class OneByOne:
    """Calls, one in each turn of the event loop, so that anything else has its turn in between.

    They take half of the time at most: otherwise the writer's thread, which needs the interpreter
    again and again in a commit, would wait for each of them, as would every new connection.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: OrderedDict[object, Callable[[], None]] = OrderedDict()
        self._is_running = False
        self._took = 0.0  # seconds since the last pause

    def add(self, caller: object, call: Callable[[], None]) -> None:
        """Make this call, the only one of its caller, when its turn comes."""
        self._waiting[caller] = call
        if not self._is_running:
            self._is_running = True
            self._loop.call_soon(self._next)

    def forget(self, caller: object) -> None:
        """Do not make a caller's call."""
        self._waiting.pop(caller, None)

    def _next(self) -> None:
        if self._took > SHORT:
            self._loop.call_later(self._took, self._next)
            self._took = 0.0
            return
        self._is_running = bool(self._waiting)
        if self._waiting:
            self._loop.call_soon(self._next)
            _, call = self._waiting.popitem(last=False)
            started = time.perf_counter()
            call()
            self._took += time.perf_counter() - started
