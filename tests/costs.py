"""What a run costs, measured from outside."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from tests.conftest import COMMAND, KEY, Tap
from tests.invariants import Run
from tests.scripted import Scripted

MEMORY = 400e6  # bytes
CPU = 15.0  # seconds


class Unwatched(Scripted):
    """Does not parse what it serves, which nobody asks for."""

    def _note(self, *_: object) -> None: ...


# In a process of its own, because a process inherits the peak memory of the one that starts it.
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss, used.ru_utime + used.ru_stime, file=sys.stderr)
sys.exit(code)
"""


def sync(
    tap: Tap,
    answers: dict[str, Any],
    *arguments: str,
    code: int = 0,
    cpu: float = CPU,
    **settings: Any,
) -> Run:
    """Sync from a server with these responses, in a process of its own, which must cost little."""
    with Unwatched(answers) as sandbox:
        config = tap.config(sandbox, retry_timeout=0, **settings)
        command = [*COMMAND, "-c", tap.file("config.json", config), *arguments]
        done = subprocess.run(
            [sys.executable, "-S", "-c", MEASURE, *command],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    *log, costs = done.stderr.splitlines(keepends=True)
    kibibytes, took = map(float, costs.split())
    print(f"{kibibytes * 1024 / 1e6:.0f} MB, {took:.1f} s")
    assert done.returncode == code, done.stderr
    assert kibibytes * 1024 < MEMORY
    assert took < cpu
    return Run(code, b"", "".join(log), KEY)
