"""What was pushed and what contacts have of the same event make one row."""

from __future__ import annotations

import collections
from typing import Any

import pytest

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.mail import Occurrence, all_occurrences, track_call
from tests.conftest import Serve, Tap
from tests.pushed_store import CALL, MESSAGE, PushedStore, call, read
from tests.replica import EVENT_TABLES
from tests.test_log_based import catalog_of
from tests.test_selection import choose


@pytest.mark.parametrize("ids", ["equal", "their endings equal", "unrelated"])
def test_pushed_and_polled_events_together_match_the_account(
    tap: Tap, serve: Serve, store: PushedStore, ids: str
) -> None:
    other_keys = ids == "unrelated"
    account = Account(contacts=700, segments=1, odd=False)
    occurrences = all_occurrences(account)
    withheld = {one.message_id for n, one in enumerate(occurrences) if n % 7 == 3}
    sent = [one for one in occurrences if one.message_id not in withheld]
    calls = [track_call(account.seed, one, other_keys=other_keys) for one in sent]
    for one, pushed_call in zip(sent, calls, strict=True):
        if ids == "equal":
            pushed_call["properties"]["email_id"] = one.message
    store.webhook([*calls[::-1], *calls[:50]], at=0)
    run = tap.sync(serve(account), collector_database=store.path)
    assert run.code == 0
    for kind, table in EVENT_TABLES.items():
        pushed = {one.message_id for one in sent if one.kind == kind}
        rows = run.rows(table)
        assert len({row["id"] for row in rows}) == len(rows)
        assert pushed <= {row["id"] for row in rows}
        polled = [row for row in rows if row["id"] not in pushed]
        expected = expected_polled(occurrences, withheld, kind, by_key=not other_keys)
        found = collections.Counter(row["context_traits_contact_id"] for row in polled)
        if other_keys:  # of two at nearly the same time, either may be the pushed one
            assert not found - collections.Counter(one.contact_id for one in expected)
        else:
            assert {(row["context_traits_contact_id"], row["email_id"]) for row in polled} == {
                (one.contact_id, one.message) for one in expected
            }
    described = [row for row in run.rows("email_opened") if row["id"].startswith("email_opened:")]
    assert described
    assert all((row["campaign_name"] is not None) != other_keys for row in described)
    assert not run.of("ACTIVATE_VERSION", "email_opened")
    assert run.of("ACTIVATE_VERSION", "contacts")


def expected_polled(
    occurrences: list[Occurrence], withheld: set[str], kind: str, *, by_key: bool
) -> list[Occurrence]:
    """The events in maps whose push was withheld; by key, only if no repetition was pushed."""
    pushed = {
        (one.contact_id, one.message)
        for one in occurrences
        if one.kind == kind and one.message_id not in withheld
    }
    return [
        one
        for one in occurrences
        if one.kind == kind
        and one.in_map
        and one.message_id in withheld
        and not (by_key and (one.contact_id, one.message) in pushed)
    ]


def test_a_long_text_stays_with_its_own_push(store: PushedStore) -> None:
    long, limit = "x" * 501, "y" * 500
    store.track(call("m", properties={"email_subject": long, "email_name": limit}))
    contact = {"contact_id": "c", "mail_clicked": {MESSAGE: 1000}}
    run = read(store, contact)
    for table, expected in (("email_opened", (long, limit)), ("email_clicked", (None, limit))):
        (row,) = run.rows(table)
        assert (row["email_subject"], row["email_name"]) == expected


@pytest.mark.parametrize(
    "names",
    [
        {"context": {"traits": {"email": "ADA@example.com"}}},
        {"userId": " Ada@Example.com"},
        {"anonymousId": "ada@example.com"},
        {"userId": "ada@example.com", "anonymousId": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"},
        {"traits": {"email": "ADA@example.com "}, "anonymousId": "bob@example.com"},
        {"properties": {"Email": "ada@example.com"}},
    ],
)
def test_a_push_without_contact_id_belongs_to_the_contact_with_its_email(
    store: PushedStore, names: dict[str, Any]
) -> None:
    contact = {"contact_id": "c", "email": "Ada@example.com ", "mail_opened": {MESSAGE: 1000}}
    other = {"contact_id": "d", "email": "bob@example.com", "mail_opened": {MESSAGE: 1000}}
    nameless: dict[str, Any] = {"userId": None, "anonymousId": None, "context": {}}
    store.track(call("m", **{**nameless, **names}))
    rows = read(store, contact, other).rows("email_opened")
    assert [row["id"] for row in rows] == ["m", f"email_opened:d:{MESSAGE}"]
    assert rows[1]["email_subject"] == "Welcome"  # one push describes the message for everyone


def test_kinds_are_kept_apart(store: PushedStore) -> None:
    contact = {"contact_id": "person_1", "mail_opened": {MESSAGE: 0}, "mail_clicked": {MESSAGE: 0}}
    store.track(call("m"))
    run = read(store, contact)
    assert [row["id"] for row in run.rows("email_opened")] == ["m"]
    assert [row["id"] for row in run.rows("email_clicked")] == [f"email_clicked:person_1:{MESSAGE}"]


def test_contacts_with_the_same_email_do_not_share_a_push(store: PushedStore) -> None:
    first = {"contact_id": "c", "email": "ada@example.com", "mail_opened": {"x": 1000, "y": 2000}}
    second = {"contact_id": "d", "email": "ADA@example.com", "mail_opened": {"z": 1000}}
    store.track(call("m", context={}, timestamp="1970-01-01T00:00:01Z"))
    rows = read(store, first, second, first).rows("email_opened")
    assert {row["id"] for row in rows} == {"m", "email_opened:c:y", "email_opened:d:z"}


def test_only_selected_streams_and_columns_are_written(store: PushedStore) -> None:
    store.track(CALL, call("m", properties={"email_id": "other"}))
    catalog = catalog_of({"email_opened": "FULL_TABLE"})
    choose(catalog, "email_opened", "properties", "email_id", selected=False)
    choose(catalog, "email_opened", "properties", "timestamp", selected=False)
    contact = {"contact_id": "person_1", "mail_opened": {MESSAGE: 1000}}
    run = read(store, contact, catalog=catalog)
    assert {one["stream"] for one in run.of("RECORD")} == {"email_opened"}
    pushed, polled = run.rows("email_opened")
    assert "email_id" not in pushed
    assert polled["email_name"] == "First", "from the click of the same message"
