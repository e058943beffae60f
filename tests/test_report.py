"""What a run reports to tools: its final report, metrics, and JSON log lines."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.exceptions import RunError
from tap_autopilot.run.changes import Changes
from tap_autopilot.sandbox.account import Account
from tap_autopilot.streams import STREAMS as ALL
from tests import in_process
from tests.conftest import KEY, PATIENCE, Serve, Tap, wait_until
from tests.conftest import USUAL_STREAMS as STREAMS
from tests.invariants import Run, check, forms
from tests.pushed_store import CALL, PushedStore
from tests.recording import Sandbox
from tests.replica import DELETED_AT
from tests.scripted import Scripted, page
from tests.test_signals import running

ACCOUNT = Account(contacts=250, lists=3, segments=3, members=120)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "reports"
    folder.mkdir()
    return folder / "runs.jsonl"


def reports(file: Path) -> list[dict[str, Any]]:
    text = file.read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def json_lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.log]


def test_each_run_appends_its_report(tap: Tap, serve: Serve, file: Path) -> None:
    sandbox = serve(ACCOUNT, "/contacts@2:503", "/lists@1:429,retry-after=1")
    first = tap.sync(sandbox, report_file=str(file))
    tap.sync(serve(ACCOUNT), report_file=str(file))
    report, second = reports(file)
    assert report["run_id"] != second["run_id"]
    assert report["version"].startswith("1.")
    started, ended = (
        datetime.fromisoformat(report[name].replace("Z", "+00:00"))
        for name in ("started_at", "ended_at")
    )
    assert started < ended
    assert (report["exit_code"], report["message"]) == (0, None)
    assert list(report["streams"]) == list(STREAMS)
    for name, stream in report["streams"].items():
        assert stream["rows"] == len(first.rows(name))
        assert stream["complete"] is True
        assert (stream["deletions"], stream["withheld_because"]) == ("sent", None)
    contacts, members = (report["streams"][one] for one in ("contacts", "smart_segments_contacts"))
    assert (contacts["documents"], contacts["reported_total"]) == (250, 250)
    assert (members["documents"], members["reported_total"]) == (240, 240)
    assert report["requests"] == {"200": len(first.requests) - 2, "429": 1, "503": 1}
    assert report["retries"] == 2
    assert 0.5 < report["throttled_seconds"] <= 1
    assert 1 <= report["requests_per_second"] <= 1000
    assert 10e6 < report["peak_memory_bytes"] < 1e9


def test_a_failed_run_says_what_failed(tap: Tap, serve: Serve, file: Path) -> None:
    sandbox = serve(ACCOUNT, "/contacts@2-:500")
    run = tap.sync(sandbox, retry_timeout=0.2, report_file=str(file))
    (report,) = reports(file)
    assert (report["exit_code"], run.code) == (1, 1)
    assert run.last_words == f"CRITICAL {report['message']}"
    contacts, lists = report["streams"]["contacts"], report["streams"]["lists"]
    assert (contacts["rows"], contacts["complete"], contacts["reported_total"]) == (100, False, 250)
    assert contacts["withheld_because"] == "the stream is not complete"
    assert (lists["complete"], lists["deletions"]) == (True, "sent")
    assert report["requests"]["500"] >= 2


def test_what_is_withheld_nulled_and_unknown(tap: Tap, file: Path) -> None:
    odd = {"contact_id": "a", "unsubscribed": "maybe", "x" * 100: 1, "Score": 1}
    answers = {"/contacts": {"contacts": [odd, {"Email": "nobody@example.com"}]}}
    with Scripted(answers) as sandbox:
        tap.sync(sandbox, report_file=str(file))
        tap.sync(sandbox, report_file=str(file), start_date="2016-01-01")
        tap.sync(sandbox, report_file=str(file), emit_activate_version_messages=False)
    doubted, since, off = (one["streams"] for one in reports(file))
    contacts = doubted["contacts"]
    assert (contacts["rows"], contacts["documents"], contacts["skipped"]) == (1, 2, 1)
    assert contacts["nulled"] == {"unsubscribed": 1}
    assert contacts["unknown_fields"] == {"x" * 100: 1, "Score": 1}
    assert contacts["deletions"] == "withheld"
    assert "some documents were skipped" in contacts["withheld_because"]
    assert "the API listed no lists at all" in doubted["lists"]["withheld_because"]
    assert since["contacts"]["withheld_because"] == "start_date is set"
    assert "emit_activate_version_messages" in off["custom_fields"]["withheld_because"]


def test_what_a_collector_received_is_reported(tap: Tap, store: PushedStore, file: Path) -> None:
    store.track(CALL)
    answer = {"contacts": [{"contact_id": "person_1"}], "total_contacts": 1}
    with Scripted({"/contacts": answer}) as sandbox:
        run = tap.sync(sandbox, collector_database=store.path, report_file=str(file))
    (report,) = reports(file)
    pushed = (None, "collector_database")
    assert report["streams"].keys() == {one for one in ALL if ALL[one].setting in pushed}
    for name in ("email_clicked", "email_messages"):
        found = report["streams"][name]
        assert found["rows"] == len(run.rows(name)) == 1
        assert (found["complete"], found["deletions"]) == (True, "withheld")
        assert "a log of events" in found["withheld_because"]
    assert report["streams"]["contacts"]["deletions"] == "sent"


@pytest.mark.parametrize("config", [{"api_key": "k", "concurrency": 0}, {"report_file": None}])
def test_mistakes_in_the_settings_are_reported(tap: Tap, file: Path, config: Any) -> None:
    path = tap.file("config.json", {"report_file": str(file), **config})
    run = check(tap.run("--config", path, TAP_AUTOPILOT_REPORT_FILE=str(file)))
    if config.get("report_file", ...) is None:  # a file overrides the environment
        assert not file.exists()
        return
    (report,) = reports(file)
    assert report["exit_code"] == 2
    assert run.last_words == f"CRITICAL {report['message']}"
    assert "streams" not in report


def test_an_unreadable_config_is_reported_to_the_file_named_by_the_environment(
    tap: Tap, file: Path
) -> None:
    check(tap.run("--config", "missing.json", TAP_AUTOPILOT_REPORT_FILE=str(file)))
    (report,) = reports(file)
    assert "Cannot read the config file" in report["message"]


def test_an_unwritable_file_ends_the_run_before_it_begins(
    tap: Tap, serve: Serve, tmp_path: Path
) -> None:
    sandbox = serve(ACCOUNT)
    (tmp_path / "planted").symlink_to(tmp_path / "elsewhere")
    for path, said in (
        (tmp_path, "Is a directory"),
        (tmp_path / "no/such.jsonl", "No such file"),
        (tmp_path / "planted", "No such file"),
    ):
        run = check(tap.call(sandbox, report_file=str(path)))
        assert run.code == 2
        assert f"Cannot write the report file {path}: {said}" in run.last_words
        assert sandbox.requests == []
        assert not run.stdout
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_is_unwritable_at_the_end_is_a_warning(tap: Tap, file: Path) -> None:
    def answer(_: str) -> Any:
        shutil.rmtree(file.parent)
        return page("a", total=1)

    with Scripted({"/contacts": answer}) as sandbox:
        run = tap.sync(sandbox, report_file=str(file))
    assert run.code == 0
    assert run.log[-2].startswith(f"WARNING Cannot write the report file {file}: No such file")
    assert run.log[-1].startswith("INFO Complete: ")


def test_a_second_signal_is_reported_once_with_the_rows_that_were_written(
    tap: Tap, serve: Serve, file: Path
) -> None:
    sandbox = serve(ACCOUNT, "/contacts@2-:hang")
    settings = {"retry_timeout": 300, "report_file": str(file), "log_format": "json"}
    with running(tap, sandbox, **settings) as process:
        wait_until(lambda: b'"RECORD","stream":"contacts"' in (tap.folder / "out").read_bytes())
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
    (report,) = reports(file)
    assert report["exit_code"] == 143
    written = (tap.folder / "out").read_bytes().count(b'"RECORD","stream":"contacts"')
    assert report["streams"]["contacts"]["rows"] == written == 100
    last = json.loads((tap.folder / "err").read_text().splitlines()[-1])
    assert (last["level"], last["extra"]["report"]) == ("critical", report)


@pytest.mark.parametrize("blocks", [20, 400])
def test_a_failed_write_is_reported_with_the_rows_that_left(
    tap: Tap, serve: Serve, file: Path, blocks: int
) -> None:
    """Here the file that stdout goes to may not grow beyond so many blocks of 512 or 1,024 bytes."""
    command = shlex.join(tap.command(serve(ACCOUNT), report_file=str(file)))
    with (tap.folder / "out").open("wb") as out:
        done = subprocess.run(
            ["sh", "-c", f"ulimit -f {blocks}; exec {command}"],
            stdout=out, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    left = (tap.folder / "out").read_bytes()
    assert done.returncode == 1
    assert "Cannot write to stdout: File too large (EFBIG)" in done.stderr
    (report,) = reports(file)
    whole = Run(1, left[: left.rfind(b"\n") + 1], "")
    counted = {name: stream["rows"] for name, stream in report["streams"].items()}
    assert counted == {name: len(whole.rows(name)) for name in counted}


@pytest.mark.parametrize("rows", [None, 7])
def test_rows_that_were_made_but_not_written_are_not_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rows: int | None
) -> None:
    """The digests file notes what is sent before it is sent, and that may fail at any time."""
    good, left = Changes.save, 0

    def save(self: Changes) -> list[Any]:
        nonlocal left
        left -= 1
        if left == 0:
            raise RunError("Cannot write to the digests file.")
        return good(self)

    monkeypatch.setattr(Changes, "save", save)
    digests = str(tmp_path / "digests.db")
    sandbox = Sandbox(Account(contacts=110, lists=2, segments=2, members=10))
    state = in_process.run(sandbox, digests=digests).state
    for contact_id in sandbox.account.contact_ids[::3]:
        sandbox.account.delete(contact_id)
    sandbox.account.create(
        {"contact_id": "person_x", "lists": [sandbox.account.lists[0]["list_id"]]}
    )
    for fails in range(1, 1000):
        copied, left = str(tmp_path / f"{fails}.db"), fails
        shutil.copy(digests, copied)
        with in_process.in_parts(rows) if rows else contextlib.nullcontext():
            run = in_process.run(sandbox, digests=copied, state=state)
        matches = [re.match(r"INFO (\w+): ([\d,]+) rows?[,.]", line) for line in run.log]
        said = {match[1]: int(match[2].replace(",", "")) for match in matches if match}
        written = collections.Counter(message["stream"] for message in run.of("RECORD"))
        assert +collections.Counter(said) == written, fails
        if run.code == 0:
            break
    assert fails > 5
    assert any(row[DELETED_AT] for row in run.rows("contacts"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to own a link as another user")
def test_no_report_is_appended_where_another_user_leads(tap: Tap, file: Path) -> None:
    theirs = tap.file("profile", "precious")
    file.symlink_to(theirs)
    os.lchown(file, 65534, 65534)
    file.parent.chmod(0o1777)
    for api_key in (KEY, ""):
        run = tap.call(None, report_file=str(file), api_key=api_key)
        assert run.code == 2
        assert "another user" in run.last_words or not api_key
        assert Path(theirs).read_text() == "precious"


def test_no_contact_data_and_no_key(tap: Tap, file: Path) -> None:
    answers = {
        "/contacts": {
            "contacts": [{"contact_id": "person_1", "Email": "ada@example.com", f"No {KEY}": 1}]
        },
        "/lists": (400, {"message": f"No {KEY} here"}),
    }
    with Scripted(answers) as sandbox:
        tap.sync(sandbox, report_file=str(file), retry_timeout=0, api_key=f"{KEY}\n")
    text = file.read_text()
    assert text.count("(API key)") == 2
    for secret in (*forms(KEY), "ada@", "person_1"):
        assert secret not in text


def test_only_syncs_are_reported(tap: Tap, serve: Serve, file: Path) -> None:
    for option in ("--discover", "--test", "--about"):
        assert tap.call(serve(ACCOUNT), option, report_file=str(file)).code == 0
    assert not file.exists()


def test_the_last_line_in_json_has_the_report(tap: Tap, serve: Serve, file: Path) -> None:
    settings = {"report_file": str(file), "log_format": "json"}
    for number, (key, level) in enumerate([(KEY, "info"), ("wrong", "critical")]):
        run = tap.call(serve(ACCOUNT), **settings, api_key=key)
        line = json_lines(run)[-1]
        assert line["level"] == level
        assert line["extra"]["report"] == reports(file)[number]
        assert line["extra"]["report"]["exit_code"] == run.code


def test_json_lines_have_the_fields_of_the_sdk(tap: Tap, serve: Serve) -> None:
    sandbox = serve(ACCOUNT, "/contacts@2:503")
    lines = json_lines(tap.call(sandbox, log_format="json"))
    for line in lines:
        assert {
            "level", "pid", "logger_name", "ts", "thread_name", "app_name", "stream_name",
            "message", "extra",
        } <= line.keys()  # fmt: skip
    assert {line["stream_name"] for line in lines} == {None, *STREAMS}
    metrics = [line for line in lines if line["message"] == "METRIC"]
    assert metrics == [line for line in lines if "metric_info" in line]
    for line in metrics:
        assert line["metric_info"]["tags"]["stream"] == line["stream_name"]


def test_metrics_have_the_names_and_tags_of_the_sdk(tap: Tap, serve: Serve) -> None:
    sandbox = serve(ACCOUNT, "/contacts@2-:405", latency=0.02)
    run = tap.call(sandbox, log_format="json")
    points = [line["metric_info"] for line in json_lines(run) if line["message"] == "METRIC"]
    found = {(one["metric"], one["tags"]["stream"]): one for one in points}
    assert len(found) == len(points)
    paths = {"contacts": "/contacts", "email_opened": "/contacts", "lists": "/lists",
             "smart_segments_contacts": "/smart_segments/{segment_id}/contacts"}  # fmt: skip
    for stream, path in paths.items():
        count, took = found["record_count", stream], found["sync_duration", stream]
        assert count["value"] == len(run.rows(stream))
        assert count["type"] == "counter"
        assert count["tags"] == {"stream": stream, "endpoint": path}
        assert (took["type"], took["tags"]["endpoint"]) == ("timer", path)
        assert took["value"] > 0.02
        failed = path == "/contacts"
        assert took["tags"]["status"] == ("failed" if failed else "succeeded")
    assert found["http_request_count", "contacts"]["value"] == 2
    assert found["http_request_duration", "contacts"]["value"] >= 0.02
    assert ("http_request_count", "email_opened") not in found, "they are counted once"
    asked = sum(one["value"] for one in points if one["metric"] == "http_request_count")
    assert asked == len(sandbox.requests)


def test_a_resumed_run_says_which_tables_the_interrupted_run_completed(
    tap: Tap, serve: Serve
) -> None:
    sandbox = serve(ACCOUNT)
    *_, state, _ = tap.sync(sandbox).of("STATE")
    log = tap.sync(sandbox, state=state["value"]).log
    for name in STREAMS:
        assert f"INFO {name}: 0 rows, completed by the interrupted run." in log


def test_one_row_is_not_called_rows(tap: Tap) -> None:
    contact = {"contact_id": "a", "Email": "a", "Score": 1, "created_at": "no time"}
    with Scripted({"/contacts": (200, {"contacts": [contact], "total_contacts": 1})}) as sandbox:
        run = tap.call(sandbox, "--select", "contacts")
    *_, summary, last = run.log
    assert summary == (
        "INFO contacts: 1 row, 1 value did not fit (created_at 1), 1 value without a column,"
        " 1 request."
    )
    assert last.startswith("INFO Complete: 1 row in 1 table, ")


def test_lines_on_a_pipe_begin_with_the_time(tap: Tap, serve: Serve) -> None:
    done = subprocess.run(tap.command(serve(ACCOUNT)), capture_output=True, check=True)
    now = datetime.now(timezone.utc)
    for line in done.stderr.decode().splitlines():
        moment, level = line.split()[:2]
        said = datetime.strptime(moment, "%Y-%m-%dT%H:%M:%S%z")
        assert timedelta(0) <= now - said < timedelta(minutes=5)
        assert level in ("INFO", "WARNING")
