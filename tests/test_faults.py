"""Faults between two sockets: retried if they pass, reported if they do not."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.faults import ACTIONS
from tests.conftest import KEY, PATIENCE, USUAL_STREAMS, Serve, Tap
from tests.invariants import Run
from tests.recording import Sandbox
from tests.scripted import Scripted, page
from tests.socket_server import Trust

ACCOUNT = Account(contacts=250, lists=3, segments=3, members=120)
PASSING = ["429", "503", *(set(ACTIONS) - {"redirect"})]
STALE = ["close", "reset"]  # how a server ends an idle keep-alive connection
SILENT = ["hang", "hang-headers", "hang-body", "hang-end", "drip"]


def assert_whole(run: Run, account: Account = ACCOUNT) -> None:
    """Every row was sent exactly once."""
    assert run.code == 0, run.stderr
    assert [row["contact_id"] for row in run.rows("contacts")] == account.contact_ids
    assert [row["list_id"] for row in run.rows("lists")] == [
        one["list_id"] for one in account.lists
    ]
    members = [
        (one["segment_id"], contact_id)
        for one in account.segments
        for contact_id in account.segment_members(one["segment_id"]) or ()
    ]
    rows = run.rows("smart_segments_contacts")
    assert sorted((row["segment_id"], row["contact_id"]) for row in rows) == sorted(members)


@pytest.mark.parametrize("what", sorted(PASSING))
def test_transient_faults_are_retried(tap: Tap, serve: Serve, what: str) -> None:
    sandbox = serve(ACCOUNT, f"/contacts@2:{what},every=0.2", f"/smart_segments/@1:{what}")
    patience = 0.6 if what in SILENT else PATIENCE
    run = tap.sync(sandbox, request_timeout=patience, retry_timeout=PATIENCE)
    assert_whole(run)
    retries = sum("retrying in" in line for line in run.log)
    assert not any("retrying in 0.0 s" in line for line in run.log)
    if what in STALE:
        assert retries <= 2, "requests on stale connections are resent silently"
    elif what in SILENT:
        assert retries >= 2, "a slow machine causes more"
    else:
        assert retries == 2
        assert any("1 retried" in line for line in run.log)


@pytest.mark.parametrize("what", ["500", "drip"])
def test_a_persistent_fault_fails_only_its_stream(tap: Tap, serve: Serve, what: str) -> None:
    sandbox = serve(ACCOUNT, f"/contacts@2-:{what}")
    run = tap.sync(sandbox, request_timeout=2, retry_timeout=1)
    assert run.code == 1
    assert "Not complete: contacts, lists_contacts, " in run.last_words
    assert run.last_words.count("(GET /contacts/…:") == 1
    assert "gave up after" in run.last_words
    assert len(run.rows("contacts")) == 100
    assert len(run.rows("smart_segments_contacts")) == 240
    assert any("contacts: 100 rows" in line and "NOT complete" in line for line in run.log)
    assert_whole_after(tap.sync(serve(ACCOUNT), state=run.state), run)


def assert_whole_after(run: Run, before: Run) -> None:
    """A run and the run that resumes it together send every contact exactly once."""
    assert run.code == 0
    assert len(run.rows("lists")) == 3, "complete streams are read again"
    contacts = before.rows("contacts") + run.rows("contacts")
    assert [row["contact_id"] for row in contacts] == ACCOUNT.contact_ids


def test_a_deleted_segment_is_skipped(tap: Tap, serve: Serve) -> None:
    segment = ACCOUNT.segments[0]["segment_id"]
    run = tap.sync(serve(ACCOUNT, f"/smart_segments/{segment}:404"))
    assert run.code == 0
    assert any("no longer exists" in line and line.startswith("WARNING") for line in run.log)
    assert {row["segment_id"] for row in run.rows("smart_segments_contacts")} == {
        one["segment_id"]
        for one in ACCOUNT.segments
        if one["segment_id"] != segment and ACCOUNT.segment_members(one["segment_id"])
    }
    activated = {message["stream"] for message in run.of("ACTIVATE_VERSION")}
    assert activated == USUAL_STREAMS.keys()


def test_a_segment_that_cannot_be_read_does_not_stop_the_others(tap: Tap, serve: Serve) -> None:
    account = Account(contacts=120, segments=40, members=5)
    broken = sorted(one["segment_id"] for one in account.segments)[7]
    run = tap.sync(serve(account, f"/smart_segments/{broken}:500"), retry_timeout=0.5)
    assert run.code == 1
    assert "smart_segments_contacts" in run.last_words
    assert len(run.rows("smart_segments_contacts")) == 38 * 5
    (entry,) = run.state["walks"]["smart_segments_contacts"][3]
    assert (entry[0], entry[1], entry[-1]) == (broken, None, 1)
    rest = tap.sync(serve(account), state=run.state)
    assert rest.code == 0
    assert {row["segment_id"] for row in rest.rows("smart_segments_contacts")} == {broken}


@pytest.mark.parametrize(("status", "form"), [(429, "seconds"), (503, "date")])
def test_retry_after_is_obeyed(tap: Tap, status: int, form: str) -> None:
    asked: list[float] = []

    def throttled(_: str) -> Any:
        asked.append(time.time())
        if len(asked) > 1:
            return page("c", total=1)
        moment = format_datetime(datetime.fromtimestamp(asked[0] + 2, timezone.utc), usegmt=True)
        return status, {}, {"Retry-After": "1" if form == "seconds" else moment}

    with Scripted({"/contacts": throttled}) as sandbox:
        run = tap.sync(sandbox, retry_timeout=PATIENCE)
    assert run.code == 0
    assert len(asked) == 2
    assert asked[1] - asked[0] >= 1
    assert any("throttled for" in line for line in run.log) == (status == 429)


def test_a_redirect_loop_ends(tap: Tap, serve: Serve) -> None:
    run = tap.sync(serve(ACCOUNT, "/lists:redirect"))
    assert run.code == 1
    assert "redirect loop" in run.last_words
    assert sum(request.path == "/v1/lists" for request in run.requests) == 5


@pytest.mark.parametrize(
    "to",
    ["other", "//{other}/v1/lists", "https://127.0.0.1:1/", "ftp://a/b", "http://[x", "//h:0x1"],
)
def test_a_redirect_to_another_origin_never_gets_the_key(tap: Tap, serve: Serve, to: str) -> None:
    other = serve(ACCOUNT)
    host = other.url.split("/")[2]
    to = other.url if to == "other" else to.format(other=host)
    run = tap.sync(serve(ACCOUNT, f"/lists:redirect,to={to}"))
    assert run.code == 2
    assert "redirected to another origin" in run.last_words
    assert other.requests == []


def test_refused_connections_are_retried_and_reported(tap: Tap, closed_port: int) -> None:
    run = tap.call(api_url=f"http://127.0.0.1:{closed_port}/v1", retry_timeout=0.3)
    assert run.code == 1
    assert f"connection refused by 127.0.0.1:{closed_port}; gave up after" in run.last_words
    assert run.last_words.endswith(" Check api_url, or run again later.")
    assert run.messages[-1]["type"] == "STATE"


def test_an_outage_ends_the_run_rather_than_each_of_many_walks(tap: Tap, serve: Serve) -> None:
    account = Account(contacts=120, segments=200, members=5)
    run = tap.sync(serve(account, "20-:500"), retry_timeout=1)
    assert run.code == 1
    assert "the API does not respond to other requests either" in run.last_words


@pytest.mark.parametrize(("name", "code"), [("127.0.0.1", 0), ("example.com", 2), (None, 2)])
def test_certificates(tap: Tap, serve: Serve, tmp_path: Path, name: str | None, code: int) -> None:
    trust = Trust(tmp_path)
    sandbox = serve(ACCOUNT, tls=trust.server(name or "127.0.0.1"))
    trusted = {"REQUESTS_CA_BUNDLE": trust.path} if name else {}
    run = tap.run("-c", tap.file("c.json", tap.config(sandbox)), **trusted)
    assert run.code == code, run.stderr
    if code:
        assert re.search(r"certificate of 127\.0\.0\.1:\d+ is not trusted", run.last_words)
        assert sandbox.requests == []
    else:
        assert_whole(run)


def test_netrc_credentials_are_not_sent(tap: Tap, serve: Serve) -> None:
    netrc = tap.file("netrc", "machine 127.0.0.1 login somebody password secret\n")
    sandbox = serve(ACCOUNT)
    assert_whole(tap.run("-c", tap.file("c.json", tap.config(sandbox)), NETRC=netrc))
    assert not any("authorization" in request.headers for request in sandbox.requests)


@pytest.mark.parametrize("status", [401, 404, 500])
def test_an_error_that_quotes_the_key_is_redacted(tap: Tap, status: int) -> None:
    class Telltale(Sandbox):
        def answer(self, *request: Any) -> tuple[int, bytes]:
            key = request[2]["autopilotapikey"]
            message = f"Key {key} is not\nit \x1b[31m{'x' * 150}{key}{'y' * 900}"
            return status, json.dumps({"error": "No", "message": message}).encode()

    with Telltale(ACCOUNT) as sandbox:
        run = tap.sync(sandbox, retry_timeout=0.5)
    assert run.code in (1, 2)
    assert KEY not in run.stderr
    assert KEY[:9] not in run.stderr
    assert "yyyyyyyy" * 20 not in run.stderr
    assert "\x1b" not in run.stderr
    assert status == 500 or r"Key (API key) is not\nit" in run.stderr
