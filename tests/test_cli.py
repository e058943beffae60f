"""The command line, its configuration, and one clear line for every mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot import files
from tap_autopilot.config import Config
from tap_autopilot.exceptions import UserError
from tap_autopilot.sandbox.account import Account
from tap_autopilot.settings import read_json
from tests.conftest import KEY, Serve, Tap
from tests.invariants import check

SMALL = Account(contacts=3, lists=1, segments=1, members=2)


def test_version_and_help_need_nothing(tap: Tap) -> None:
    assert tap.run("--version").stdout.decode().startswith("tap-autopilot 1.")
    text = tap.run("--help").stdout.decode()
    for option in ("--config", "--state", "--catalog", "--properties", "--discover", "--version"):
        assert option in text


def test_discovery_needs_no_config_and_tolerates_a_state(tap: Tap, catalog_text: str) -> None:
    state = tap.file("state.json", {})
    config = tap.file("config.json", {"api_url": "http://192.0.2.1"})
    for arguments in ([], ["--state", state], ["--config", config]):
        run = tap.run(*arguments, "-d")
        assert run.code == 0
        assert run.stdout.decode() == catalog_text


def test_properties_is_the_old_name_of_catalog(tap: Tap, serve: Serve, catalog: Any) -> None:
    sandbox = serve(SMALL)
    catalog["streams"] = [one for one in catalog["streams"] if one["stream"] == "lists"]
    path = tap.file("properties.json", catalog)
    for option in ("-p", "--properties", "--catalog"):
        run = check(tap.call(sandbox, option, path))
        assert [message["stream"] for message in run.of("SCHEMA")] == ["lists"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "api_key is missing"),
        ({"api_key": ""}, "api_key is missing"),
        ({"api_key": None}, "api_key is missing"),
        ({"api_key": 7}, "api_key must be"),
        ({"api_key": "two words"}, "api_key contains"),
        ({"api_key": "kéy"}, "api_key contains"),
        ({"api_key": "a\nb"}, "api_key contains"),
        ({"api_key": "k", "digests": "a\0b"}, "digests must be valid text"),
        ({"api_key": "k", "report_file": "\ud800"}, "report_file must be valid text"),
        ({"api_key": "k", "start_date": "yesterday"}, "start_date must be a date"),
        ({"api_key": "k", "start_date": 5}, "start_date must be"),
        ({"api_key": "k", "api_url": "http://example.com/v1"}, "api_url must start with https"),
        ({"api_key": "k", "api_url": "ftp://example.com"}, "api_url must look like"),
        ({"api_key": "k", "api_url": "https://u:p@example.com"}, "api_url must not contain"),
        ({"api_key": "k", "api_url": "https://example.com:x"}, "api_url is not a valid URL"),
        ({"api_key": "k", "api_url": "//"}, "api_url must look like"),
        ({"api_key": "k", "user_agent": "a\r\nb: c"}, "user_agent must be"),
        ({"api_key": "k", "request_timeout": 0}, "request_timeout must be a number"),
        ({"api_key": "k", "request_timeout": "soon"}, "request_timeout must be a number"),
        ({"api_key": "k", "request_timeout": True}, "request_timeout must be a number"),
        ({"api_key": "k", "retry_timeout": -1}, "retry_timeout must be a number"),
        ({"api_key": "k", "retry_timeout": "nan"}, "retry_timeout must be a number"),
        ({"api_key": "k", "max_requests_per_second": "inf"}, "max_requests_per_second must be"),
        ({"api_key": "k", "max_requests_per_second": []}, "max_requests_per_second must be"),
        ({"api_key": "k", "concurrency": 0}, "concurrency must be a whole number from 1"),
        ({"api_key": "k", "concurrency": 2.5}, "concurrency must be a whole number"),
        ({"api_key": "k", "emit_activate_version_messages": "si"}, "must be true or false"),
        ([], "must be a JSON object"),
        ("", "must be a JSON object"),
        ("{", "is not valid JSON (line 1: Expecting property name enclosed in double quotes)"),
    ],
)
def test_a_mistake_in_the_config_is_one_line(tap: Tap, settings: Any, said: str) -> None:
    run = check(tap.run("--config", tap.file("config.json", settings), key=""))
    assert run.code == 2
    assert said in run.last_words
    assert run.stdout == b""
    assert len(run.log) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nonsense"], "unrecognized arguments: --nonsense; see tap-autopilot --help."),
        (["-x"], "unrecognized arguments: -x;"),
        (["--conf", "c.json"], "unrecognized arguments: --conf (did you mean --config?);"),
        (["--select", "contacts,", "lists"], "unrecognized arguments: lists;"),
        (["contacts.json", "Contacts"], "unrecognized arguments: contacts.json, (not shown);"),
        (["--format", "xml"], "argument --format: invalid choice;"),
        (["--config"], "argument -c/--config: expected one argument;"),
        (
            ["--test", "--discover"],
            "argument -d/--discover: not allowed with argument --test; see tap-autopilot --help.",
        ),
        (["--catalog", "x", "--select", "lists"], "--select and --catalog cannot be combined."),
        (["--about", "--test"], "argument --test: not allowed with argument --about;"),
        (["--format", "json"], "--format needs --about;"),
        (["--full-refresh", "lists"], "--full-refresh needs --state"),
        (["--select", "people,lists"], "unknown streams: people; choose from contacts,"),
        (["--select", "contatcs"], "unknown streams: contatcs (did you mean contacts?); choose"),
        (["--select", ","], "has no streams"),
        (["--select", "membership_changes"], "membership_changes needs the setting digests"),
        (["--select", "activities"], "activities needs the setting collector_database"),
        (["--test", "--state", "missing.json"], "Cannot read the state file"),
        (["--test", "--catalog", "missing.json"], "Cannot read the catalog file"),
        (["--test", "--select", "contacts,foo"], "--select has unknown streams: foo"),
        (["--test", "--full-refresh", "contacts"], "--full-refresh needs --state"),
    ],
)
def test_a_mistake_in_the_arguments_is_one_line(
    tap: Tap, serve: Serve, arguments: list[str], said: str
) -> None:
    sandbox = serve(SMALL)
    run = check(tap.call(sandbox, *arguments))
    assert run.code == 2
    assert said in run.last_words
    assert len(run.log) == 1
    assert not run.stdout
    assert not sandbox.requests


def test_all_mistakes_are_reported_together(tap: Tap) -> None:
    run = tap.run("-c", tap.file("c.json", {"concurrency": 0, "request_timeout": 0}))
    for name in ("api_key", "concurrency", "request_timeout"):
        assert name in run.last_words


def test_a_config_is_required_and_must_exist(tap: Tap) -> None:
    missing = "api_key is missing (set it in a --config file, or as TAP_AUTOPILOT_API_KEY)"
    run = check(tap.run())
    assert (run.code, run.log) == (2, [f"CRITICAL Invalid config: {missing}."])
    for option in ([], ["--discover"]):
        run = check(tap.run("-c", "missing.json", *option))
        assert run.code == 2
        assert "Cannot read the config file missing.json: No such file" in run.last_words


def test_settings_may_be_strings(tap: Tap, serve: Serve) -> None:
    settings = {"request_timeout": "30", "concurrency": "2", "max_requests_per_second": "500.5"}
    more = {"emit_activate_version_messages": "False", "start_date": "2015-01-01"}
    run = tap.sync(serve(SMALL), **settings, **more)
    assert run.code == 0
    assert len(run.rows("contacts")) == 3
    assert not run.of("ACTIVATE_VERSION")


def test_harmless_mistakes_are_warnings(tap: Tap, serve: Serve) -> None:
    run = tap.sync(serve(SMALL), api_key=f"  {KEY}\n", colour="blue")
    assert run.code == 0
    assert any("whitespace" in line and line.startswith("WARNING") for line in run.log)
    assert any(": colour." in line and line.startswith("WARNING") for line in run.log)


def test_the_sample_config_is_valid(caplog: pytest.LogCaptureFixture) -> None:
    sample = Path(__file__).parents[1] / "sample_config.json"
    config = Config.from_mapping(json.loads(sample.read_text()))
    assert caplog.records == []
    assert config == Config(config.api_key, user_agent=config.user_agent)  # the rest are defaults


@pytest.mark.parametrize(
    ("option", "content", "said"),
    [
        ("--catalog", "", "is empty"),
        ("--catalog", "{", "is not valid JSON"),
        ("--catalog", '{"streams": [{}]}', 'no "tap_stream_id"'),
        ("--state", "{", "is not valid JSON"),
        (
            "--state",
            "{}\n{}\n",
            "(line 2: Extra data). If it has several STATEs, keep only the last line.",
        ),
        ("--state", "state.json: what?", "is not valid JSON"),
    ],
)
def test_a_mistake_in_another_file_is_one_line(
    tap: Tap, serve: Serve, option: str, content: str, said: str
) -> None:
    sandbox = serve(SMALL)
    run = check(tap.call(sandbox, option, tap.file("file.json", content)))
    assert run.code == 2
    assert said in run.last_words
    assert run.stdout == b""
    assert sandbox.requests == []


def test_a_wrong_key_is_reported_after_one_request_per_walk(tap: Tap, serve: Serve) -> None:
    sandbox = serve(SMALL)
    run = tap.sync(sandbox, api_key="of-somebody-else")
    assert run.code == 2
    assert "status 401" in run.last_words
    assert "Settings" in run.last_words
    assert len(run.requests) <= 4


def test_sent_with_every_request(tap: Tap, serve: Serve) -> None:
    sandbox = serve(SMALL)
    tap.sync(sandbox, user_agent="nightly (ops@here)")
    for request in sandbox.requests:
        assert request.headers["autopilotapikey"] == KEY
        assert request.headers["user-agent"] == "nightly (ops@here)"
        assert request.headers["accept-encoding"] == "gzip"


def test_discovery_is_json_in_any_locale(tap: Tap, catalog_text: str) -> None:
    assert json.loads(tap.run("-d", LC_ALL="C", PYTHONUTF8="0").stdout) == json.loads(catalog_text)


def test_the_end_of_a_run_takes_no_search_for_cycles() -> None:
    program = (
        "import gc, sys; from tap_autopilot.__main__ import main;"
        " sys.exit(main() or not gc.get_freeze_count())"
    )
    command = [sys.executable, "-c", program, "--about"]
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


# Files that are none, or far too large


@pytest.mark.parametrize("kind", ["config", "state", "catalog"])
def test_a_file_is_read_only_up_to_a_size(tap: Tap, kind: str) -> None:
    with (tap.folder / "large.json").open("wb") as sparse:
        sparse.truncate(files.MAX_SIZE + 1)
    run = check(tap.call(None, f"--{kind}", "large.json"))
    assert run.code == 2
    assert run.log == [f"CRITICAL Cannot read the {kind} file large.json: larger than 10 MB."]


def test_a_pipe_without_a_writer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "WAIT_FOR_WRITER", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"the state file .*pipe: no end after 0\.1 s\.$"):
        read_json(str(tmp_path / "pipe"), "state")


def test_a_pipe_is_read_to_its_end() -> None:
    reader, writer = os.pipe()
    settings = {"user_agent": "é" * 100_000}

    def write() -> None:
        with os.fdopen(writer, "w", encoding="utf-8") as pipe:
            json.dump(settings, pipe, ensure_ascii=False)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert read_json(f"/dev/fd/{reader}", "config") == settings
    finally:
        os.close(reader)
        thread.join()


@pytest.mark.parametrize(
    "odd", ["/proc/self/mem", "/dev/zero", "/", "/dev/null/digests", "no/such", "n" * 300]
)
def test_digests_that_cannot_be_a_file_are_one_line(tap: Tap, odd: str) -> None:
    run = check(tap.call(digests=odd))
    assert run.code == 2
    assert f"he digests file {odd}" in run.last_words
    assert len(run.log) == 1


@pytest.mark.parametrize("name", [":memory:", "file:digests?mode=memory", "a?b#c%41"])
def test_digests_of_any_name_are_a_file(tap: Tap, serve: Serve, name: str) -> None:
    state: Any = {}
    for rows in (3, 0):
        options = ["--state", tap.file("state.json", state), "--select", "contacts"]
        run = check(tap.call(serve(Account(contacts=3)), *options, digests=name))
        assert run.code == 0
        assert len(run.rows("contacts")) == rows
        state = run.of("STATE")[-1]


@pytest.mark.parametrize("setting", ["digests", "report_file"])
@pytest.mark.parametrize("options", [(), ("--test",)])
def test_an_address_is_no_file_and_its_password_is_not_shown(
    tap: Tap, setting: str, options: tuple[str, ...]
) -> None:
    settings = {setting: "postgresql://u:s3cret-of-the-test@db/x"}
    run = check(tap.call(None, *options, **settings))
    assert run.code == 2
    assert run.log == [f"CRITICAL Invalid config: {setting} must be a file, not an address."]


@pytest.mark.parametrize("kind", ["state", "catalog"])
def test_the_name_of_a_file_cannot_be_empty(tap: Tap, kind: str) -> None:
    """As from `--catalog "$CATALOG"` with a misspelt variable; without one, all columns are sent."""
    run = check(tap.call(None, f"--{kind}", ""))
    assert run.code == 2
    assert f"Cannot read the {kind} file" in run.last_words


@pytest.mark.parametrize(
    ("settings", "options", "same"),
    [
        ({"digests": "c.json"}, (), "c.json"),
        ({"digests": "s"}, ("--state", "s"), "s"),
        ({"digests": "s"}, ("--catalog", "s"), "s"),
        ({"digests": "s", "collector_database": "s"}, (), "s"),
        ({"digests": "/dev/stdout"}, (), "/dev/stdout"),
        ({"report_file": "c.json"}, (), "c.json"),
        ({"report_file": "s"}, ("--state", "s"), "s"),
        ({"report_file": "s"}, ("--catalog", "s"), "s"),
        ({"report_file": "hard link"}, ("--state", "s"), "s"),
        ({"report_file": "/dev/stdout"}, (), "/dev/stdout"),
        *(({"report_file": f"s{suffix}", database: "s"}, (), f"s{suffix}")
          for database in ("digests", "collector_database") for suffix in ("", "-wal", "-journal")),
    ],
)  # fmt: skip
def test_a_file_that_the_tap_writes_is_not_another_file_of_the_run(
    tap: Tap, serve: Serve, settings: dict[str, str], options: tuple[str, ...], same: str
) -> None:
    paths = [Path(tap.file(f"s{suffix}", "{}")) for suffix in ("", "-wal", "-journal")]
    (tap.folder / "hard link").hardlink_to(paths[0])
    sandbox = serve(SMALL)
    run = check(tap.call(sandbox, *options, **settings))
    assert (run.code, run.stdout, sandbox.requests) == (2, b"", [])
    setting, said = next(iter(settings)), run.last_words.replace(f"{tap.folder}/", "")
    assert said == f"CRITICAL {setting} and {same} must be different files."
    assert {path.read_text() for path in paths} == {"{}"}
    assert json.loads((tap.folder / "c.json").read_text())
