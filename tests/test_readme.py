"""The README is true: every option, setting and stream is in it, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tap_autopilot.about import about
from tap_autopilot.cli import _parser
from tap_autopilot.sandbox.account import Account
from tests.conftest import Serve, Tap

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


def test_the_tables_of_settings_and_streams_match_about() -> None:
    settings, streams = about("markdown").split("\n\n")
    assert settings in README
    assert streams in README


def test_every_option_is_documented() -> None:
    said = set(re.findall(r"`(--?[a-z-]+)", " ".join(row[0] for row in table("## Use"))))
    known = {option for action in _parser()._actions for option in action.option_strings}
    assert said == known - {"-h"}


TAP = """
import json, sys
state = sys.argv[2:] and open(sys.argv[2]).read()
print(json.dumps({"type": "STATE", "value": json.loads(state)["n"] + 1 if state else 1}))
"""
TARGET = """
import json, sys
for line in sys.stdin:
    if {prints}:
        print(json.dumps({{"n": json.loads(line)["value"]}}))
"""


def test_the_state_example_works_from_the_first_run(tmp_path: Path) -> None:
    block = next(one for one in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "touch" in one)
    found = []
    for prints in (True, True, False, True):  # the third target fails before it prints a state
        for name, text in (("tap-autopilot", TAP), ("target-jsonl", TARGET.format(prints=prints))):
            program = tmp_path / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(f"#!{sys.executable}\n{text}")
            program.chmod(0o755)
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-c", block], cwd=tmp_path, env={**os.environ, "PATH": path},
            capture_output=True, check=False,
        )  # fmt: skip
        assert not done.stderr
        found.append(json.loads((tmp_path / "state.json").read_text())["n"])
    assert found == [1, 2, 2, 3]


def test_an_empty_state_is_a_first_run(tap: Tap, serve: Serve) -> None:
    run = tap.sync(serve(Account(contacts=5)), state="")
    assert run.code == 0
    assert len(run.rows("contacts")) == 5
    said = f"INFO The state file {tap.folder / 'state.json'} is empty; starting from the beginning."
    assert said in run.log
