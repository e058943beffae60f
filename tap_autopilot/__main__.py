"""`python -m tap_autopilot`, and the command `tap-autopilot`."""

from __future__ import annotations

import gc
import os
import sys
import time
from types import FrameType
from typing import NoReturn

from tap_autopilot.exceptions import Stopped
from tap_autopilot.run import signals

STDERR = 2
GC_THRESHOLD = 100_000  # new objects; modules and rows have few cycles, so there is little to find


def main() -> int:
    """Run the command line, ready for signals before its imports; returns the exit code."""
    signals.install(_stop)
    gc.set_threshold(GC_THRESHOLD)
    from tap_autopilot import cli

    exit_code = cli.main()
    gc.freeze()  # or else Python searches all modules for cycles as it exits
    return exit_code


def _stop(number: int, _: FrameType | None) -> NoReturn:
    stopped = Stopped(number)
    moment = "" if os.isatty(STDERR) else time.strftime("%Y-%m-%dT%H:%M:%SZ ", time.gmtime())
    try:
        os.write(STDERR, f"{moment}CRITICAL {stopped}\n".encode())
    finally:
        os._exit(stopped.exit_code)


if __name__ == "__main__":
    sys.exit(main())
