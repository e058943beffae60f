"""Signals: how SIGTERM, SIGINT and SIGHUP end a run with only whole lines on stdout.

After the first signal, the current page is still written. After STOP_WITHIN seconds, or on a second
signal, the run ends at the end of the current line, and after LINE_WITHIN in any case.
"""

# The command installs its first handler before any other imports, so this module imports little.

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from tap_autopilot.exceptions import RunError, Stopped

if TYPE_CHECKING:
    from tap_autopilot.protocol.messages import Writer

STOP_WITHIN = 4.0  # seconds from a signal to the end
LINE_WITHIN = 20.0  # seconds to the end if stdout blocks in the middle of a line
TICK = 0.25  # seconds; each tick interrupts a blocked write

Handler = Callable[[int, FrameType | None], None] | signal.Handlers
EndReport = Callable[[str, int], dict[str, Any]]  # see `Report.end`


def install(handler: Handler) -> dict[signal.Signals, signal._HANDLER]:
    """Have `handler` handle the signals that end a run; returns the previous handlers.

    SIGHUP stays ignored if it already is, as under nohup.
    """
    ends = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        ends.append(signal.SIGHUP)
    return {number: signal.signal(number, handler) for number in ends}


def restore(handlers: dict[signal.Signals, signal._HANDLER]) -> None:
    """Undo `install`."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


def ignore() -> None:
    """Ignore signals: the run is over, and nothing may change how it ends."""
    install(signal.SIG_IGN)


def end_now(stopped: Stopped, report: EndReport) -> NoReturn:
    """End the process with the usual CRITICAL line, even if something hangs."""
    from tap_autopilot import logs

    logs.write_last(str(stopped), report(str(stopped), stopped.exit_code))
    os._exit(stopped.exit_code)


@contextlib.contextmanager
def graceful_stop(
    stop: Callable[[Stopped], None], writer: Writer, report: EndReport
) -> Iterator[None]:
    """Call `stop` on the first signal; it should end the run after the current page.

    Once the time is up, a run that is writing ends after the current line; any other run ends
    immediately. Ctrl-C stops the target as well, so what ended the run is the signal, even if the
    target was faster.
    """
    stopped: Stopped | None = None
    first = 0.0

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal stopped, first
        if stopped is not None:
            hurry()
            return
        stopped, first = Stopped(number), time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, STOP_WITHIN, TICK)
        stop(stopped)

    def tick(*_: object) -> None:
        if stopped is not None:
            hurry()

    def hurry() -> None:
        assert stopped is not None
        if not writer.is_writing or time.monotonic() - first > LINE_WITHIN:
            end_now(stopped, report)
        writer.finish_line(stopped)
        signal.setitimer(signal.ITIMER_REAL, TICK, TICK)

    before = install(handle)
    alarm = signal.signal(signal.SIGALRM, tick)
    try:
        yield
    except RunError as error:
        raise stopped if stopped is not None and writer.is_broken else error from None
    finally:
        restore(before)  # first, because the handler sets the timer
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
