"""Tests of the tests: bugs planted one at a time, each of which the tests must catch.

`python -m tests.mutants` plants each bug in a copy of the project, runs the tests named with it, and
prints the first that failed. Its exit code is 0 only if every bug was caught.

The bugs are in the files `*.diff`, with an empty line between two. Each has a description, then the
file in tap_autopilot/ with the tests that must catch it, then the lines to change, as in a diff.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Mutant(NamedTuple):
    """A bug: its description, the lines to replace in a file, and the tests that must catch it."""

    name: str
    file: str
    old: str
    new: str
    tests: str

    @classmethod
    def parse(cls, text: str) -> Mutant:
        """A bug as it is written in a file."""
        name, where, *lines = text.splitlines()
        file, tests = where.split(": ")
        old, new = (
            "".join(f"{line[1:]}\n" for line in lines if line[0] in (" ", sign)) for sign in "-+"
        )
        return cls(name, file, old, new, tests)

    def planted(self, root: Path) -> str:
        """The text of the file with the bug planted."""
        text = (root / "tap_autopilot" / self.file).read_text()
        assert text.count(self.old) == 1, f"{self.name}: the lines must occur exactly once"
        return text.replace(self.old, self.new)


MUTANTS = [
    Mutant.parse(text)
    for path in sorted(Path(__file__).parent.glob("*.diff"))
    for text in path.read_text().split("\n\n")
]
