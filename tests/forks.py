"""Runs a command in a fork of the test process, which has already imported everything.

The fork is a separate process, with its own descriptors, signals and exit code, but starts in a few
milliseconds.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

Main = Callable[[list[str]], int]


class Fork:
    """A running command, with part of the interface of `subprocess.Popen`."""

    def __init__(
        self,
        main: Main,
        arguments: Sequence[str],
        folder: Path,
        stdout: int,
        stderr: int,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.returncode: int | None = None
        self._command = list(arguments)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # about forking with threads: a sandbox has one
            self.pid = os.fork()
        if not self.pid:
            _become(main, arguments, folder, environment or {}, stdout, stderr)

    def poll(self) -> int | None:
        """The exit code; None while the command runs."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for the exit code. Raises TimeoutExpired."""
        began = time.monotonic()
        while (code := self.poll()) is None:
            waited = time.monotonic() - began
            if waited > timeout:
                raise subprocess.TimeoutExpired(self._command, timeout)
            time.sleep(0.001 + min(0.02, waited / 20))
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the command has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the command if it is still running."""
        self.send_signal(signal.SIGKILL)
        self.wait(10)


def _become(
    main: Main,
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    stdout: int,
    stderr: int,
) -> NoReturn:
    code = 70
    try:
        for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (stdout, 1), (stderr, 2)):
            os.dup2(source, target)
        os.closerange(3, 1024)  # the tests' sockets would stay open otherwise
        gc.freeze()  # inherited objects own descriptors that are closed now
        sys.stdout, sys.stderr = (
            open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            for number in (1, 2)
        )
        os.environ.update(environment)
        os.chdir(folder)
        code = main(list(arguments))
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001  # a fork must not continue as the test
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
