"""The README tells the truth: every option, setting and stream is in it, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from tap_autopilot.cli import _parser
from tap_autopilot.config import Config
from tap_autopilot.discover import discover
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


def shown(default: object) -> str:
    """A setting's default as the table shows it."""
    if default is dataclasses.MISSING:
        return "required"
    if default is None:
        return ""
    return f"`{default}`" if isinstance(default, str) else json.dumps(default).removesuffix(".0")


def test_every_setting_with_its_default_and_description() -> None:
    assert table("## Settings") == [
        [f"`{field.name}`", shown(field.default), field.metadata["description"]]
        for field in dataclasses.fields(Config)
    ]


def test_every_stream_with_its_key() -> None:
    expected = [
        [f"`{entry['stream']}`", ", ".join(f"`{key}`" for key in entry["key_properties"])]
        for entry in discover({})["streams"]
    ]
    assert [row[:2] for row in table("## Tables")] == expected


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
