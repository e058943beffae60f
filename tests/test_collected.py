"""The collector's store as a second source: its events, and their rows."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.exceptions import RunError, UserError
from tap_autopilot.pushed import index as index_module
from tap_autopilot.pushed.collected import Collected
from tap_autopilot.pushed.index import PushedIndex
from tap_autopilot.rows.matching import DESCRIPTION, hash_of
from tap_autopilot.streams import EMAILS
from tests.pushed_store import CALL, MESSAGE, PushedStore, call, read

NOW = 1_577_934_249_000

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
    assert found.store[:2] == (store.store_id, 6)
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


def test_missing_numbers_let_no_later_event_in(store: PushedStore) -> None:
    store.track(call("a"), call("b"), call("c"), call("d"))
    with closing(sqlite3.connect(store.path)) as database, database:
        database.execute("DELETE FROM events WHERE seq = 2")
    found = Collected(store.path)
    store.track(call("later"))
    with closing(sqlite3.connect(store.path)) as database, database:
        database.execute("DELETE FROM events WHERE seq = 4")  # the last one of those to read
    assert pushed(found, {"email_opened": 0}) == [("email_opened", 1), ("email_opened", 3)]
    assert [page.last for page in found.pages({"email_opened": 3})] == [4]


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
    store.track({**call("m"), **times}, at=NOW)
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
    store.track(odd, CALL, at=NOW)
    run = read(store)
    (row,) = run.rows("email_opened")
    assert row["id"] == f"{store.store_id}-1-{NOW}"
    kept = json.dumps(row, ensure_ascii=False)
    for piece in ('"a": 1', "[1]", "yes", "x\ufffd", "9" * 5000, "[[[1]]]"):
        if piece.encode().replace(b"\xef\xbf\xbd", b"\\ud800") in odd:
            assert piece in kept
    assert run.rows("email_clicked")


@pytest.mark.parametrize(
    ("ids", "id_"),
    [
        (b'"messageId":5', "5"),
        (b'"messageId":"", "message_id":"one"', None),
        (b'"MessageId":"one"', None),
        (b'"message_id":"one","messageId":"two"', "two"),
        (b'"messageId":"two","message\\u0000Id":"one"', "two"),
        (b'"messageId":"one","messageId":"two","x":"\\ud800"', "two"),
        (b'"messageId":"one","messageId":"two","x":%s1%s' % (b"[" * 99_000, b"]" * 99_000), "two"),
        (b'"messageId":"%s"' % (b"x" * 400), "x" * 400),
        (b'"messageId":"%s"' % (b"x" * 401), None),  # no database could index megabytes
        (b'"messageId":"email_opened:person_1:m1"', None),
    ],
)
def test_no_event_replaces_another_by_a_second_id(
    store: PushedStore, ids: bytes, id_: str | None
) -> None:
    """An event that the collector takes for a new one makes a row of its own."""
    store.track(call("one"), b'{"type":"track","event":"Email Opened",%s}' % ids, at=NOW)
    first, second = read(store).rows("email_opened")
    assert first["id"] == "one"
    assert second["id"] == (id_ or f"{store.store_id}-2-{NOW}")
    if b'"one"' in ids:
        assert "one" in second["additional_fields"].values()


def test_no_event_takes_an_id_that_the_tap_gave_to_another(store: PushedStore) -> None:
    store.track({"event": "Email Opened"}, at=NOW)
    (row,) = read(store).rows("email_opened")
    store.track(call(row["id"]), at=NOW)
    assert [row["id"] for row in read(store).rows("email_opened")] == [
        f"{store.store_id}-1-{NOW}", f"{store.store_id}-2-{NOW}",
    ]  # fmt: skip


def test_a_restored_store_gives_no_event_the_id_of_a_lost_one(
    store: PushedStore, tmp_path: Path
) -> None:
    shutil.copy(store.path, tmp_path / "backup")
    ids = set()
    for at in (NOW, NOW + 1):
        store.track({"event": "Email Opened"}, at=at)
        store.hook({"contact_id": "person_1"}, at=at)
        run = read(store)
        ids |= {row["id"] for name in ("email_opened", "contact_events") for row in run.rows(name)}
        shutil.copy(tmp_path / "backup", store.path)
    assert len(ids) == 4


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


BLANK = dict.fromkeys((*DESCRIPTION, "timestamp"))


def test_messages_with_long_texts_come_a_few_at_a_time() -> None:
    index = PushedIndex(EMAILS)
    index.describe({**BLANK, "email_id": f"m{n}", "email_name": "x" * 1_500_000} for n in range(8))
    assert [len(rows) for rows in index.messages()] == [3, 3, 2]


def test_only_messages_with_usual_ids_are_rows() -> None:
    index = PushedIndex(EMAILS)
    index.describe({**BLANK, "email_id": "i" * length} for length in (400, 401))
    assert [[len(row["email_id"]) for row in rows] for rows in index.messages()] == [[400]]


def test_the_store_is_not_asked_about_messages_that_it_does_not_know() -> None:
    """A contact may have got a million of them."""
    index = PushedIndex(EMAILS)
    index.describe([{**BLANK, "email_id": "known", "email_name": "First"}])
    index.complete()
    pushes = index.about({"person_1": None}, NOW)
    queries: list[str] = []
    index._database.set_trace_callback(queries.append)
    keys = [hash_of(email_id) for email_id in ("known", *map(str, range(1000)))]
    described = [pushes.description(key) for key in keys]
    assert dict(zip(DESCRIPTION, described[0] or (), strict=True))["email_name"] == "First"
    assert described[1:] == [None] * 1000
    assert len(queries) == 1


def test_a_disk_that_fails_while_the_index_is_read_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(index_module, "MAX_MESSAGES", 1)
    index = PushedIndex(EMAILS)
    index.describe({**BLANK, "email_id": f"m{number}"} for number in range(3))
    index.complete()
    pushes = index.about({}, NOW)
    batches = index.messages()
    next(batches)
    index._database.set_progress_handler(lambda: 1, 1)
    uses: list[Callable[[], object]] = [
        lambda: next(batches),
        index.has_messages,
        lambda: index.describe([{**BLANK, "email_id": "m1"}], only_known=True),
        lambda: index.about({"person_1": None}, NOW),
        lambda: pushes.description(hash_of("m1")),
    ]
    for use in uses:
        with pytest.raises(RunError, match=r"^Cannot keep pushed events .*: interrupted\."):
            use()
