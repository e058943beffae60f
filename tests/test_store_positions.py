"""What a run reads of the collector's store, after other runs, kills and pruning, or by mistake."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tap_autopilot.streams import EMAILS
from tests.conftest import COMMAND, Serve, Tap
from tests.pushed_store import CALL, MESSAGE, PushedStore, call, read
from tests.soak.kills import Part
from tests.test_log_based import catalog_of

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
            call(f"m{n}", properties={"email_id": f"{n}{'x' * 400}"}, integrations={})
            for n in range(start, start + 10_000)
        ])  # fmt: skip
    arguments = [*COMMAND, "--config", tap.file("c.json", {
        "api_key": "k", "api_url": "http://127.0.0.1:1", "collector_database": store.path,
    }), "--select", "email_messages"]  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 1024; exec "$@"', "bash", *arguments],
        capture_output=True, cwd=Path(__file__).parents[1], check=False,
    )  # fmt: skip
    last = done.stderr.decode().splitlines()[-1]
    assert "CRITICAL Cannot store pushed events in a temporary file" in last
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
