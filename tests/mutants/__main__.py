"""Plants each bug, and runs its tests."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutants import MUTANTS, ROOT, Mutant


def caught(mutant: Mutant, folder: Path) -> str | None:
    """The first test that fails with the bug planted; None if all pass."""
    copy = folder / re.sub(r"\W+", "-", mutant.name)
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".venv*", ".git", "output", ".*cache")
    )
    (copy / "tap_autopilot" / mutant.file).write_text(mutant.planted(copy))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", *f"tests/{mutant.tests}".split(" ")],
        cwd=copy,
        env={"PYTHONPATH": str(copy), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    return found[1] if found else None


def main() -> int:
    """Plant each bug; returns 0 if all were caught."""
    missed = 0
    with tempfile.TemporaryDirectory() as temporary:
        for mutant in MUTANTS:
            by = caught(mutant, Path(temporary))
            missed += by is None
            print(f"{'MISSED' if by is None else 'caught':7} {mutant.name}: {by or ''}", flush=True)
    print(f"{len(MUTANTS) - missed} of {len(MUTANTS)} planted bugs caught")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
