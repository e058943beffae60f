"""What remains of a pruned event: what identifies it, and no more."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tap_autopilot.collector.events import from_batch
from tap_autopilot.collector.reader import Event
from tap_autopilot.collector.remnant import NOTHING, body_of, remains
from tap_autopilot.collector.track_calls import as_track_call
from tap_autopilot.protocol.schemas import load_schema
from tap_autopilot.pushed.rows import Pushed, compile_email
from tap_autopilot.rows.times import as_datetime

OPENED = {
    "type": "track",
    "event": "Email Opened",
    "messageId": "m",
    "timestamp": "2024-01-01T00:00:00Z",
    "anonymousId": "ada@example.com",
    "context": {"ip": "1.2.3.4", "traits": {"email": "ada@example.com", "phone": "1"}},
    "properties": {"event": "opened", "email_id": "batch_1", "link_url": "https://x", "n": 1},
}
LEFT = {
    "timestamp": "2024-01-01T00:00:00.000Z",
    "anonymousId": "ada@example.com",
    "context": {"traits": {"email": "ada@example.com"}},
    "properties": {"email_id": "batch_1"},
}


def left(body: bytes) -> Any:
    return json.loads(body_of(remains("segment", body)))


def test_what_pruning_keeps_of_an_event() -> None:
    assert left(json.dumps(OPENED).encode()) == LEFT
    assert remains("segment", b"5") == remains("segment", b"{broken") == NOTHING
    assert remains("hook", b'{"event": "contact_added", "email": "a@example.com"}') == NOTHING
    assert remains("activity", b"no json") == NOTHING
    assert body_of(NOTHING) == b"{}"


@pytest.mark.parametrize(
    ("traits", "properties"),
    [({"contact_id": "person_1"}, {}), ({}, {"ContactId": "person_1"}),
     ({"contactId": ""}, {"contact_id": "person_1"})],
)  # fmt: skip
def test_no_email_address_remains_where_the_contact_is_known(
    traits: dict[str, str], properties: dict[str, str]
) -> None:
    address = "ada@example.com"
    call = {
        **OPENED,
        "userId": address,
        "traits": {"email": address},
        "context": {"traits": {"email": address, **traits}},
        "properties": {"email": address, "email_id": "batch_1", **properties},
    }
    found = left(json.dumps(call).encode())
    assert address not in json.dumps(found)
    assert found["context"] == {"traits": {"contact_id": "person_1"}}
    assert found["properties"] == {"email_id": "batch_1"}


@pytest.mark.parametrize("contact", [5, ["x"], "a\nb", "\ud800", "x" * 300, {"a": 1}])
def test_an_odd_contact_id_is_kept_as_it_came(contact: Any) -> None:
    traits = {"contact_id": contact, "email": "a@example.com"}
    found = left(json.dumps({**OPENED, "context": {"traits": traits}}).encode())
    assert found["context"] == {"traits": traits}


@pytest.mark.parametrize("time", ["soon", 5, None, "2024-01-01", ""])
def test_without_a_proper_timestamp_all_times_are_kept(time: Any) -> None:
    times = {"timestamp": time, "sentAt": "x", "originalTimestamp": 1, "receivedAt": None}
    found = left(json.dumps({**OPENED, **times}).encode())
    assert {name: found[name] for name in times} == times


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "Track"},
        {"properties": {"emailId": "batch_1", "EmailSubject": "S"}},
        {"context": {"traits": {"contactId": "c", "EMAIL": "a@example.com"}}},
        {"context": {}, "properties": {"contact_id": "c"}},
    ],
)
def test_pruning_keeps_the_columns_that_identify_an_event(odd: dict[str, Any]) -> None:
    body = json.dumps({**OPENED, **odd}).encode()
    schema = load_schema("email_opened")
    make = compile_email(schema, schema, "email_opened", "Email Opened")
    before, after = (
        make(Pushed(1, "1", 0, "", json.loads(one), pruned=False, cleaned=0))
        for one in (body, body_of(remains("segment", body)))
    )
    columns = ["email_id", "email_subject", "context_traits_contact_id"]
    if after["context_traits_contact_id"] is None:
        columns += ["context_traits_email", "anonymous_id"]
    for column in columns:
        assert after[column] == before[column]
    assert as_datetime(after["timestamp"]) == as_datetime(before["timestamp"])


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_year_that_utc_does_not_have_is_kept_as_it_came(time: str) -> None:
    assert left(json.dumps({**OPENED, "timestamp": time}).encode())["timestamp"] == time


@pytest.mark.parametrize(
    "odd",
    [
        {"properties": {"email_id": "batch_1", "email_subject": "x" * 10_000}},
        {**LEFT, "userId": "x" * 10_000},
        {"timestamp": "x" * 10_000, "sentAt": ["x" * 10_000]},
        {"properties": {"_" * n + "email_name": "x" * 10 for n in range(1000)}},
        {"context": {"traits": {"_" * n + "email": "x" * 10 for n in range(1000)}}},
    ],
)
def test_whatever_a_sender_makes_little_remains(odd: dict[str, Any]) -> None:
    found = remains("segment", json.dumps({**OPENED, **odd}).encode())
    assert len(body_of(found)) < 300
    assert "x" * 10 not in str(found)


def test_what_was_not_too_large_within_a_batch_has_no_remnant() -> None:
    """A batch's scanner looks less deep into its events."""
    zeros = b",".join([b"0"] * 100_001)
    call = b'{"type":"track","\\ud800":1,"a":[[%s]],"properties":{"email_id":"m"}}' % zeros
    (one,) = from_batch(2**23, b'{"batch":[%s]}' % call, 0).events
    assert remains("segment", one.body) == NOTHING
    assert as_track_call(Event(1, 0, "segment", "batch", "", one.body, False), "s") is None
