"""The docs are accurate: the messages, options and figures that they quote are real."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import pytest

import tap_autopilot
from benchmarks.figures import BLOCK, PROGRAMS, documents, recorded, written
from tap_autopilot import exceptions
from tap_autopilot.about import about
from tap_autopilot.cli import _parser
from tap_autopilot.pushed.rows import PROPERTIES, TRAITS
from tap_autopilot.sandbox.account import Account
from tests.conftest import Serve, Tap
from tests.invariants import DOCUMENTED
from tools import meltano_definitions

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PROXIES = ("nginx", "caddy")


def texts(code: CodeType) -> Iterator[str]:
    """The texts in compiled code, which has neither comments nor docstrings."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from texts(constant)
        elif isinstance(constant, str):
            yield constant


@pytest.fixture(scope="module")
def said() -> set[str]:
    """The texts of all modules of the tap and its collector."""
    found: set[str] = set()
    for module in pkgutil.walk_packages(tap_autopilot.__path__, "tap_autopilot."):
        loader = importlib.util.find_spec(module.name).loader  # type: ignore[union-attr]
        source = loader.get_source(module.name)  # type: ignore[union-attr]
        if ".sandbox" not in module.name:
            found |= {*texts(compile(source, module.name, "exec", optimize=2, dont_inherit=True))}
    return found


@pytest.mark.parametrize("piece", DOCUMENTED)
def test_troubleshooting_quotes_real_messages(said: set[str], piece: str) -> None:
    """The other way round, every run in the tests must end with a message that it quotes."""
    for part in re.split(r"\d{3}|tap-autopilot\S*", piece):  # a status or a program is inserted
        assert any(part in text for text in said), piece


def test_the_meltano_definitions_are_up_to_date() -> None:
    """To update them: python -m tools.meltano_definitions --write."""
    for path, text in meltano_definitions.files().items():
        assert path.read_text() == text, path.name


def test_the_tested_targets_are_those_of_the_makefile() -> None:
    """With the same versions; the tests of the targets use the settings on the page."""
    makefile, page = ((ROOT / path).read_text() for path in ("Makefile", "docs/targets.md"))
    installed = re.findall(r"^PACKAGES_\w+ := ([\w-]+)==([\d.]+)", makefile, re.MULTILINE)
    installed += re.findall(r"^PACKAGES_\w+ := \S+/([\w-]+)@(\w{7})", makefile, re.MULTILINE)
    rows = [
        (name, cells.partition(" |")[0])
        for name, cells in re.findall(r"^\| `([\w-]+)`[^|]*\| (.*)", page, re.MULTILINE)
        if "avoid" not in cells
    ]
    assert len(rows) >= 12
    assert {name for name, _ in rows} == {name for name, _ in installed}
    for name, version in installed:
        assert any(one == name and version in told for one, told in rows), (name, version)


def test_make_help_lists_all_commands() -> None:
    phony = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    told = subprocess.check_output(
        ["make", "--silent", "help"], cwd=ROOT, text=True, env={"PATH": os.environ["PATH"]}
    )
    assert [line.split()[1] for line in told.splitlines()] == phony[1].split()  # type: ignore[index]


def test_every_link_works() -> None:
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    for path in [*pages, *DOCS.rglob("*.md")]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_the_map_names_real_files() -> None:
    """The first table those of the tap, the second those of the collector."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    tap, collector = (part.partition("\n\n")[0] for part in text.split("| to change | go to |")[1:])
    for rows, package in ((tap, "tap_autopilot"), (collector, "tap_autopilot/collector")):
        paths = re.findall(r"`([\w/.]+(?:\.py|/))`", rows)
        assert len(paths) > 15
        for path in paths:
            assert (ROOT / package / path).exists() or (ROOT / path).exists(), path


def test_each_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for path in [*DOCS.glob("*.md"), DOCS / "nightly.sh"]:
        assert f"docs/{path.name}" in readme


def test_the_example_of_an_event_names_what_the_tap_reads() -> None:
    example = re.search(r"client\.track\(.*?\n\)", (DOCS / "senders.md").read_text(), re.DOTALL)
    assert example is not None
    assert (
        set(re.findall(r'"(\w+)":', example[0])) - {"traits"} <= PROPERTIES.keys() | TRAITS.keys()
    )


def subclasses(base: type[Exception]) -> Iterator[tuple[str, str, str]]:
    """Each class below this one: its name, its parent's, and its module."""
    for one in base.__subclasses__():
        if one.__module__.startswith("tap_autopilot."):
            yield one.__name__, base.__name__, one.__module__.removeprefix("tap_autopilot.")
            yield from subclasses(one)


def documented() -> Iterator[tuple[str, str, str]]:
    parents = [""]
    for line in (exceptions.__doc__ or "").splitlines():
        match = re.match(r"(?:│   |    |├── |└── )*([A-Z]\w+) {2,}\S|([A-Z]\w+)$", line)
        if match:
            depth = len(re.match(r"[│├└─ ]*", line)[0]) // 4  # type: ignore[index]
            name = match[1] or match[2]
            parents[depth + 1 :] = [name]
            module = re.search(r"\(([a-z_.]+)\)$", line)
            yield name, parents[depth], module[1] if module else "exceptions"


def test_the_documented_proxies_log_no_urls() -> None:
    """Both would name the URLs of failed requests, and so a hook's token."""
    page = (DOCS / "collector.md").read_text()
    nginx, caddy = (
        re.search(rf"^```{name}\n(.*?)^```", page, re.MULTILINE | re.DOTALL) for name in PROXIES
    )
    assert nginx is not None
    assert caddy is not None
    assert {"access_log off;", "error_log /dev/null;"} <= set(re.findall(r"\w+_log .*?;", nginx[1]))
    assert re.match(r"\{\n +log \{\n +exclude http\s", caddy[1])


def test_the_documented_nginx_limits_what_an_address_may_hold() -> None:
    """Or a thousand requests that never end take all of its files, and their bodies the disk."""
    page = (DOCS / "collector.md").read_text()
    zone = re.search(r"^limit_conn_zone \$binary_remote_addr zone=(\w+):", page, re.MULTILINE)
    assert zone is not None
    assert f"limit_conn {zone[1]} " in page
    for setting in ("worker_rlimit_nofile ", "send_timeout ", "proxy_request_buffering off;"):
        assert setting in page


def test_the_tree_of_exceptions_is_complete() -> None:
    for module in pkgutil.walk_packages(tap_autopilot.__path__, "tap_autopilot."):
        if not module.name.startswith("tap_autopilot.sandbox") and "__main__" not in module.name:
            importlib.import_module(module.name)
    roots = [exceptions.TapError, exceptions.Retryable, exceptions.Oversized]
    classes = {(one.__name__, "", "exceptions") for one in roots}
    for root in roots:
        classes |= set(subclasses(root))
    assert sorted(documented()) == sorted(classes)


# Figures


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


# The README

README = (ROOT / "README.md").read_text(encoding="utf-8")


def table_below(heading: str) -> list[list[str]]:
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
    said = set(re.findall(r"`(--?[a-z-]+)", " ".join(row[0] for row in table_below("## Use"))))
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
print('{{"n": ', end="")  # killed in the middle of a line
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
