"""The collector's HTTP server without sockets, in an event loop whose time is set by its sleeps."""

from __future__ import annotations

import asyncio
import re
import selectors
from collections.abc import Callable, Coroutine
from functools import wraps
from types import SimpleNamespace
from typing import Any, ParamSpec

from tap_autopilot.collector.config import CollectorConfig
from tap_autopilot.collector.endpoints import Endpoints
from tap_autopilot.collector.http import Server
from tap_autopilot.collector.metrics import Metrics
from tap_autopilot.collector.notices import Notices
from tap_autopilot.collector.pending import Pending
from tests.collector.conftest import KEY, SECRET, TOKEN

MAX_BODY = 8 * 2**20
Given = ParamSpec("Given")


class _Selector(selectors.DefaultSelector):
    """Instead of waiting, moves the loop's time on."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found and timeout:
            self.now += timeout
        return found


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def without_waiting(test: Callable[Given, Coroutine[Any, Any, None]]) -> Callable[Given, None]:
    """Run a test whose sleeps take no time."""

    @wraps(test)
    def run(*args: Given.args, **more: Given.kwargs) -> None:
        loop = _Loop()
        try:
            loop.run_until_complete(test(*args, **more))
        finally:
            loop.close()

    return run


def serve(request_timeout: float = 1) -> Server:
    """A server that stores nothing, but answers 200 at once."""
    writer: Any = SimpleNamespace(store=lambda _, done, __: done(None), trouble=None)
    config = CollectorConfig(write_keys=(KEY,), webhook_secrets=(SECRET,), hook_tokens=(TOKEN,))
    endpoints = Endpoints(config, writer, Metrics(), Notices())
    pending = Pending(8 * MAX_BODY, MAX_BODY)
    return Server(endpoints, pending, MAX_BODY, request_timeout)


class Sender(asyncio.Transport):
    """A connection to a server, from the sender's side."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._protocol = server.connect()
        self.received = b""
        self.closed_at: float | None = None
        self._protocol.connection_made(self)

    def send(self, data: bytes) -> None:
        """Send these bytes, unless the server has closed the connection."""
        if self.closed_at is None:
            self._protocol.data_received(data)

    @property
    def statuses(self) -> list[int]:
        """The statuses of the responses so far."""
        return [int(one) for one in re.findall(rb"HTTP/1.1 (\d+)", self.received)]

    def go(self) -> None:
        """Disconnect."""
        self._protocol.connection_lost(None)

    # ---- what the server sees

    def write(self, data: Any) -> None:
        self.received += data

    def write_eof(self) -> None:
        """The sender closes its side, too."""
        self.close()

    def is_closing(self) -> bool:
        return self.closed_at is not None

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        if self.closed_at is None:
            self.closed_at = self._loop.time()
            self._loop.call_soon(self._protocol.connection_lost, None)

    abort = close
