"""With digests: who joined and left, what a night logs and marks, and new pushes."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.config import Config
from tap_autopilot.exceptions import UserError
from tap_autopilot.sandbox.account import Account
from tests.conftest import Serve, Tap
from tests.digests import Nights, warned
from tests.invariants import Run
from tests.pushed_store import PushedStore, call, read
from tests.replica import DELETED_AT
from tests.test_digests import account
from tests.test_log_based import catalog_of


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path, account())


def test_membership_changes_need_a_table_to_follow(nights: Nights) -> None:
    streams = [{"tap_stream_id": "membership_changes"}, {"tap_stream_id": "lists"}]
    run = nights.night(catalog={"streams": streams})
    assert run.code == 0
    assert warned(run, "membership_changes: none of the tables whose changes it shows is selected")


def test_each_membership_change_is_reported_once(nights: Nights) -> None:
    assert not nights.night().of("RECORD", "membership_changes"), "none in the first pass"
    nights.account.join("s", "a")
    nights.account.leave("s", "b")
    nights.account.change("d", {"lists": ["l"]})
    nights.account.delete("a")
    run = nights.run()
    rows = run.rows("membership_changes")
    seen = {(row["table"], row["list_id"], row["segment_id"], row["contact_id"], row["change"])
            for row in rows}  # fmt: skip
    assert seen == {
        ("smart_segments_contacts", None, "s", "b", "left"),
        ("lists_contacts", "l", None, "d", "joined"),
        ("lists_contacts", "l", None, "a", "left"),
    }
    began = run.requests[0].clock - timedelta(seconds=2), run.requests[-1].clock
    for row in rows:
        assert began[0] <= datetime.fromisoformat(row["seen_at"].replace("Z", "+00:00")) <= began[1]
    again = nights.night()  # nothing was stored from the run before
    ids = [sorted(row["id"] for row in one.rows("membership_changes")) for one in (run, again)]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 3
    nights.account.leave("s", "c")
    assert len(nights.night().rows("membership_changes")) == 1
    nights.account.join("s", "c")
    assert nights.night().rows("membership_changes")[0]["id"] not in ids[0]
    assert not nights.night().of("RECORD")


def test_membership_changes_alone_are_a_log_without_rows(nights: Nights) -> None:
    catalog = {"streams": [{"tap_stream_id": "membership_changes"}]}
    run = nights.night(catalog=catalog)
    assert run.code == 0
    assert not [line for line in run.log if line.startswith("INFO Reading")]
    assert "INFO membership_changes: 0 rows." in run.log


def test_a_doubt_reports_no_membership_changes(nights: Nights) -> None:
    nights.night(page=1, lose="contacts@2")
    assert not nights.night().rows("membership_changes"), "the next pass is the first complete one"
    nights.account.change("a", {"lists": []})
    assert not nights.night(page=1, lose="contacts@3").rows("membership_changes")
    assert [row["change"] for row in nights.night().rows("membership_changes")] == ["left"]


def test_membership_changes_exist_only_with_digests(tap: Tap) -> None:
    names = {one["stream"] for one in json.loads(tap.run("--discover").stdout)["streams"]}
    assert "membership_changes" not in names
    config = tap.file("config.json", {"digests": "x"})
    found = json.loads(tap.run("--discover", "--config", config).stdout)
    assert {one["stream"] for one in found["streams"]} == names | {"membership_changes"}
    assert not (tap.folder / "x").exists()


def warnings(run: Run) -> list[str]:
    return [line for line in run.log if line.startswith("WARNING")]


@pytest.fixture
def odd_nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path, Account(contacts=210, lists=3, segments=2, members=20))


def test_values_of_rows_that_are_not_sent_are_not_warned_of(odd_nights: Nights) -> None:
    first = odd_nights.night()
    assert sum("does not fit column" in line for line in warnings(first)) > 5
    assert any("not valid Unicode" in line for line in warnings(first))
    quiet = odd_nights.night()
    assert (quiet.of("RECORD"), warnings(quiet)) == ([], [])
    assert not any("did not fit" in line or "replaced" in line for line in quiet.log)


def test_values_of_changed_rows_are_warned_of(odd_nights: Nights) -> None:
    odd_nights.night()
    account = odd_nights.account
    changed = account.contact_ids[7]
    account.changed[changed] = {**account.contact(changed), "company_priority": "high"}
    account.changes += 1
    run = odd_nights.night()
    assert [row["contact_id"] for row in run.rows("contacts")] == [changed]
    assert warnings(run) == [
        "WARNING contacts: a value does not fit column company_priority; kept in additional_fields."
    ]
    assert any("1 value did not fit (company_priority 1)" in line for line in run.log)


def test_the_mark_of_deleted_rows_has_the_name_that_was_set(odd_nights: Nights) -> None:
    settings = {"deleted_at_column": "removed_at"}
    odd_nights.night(settings=settings)
    before = set(odd_nights.account.contact_ids)
    odd_nights.account.move_on(1)
    gone = before - set(odd_nights.account.contact_ids)
    assert gone
    run = odd_nights.night(settings=settings)
    assert b"_sdc_deleted_at" not in run.stdout
    for schema in run.of("SCHEMA"):
        assert [*schema["schema"]["properties"]][-1] == "removed_at"
        assert schema["schema"]["properties"]["removed_at"]["format"] == "date-time"
    assert {row["contact_id"] for row in run.rows("contacts") if row["removed_at"]} == gone
    assert any(row["removed_at"] for row in run.rows("lists_contacts"))
    assert not odd_nights.night(settings=settings).of("RECORD")
    renamed = odd_nights.night()
    assert any("columns or settings changed" in line for line in warnings(renamed))
    assert len(renamed.rows("contacts")) == len(odd_nights.account.contact_ids)


@pytest.mark.parametrize("name", ["LIST_ID", "removed at", ""])
def test_a_name_that_cannot_be_the_marks_is_an_error(tap: Tap, serve: Serve, name: str) -> None:
    for odd in ("1st", 5, "x" * 64):
        with pytest.raises(UserError, match="deleted_at_column"):
            Config.from_mapping({"api_key": "k", "deleted_at_column": odd})
    sandbox = serve(Account(contacts=1))
    for options in (["--test"], []):
        run = tap.call(sandbox, *options, deleted_at_column=name, digests="digests")
        assert run.code == (2 if name else 0)
        assert name == "" or "deleted_at_column" in run.last_words


def test_with_a_collector_only_new_pushes_are_sent_and_events_stay(store: PushedStore) -> None:
    digests = Path(store.path).with_name("digests")
    first, second = (
        {"contact_id": one, "mail_opened": {f"m{one}": 1577836800000}} for one in ("p1", "p2")
    )
    state: Any = None

    def night(*contacts: Any) -> dict[str, list[Any]]:
        nonlocal state
        run = read(store, *contacts, state=state, digests=str(digests))
        state = run.state
        names = {one["stream"] for one in run.of("RECORD")}
        return {name: run.rows(name) for name in names}

    store.track(call("pushed"))
    found = night(first, second)
    assert [row["id"] for row in found["email_opened"]] == ["pushed"] + [
        f"email_opened:{one}:m{one}" for one in ("p1", "p2")
    ]
    assert all(row[DELETED_AT] is None for rows in found.values() for row in rows)
    assert night(first, second) == {}
    store.track(call("later", properties={"email_id": "y"}))
    found = night(first)
    assert [row[DELETED_AT] is None for row in found["contacts"]] == [False]
    assert [row["id"] for row in found["email_opened"]] == ["later"]
    assert [row["email_id"] for row in found["email_messages"]] == ["y"]
    assert found.keys() == {"contacts", "email_opened", "email_messages"}
    assert night(first) == {}
    digests.unlink()
    assert len(night(first)["email_opened"]) == 3, "the whole store, since the file is in doubt"


def test_pushed_events_are_sent_again_until_the_target_has_their_new_columns(
    store: PushedStore,
) -> None:
    digests = str(Path(store.path).with_name("digests"))
    store.track(call("pushed"))

    def night(state: Any, *metadata: Any) -> tuple[Any, int]:
        catalog = {"streams": [{"tap_stream_id": "email_opened", "metadata": [*metadata]}]}
        run = read(store, state=state, catalog=catalog, digests=digests)
        return run.state, len(run.rows("email_opened"))

    without = {"breadcrumb": ["properties", "campaign_name"], "metadata": {"selected": False}}
    state, sent = night(None, without)
    assert sent == 1
    assert night(state)[1] == 1, "its STATE is thrown away"
    state, sent = night(state)
    assert sent == 1
    assert night(state)[1] == 0


@pytest.mark.parametrize("doubt", ["another key", "no state"])
@pytest.mark.parametrize("names", [["contact_events"], ["email_messages", "activities"]])
def test_a_run_of_pushed_events_alone_does_not_start_the_file_over(
    store: PushedStore, doubt: str, names: list[str]
) -> None:
    digests = str(Path(store.path).with_name("digests"))
    store.track(call("pushed"))
    contact = {"contact_id": "person_1"}
    both = {"contacts": "FULL_TABLE", "email_messages": "FULL_TABLE"}
    night = {"catalog": catalog_of(both), "digests": digests}
    state = read(store, contact, **night).state
    day = {"catalog": catalog_of(dict.fromkeys(names, "LOG_BASED")), "digests": digests}
    if doubt == "no state":
        refused = read(store, code=2, **day)
    else:
        refused = read(store, code=2, state=state, api_key="another+key", **day)
    assert refused.messages == []
    assert "Only a run that reads the API may start it over" in refused.last_words
    again = read(store, contact, state=state, **night)
    assert not again.of("RECORD")
    assert not warned(again, "everything is sent again")


def test_pushed_events_alone_start_a_file_over_that_has_no_other_tables(store: PushedStore) -> None:
    """As after a kill before the first STATE, which must not stop all later runs."""
    digests = str(Path(store.path).with_name("digests"))
    store.track(call("pushed"))
    catalog = catalog_of(dict.fromkeys(("email_messages", "contact_events"), "LOG_BASED"))
    for _ in range(2):
        run = read(store, catalog=catalog, digests=digests)
        assert len(run.rows("email_messages")) == 1
    assert warned(run, "everything is sent again")


@pytest.mark.parametrize("method", ["FULL_TABLE", "LOG_BASED"])
def test_messages_are_only_seen_during_their_pass(store: PushedStore, method: str) -> None:
    """What a pass has seen is hashed whenever the file is opened, so it must not pile up."""
    catalog = catalog_of(dict.fromkeys(("email_messages", "contact_events"), method))
    digests, state = Path(store.path).with_name("digests"), None
    for run in range(3):
        store.track(call(f"opened {run}"), call(f"clicked {run}", "Email Clicked"))
        state = read(store, catalog=catalog, state=state, digests=str(digests)).state
    read(store, catalog=catalog, state=state, digests=str(digests))
    with closing(sqlite3.connect(digests)) as file:
        assert file.execute("select count(*) from rows").fetchone() == (1,)
        (seen,) = file.execute("select count(*) from seen").fetchone()
        assert seen <= 1, "at most by the last pass"
