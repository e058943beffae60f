"""Ends requests that are past their deadline, whatever they are waiting for, or that cost too much.

The timeouts of `requests` apply to each wait for the socket, so a server that sends a byte now and
then never times out. Instead, one thread for all clients watches the clock and shuts down the
socket of a late request. Only resolving a host name is left to the resolver's own timeouts.

A server may also keep the CPU busy until the deadline, with a body in chunks of a byte or endless
trailers, so a thread gets some seconds of CPU for each request, where the system can tell.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

MAX_CPU = 2.0  # seconds; the largest body takes 0.2
LOOK_EVERY = 0.25  # seconds, at the CPU that requests took
TRY_AGAIN = 0.05  # seconds; a request may be switching sockets just when it is ended


class Watch:
    """What the watchdog knows about a client's current request.

    `connects` counts connection attempts. `timed_out` is whether the request was ended, and
    `is_costly` whether that was for the CPU it took.
    """

    def __init__(self, max_cpu: float | None = None) -> None:
        self._most = MAX_CPU if max_cpu is None else max_cpu  # seconds for a request
        self.connects = 0
        self.deadline = math.inf
        self.timed_out = self.is_costly = False
        self._cpu: Callable[[], float] = lambda: 0.0  # seconds of the thread
        self._max_cpu = math.inf
        self._connection: Any = None
        self._socket: Any = None  # a connection drops its own before its last response is read

    def begin(self, deadline: float) -> None:
        """Note that the current thread begins a request."""
        self.deadline = deadline
        self.timed_out = self.is_costly = False
        if hasattr(time, "pthread_getcpuclockid"):  # not on macOS
            clock = time.pthread_getcpuclockid(threading.get_ident())
            self._cpu = functools.partial(time.clock_gettime, clock)
        self._max_cpu = self._cpu() + self._most

    def is_over(self, now: float) -> bool:
        """Whether the request is past its deadline, or has cost too much."""
        self.is_costly = self.is_costly or self._cpu() > self._max_cpu
        return self.is_costly or self.deadline <= now

    def new_connection(self, create: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A connection that `create` makes, watched from now on."""
        self._connection = create(*args, **kwargs)
        self._connection.connect = functools.partial(self._connect, self._connection.connect)
        return self._connection

    def _connect(self, connect: Callable[[], None]) -> None:
        self.connects += 1
        connect()
        self._socket = self._connection.sock

    def end(self) -> None:
        """Shut down the socket, which wakes the thread waiting for it."""
        self.timed_out = True
        for connected in (getattr(self._connection, "sock", None), self._socket):
            with contextlib.suppress(OSError):  # already closed, or not connected yet
                if connected is not None:
                    _shut_down(connected.fileno())


def _shut_down(descriptor: int) -> None:
    with socket.socket(fileno=os.dup(descriptor)) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


class Watchdog:
    """A thread that ends late requests. It runs while there are requests to watch."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way: set[Watch] = set()
        self._wakes_at: float | None = None  # None while there is no thread

    def start(self, watch: Watch, deadline: float) -> None:
        """Watch a request that begins now; `deadline` is a time on the monotonic clock."""
        with self._changed:
            watch.begin(deadline)
            self._under_way.add(watch)
            if self._wakes_at is None:
                self._wakes_at = deadline
                threading.Thread(target=self._patrol, name="watchdog", daemon=True).start()
            elif deadline < self._wakes_at:
                self._changed.notify()

    def stop(self, watch: Watch) -> None:
        """Stop watching: the request is over, in time or not."""
        with self._changed:
            self._under_way.discard(watch)

    def _patrol(self) -> None:
        with self._changed:
            while self._under_way:
                now = time.monotonic()
                for watch in self._under_way:
                    if watch.is_over(now):
                        watch.end()
                next_deadline = min(watch.deadline for watch in self._under_way)
                next_deadline = min(next_deadline, now + LOOK_EVERY)
                self._wakes_at = max(next_deadline, now + TRY_AGAIN)
                self._changed.wait(self._wakes_at - now)
            self._wakes_at = None
