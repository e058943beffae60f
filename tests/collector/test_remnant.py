"""What remains of a pruned event: what identifies it, and no more."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tap_autopilot.collector import raw_json
from tap_autopilot.collector.events import from_batch
from tap_autopilot.collector.raw_json import TooLarge
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


ADDRESS = "ada@example.com"
EVERYWHERE: dict[str, Any] = {
    "userId": ADDRESS,
    "traits": {"email": ADDRESS},
    "context": {"traits": {"email": ADDRESS}},
    "properties": {"email": ADDRESS, "email_id": "batch_1"},
}
KNOWN = {"context": {"traits": {"contact_id": "person_1"}}, "properties": {"email_id": "batch_1"}}
NO_TIMES = {"sentAt": "x", "originalTimestamp": 1, "receivedAt": None}
ODD_TIMES = ["soon", 5, None, "2024-01-01", "", "0001-01-01T00:00:00+14:00",
             "9999-12-31T23:59:59-14:00"]  # fmt: skip
ODD_IDS: list[Any] = [5, ["x"], "a\nb", "\ud800", "x" * 300, {"a": 1}]


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ({}, {}),
        (EVERYWHERE, EVERYWHERE),
        # no email address where the contact's id is known
        ({**EVERYWHERE, "context": {"traits": {"email": ADDRESS, "contact_id": "person_1"}}}, KNOWN),
        ({**EVERYWHERE, "properties": {**EVERYWHERE["properties"], "ContactId": "person_1"}}, KNOWN),
        ({"properties": {"contact_id": "person_1", "email_id": "batch_1"},
          "context": {"traits": {"email": ADDRESS, "contactId": ""}}}, KNOWN),
        # an odd id and, without a proper time, all times as they came
        *(({"context": {"traits": {"contact_id": one, "email": ADDRESS}}},) * 2 for one in ODD_IDS),
        *(({**NO_TIMES, "timestamp": one},) * 2 for one in ODD_TIMES),
    ],
)  # fmt: skip
def test_what_pruning_keeps_of_an_event(changed: dict[str, Any], kept: dict[str, Any]) -> None:
    found = left(json.dumps({**OPENED, **changed}).encode())
    if kept is KNOWN:
        assert ADDRESS not in json.dumps(found)
        kept = {**kept, "anonymousId": None}
    assert {name: found.get(name) for name in {**LEFT, **kept}} == {**LEFT, **kept}


def test_nothing_is_kept_of_other_events() -> None:
    assert remains("segment", b"5") == remains("segment", b"{broken") == NOTHING
    assert remains("hook", b'{"event": "contact_added", "email": "a@example.com"}') == NOTHING
    assert remains("activity", b"no json") == NOTHING
    assert body_of(NOTHING) == b"{}"


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
    make = compile_email(schema, schema, "email_opened")
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


def test_no_event_of_a_million_members_is_split() -> None:
    """Each member takes 300 bytes, in two threads at once."""
    many = b",".join([b'"a":0'] * (raw_json.MAX_COLONS + 1))
    for body in (
        b'{"batch":[{"writeKey":"k",%s}]}' % many,
        b'{"context":{%s},"batch":[{}]}' % many,
        b'{"context":{"b":0},"batch":[{"context":{%s}}]}' % many,
    ):
        with pytest.raises(TooLarge):
            from_batch(2**23, body, 0)
    (one,) = from_batch(2**23, b'{"batch":[{"event":"Email Opened",%s}]}' % many, 0).events
    assert remains("segment", one.body) == NOTHING
    assert as_track_call(Event(1, 0, "segment", "batch", "", one.body, False), "s") is None


def test_a_call_to_forward_does_not_keep_the_members_that_the_scanner_found() -> None:
    """Twelve such calls of 3 MB took 1.5 GB."""
    body = b'{"type":"track","messageId":"1","a":"\\ud800","b":[%s]}' % b",".join([b"11"] * 20_000)
    call = as_track_call(Event(1, 0, "segment", "track", "", body, False), "s")
    assert call is not None
    assert call.body == body
    assert type(call.body) is bytes
