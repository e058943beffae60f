"""Settings from all sources, and what the command tells people and tools."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from typing import Any

import pytest

from tap_autopilot import cli
from tap_autopilot.collector import cli as collector_cli
from tap_autopilot.config import Config
from tap_autopilot.sandbox.account import Account
from tap_autopilot.streams import STREAMS
from tests.conftest import KEY, Serve, Tap
from tests.invariants import check
from tests.scripted import Scripted

FIELDS = [field.name for field in dataclasses.fields(Config)]

ACCOUNT = Account(contacts=250, lists=3, segments=3, members=120)


def test_the_environment_is_enough(tap: Tap, serve: Serve) -> None:
    sandbox = serve(ACCOUNT)
    variables = {
        "TAP_AUTOPILOT_API_KEY": KEY,
        "TAP_AUTOPILOT_API_URL": sandbox.url,
        "TAP_AUTOPILOT_MAX_REQUESTS_PER_SECOND": "1000",
        "TAP_AUTOPILOT_EMIT_ACTIVATE_VERSION_MESSAGES": "false",
    }
    for arguments in ([], ["--config", "ENV"], ["--config=ENV"]):
        run = check(tap.run(*arguments, **variables))
        assert run.code == 0
        assert len(run.rows("contacts")) == 250
        assert not run.of("ACTIVATE_VERSION")


def test_later_sources_of_settings_win(tap: Tap, serve: Serve) -> None:
    sandbox = serve(ACCOUNT)
    first = tap.file("first.json", tap.config(sandbox, api_key="wrong", start_date="9000-01-01"))
    second = tap.file("second.json", {"api_key": KEY})
    variables = {"TAP_AUTOPILOT_API_KEY": "wrong", "TAP_AUTOPILOT_START_DATE": ""}
    assert check(tap.run("--config", first, "-c", second, **variables)).code == 0
    url = tap.file("url.json", {"api_url": sandbox.url})
    good = {"TAP_AUTOPILOT_API_KEY": KEY, "TAP_AUTOPILOT_API_URL": "http://127.0.0.1:1/v1"}
    assert tap.run("--config", url, "--test", **good).code == 0, "files lack only the key"
    assert check(tap.run("--config", second, "-c", first)).code == 2
    assert check(tap.run("--config", first, "-c", "ENV", "-c", second, **variables)).code == 0
    assert check(tap.run("--config", first, "-c", second, "-c", "ENV", **variables)).code == 2


def test_a_key_in_the_url_is_not_printed(tap: Tap) -> None:
    run = tap.run(TAP_AUTOPILOT_API_KEY=KEY, TAP_AUTOPILOT_API_URL=f"http://127.0.0.1:{KEY}/v1")
    assert run.code == 2
    assert KEY not in run.stderr


def test_mistakes_in_the_environment_are_reported_too(tap: Tap) -> None:
    run = check(tap.run(TAP_AUTOPILOT_CONCURRENCY="many", TAP_AUTOPILOT_API_KEY=KEY))
    assert run.code == 2
    assert "concurrency must be a whole number" in run.last_words


@pytest.mark.parametrize("option", ["--select", "--streams"])
def test_a_run_without_a_catalog_can_name_its_streams(tap: Tap, serve: Serve, option: str) -> None:
    run = check(tap.call(serve(ACCOUNT), option, "lists, email_opened,"))
    assert run.code == 0
    assert [message["stream"] for message in run.of("SCHEMA")] == ["lists", "email_opened"]


def test_about_in_json_is_complete(tap: Tap) -> None:
    about = json.loads(tap.run("--about", "--format", "json").stdout)
    assert about["name"] == "tap-autopilot"
    assert {"catalog", "discover", "state", "about"} <= set(about["capabilities"])
    settings = about["settings"]["properties"]
    assert list(settings) == FIELDS
    assert [name for name, one in settings.items() if one["secret"]] == [
        "api_key",
        "collector_database",
    ]
    assert about["settings"]["required"] == ["api_key"]
    assert settings["concurrency"]["default"] == 8
    assert settings["concurrency"]["env"] == "TAP_AUTOPILOT_CONCURRENCY"
    assert [one["name"] for one in about["streams"]] == list(STREAMS)
    assert about["streams"][0]["replication_methods"] == ["FULL_TABLE", "INCREMENTAL"]


def test_the_test_estimates_a_run(tap: Tap, serve: Serve) -> None:
    sandbox = serve(Account(contacts=12_345, segments=3, members=450))
    command = tap.command(sandbox, "--test", max_requests_per_second=40)
    done = subprocess.run(command, capture_output=True, check=True)
    assert re.fullmatch(  # on a slow machine both rates may take as long
        r"The API key works\. The account has 12,345 contacts and 3 smart segments, with 900 members"
        r" in them\.\nA run of all tables takes about 138 requests: \d+ s(?: at 5 requests a"
        r" second, Autopilot's published limit, or \d+ s at 40, if the API allows that)?"
        r"\.\n",
        done.stdout.decode(),
    )
    assert len(sandbox.requests) == 2 + 3


def test_a_slow_api_takes_as_long_at_any_rate(tap: Tap, serve: Serve) -> None:
    sandbox = serve(Account(contacts=2_500, segments=0), latency=0.3)
    command = tap.command(sandbox, "--test", max_requests_per_second=20)
    said = subprocess.check_output(command).decode()
    assert re.search(r"takes about 28 requests: \d+ s\.\n", said)


def test_the_test_asks_some_segments_only(tap: Tap, serve: Serve) -> None:
    sandbox = serve(Account(contacts=5, segments=30, members=10), "/smart_segments/@5:404")
    run = tap.call(sandbox, "--test")
    assert "30 smart segments, with " in run.stdout.decode()
    assert "in the first 20 of them." in run.stdout.decode()
    said = r"34 requests, if the others are as large: \d+ s at max_requests_per_second, 1000\."
    assert re.search(said, run.stdout.decode())


def test_the_test_tries_what_the_settings_name(tap: Tap, serve: Serve) -> None:
    sandbox = serve(Account(contacts=1, segments=1, members=1))
    folder = tap.folder / "digests"
    folder.mkdir()
    wrong = {"report_file": "no/such/file", "collector_database": "missing.db"}
    run = check(tap.call(sandbox, "--test", digests=str(folder), **wrong))
    assert run.code == 2
    assert "Cannot use report_file no/such/file: there is no folder no/such. " in run.last_words
    assert f"Cannot use digests {folder}: Is a directory. " in run.last_words
    assert "Cannot use collector_database: There is no store at missing.db. " in run.last_words
    notes = tap.file("notes.txt", "notes")
    run = tap.call(sandbox, "--test", digests=notes)
    assert run.last_words.endswith(
        "notes.txt is damaged, or not a digests file. Name another file."
    )
    assert not sandbox.requests
    (tap.folder / "notes.txt").unlink()
    run = tap.call(sandbox, "--test", report_file="runs.jsonl", digests="digests.db")
    assert run.stdout.startswith(
        b"The API key, report_file and digests work. The account has 1 contact and 1 smart segment,"
    )
    assert sorted(path.name for path in tap.folder.iterdir()) == ["c.json", "digests"]


def test_a_url_without_the_version_fails_the_connection_test(tap: Tap, serve: Serve) -> None:
    sandbox = serve(Account(contacts=5))
    for url in (sandbox.url.removesuffix("/v1"), sandbox.url.replace("/v1", "/v2")):
        run = check(tap.call(sandbox, "--test", api_url=url))
        assert run.code == 2
        assert "status 404" in run.last_words
        assert "Check api_url, which should end in /v1" in run.last_words


def test_a_segment_id_that_is_too_long_ends_the_test_in_one_line(tap: Tap) -> None:
    with Scripted({"/smart_segments": {"segments": [{"segment_id": "s" * 401}]}}) as sandbox:
        run = check(tap.call(sandbox, "--test"))
    assert run.code == 1
    assert "GET /smart_segments: the response has an id of more than 400" in run.last_words


def test_meltano_requests_json_through_a_file(tap: Tap, serve: Serve) -> None:
    asked = {
        "formatters": {"one": {"()": "singer_sdk.logging.StructuredFormatter"}},
        "root": {"level": "WARNING"},
    }
    environment = {"SINGER_SDK_LOG_CONFIG": tap.file("logging.json", asked)}
    config = tap.file("config.json", tap.config(serve(ACCOUNT, "2:503")))
    log = tap.run("--config", config, **environment).log
    assert {json.loads(line)["level"] for line in log} == {"warning"}
    for odd in (
        "{",
        "[]",
        '{"formatters": {"a": 5}}',
        '{"formatters": {}, "root": {"level": "LOUD"}}',
    ):
        environment = {"SINGER_SDK_LOG_CONFIG": tap.file("logging.json", odd)}
        assert check(tap.run("--config", config, **environment)).code == 0


def test_a_higher_level_hides_what_is_below(tap: Tap, serve: Serve) -> None:
    run = tap.call(serve(ACCOUNT, "2:503"), log_level="WARNING")
    assert run.code == 0
    assert run.log
    assert all(line.startswith("WARNING") for line in run.log)


def test_similar_messages_are_only_counted_after_the_first(tap: Tap, serve: Serve) -> None:
    account = Account(contacts=20, lists=0, segments=70, members=2)
    run = check(tap.call(serve(account, "/smart_segments@2-:400")))
    assert run.code == 1
    assert sum("METRIC" not in line for line in run.log) < 70
    errors = [line for line in run.log if line.startswith("ERROR")]
    assert len(errors) < 50
    assert re.match(r"ERROR … and \d\d more like: GET /smart_segments/", run.log[-2])


def test_a_start_date_says_that_nothing_is_deleted(tap: Tap, serve: Serve) -> None:
    run = tap.sync(serve(ACCOUNT), start_date="2016-01-01")
    said = "start_date is set, so deleted rows stay in contacts and the email tables."
    assert f"INFO {said}" in run.log
    silent: dict[str, Any] = {"start_date": "2016-01-01", "emit_activate_version_messages": False}
    for settings in ({}, silent):
        assert said not in tap.sync(serve(ACCOUNT), **settings).stderr
    config = tap.file("config.json", tap.config(serve(ACCOUNT), start_date="2016-01-01"))
    for name, says in (("email_opened", True), ("lists", False)):
        assert (said in tap.run("--config", config, "--select", name).stderr) is says
    marks = tap.call(serve(ACCOUNT), digests=str(tap.folder / "digests"), **silent)
    assert f"INFO {said}" in marks.log


def test_a_misspelt_variable_causes_a_warning(tap: Tap, serve: Serve) -> None:
    config = tap.file("config.json", tap.config(serve(ACCOUNT)))
    variables = {
        "TAP_AUTOPILOT_CONCURENCY": "2",
        "TAP_AUTOPILOT_K3Y": KEY,
        "TAP_AUTOPILOT_COLLECTOR_LISTEN": "the collector's",
        "TAP_AUTOPILOT_COLLECTOR_DATABSE": "events.db",
        "TAP_AUTOPILOT__SELECT": "Meltano's",
    }
    run = check(tap.run("--config", config, "--select", "lists", **variables))
    assert run.code == 0
    said = "WARNING Ignored an unknown environment variable: "
    assert [line for line in run.log if "environment" in line] == [
        f"{said}TAP_AUTOPILOT_CONCURENCY (did you mean TAP_AUTOPILOT_CONCURRENCY?).",
        f"{said}(not shown) (did you mean TAP_AUTOPILOT_API_KEY?).",
        f"{said}TAP_AUTOPILOT_COLLECTOR_DATABSE (did you mean TAP_AUTOPILOT_COLLECTOR_DATABASE?).",
    ]


@pytest.mark.parametrize("command", [cli, collector_cli])
def test_the_help_ends_with_examples_and_where_to_read_on(command: Any) -> None:
    text = command._parser().format_help()
    name = command._parser().prog
    assert text.startswith(f"usage: {name} [option ...]\n")
    examples = [line for line in text.splitlines() if line.startswith(f"  {name} --")]
    assert len(examples) == 2
    assert "https://" in text.splitlines()[-1]
    assert max(map(len, text.splitlines())) <= 100
