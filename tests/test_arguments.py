"""A key typed where it does not belong is shown nowhere: not on stderr, not in the report."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pytest

from tap_autopilot.arguments import NOT_SHOWN, shown_file, shown_name
from tap_autopilot.collector.cli import main
from tests.collector.conftest import ROOT, Collector
from tests.conftest import PATIENCE
from tests.fork_server import Main, every, finished, hasty

KEYS = ["0123456789abcdef0123456789abcdef", "-Zq9'\"x", "k/e+y=~!", "ключ-K3Y", "Ab" * 3000]
BOTH = [
    "--config={}", "--config={{\"api_key\": \"{}\"}}", "-c{}", "-k{}", "-v{}", "{}", "--{}",
    "--key={}", "--api-key={}", "--format={}", "--about={}", "--version={}", "--state={}",
]  # fmt: skip
TAP = [*BOTH, "-d{}", "-s{}", "--select={}", "--catalog={}", "--test={}", "-p{}", "--discover={}"]
COLLECTOR = [
    *BOTH, "--database={}", "--database=missing/{}", "--listen={}", "--prune={}",
    "--register-hooks={}", "--unregister-hooks={}", "--check={}", "--stats={}", "--forget-destination={}",
    "--backup=missing/{}",
]  # fmt: skip


Shown = list[tuple[str, int, str]]


def spellings(argument: str) -> list[list[str]]:
    """An argument as it is and, if it may be, with its value as another argument."""
    name, equals, value = argument.partition("=")
    apart = equals and not value.startswith("-") and name != "--version"  # which ends the program
    return [[argument], [name, value]] if apart else [[argument]]


def shown(main: Main, form: str, folder: Path, *more: str, **environment: str) -> Shown:
    """What a program shows of each key: the key, the exit code, and the output."""
    calls = [
        (key, [*more, *arguments]) for key in KEYS for arguments in spellings(form.format(key))
    ]
    run_all = partial(every, main, [command for _, command in calls])
    texts = finished(run_all, [], folder, environment, PATIENCE)[1].decode().split("\0")[:-1]
    codes = [int(code) for code in texts[1::2]]
    return list(zip([key for key, _ in calls], codes, texts[::2], strict=True))


@pytest.mark.parametrize("form", TAP)
def test_the_tap_shows_no_argument_that_may_be_a_key(tmp_path: Path, form: str) -> None:
    report = tmp_path / "report"
    known = {"TAP_AUTOPILOT_API_KEY": "another", "TAP_AUTOPILOT_REPORT_FILE": str(report)}
    closed = {"TAP_AUTOPILOT_API_URL": "http://127.0.0.1:9", "TAP_AUTOPILOT_RETRY_TIMEOUT": "0"}
    reported = ""
    found = shown(hasty, form, tmp_path, **known, **closed)
    if report.exists():
        reported = re.sub('"run_id": "[0-9a-f]*"', "", report.read_text())
    for key, code, text in found:
        assert code == 2, text
        assert len(text.splitlines()) == 1
        assert_hidden(key, text + reported)


@pytest.mark.parametrize("form", COLLECTOR)
def test_the_collector_shows_no_argument_that_may_be_a_key(tmp_path: Path, form: str) -> None:
    more = ["--prune"] if "state" in form else ["--stats"] if "database" in form else []
    collector = Collector(tmp_path)
    if "forget" in form or "backup" in form:
        assert collector.run("--check").returncode == 0  # creates a store
    for key, code, text in shown(main, form, ROOT, *collector.arguments(*more)):
        assert code == 2, text
        assert_hidden(key, text)


def assert_hidden(key: str, text: str) -> None:
    """Fail if a text shows nine characters of a key: a random id has fewer in common with it."""
    for form in {key, ascii(key)[1:-1], json.dumps(key)[1:-1]}:
        parts = {form[at : at + 9] for at in range(max(1, len(form) - 8))}
        assert not [part for part in parts if part in text], text[:1000]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_in_the_place_of_a_settings_name_is_not_shown(tmp_path: Path, key: str) -> None:
    settings = {key: "", "flatten": 1, "destinations": [{key: 1}]}
    done = Collector(tmp_path, **settings).run("--stats")
    assert "Ignored an unknown setting: flatten." in done.stderr
    assert "destinations has an unknown member (not shown)" in done.stderr
    assert_hidden(key, done.stderr)


@pytest.mark.parametrize(
    "name",
    ["config.json", "/etc/tap/state-1.json", "../x y/events.db", "state", "../a-b/catalog_c"],
)
def test_names_of_missing_files_are_shown(name: str) -> None:
    assert shown_file(name) == name


def test_names_of_files_that_exist_are_shown(tmp_path: Path) -> None:
    (tmp_path / "Odd1").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("Odd1", "link"):
        assert shown_file(str(tmp_path / name)) == str(tmp_path / name)
    assert shown_file(str(tmp_path / "other")) == NOT_SHOWN


def test_names_of_streams_are_shown_without_digits() -> None:
    assert shown_name("email_opend") == "email_opend"
    assert shown_name("email_*") == "email_*"
    for odd in ("k3y", "Key", "a" * 31, "é", ""):
        assert shown_name(odd) == NOT_SHOWN
