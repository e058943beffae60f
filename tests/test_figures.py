"""The figures in the README and the docs are those that were recorded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.__main__ import lines_of, table
from benchmarks.figures import BLOCK, PROGRAMS, Figure, documents, recorded, written
from benchmarks.pipeline import rows_sent


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_figures_are_quoted_as_recorded(path: Path) -> None:
    text = path.read_text()
    assert written(text, recorded()) == text
    assert text.count("<!-- figures:") == len(BLOCK.findall(text))


def test_every_figure_is_quoted_with_its_command_and_code() -> None:
    every = "\n".join(path.read_text() for path in documents())
    quoted = {name for names, _ in BLOCK.findall(every) for name in names.split()}
    assert recorded().keys() <= quoted == PROGRAMS.keys()
    for name, figure in recorded().items():
        assert figure.command.startswith(f"python -m {PROGRAMS[name].split()[0]}")
        assert re.fullmatch("[0-9a-f]{40}", figure.code)


def test_a_figure_is_shown_as_its_block_says() -> None:
    long = "word " * 40
    figures = {
        "kills": Figure("python -m a", "0123456789ab", "2026-01-02", f"{long}\n"),
        "tap": Figure(
            "python -m b", "0123456789ab", "2026-01-02", "- one\n\n| a |\n| - |\n| 1 |\n"
        ),
    }

    def shown(how: str) -> str:
        return written(f"x\n<!-- figures: {how} -->\nold\n<!-- end of figures -->\ny", figures)

    lines = shown("kills, quoted").splitlines()[2:-2]
    assert all(line.startswith("> ") and len(line) <= 100 for line in lines)
    assert lines[-1].endswith("(`python -m a`, code `0123456789`, 2026-01-02)")
    where = "`python -m b`, code `0123456789`, 2026-01-02."
    assert shown("tap, list").splitlines()[2:-2] == ["- one", "", where]
    assert shown("tap, table").splitlines()[2:-2] == ["| a |", "| - |", "| 1 |", "", where]
    printed = ["```text", "- one", "", "| a |", "| - |", "| 1 |", "```", "", where]
    assert shown("tap, printed").splitlines()[2:-2] == printed


def test_results_become_a_list_and_a_table() -> None:
    ours = {"exit_code": 0, "cpu": 1.0, "wall": 2.0, "memory": 40.0, "requests": 9, "throttled": 0,
            "used": 0.96, "cpu ratio": 1.0, "wall ratio": 1.0}  # fmt: skip
    floor = {**ours, "cpu ratio": 0.75}
    sdk = {**ours, "cpu ratio": 3.4, "wall": 35.0}
    results = {
        "deep": {"tap-autopilot": ours, "floor": floor, "singer-sdk": sdk, "0.3.0": sdk},
        "wide": {"tap-autopilot": ours, "floor": floor, "singer-sdk": sdk,
                 "singer-sdk unchecked": sdk},
        "limit 5": {"tap-autopilot": ours, "0.3.0": {**ours, "exit_code": 1}},
    }  # fmt: skip
    deep, wide, limit = lines_of(results)
    assert deep == (
        "- 2,000 contacts, 60 segments of 500, 100 ms a response (*deep*, default settings): 2.0 s;"
        " the floor takes 2.0 s, the SDK's tap 35.0 s, 0.3.0 35.0 s"
    )
    assert wide.endswith(
        "(*wide*): this tap takes 1.33 times the CPU time of the floor; the SDK's takes 3.4 times as"
        " much as this one, 3.4 times without its checks"
    )
    assert limit == "- *limit 5*: this tap uses 96% of what the API allows"
    lines = table(results)
    assert "| wide | floor | 1.00 | 2.00 | 40 | 9 | 0 | 0.75 | 1.00 |" in lines
    assert lines[-1] == "| limit 5 | 0.3.0 (failed) | 1.00 | 2.00 | 40 | 9 | 0 |  |  |"


def test_the_rows_of_a_load_are_counted_once() -> None:
    log = (
        "INFO contacts: 20,000 rows, 202 requests.\nINFO lists: 8 rows, 1 request.\n"
        "INFO Complete: 20,008 rows in 2 tables, 3 s.\n"
    )
    assert rows_sent(log) == 20_008
