"""A bug to plant."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Mutant(NamedTuple):
    """A bug: its description, the text to replace in a file, and the tests that must catch it."""

    name: str
    file: str
    old: str
    new: str
    tests: str


def planted(mutant: Mutant, root: Path) -> str:
    """The text of the mutant's file with the bug planted."""
    text = (root / "tap_autopilot" / mutant.file).read_text()
    assert text.count(mutant.old) == 1, (
        f"{mutant.name}: the text to replace must occur exactly once"
    )
    return text.replace(mutant.old, mutant.new)
