"""What the soaks share: the real command, run against a sandbox and killed at random, and a report."""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tap_autopilot.sandbox.faults import ACTIONS, Fault, Faults
from tests.conftest import COMMAND, KEY, Tap
from tests.invariants import Run
from tests.recording import Sandbox

PATIENCE = 300  # seconds
SOUP = ["500", "502", "503", "504", "408", "429", *sorted(set(ACTIONS) - {"drip", "bomb"})]


def report(play: Callable[[argparse.Namespace, Path], tuple[str, bool]], **numbers: int) -> int:
    """Play a soak with these numbers, which options replace: print its figures; 0 if all is well."""
    module = sys.modules[play.__module__]
    parser = argparse.ArgumentParser(
        description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, number in {"seed": 1, **numbers}.items():
        parser.add_argument(f"--{name}", type=int, default=number, help=f"default {number}")
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        figures, is_well = play(args, Path(folder))
    print(f"{figures}; {(time.monotonic() - started) / 60:.1f} min, seed {args.seed}")
    return 0 if is_well else 1


def soup(percent: float, seed: int) -> Faults:
    """Faults of every kind, for this share of the requests."""
    return Faults((Fault.parse(f"{percent / len(SOUP)}%:{what}") for what in SOUP), seed)


class Runner:
    """The command in a folder, where each run replaces the files of the one before."""

    def __init__(self, folder: Path) -> None:
        self._tap = Tap(folder)

    def start(
        self, sandbox: Sandbox, state: Any = None, **settings: Any
    ) -> subprocess.Popen[bytes]:
        """Start the command; `finish` waits for it."""
        arguments = self._tap.arguments(sandbox, catalog=None, state=state, config=settings)
        with (self._tap.folder / "log").open("wb") as log:
            return subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=log)

    def finish(self, process: subprocess.Popen[bytes], stdout: bytes = b"") -> Run:
        """Wait for the command, of which this output has been read."""
        rest, _ = process.communicate(timeout=PATIENCE)
        killed = process.returncode == -signal.SIGKILL
        log = (self._tap.folder / "log").read_text()
        return Run(process.returncode, stdout + rest, log, KEY, killed=killed)

    def run(
        self,
        sandbox: Sandbox,
        state: Any = None,
        *,
        kill: random.Random | None = None,
        **settings: Any,
    ) -> Run:
        """Run the command to completion, or until `kill` says so."""
        since = len(sandbox.requests)
        process = self.start(sandbox, state, **settings)
        run = self.finish(process, b"" if kill is None else _kill(process, sandbox, kill))
        run.watch(sandbox, since, state, settings)
        return run


def _kill(process: subprocess.Popen[bytes], sandbox: Sandbox, rng: random.Random) -> bytes:
    """Kill the command after some bytes, responses or seconds, unless it ends before.

    Returns what it wrote.
    """
    how = rng.choice(("bytes", "responses", "seconds"))
    at_byte = 10 ** rng.uniform(4, 6.2)
    at_response = len(sandbox.requests) + rng.randrange(1, 14)
    at = time.monotonic() + rng.uniform(0.15, 0.7)
    over = threading.Event()

    def wait() -> None:
        while not over.is_set():
            if (
                len(sandbox.requests) >= at_response
                if how == "responses"
                else time.monotonic() > at
            ):
                process.kill()
                return
            time.sleep(0.0005)

    if how != "bytes":
        threading.Thread(target=wait).start()
    assert process.stdout is not None
    stdout = b""
    for line in process.stdout:
        stdout += line
        if how == "bytes" and len(stdout) > at_byte:
            process.kill()
    process.wait()
    over.set()
    return stdout
