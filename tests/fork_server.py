"""Runs commands in forks of a small process that has already imported everything.

A fork is a separate process, with its own descriptors, signals and exit code, but starts in a few
milliseconds.
"""

from __future__ import annotations

import importlib
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, NoReturn

from tap_autopilot import cli
from tap_autopilot.api import pace, retry

Main = Callable[[list[str]], int]

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [
        "singer.metrics",
        "tap_autopilot.run.sync",
        "tap_autopilot.collector.cli",
        "tap_autopilot.collector.server",
        "tap_autopilot.collector.sqlite",
        "tests.fork_server",
    ]
)


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
        self._command = list(arguments)
        everything = {**os.environ, **(environment or {})}
        self._process = _forks.Process(
            target=_become,
            args=(main, self._command, folder, everything, _Passed(stdout), _Passed(stderr)),
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; None while the command runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for the exit code. Raises TimeoutExpired."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._command, timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the command has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        self.wait(10)


def finished(
    main: Main, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: int
) -> tuple[int, bytes, bytes]:
    """Run a command in a fork to its end: its exit code, stdout and stderr. Raises TimeoutExpired."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        fork = Fork(main, arguments, folder, stdout.fileno(), stderr.fileno(), environment)
        try:
            code = fork.wait(timeout)
        finally:
            fork.kill()
        stdout.seek(0)
        stderr.seek(0)
        return code, stdout.read(), stderr.read()


class _Passed:
    """A descriptor that arrives in the fork as its own number there."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Callable[[Any], int], tuple[Any]]:
        return _received, (DupFd(self._number),)


def _received(passed: Any) -> int:
    return int(passed.detach())


def _become(
    main: Main,
    arguments: list[str],
    folder: Path,
    environment: Mapping[str, str],
    stdout: int,
    stderr: int,
) -> NoReturn:
    for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (stdout, 1), (stderr, 2)):
        os.dup2(source, target)
    os.closerange(3, 1024)  # the originals, and what connects this process to the tests
    sys.stdout, sys.stderr = (
        open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        for number in (1, 2)
    )
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    no_name_server(setattr)
    _run_and_exit(main, arguments)


def _run_and_exit(main: Main, arguments: list[str]) -> NoReturn:
    code = 70
    try:
        code = main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001  # it must not end in multiprocessing's own code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def hasty(arguments: list[str]) -> int:
    """The tap, with short waits."""
    pace.PUBLISHED_RATE, retry.FIRST_WAIT = math.inf, 0.05
    return cli.main(arguments)


def altered(main: Main, constants: Mapping[str, object], arguments: list[str]) -> int:
    """The program, with other values for these names: a module of the collector, a dot, a name."""
    for name, value in constants.items():
        module, _, constant = name.partition(".")
        found = importlib.import_module(f"tap_autopilot.collector.{module}")
        assert hasattr(found, constant), name
        setattr(found, constant, value)
    return main(arguments)


def every(main: Main, commands: list[list[str]], _: list[str]) -> int:
    """Run a program with each of these arguments, all output to stdout, exit codes between."""
    os.dup2(1, 2)
    for command in commands:
        child = os.fork()
        if not child:
            _run_and_exit(main, command)
        status = os.waitpid(child, 0)[1]
        os.write(1, f"\0{os.waitstatus_to_exitcode(status)}\0".encode())
    return 0


def no_name_server(replace: Callable[[Any, str, Any], Any]) -> None:
    """Only this machine's own names resolve, and no name server is asked."""

    def on_this_machine(ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(host: Any, *args: Any, **more: Any) -> Any:
            name = host.decode() if isinstance(host, bytes) else host
            if (
                name
                and name != "localhost"
                and not name.replace(".", "").isdigit()
                and ":" not in name
            ):
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return ask(host, *args, **more)

        return asked

    for function in ("getaddrinfo", "gethostbyname"):
        replace(socket, function, on_this_machine(getattr(socket, function)))
