"""The README tells the truth: every option, setting and stream is in it, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tap_autopilot.about import about
from tap_autopilot.cli import _parser
from tests.conftest import Tap

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    lines = README.partition(f"\n{heading}\n")[2].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| ---"))
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_tables_of_settings_and_streams_are_those_of_about() -> None:
    settings, streams = about("markdown").split("\n\n")
    assert settings in README
    assert streams in README


def test_every_option() -> None:
    said = set(re.findall(r"`(--?[a-z]+)", " ".join(row[0] for row in table("## Use"))))
    known = {option for action in _parser()._actions for option in action.option_strings}
    assert said == known - {"-h"}


def test_every_file_that_is_linked_exists() -> None:
    for path in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / path).read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (ROOT / link).exists(), link


def test_the_commands_that_need_nothing_work(tap: Tap) -> None:
    assert "tap-autopilot --discover > catalog.json" in README
    assert json.loads(tap.run("--discover").stdout)
    assert "python -m tap_autopilot.sandbox" in README


@pytest.mark.parametrize("target", ["run", "test", "lint"])
def test_the_make_targets_exist(target: str) -> None:
    assert f"\n{target}:" in (ROOT / "Makefile").read_text()
