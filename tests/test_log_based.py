"""LOG_BASED replication: streams read from the collector's store alone."""

from __future__ import annotations

import json
import shlex
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.protocol.catalog import discover
from tap_autopilot.pushed.collected import Collected
from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.mail import all_occurrences, track_call
from tap_autopilot.streams import EMAILS
from tests.conftest import Serve, Tap
from tests.invariants import Run
from tests.pushed_store import CALL, MESSAGE, PushedStore, call, read
from tests.soak.kills import Part
from tests.test_selection import choose, entry

LOGS = (*EMAILS, "email_messages", "contact_events", "activities")


def catalog_of(methods: Mapping[str, str]) -> Any:
    """A catalog of these streams with these replication methods."""
    found = discover(settings={"collector_database"})
    found["streams"] = [entry(found, name) for name in methods]
    for name, method in methods.items():
        choose(found, name, replication_method=method)
    return found


def logs(*names: str) -> Any:
    return catalog_of(dict.fromkeys(names or LOGS, "LOG_BASED"))


def ids(run: Run, stream: str) -> list[str]:
    return [row["email_id" if stream == "email_messages" else "id"] for row in run.rows(stream)]


def test_only_what_is_new_is_sent_and_the_api_is_not_asked(
    tap: Tap, serve: Serve, store: PushedStore
) -> None:
    sandbox, catalog = serve(), logs()

    def sync(state: Any) -> Run:
        run = tap.sync(sandbox, catalog=catalog, state=state, collector_database=store.path)
        assert (run.code, run.requests) == (0, [])
        assert not run.of("ACTIVATE_VERSION")
        return run

    for number, event in enumerate(EMAILS.values()):
        store.track(call(f"m{number}", event.event_text))
    store.hook({"event": "contact_added"})
    store.activity(b'{"event": "sms.sent"}\n')
    first = sync(None)
    assert {name: len(first.rows(name)) for name in LOGS} == dict.fromkeys(LOGS, 1)
    second = sync(first.state)
    assert not second.of("RECORD")
    assert second.state == first.state
    store.track(call("new", properties={"email_id": "other"}))
    store.hook({"event": "contact_updated"})
    third = sync(second.state)
    assert ids(third, "email_opened") == ["new"]
    assert [row["event"] for row in third.rows("contact_events")] == ["contact_updated"]
    assert ids(third, "email_messages") == ["other"]
    assert len(third.of("RECORD")) == 3


TIMES: tuple[dict[str, Any], ...] = (
    {"timestamp": "2021-02-03T04:05:06.789Z"},
    {"timestamp": "2019-02-03T04:05:06+05:30"},
    {"timestamp": "2018-02-03 04:05:06"},
    {"timestamp": 1600000000000},
    {"timestamp": "soon", "sentAt": "2022-01-01T00:00:00Z"},
    {"originalTimestamp": "2017-01-01T00:00:00Z"},
    {},
)


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("pruned", [False, True])
def test_a_message_of_new_events_is_described_by_all_events(
    store: PushedStore, times: dict[str, Any], *, pruned: bool
) -> None:
    log, full = (
        catalog_of({"email_messages": how, "email_opened": how})
        for how in ("LOG_BASED", "FULL_TABLE")
    )
    blank = dict.fromkeys(("timestamp", "sentAt", "originalTimestamp"))
    for number in range(4):
        spelling = "email_id" if number % 2 else "emailId"
        properties = {"email_id": None, spelling: f"m{number % 2}", "email_name": f"name {number}"}
        store.track(call(str(number), properties=properties, **{**blank, **times}), at=number)
    first = read(store, catalog=log)
    if pruned:
        assert store.prune(first.state) == 4
    store.track(call("new", properties={"email_id": "m1", "email_name": "name 3"}))
    whole = read(store, catalog=full)
    for summarized in (False, True):
        if summarized:
            assert store.summarize() == 5
        again = read(store, catalog=log, state=first.state)
        assert again.rows("email_messages") == [
            row for row in whole.rows("email_messages") if row["email_id"] == "m1"
        ]


def test_events_in_the_summary_are_not_read_again(store: PushedStore) -> None:
    catalog = logs("email_messages", "email_opened")
    properties = {"email_id": "m", "email_subject": "Hello"}
    store.track(call("a", timestamp="2020-01-01T00:00:00Z", properties=properties), call("last"))
    first = read(store, catalog=catalog)
    store.summarize()
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("UPDATE events SET body = x'7B7D' WHERE seq = 1")  # {}
    store.track(call("b", timestamp="2021-01-01T00:00:00Z", properties=properties))
    second = read(store, catalog=catalog, state=first.state)
    (row,) = second.rows("email_messages")
    assert row["first_seen_at"] == "2020-01-01T00:00:00.000Z"
    assert row["last_seen_at"] == "2021-01-01T00:00:00.000Z"


def test_a_summary_may_be_forgotten_while_it_is_read(
    store: PushedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As --erase does; until the collector has made a new one, all events are read again."""
    catalog = logs("email_messages", "email_opened")
    store.track(call("a", properties={"email_id": "m", "email_subject": "Hello"}))
    first = read(store, catalog=catalog)
    store.summarize()
    store.track(call("b", properties={"email_id": "m", "email_subject": None}))
    summary = Collected.summary

    def forgotten(collected: Collected) -> Iterator[Any]:
        store.forget_summary()
        return summary(collected)

    monkeypatch.setattr(Collected, "summary", forgotten)
    (row,) = read(store, catalog=catalog, state=first.state).rows("email_messages")
    assert row["email_subject"] == "Hello"


def test_the_summary_is_read_in_parts_that_fit_into_memory(store: PushedStore) -> None:
    names = ("email_name", "email_subject", "campaign_id", "campaign_name", "transactional")
    texts: dict[str, Any] = dict.fromkeys(names, [[]] * 1400)
    calls = [call(f"m{n}", properties=texts, timestamp=None) for n in range(60)]
    store.track(*calls)
    store.summarize()
    with closing(Collected(store.path)) as collected:
        parts = [len(events["email_opened"]) for events in collected.summary()]
    assert sum(parts) == 60
    assert len(parts) > 1


@pytest.mark.parametrize("method", ["FULL_TABLE", "INCREMENTAL"])
def test_the_contacts_add_what_the_collector_missed(store: PushedStore, method: str) -> None:
    methods = {"contacts": "FULL_TABLE", "email_opened": method, "email_clicked": method}
    by_day, at_night = logs(), catalog_of(methods)
    contact = {"contact_id": "person_1", "mail_opened": {MESSAGE: 1000, "missed": 2000}}
    store.track(call("m"), CALL)
    day = read(store, contact, catalog=by_day)
    assert ids(day, "email_opened") == ["m"]
    night = read(store, contact, catalog=at_night, state=day.state)
    again = ["m"] if method == "FULL_TABLE" else []
    assert ids(night, "email_opened") == [*again, "email_opened:person_1:missed"]
    assert ids(night, "email_clicked") == (["one"] if again else [])
    assert night.of("ACTIVATE_VERSION", "contacts")
    assert not night.of("ACTIVATE_VERSION", "email_opened")
    store.track(call("later"))
    next_day = read(store, contact, catalog=by_day, state=night.state)
    assert [(one["stream"], one["record"]["id"]) for one in next_day.of("RECORD")
            if one["stream"] != "email_messages"] == [("email_opened", "later")]  # fmt: skip


@pytest.mark.parametrize("method", ["FULL_TABLE", "INCREMENTAL"])
def test_an_interrupted_night_resumes_after_a_day_of_logs(
    serve: Serve, store: PushedStore, method: str
) -> None:
    account = Account(contacts=500, segments=1, odd=False)
    occurrences = all_occurrences(account)
    store.webhook([track_call(account.seed, one) for one in occurrences[::2]], at=0)
    at_night = catalog_of({"contacts": "FULL_TABLE", "email_opened": method})
    night = read(store, sandbox=serve(account, "4-:403"), code=2, catalog=at_night)
    before = len(night.rows("contacts"))
    assert before
    store.webhook([track_call(account.seed, one) for one in occurrences[1::2]], at=0)
    sandbox = serve(account)
    day = read(store, sandbox=sandbox, catalog=logs("email_opened"), state=night.state)
    assert not day.requests
    assert day.rows("email_opened")
    for name in ("contacts", "email_opened"):
        assert (
            day.state["bookmarks"][name]["progress"] == night.state["bookmarks"][name]["progress"]
        )
    rest = read(store, sandbox=sandbox, catalog=at_night, state=day.state)
    assert len(rest.rows("contacts")) == 500 - before
    assert rest.of("ACTIVATE_VERSION", "contacts")
    assert not [line for line in rest.log if "starting over" in line]
    found = {key for run in (night, day, rest) for key in ids(run, "email_opened")}
    pushed = {one.message_id for one in occurrences if one.kind == "opened"}
    assert pushed <= found


@pytest.mark.parametrize("method", ["INCREMENTAL", "LOG_BASED"])
def test_events_before_start_date_are_read_once_it_is_earlier(
    store: PushedStore, method: str
) -> None:
    catalog = catalog_of(dict.fromkeys(("email_opened", "contact_events"), method))
    store.track(call("old"), call("new", timestamp="2021-01-01T00:00:00Z"))
    store.hook({"event": "contact_added"}, at=0)
    first = read(store, catalog=catalog, start_date="2020-06-01")
    assert ids(first, "email_opened") == ["new"]
    assert first.rows("contact_events")
    same = read(store, catalog=catalog, state=first.state, start_date="2020-06-01")
    assert not same.of("RECORD")
    second = read(store, catalog=catalog, state=same.state)
    assert ids(second, "email_opened") == ["old", "new"]
    assert not second.rows("contact_events")
    assert any("start_date is earlier, or no longer set" in line for line in second.log)
    assert not read(store, catalog=catalog, state=second.state).of("RECORD")


def rows_of(messages: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {
        (one["stream"], json.dumps(one["record"], sort_keys=True))
        for one in messages
        if one["type"] == "RECORD"
    }


@pytest.mark.parametrize("method", ["FULL_TABLE", "INCREMENTAL", "LOG_BASED"])
def test_any_state_resumes(tap: Tap, serve: Serve, store: PushedStore, method: str) -> None:
    """The rows before any STATE and those of a run resumed from it are, together, all rows."""
    account = Account(contacts=200, segments=1)
    calls = [track_call(account.seed, one) for one in all_occurrences(account)]
    for start in range(0, len(calls), 100):
        store.webhook(calls[start : start + 100], at=0)
        store.hook({"n": start})
    is_log = method == "LOG_BASED"
    contacts = {} if is_log else {"contacts": method, "lists_contacts": "FULL_TABLE"}
    catalog = catalog_of({**contacts, **dict.fromkeys(LOGS, method)})
    sandbox = serve(account)
    whole = tap.sync(sandbox, catalog=catalog, collector_database=store.path)
    lines, everything = whole.messages, rows_of(whole.messages)
    states = [number for number, line in enumerate(lines) if line["type"] == "STATE"]
    assert len(states) > 6
    for place in states[:: 1 if is_log else len(states) // 6]:
        again = read(store, sandbox=sandbox, catalog=catalog, state=lines[place]["value"])
        assert rows_of(lines[:place]) | rows_of(again.messages) == everything
        twice = rows_of(lines[:place]) & rows_of(again.messages)
        assert not is_log or {stream for stream, _ in twice} <= {"email_messages"}


# What a run reads of the store

ONLY_PUSHED = ("email_messages", "contact_events", "activities")


def test_incremental_reads_only_new_events_and_full_table_all(store: PushedStore) -> None:
    methods = dict.fromkeys(("email_opened", "contact_events", "activities"), "INCREMENTAL")
    catalog = catalog_of({**methods, "email_clicked": "FULL_TABLE"})
    store.track(call("a"), CALL)
    store.hook({"n": 1})
    first = read(store, catalog=catalog)
    store.track(call("late", timestamp="2001-01-01T00:00:00Z"), call("two", "Email Clicked"))
    store.hook({"n": 2})
    second = read(store, catalog=catalog, state=first.state)
    assert [row["id"] for row in second.rows("email_opened")] == ["late"]
    assert [row["id"] for row in second.rows("email_clicked")] == ["one", "two"]
    assert [row["additional_fields"] for row in second.rows("contact_events")] == [{"n": 2}]
    assert second.state["bookmarks"]["email_opened"]["collected"][:2] == [store.store_id, 6]
    third = read(store, catalog=catalog, state=second.state)
    assert not third.rows("email_opened")
    assert not [line for line in third.log if "store" in line]


def test_events_already_loaded_cause_neither_states_nor_warnings(store: PushedStore) -> None:
    catalog = catalog_of(dict.fromkeys(EMAILS, "INCREMENTAL"))
    store.track(call("odd", properties={"transactional": "yes", "link_url": "\ud800"}))
    store.track(*(call(f"m{n}") for n in range(3000)))
    first = read(store, catalog=catalog)
    assert any("does not fit column transactional" in line for line in first.log)
    second = read(store, catalog=catalog, state=first.state)
    assert len(second.of("STATE")) < 8
    assert not any("does not fit" in line or "cleaned" in line for line in second.log)


def test_no_room_for_the_temporary_file_ends_the_run(tap: Tap, store: PushedStore) -> None:
    for start in range(0, 20_000, 10_000):
        store.webhook([
            call(f"m{n}", properties={"email_id": f"{n}{'x' * 390}"}, integrations={})
            for n in range(start, start + 10_000)
        ])  # fmt: skip
    nowhere = {"api_url": "http://127.0.0.1:1", "collector_database": store.path}
    command = shlex.join(tap.command(None, "--select", "email_messages", **nowhere))
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 1024; exec {command}"],
        capture_output=True, cwd=Path(__file__).parents[1], check=False,
    )  # fmt: skip
    last = done.stderr.decode().splitlines()[-1]
    assert "CRITICAL Cannot keep pushed events in a temporary file" in last
    assert done.returncode == 1


# ---- pruning


def test_pruned_events_are_not_sent_again_but_still_recognized(store: PushedStore) -> None:
    contact = {"contact_id": "person_1", "mail_opened": {MESSAGE: 1000, "other": 2000}}
    store.track(call("m"))
    store.hook({"event": "contact_added"})
    first = read(store, contact)
    assert store.prune(first.state) == 2
    second = read(store, contact, state=first.state)
    assert [row["email_id"] for row in second.rows("email_opened")] == ["other"]
    assert not second.rows("contact_events")
    assert second.rows("email_messages") == first.rows("email_messages")
    assert not [line for line in second.log if "pruned" in line], "they were sent"
    store.track(call("n"))
    third = read(store, contact, state=second.state)
    store.prune(third.state)
    assert sorted(line for line in read(store, contact).log if "pruned" in line) == [
        "WARNING contact_events: 1 event can no longer be sent, because the store was pruned.",
        "WARNING email_opened: 2 events can no longer be sent, because the store was pruned.",
    ], "to a new target"


# ---- the settings, and mistakes


def test_without_a_collector_its_streams_do_not_exist(tap: Tap, store: PushedStore) -> None:
    plain = json.loads(tap.run("--discover").stdout)
    assert {one["stream"] for one in plain["streams"]}.isdisjoint(ONLY_PUSHED)
    missing = str(Path(store.path).with_name("missing.db"))
    found = tap.run("--discover", TAP_AUTOPILOT_COLLECTOR_DATABASE=missing)
    assert {one["stream"] for one in json.loads(found.stdout)["streams"]} >= {*ONLY_PUSHED}


@pytest.mark.parametrize("content", [None, b"", b"no store", b"SQLite format 3\0" + bytes(100)])
def test_a_store_that_cannot_be_read_ends_the_run_before_any_request(
    tap: Tap, serve: Serve, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "store.db"
    if content is not None:
        path.write_bytes(content)
    sandbox = serve()
    run = tap.sync(sandbox, collector_database=str(path))
    assert run.code == 2
    assert str(path) in run.last_words
    assert not run.requests
    assert path.exists() == (content is not None)


@pytest.mark.parametrize(
    "database",
    [
        "postgresql://me:h1dd%65n@127.0.0.1:1/db",
        "postgresql://me@127.0.0.1:1/db?connect_timeout=2&password=h1dden",
        "postgresql://me:h1dd[n@127.0.0.1:1/db",
        "postgresql://me:h1dd%zz@127.0.0.1:1/db",
    ],
)
def test_the_database_password_is_not_shown(tap: Tap, serve: Serve, database: str) -> None:
    run = tap.sync(serve(), collector_database=database)
    assert run.code == 2
    assert "h1dd" not in run.stderr
    assert "Cannot open the store postgresql://127.0.0.1:1/db: " in run.last_words


def test_kills_lose_nothing(tmp_path: Path) -> None:
    """If each run resumes from the last STATE, and the store is read, too."""
    part = Part(tmp_path / "runs", "1")
    while len(part.resent) < 3:
        part.kill_and_resume(share=1)
    assert part.counts["lost"] == 0
