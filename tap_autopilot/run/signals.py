"""Signals: SIGTERM and SIGINT end a run after the page under way, and a second one at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from tap_autopilot import logs
from tap_autopilot.exceptions import Stopped

STOP_WITHIN = 4.0  # seconds from a signal to the end, whatever hangs


@contextlib.contextmanager
def heard(stop: Callable[[Stopped], None]) -> Iterator[None]:
    """Hand the first signal to `stop`."""
    stopping = False

    def handle(signal_number: int, _: object) -> None:
        nonlocal stopping
        stopped = Stopped(signal_number, signal.Signals(signal_number).name)
        if stopping:
            _end_at_once(stopped)
        stopping = True
        stop(stopped)
        last = threading.Timer(STOP_WITHIN, _end_at_once, [stopped])
        last.daemon = True
        last.start()

    before = {one: signal.signal(one, handle) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _end_at_once(stopped: Stopped) -> NoReturn:
    """End the process though something hangs, with the line that ends every failed run."""
    logs.write_last(str(stopped))
    os._exit(stopped.exit_code)
