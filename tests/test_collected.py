"""The collector's store as a second source: pushed events merged with those from contacts."""

from __future__ import annotations

import collections
import json
import os
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.exceptions import UserError
from tap_autopilot.pushed.collected import PAGE, Collected
from tap_autopilot.pushed.rows import Pushed
from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.mail import Occurrence, all_occurrences, track_call
from tap_autopilot.streams import EMAILS
from tests import in_process
from tests.conftest import COMMAND, Serve, Tap
from tests.invariants import Run
from tests.pushed_store import PushedStore
from tests.replica import EVENT_TABLES
from tests.scripted import Scripted
from tests.test_selection import choose, entry

ONLY_PUSHED = ("email_messages", "contact_events", "activities")
MESSAGE = "1482219072777-48a06f90-c686-11e6-94c6-07e94ae2263b"
HOUR = 3_600_000
CALL = {
    "type": "track",
    "event": "Email Clicked",
    "messageId": "one",
    "timestamp": "2020-01-02T03:04:05Z",
    "originalTimestamp": "2020-01-02T03:04:00.5Z",
    "sentAt": "2020-01-02T03:04:06Z",
    "receivedAt": "2020-01-02T03:04:08Z",
    "userId": "12345",
    "anonymousId": "ada@example.com",
    "integrations": {"All": True},
    "context": {
        "traits": {"email": "ada@example.com", "contact_id": "person_1", "plan": "free"},
        "ip": "1.2.3.4",
    },
    "properties": {
        "event": "clicked",
        "campaign_id": "campaign_1",
        "campaign_name": "Onboarding",
        "email_id": f"batchcampaign_{MESSAGE.upper()}",
        "email_name": "First",
        "email_subject": "Welcome",
        "transactional": False,
        "link_id": "7",
        "link_url": "https://example.com/a?b=c",
    },
}


@pytest.fixture
def store(tmp_path: Path) -> PushedStore:
    folder = tmp_path / "store"
    folder.mkdir()
    return PushedStore(folder / "events.db")


def read(store: PushedStore, *contacts: Any, **options: Any) -> Run:
    """Read an API that lists these contacts, within the test's process."""
    answer = {"contacts": list(contacts), "total_contacts": len(contacts)}
    sandbox = Scripted({"/contacts": answer})
    run = in_process.run(sandbox, **{"collector_database": store.path, **options})
    assert run.code == 0, run.stderr
    return run


def call(message_id: str, event: str = "Email Opened", **changes: Any) -> dict[str, Any]:
    properties = {**CALL["properties"], **changes.pop("properties", {})}  # type: ignore[dict-item]
    return {**CALL, "messageId": message_id, "event": event, "properties": properties, **changes}


def occurred(row: dict[str, Any]) -> tuple[str, int]:
    moment = datetime.fromisoformat(row["timestamp"].replace("Z", "+00:00"))
    return row["context_traits_contact_id"], round(moment.timestamp() * 1000)


# ---- the source


def pushed(collected: Collected, after: dict[str, int]) -> list[tuple[str, int]]:
    """The events of all pages: their tables and `seq`."""
    pages = list(collected.pages(after))
    return [(name, one.seq) for page in pages for name in page.events for one in page.events[name]]


def test_the_events_of_each_table_after_its_position(store: PushedStore) -> None:
    store.track(call("a"), call("b", "Email Clicked"), call("c", "Contact Created"), call("d"))
    store.hook({"n": 1})
    store.activity(b'{"n": 1}\n')
    found = Collected(store.path)
    assert (found.store_id, found.last) == (store.store_id, 6)
    assert pushed(found, {"email_opened": 0, "email_clicked": 0, "contact_events": 0}) == [
        ("email_opened", 1), ("email_opened", 4), ("email_clicked", 2), ("contact_events", 5),
    ]  # fmt: skip
    assert pushed(found, {"email_opened": 1, "activities": 5}) == [
        ("email_opened", 4), ("activities", 6),
    ]  # fmt: skip
    assert pushed(found, {"email_opened": 4}) == []
    assert pushed(found, {"email_opened": 6}) == []
    assert pushed(found, {}) == []
    found.close()
    with pytest.raises(UserError, match="closed"):
        list(found.pages({"email_opened": 0}))


def test_a_pushed_event(store: PushedStore) -> None:
    before = datetime.now(timezone.utc)
    store.hook({"n": 1, "text": "\0"}, "contact_added", at=12345)
    found = Collected(store.path)
    ((page,), (again,)) = (list(found.pages({"contact_events": 0})) for _ in range(2))
    event = Pushed(
        1, f"{store.store_id}-1", 12345, "contact_added", {"n": 1, "text": ""},
        pruned=False, cleaned=1,
    )  # fmt: skip
    assert page.events == again.events == {"contact_events": [event]}
    assert page.last == 1
    assert before <= found.opened_at <= page.fetched_at <= datetime.now(timezone.utc)


def test_a_store_is_read_page_by_page_as_it_was_when_opened(store: PushedStore) -> None:
    store.track(*(call(f"m{number}") for number in range(PAGE + 2)))
    found = Collected(store.path)
    store.track(call("later"))
    pages = list(found.pages({"email_opened": 1}))
    assert [page.last for page in pages] == [PAGE + 1, PAGE + 2]
    assert [len(page.events["email_opened"]) for page in pages] == [PAGE, 1]
    assert [page.last for page in found.pages({"contact_events": 0, "email_opened": PAGE})] == [
        PAGE, PAGE + 2,
    ]  # fmt: skip


def test_a_store_that_has_lost_its_last_events_is_read_to_its_end(store: PushedStore) -> None:
    store.track(call("a"), call("b"), call("c"))
    found = Collected(store.path)
    with closing(sqlite3.connect(store.path)) as database, database:
        database.execute("DELETE FROM events WHERE seq > 1")
    pages = list(found.pages({"email_opened": 0}))
    assert [(len(page.events), page.last) for page in pages] == [(1, 1), (0, 3)]


def test_missing_numbers_let_no_later_event_in(store: PushedStore) -> None:
    store.track(call("a"), call("b"), call("c"))
    with closing(sqlite3.connect(store.path)) as database, database:
        database.execute("DELETE FROM events WHERE seq = 2")
    found = Collected(store.path)
    store.track(call("later"))
    assert pushed(found, {"email_opened": 0}) == [("email_opened", 1), ("email_opened", 3)]


@pytest.mark.parametrize(
    ("line", "body", "cleaned"),
    [
        (b"plain text", "plain text", 0),
        (b"a\0b\xff", "ab\ufffd", 0),
        (b'{"a": "\\ud800"}', {"a": "\ufffd"}, 1),
        (b'{"a":' * 100 + b"1" + b"}" * 100, json.loads('{"a":' * 100 + "1" + "}" * 100), 0),
        (b'{"a":' * 101 + b"1" + b"}" * 101,
         json.loads('{"a":' * 100 + r'"{\"a\":1}"' + "}" * 100), 0),
        (b'{"a":[' * 51 + b"1" + b"]}" * 51,
         json.loads('{"a":[' * 50 + r'"{\"a\":[1]}"' + "]}" * 50), 0),
    ],
    ids=["text", "bytes", "surrogate", "nested", "deep", "mixed"],
)  # fmt: skip
def test_the_body_of_an_activity(store: PushedStore, line: bytes, body: Any, cleaned: int) -> None:
    store.activity(b"{}\n" + line)
    (page,) = Collected(store.path).pages({"activities": 0})
    _, event = page.events["activities"]
    assert (event.body, event.cleaned) == (body, cleaned)


# ---- rows


def test_every_column_of_a_pushed_email(store: PushedStore) -> None:
    store.track(CALL)
    (row,) = read(store).rows("email_clicked")
    assert row == {
        "id": "one",
        "event": "email_clicked",
        "event_text": "Email Clicked",
        "timestamp": "2020-01-02T03:04:05Z",
        "user_id": "12345",
        "anonymous_id": "ada@example.com",
        "context_traits_email": "ada@example.com",
        "context_traits_contact_id": "person_1",
        "email_id": f"batchcampaign_{MESSAGE.upper()}",
        "email_name": "First",
        "email_subject": "Welcome",
        "campaign_id": "campaign_1",
        "campaign_name": "Onboarding",
        "transactional": False,
        "link_id": "7",
        "link_url": "https://example.com/a?b=c",
        "received_at": "2020-01-02T03:04:08Z",
        "sent_at": "2020-01-02T03:04:06Z",
        "original_timestamp": "2020-01-02T03:04:00.5Z",
        "additional_fields": {
            "integrations": {"All": True},
            "context": {"ip": "1.2.3.4", "traits": {"plan": "free"}},
            "properties": {"event": "clicked"},
        },
    }


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("Email Delivered", "email_delivered"),
        ("email_opened", "email_opened"),
        ("emailClicked", "email_clicked"),
        ("Email Link Clicked", "email_clicked"),
        ("EMAIL BOUNCED", "email_bounced"),
        ("Email marked as spam", "email_marked_as_spam"),
        ("Email Unsubscribed", "email_unsubscribed"),
        ("Unsubscribed", "email_unsubscribed"),
        ("email-replied", "email_replied"),
        ("Email Read", None),
        ("Order Completed", None),
    ],
)
def test_which_events_feed_which_table(store: PushedStore, name: str, table: str | None) -> None:
    store.track(call("m", name), {**call("n", name), "type": "page"})
    run = read(store)
    assert {stream for stream in EMAILS if run.rows(stream)} == ({table} if table else set())
    if table:
        (row,) = run.rows(table)
        assert row["event"] == table
        spelled = (row["additional_fields"] or {}).get("event", row["event_text"])
        assert spelled == name


@pytest.mark.parametrize(
    ("times", "timestamp"),
    [
        ({}, "2020-01-02T03:04:05Z"),
        ({"timestamp": None}, "2020-01-02T03:04:02.500Z"),
        ({"timestamp": "soon"}, "2020-01-02T03:04:02.500Z"),
        ({"timestamp": "", "sentAt": None}, "2020-01-02T03:04:00.5Z"),
        ({"timestamp": "", "originalTimestamp": None}, "2020-01-02T03:04:06Z"),
        ({"timestamp": None, "originalTimestamp": "no", "sentAt": None}, "2020-01-02T03:04:08Z"),
        ({"timestamp": None, "originalTimestamp": None, "sentAt": None, "receivedAt": None},
         "2020-01-02T03:04:09.000Z"),
        ({"timestamp": 1577934245000}, "2020-01-02T03:04:05.000Z"),
        ({"timestamp": None, "receivedAt": "0001-01-01T00:00:00Z"}, "2020-01-02T03:04:00.5Z"),
        # a clock that is years off
        ({"timestamp": None, "sentAt": "0001-01-01T00:00:00Z"}, "2020-01-02T03:04:00.5Z"),
        ({"timestamp": None, "sentAt": 0}, "2020-01-02T03:04:00.5Z"),
        ({"timestamp": None, "sentAt": "2050-01-01T00:00:00Z"}, "2020-01-02T03:04:00.5Z"),
        ({"timestamp": None, "sentAt": "2015-01-01T00:00:00Z"}, "2020-01-02T03:04:00.5Z"),
        ({"timestamp": None, "sentAt": "0001-01-01T00:00:00Z", "originalTimestamp": 0},
         "2020-01-02T03:04:08Z"),
        ({"timestamp": None, "originalTimestamp": "0001-01-01T00:00:00Z"}, "2020-01-02T03:04:06Z"),
        ({"timestamp": None, "sentAt": "2050-01-01T00:00:01Z",
          "originalTimestamp": "2050-01-01T00:00:00Z"}, "2020-01-02T03:04:08Z"),
        ({"timestamp": None, "sentAt": "2020-06-02T03:04:06Z",  # half a year ahead
          "originalTimestamp": "2020-06-02T03:04:00Z"}, "2020-01-02T03:04:02.000Z"),
        ({"timestamp": None, "originalTimestamp": "2012-05-01T00:00:00Z"},  # an import
         "2012-05-01T00:00:02.000Z"),
    ],
)  # fmt: skip
def test_when_it_happened(store: PushedStore, times: dict[str, Any], timestamp: str) -> None:
    store.track({**call("m"), **times}, at=1577934249000)
    run = read(store)
    (row,) = run.rows("email_opened")
    assert row["timestamp"] == timestamp
    for name, value in times.items():
        if value in ("soon", "no"):
            assert row["additional_fields"][name] == value


@pytest.mark.parametrize(
    "odd",
    [
        b'{"type": "track", "event": "Email Opened"}',
        b'{"event": "Email Opened", "messageId": {"a": 1}, "properties": [1], "context": 7}',
        b'{"event": "Email Opened", "context": {"traits": []}, "properties": {"email_id": {}}}',
        b'{"event": "Email Opened", "properties": {"EmailSubject": 5, "transactional": "yes"}}',
        b'{"event": "Email Opened", "properties": {"a": "\\u0000x\\ud800", "b": 1e400}}',
        b'{"event": "Email Opened", "properties": {"n": %s}}' % (b"9" * 5000),
        b'{"event":"Email Opened","timestamp":"9999-12-31T23:59:59.9999Z","properties":{"n":{}}}',
        b'{"event": "Email Opened", "userId": 5, "x": %s1%s}' % (b"[" * 900, b"]" * 900),
    ],
)
def test_odd_events_become_rows_and_lose_nothing(store: PushedStore, odd: bytes) -> None:
    store.track(odd, CALL)
    run = read(store)
    (row,) = run.rows("email_opened")
    assert row["id"] == f"{store.store_id}-1"
    kept = json.dumps(row, ensure_ascii=False)
    for piece in ('"a": 1', "[1]", "yes", "x\ufffd", "9" * 5000, "[[[1]]]"):
        if piece.encode().replace(b"\xef\xbf\xbd", b"\\ud800") in odd:
            assert piece in kept
    assert run.rows("email_clicked")


def test_times_of_a_push_in_other_formats(store: PushedStore) -> None:
    times = {"timestamp": "Fri, 02 Jun 2017 15:18:58 GMT", "sentAt": " 2017-06-02 15:18:58 +0000"}
    store.track({**call("m"), **times, "receivedAt": "2017-06-02 15:18:58 UTC"})
    (row,) = read(store).rows("email_opened")
    for column in ("timestamp", "sent_at", "received_at"):
        assert row[column] == "2017-06-02T15:18:58Z"


def test_a_number_that_no_database_can_hold_is_text(store: PushedStore) -> None:
    huge = b'{"event": "Email Opened", "contact_id": "c", "more": {"Score": [1e400, 1.50]}}'
    store.track(huge)
    store.hook(huge)
    store.activity(huge)
    run = read(store)
    for stream in ("email_opened", "contact_events", "activities"):
        (row,) = run.rows(stream)
        assert row["additional_fields"]["more"] == {"Score": ["1e400", 1.5]}
        assert b'"Score":["1e400",1.50]' in run.stdout


def test_hooks_in_both_shapes(store: PushedStore) -> None:
    store.hook({"event": "contact_added", "contact_id": "c", "email": "a@example.com"})
    store.hook(
        {"contact_id": "d", "contact": {"Email": "d@example.com", "contact_id": "d"},
         "list_id": "l", "segment_id": "s", "more": [1]},
        "contact_added_to_list", at=1482221012000,
    )  # fmt: skip
    store.hook({"contact": {"ContactId": "e"}, "id": 5, "received_at": "x"}, "contact_updated")
    store.hook([7])
    first, second, third, fourth = read(store).rows("contact_events")
    assert first["event"] == "contact_added"
    assert (first["contact_id"], first["email"]) == ("c", "a@example.com")
    assert second == {
        "id": f"{store.store_id}-2",
        "event": "contact_added_to_list",
        "contact_id": "d",
        "email": "d@example.com",
        "list_id": "l",
        "segment_id": "s",
        "received_at": "2016-12-20T08:03:32.000Z",
        "additional_fields": {
            "contact": {"Email": "d@example.com", "contact_id": "d"},
            "more": [1],
        },
    }
    assert third["contact_id"] == "e"
    assert third["additional_fields"] == {
        "contact": {"ContactId": "e"}, "id": 5, "received_at": "x",
    }  # fmt: skip
    assert fourth["additional_fields"] == {"value": 7}


def test_activities_keep_everything(store: PushedStore) -> None:
    store.activity(b'{"event": "email.opened", "n": 1}\nno json\n[1]\n{"type": "sms.sent"}\n')
    rows = read(store).rows("activities")
    assert [row["event"] for row in rows] == ["email.opened", None, None, "sms.sent"]
    assert [row["additional_fields"] for row in rows] == [
        {"event": "email.opened", "n": 1}, {"value": "no json"}, {"value": [1]},
        {"type": "sms.sent"},
    ]  # fmt: skip
    assert [row["id"] for row in rows] == [f"{store.store_id}-{n}" for n in (1, 2, 3, 4)]


def test_a_message_is_described_by_all_its_pushes(store: PushedStore) -> None:
    store.track(
        call("a", timestamp="2020-01-01T00:00:00Z"),
        call("b", "Email Bounced", timestamp="2020-03-01T00:00:00Z",
             properties={"email_subject": "Other", "transactional": True}),
        call("c", timestamp="2020-02-01T00:00:00Z", properties={"email_subject": None}),
        call("d", properties={"email_id": "x", "email_name": None, "transactional": True}),
        call("e", properties={"email_id": None}),
    )  # fmt: skip
    rows = {row["email_id"]: row for row in read(store).rows("email_messages")}
    assert rows.keys() == {f"batchcampaign_{MESSAGE.upper()}", "x"}
    assert rows[f"batchcampaign_{MESSAGE.upper()}"] == {
        "email_id": f"batchcampaign_{MESSAGE.upper()}",
        "email_name": "First",
        "email_subject": None,
        "campaign_id": "campaign_1",
        "campaign_name": "Onboarding",
        "transactional": None,
        "first_seen_at": "2020-01-01T00:00:00.000Z",
        "last_seen_at": "2020-03-01T00:00:00.000Z",
    }
    assert (rows["x"]["email_name"], rows["x"]["transactional"]) == (None, True)


# ---- one occurrence, one row


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


def test_a_push_without_contact_id_belongs_to_the_contact_with_its_email(
    store: PushedStore,
) -> None:
    contact = {"contact_id": "c", "Email": "Ada@Example.com", "mail_opened": {MESSAGE: 1000}}
    other = {"contact_id": "d", "Email": "bob@example.com", "mail_opened": {MESSAGE: 1000}}
    store.track(call("m", context={"traits": {"email": "ADA@example.com"}}))
    rows = read(store, contact, other).rows("email_opened")
    assert [row["id"] for row in rows] == ["m", f"email_opened:d:{MESSAGE}"]
    assert rows[1]["email_subject"] == "Welcome"  # one push describes the message for everyone


def test_the_anonymous_id_is_the_email_if_nothing_else_is(store: PushedStore) -> None:
    contact = {"contact_id": "c", "email": "ada@example.com", "mail_opened": {MESSAGE: 1000}}
    store.track(call("m", context={}))
    assert [row["id"] for row in read(store, contact).rows("email_opened")] == ["m"]


@pytest.mark.parametrize(
    "names",
    [
        {"userId": " Ada@Example.com"},
        {"userId": "ada@example.com", "anonymousId": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"},
        {"traits": {"email": "ADA@example.com "}, "anonymousId": "bob@example.com"},
        {"properties": {"Email": "ada@example.com"}},
    ],
)
def test_a_push_may_name_its_contact_in_any_field(
    store: PushedStore, names: dict[str, Any]
) -> None:
    contact = {"contact_id": "c", "email": "Ada@example.com ", "mail_opened": {MESSAGE: 1000}}
    other = {"contact_id": "d", "email": "bob@example.com", "mail_opened": {MESSAGE: 1000}}
    nameless: dict[str, Any] = {"userId": None, "anonymousId": None, "context": {}}
    store.track(call("m", **{**nameless, **names}))
    rows = read(store, contact, other).rows("email_opened")
    assert [row["id"] for row in rows] == ["m", f"email_opened:d:{MESSAGE}"]


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


def test_an_event_in_the_far_future_does_not_wait_forever(store: PushedStore) -> None:
    store.track(call("m"))
    contact = {"contact_id": "c", "mail_opened": {"x": 4102444800000}}
    assert [row["id"] for row in read(store, contact).rows("email_opened")] == [
        "m", "email_opened:c:x",
    ]  # fmt: skip


def test_a_recent_event_waits_for_its_push(store: PushedStore) -> None:
    now = int(time.time() * 1000)
    maps = {
        "recent": now - 5 * HOUR, "missed": now - 7 * HOUR, "before": now - 9 * HOUR, "none": None,
    }  # fmt: skip
    contact = {"contact_id": "c", "mail_opened": maps, "mail_clicked": {"recent": now}}
    store.track(call("m"), at=now - 8 * HOUR)
    run = read(store, contact)
    ids = [row["email_id"] for row in run.rows("email_opened") if row["id"] != "m"]
    assert ids == ["missed", "before", "none"]
    assert [row["email_id"] for row in run.rows("email_clicked")] == ["recent"], "none are pushed"
    (line,) = [line for line in run.log if line.startswith("INFO email_opened: ")]
    assert "1 missed by the collector" in line
    assert "1 too recent" in line


def test_only_selected_streams_and_columns_are_written(store: PushedStore, catalog: Any) -> None:
    store.track(CALL, call("m", properties={"email_id": "other"}))
    catalog["streams"] = [entry(catalog, "email_opened")]
    choose(catalog, "email_opened", "properties", "email_id", selected=False)
    choose(catalog, "email_opened", "properties", "timestamp", selected=False)
    contact = {"contact_id": "person_1", "mail_opened": {MESSAGE: 1000}}
    run = read(store, contact, catalog=catalog)
    assert {one["stream"] for one in run.of("RECORD")} == {"email_opened"}
    pushed, polled = run.rows("email_opened")
    assert "email_id" not in pushed
    assert polled["email_name"] == "First", "from the click of the same message"


def test_start_date_skips_older_pushes(store: PushedStore) -> None:
    store.track(call("old"), call("new", timestamp="2021-01-01T00:00:00Z"))
    store.hook({"event": "contact_added"}, at=0)
    run = read(store, start_date="2020-06-01")
    assert [row["id"] for row in run.rows("email_opened")] == ["new"]
    assert len(run.rows("contact_events")) == 1


# ---- positions


def incremental(catalog: Any, *streams: str) -> Any:
    for stream in streams:
        choose(catalog, stream, **{"replication-method": "INCREMENTAL"})
    return catalog


def test_incremental_reads_only_new_events_and_full_table_all(
    store: PushedStore, catalog: Any
) -> None:
    catalog["streams"] = [entry(catalog, "email_opened"), entry(catalog, "email_clicked")]
    incremental(catalog, "email_opened")
    store.track(call("a"), CALL)
    first = read(store, catalog=catalog)
    store.track(call("late", timestamp="2001-01-01T00:00:00Z"), call("two", "Email Clicked"))
    second = read(store, catalog=catalog, state=first.state)
    assert [row["id"] for row in second.rows("email_opened")] == ["late"]
    assert [row["id"] for row in second.rows("email_clicked")] == ["one", "two"]
    assert second.state["bookmarks"]["email_opened"]["collected"][:2] == [store.store_id, 4]
    third = read(store, catalog=catalog, state=second.state)
    assert not third.rows("email_opened")
    assert not [line for line in third.log if "store" in line]


def test_incremental_replication_of_a_stream_that_is_only_pushed(
    tap: Tap, store: PushedStore
) -> None:
    catalog = json.loads(tap.run("--discover", TAP_AUTOPILOT_COLLECTOR_DATABASE=store.path).stdout)
    incremental(catalog, "contact_events", "activities")
    store.hook({"n": 1})
    first = read(store, catalog=catalog)
    store.hook({"n": 2})
    second = read(store, catalog=catalog, state=first.state)
    assert [row["additional_fields"] for row in second.rows("contact_events")] == [{"n": 2}]


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda _: ["another", 1], "the state is from another store"),
        (lambda store_id: [store_id, 9], "the store has lost events"),
        (lambda store_id: [store_id, 2, "0123"], "event 2 in the store is not the one that the"),
        (lambda store_id: [store_id, "1"], "not valid"),
        (lambda _: 7, "not valid"),
    ],
)
def test_another_store_is_read_from_its_start(
    store: PushedStore, catalog: Any, change: Any, warning: str
) -> None:
    incremental(catalog, "email_opened")
    store.track(call("a"), call("b"))
    state = read(store, catalog=catalog).state
    state["bookmarks"]["email_opened"]["collected"] = change(store.store_id)
    run = read(store, catalog=catalog, state=state)
    assert [row["id"] for row in run.rows("email_opened")] == ["a", "b"]
    assert [line for line in run.log if line.startswith("WARNING") and warning in line]


@pytest.mark.parametrize("method", ["INCREMENTAL", "LOG_BASED"])
def test_a_store_restored_from_a_backup_is_read_from_its_start(
    store: PushedStore, catalog: Any, method: str
) -> None:
    choose(catalog, "email_opened", replication_method=method)
    store.track(call("a"))
    backup = Path(store.path).read_bytes()
    store.track(call("lost"))
    first = read(store, catalog=catalog)
    Path(store.path).write_bytes(backup)
    store.track(call("new"), call("newer"))
    second = read(store, catalog=catalog, state=first.state)
    assert [row["id"] for row in second.rows("email_opened")] == ["a", "new", "newer"]
    warning = "event 2 in the store is not the one that the state names; reading all events"
    assert any(warning in line for line in second.log)
    third = read(store, catalog=catalog, state=second.state)
    assert not third.rows("email_opened")
    assert not [line for line in third.log if "reading all" in line]


def test_a_position_of_an_older_version_is_accepted(store: PushedStore, catalog: Any) -> None:
    incremental(catalog, "email_opened")
    store.track(call("a"))
    state = read(store, catalog=catalog).state
    del state["bookmarks"]["email_opened"]["collected"][2]
    store.track(call("b"))
    run = read(store, catalog=catalog, state=state)
    assert [row["id"] for row in run.rows("email_opened")] == ["b"]
    assert not [line for line in run.log if "reading all" in line]


def test_a_run_without_the_collector_makes_the_next_one_read_all_of_the_store(
    store: PushedStore, catalog: Any
) -> None:
    incremental(catalog, "email_opened")
    store.track(call("a"))
    first = read(store, catalog=catalog)
    second = read(store, catalog=catalog, state=first.state, collector_database=None)
    assert second.state["bookmarks"]["email_opened"]["collected"] is None
    assert not second.of("ACTIVATE_VERSION", "email_opened"), "pushed rows are still there"
    third = read(store, catalog=catalog, state=second.state)
    assert len(third.rows("email_opened")) == 1


def test_an_earlier_start_date_starts_over(store: PushedStore, catalog: Any) -> None:
    incremental(catalog, "email_opened")
    store.track(call("a"))
    contact = {"contact_id": "c", "mail_opened": {"x": 1600000000000}}
    first = read(store, contact, catalog=catalog, start_date="2020-06-01")
    second = read(store, contact, catalog=catalog, state=first.state, start_date="2019-01-01")
    assert "a" in [row["id"] for row in second.rows("email_opened")]


@pytest.mark.parametrize("later", ["2019-01-01", None])
def test_an_earlier_start_date_starts_over_without_contacts_too(
    store: PushedStore, catalog: Any, later: str | None
) -> None:
    incremental(catalog, "email_opened")
    store.track(call("a"))
    store.hook({"event": "contact_added"})
    first = read(store, catalog=catalog, start_date="2020-06-01")
    assert not first.rows("email_opened")
    again = read(store, catalog=catalog, state=first.state, start_date="2020-06-01")
    assert not again.rows("email_opened")
    second = read(store, catalog=catalog, state=again.state, start_date=later)
    assert [row["id"] for row in second.rows("email_opened")] == ["a"]
    assert any("start_date is earlier, or no longer set" in line for line in second.log)
    third = read(store, catalog=catalog, state=second.state, start_date=later)
    assert not third.rows("email_opened")


def test_a_run_without_the_store_deletes_no_pushed_rows(store: PushedStore) -> None:
    contact = {"contact_id": "c", "mail_opened": {"x": 1000}}
    first = read(store, contact)
    second = read(store, contact, state=first.state, collector_database=None)
    assert not second.of("ACTIVATE_VERSION", "email_opened")
    assert second.of("ACTIVATE_VERSION", "contacts")


def test_events_already_loaded_cause_no_states(store: PushedStore, catalog: Any) -> None:
    incremental(catalog, *EMAILS)
    store.track(*(call(f"m{n}") for n in range(3000)))
    first = read(store, catalog=catalog)
    second = read(store, catalog=catalog, state=first.state)
    assert len(second.of("STATE")) < 8


def test_old_events_are_not_counted_or_warned_about_again(store: PushedStore, catalog: Any) -> None:
    incremental(catalog, "email_opened")
    store.track(call("m", properties={"transactional": "yes", "link_url": "\ud800"}))
    first = read(store, catalog=catalog)
    assert any("does not fit column transactional" in line for line in first.log)
    second = read(store, catalog=catalog, state=first.state)
    assert not any("does not fit" in line or "cleaned" in line for line in second.log)


def test_a_value_that_does_not_fit_a_deselected_column_is_dropped(
    store: PushedStore, catalog: Any
) -> None:
    choose(catalog, "email_opened", "properties", "transactional", selected=False)
    choose(catalog, "email_opened", "properties", "user_id", selected=False)
    store.track(call("m", userId={"a": 1}, properties={"transactional": "secret"}))
    run = read(store, catalog=catalog)
    assert "secret" not in json.dumps(run.rows("email_opened"))
    assert "userId" not in json.dumps(run.rows("email_opened"))


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


@pytest.mark.parametrize("method", ["FULL_TABLE", "INCREMENTAL"])
def test_any_state_resumes(tap: Tap, serve: Serve, store: PushedStore, method: str) -> None:
    """The rows before any STATE and those of a run resumed from it are, together, all rows."""
    catalog = json.loads(tap.run("--discover", TAP_AUTOPILOT_COLLECTOR_DATABASE=store.path).stdout)
    for stream in catalog["streams"]:
        if stream["metadata"][0]["metadata"]["valid-replication-keys"]:
            choose(catalog, stream["stream"], **{"replication-method": method})
    account = Account(contacts=300, segments=1)
    calls = [track_call(account.seed, one) for one in all_occurrences(account)]
    for start in range(0, len(calls), 100):
        store.webhook(calls[start : start + 100], at=0)
    for number in range(30):
        store.hook({"n": number})
    sandbox = serve(account)
    whole = tap.sync(sandbox, collector_database=store.path, catalog=catalog)
    everything = keys(whole.messages)
    lines = whole.messages
    states = [number for number, line in enumerate(lines) if line["type"] == "STATE"]
    assert len(states) > 6
    for place in states[:: len(states) // 6]:
        state = lines[place]["value"]
        again = in_process.run(sandbox, collector_database=store.path, catalog=catalog, state=state)
        assert again.code == 0
        assert keys(lines[:place]) | keys(again.messages) == everything


def keys(messages: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {
        (one["stream"], json.dumps(one["record"], sort_keys=True))
        for one in messages
        if one["type"] == "RECORD"
    }


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


def test_events_that_no_stream_has_loaded_are_not_pruned(store: PushedStore, catalog: Any) -> None:
    catalog["streams"] = [entry(catalog, "email_opened")]
    store.track(call("a"), CALL, call("b", "Order Completed"))
    store.hook({"event": "contact_added"})
    first = read(store, catalog=catalog)
    assert store.prune(first.state) == 1
    second = read(store)
    assert [row["id"] for row in second.rows("email_clicked")] == ["one"]
    assert len(second.rows("contact_events")) == 1
    assert not second.rows("email_opened")


# ---- the settings, and mistakes


def test_without_a_collector_its_streams_do_not_exist(tap: Tap, store: PushedStore) -> None:
    plain = json.loads(tap.run("--discover").stdout)
    assert {one["stream"] for one in plain["streams"]}.isdisjoint(ONLY_PUSHED)
    missing = str(Path(store.path).with_name("missing.db"))
    found = tap.run("--discover", TAP_AUTOPILOT_COLLECTOR_DATABASE=missing)
    assert {one["stream"] for one in json.loads(found.stdout)["streams"]} >= {*ONLY_PUSHED}


def test_selecting_its_streams_without_a_collector_is_an_error(tap: Tap) -> None:
    with Scripted({}) as sandbox:
        run = tap.run(
            "--select", "contact_events", "--config",
            tap.file("config.json", tap.config(sandbox)),
        )  # fmt: skip
        assert not sandbox.requests
    assert run.code == 2
    assert "contact_events needs the setting collector_database" in run.last_words


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


# ---- kills


def test_kills_lose_nothing(tap: Tap, serve: Serve, store: PushedStore) -> None:
    """Despite many SIGKILLs, all rows arrive if each run resumes from the last STATE."""
    account = Account(contacts=120, segments=1)
    calls = [track_call(account.seed, one) for one in all_occurrences(account)]
    for start in range(0, len(calls), 50):
        store.webhook(calls[start : start + 50], at=0)
    sandbox = serve(account, latency=0.01)
    whole = keys(tap.sync(sandbox, collector_database=store.path).messages)
    config = tap.file("config.json", tap.config(sandbox, collector_database=store.path))
    state: Any = None
    arrived: set[tuple[str, str]] = set()
    for kill in range(20):
        arguments = [*COMMAND, "--config", config]
        if state is not None:
            arguments += ["--state", tap.file("state.json", state)]
        process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tap.folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
        assert process.stdout is not None
        pending: list[dict[str, Any]] = []
        for number, line in enumerate(process.stdout):
            if not line.endswith(b"\n"):
                break
            message = json.loads(line)
            pending.append(message)
            if message["type"] == "STATE":
                state = message["value"]
                arrived |= keys(pending)
                pending.clear()
            if number == 60 + 150 * kill:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        if process.wait() == 0:
            break
    else:
        pytest.fail("it never completed")
    assert kill > 3
    assert arrived == whole


def test_a_growing_store_does_not_keep_a_run_from_ending(store: PushedStore) -> None:
    """Events that arrive during a run are left to the next."""
    store.track(*(call(f"m{n}") for n in range(5)))
    run = read(store)
    store.track(call("later"))
    again = read(store, state=run.state)
    assert "later" in [row["id"] for row in again.rows("email_opened")]
