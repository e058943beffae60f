"""Rows from pushed events: what fills a column, and what stays in additional_fields."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tap_autopilot.protocol.schemas import load_schema
from tap_autopilot.pushed.rows import Pushed, compile_activity, compile_contact_event, compile_email
from tap_autopilot.rows.tally import Tally

STAMPS = {"id": "store-7", "received_at": "1970-01-01T00:00:01.000Z"}
BARE = {**STAMPS, "event": "email_opened", "event_text": "Email Opened",
        "timestamp": "1970-01-01T00:00:01.000Z"}  # fmt: skip


def pushed(body: Any, name: str = "") -> Pushed:
    return Pushed(7, "store-7", 1000, name, body, pruned=False, cleaned=0)


def without(schema: Any, *columns: str) -> Any:
    kept = copy.deepcopy(schema)
    for column in columns:
        del kept["properties"][column]
    return kept


def email(call: Any, *deselected: str, tally: Tally | None = None) -> dict[str, Any]:
    """The columns that are not null."""
    schema = load_schema("email_opened")
    selected = without(schema, *deselected)
    row = compile_email(schema, selected, "email_opened", tally)(pushed(call))
    assert list(row) == list(schema["properties"])
    return {name: value for name, value in row.items() if value is not None}


@pytest.mark.parametrize(
    "call",
    [
        {},
        None,
        "call",
        {"type": "track", "event": "Email Opened", "context": {}, "properties": {}},
        {"context": None, "properties": None},
        {"context": {"traits": {}}},
        {"messageId": "", "userId": None, "sentAt": "", "receivedAt": None, "timestamp": ""},
        {"properties": {"email_id": "", "transactional": None, "link_url": None}},
        {"context": {"traits": {"email": "", "contact_id": None}}, "properties": {"email": ""}},
    ],
)
def test_an_empty_call(call: Any) -> None:
    tally = Tally("email_opened")
    assert email(call, tally=tally) == BARE
    assert not tally.misfits


@pytest.mark.parametrize(
    ("call", "columns"),
    [
        ({"userId": 7, "anonymousId": True}, {"user_id": "7", "anonymous_id": "true"}),
        ({"context": {"traits": {"Email": "a", "ContactId": 7}}},
         {"context_traits_email": "a", "context_traits_contact_id": "7"}),
        ({"properties": {"email": "b", "contactId": "c"}},
         {"context_traits_email": "b", "context_traits_contact_id": "c"}),
        ({"properties": {"EmailId": "m", "LINK_ID": 7, "Transactional": False}},
         {"email_id": "m", "link_id": "7", "transactional": False}),
        ({"properties": {"email_id": "", "EmailId": "m"}}, {"email_id": "m"}),
        ({"context": {"traits": {"email": ""}}, "properties": {"email": "b"}},
         {"context_traits_email": "b"}),
        ({"traits": {"email": "a", "contact_id": "c"}, "properties": {"email": "b"}},
         {"context_traits_email": "a", "context_traits_contact_id": "c",
          "additional_fields": {"properties": {"email": "b"}}}),
        ({"traits": {"email": "a", "plan": 1}, "context": {"traits": {"email": "b"}}},
         {"context_traits_email": "b", "additional_fields": {"traits": {"email": "a", "plan": 1}}}),
        ({"originalTimestamp": 0}, {"original_timestamp": "1970-01-01T00:00:00.000Z"}),
        ({"timestamp": "Fri, 02 Jun 2017 15:18:58 GMT", "sentAt": " 2017-06-02 15:18:58 +0000",
          "receivedAt": "2017-06-02 15:18:58 UTC"},
         dict.fromkeys(("timestamp", "sent_at", "received_at"), "2017-06-02T15:18:58Z")),
    ],
)  # fmt: skip
def test_what_fills_a_column(call: Any, columns: dict[str, Any]) -> None:
    assert email(call) == {**BARE, **columns}


@pytest.mark.parametrize(
    ("call", "columns", "kept"),
    [
        ({"event": "email opened", "type": "track", "x": None}, {},
         {"event": "email opened", "x": None}),
        ({"context": 7, "properties": [1]}, {}, {"context": 7, "properties": [1]}),
        ({"context": {"ip": "1", "traits": [1]}}, {}, {"context": {"ip": "1", "traits": [1]}}),
        ({"context": {"traits": None}}, {}, {"context": {"traits": None}}),
        ({"context": {"traits": {"email": "a", "plan": 1}}}, {"context_traits_email": "a"},
         {"context": {"traits": {"plan": 1}}}),
        ({"context": {"traits": {"email": "a"}}, "properties": {"email": "b"}},
         {"context_traits_email": "a"}, {"properties": {"email": "b"}}),
        ({"properties": {"email_id": "m", "EmailId": "n"}}, {"email_id": "m"},
         {"properties": {"EmailId": "n"}}),
        ({"properties": {"event": "opened", "email_id": "m"}}, {"email_id": "m"},
         {"properties": {"event": "opened"}}),
        ({"event": "Email Opened", "x": "Email Opened", "userId": "u"}, {"user_id": "u"},
         {"x": "Email Opened"}),
    ],
)  # fmt: skip
def test_a_value_without_a_column_is_kept_in_place(
    call: Any, columns: dict[str, Any], kept: dict[str, Any]
) -> None:
    tally = Tally("email_opened")
    assert email(call, tally=tally) == {**BARE, **columns, "additional_fields": kept}
    assert not tally.misfits


def test_a_value_that_does_not_fit_is_kept_in_place_unless_its_column_is_deselected() -> None:
    call = {
        "messageId": {"a": 1},
        "sentAt": "soon",
        "context": {"traits": {"email": [1]}},
        "properties": {"transactional": "yes", "link_id": {}},
    }
    columns = ("sent_at", "context_traits_email", "transactional", "link_id")
    tally = Tally("email_opened")
    assert email(call, tally=tally) == {**BARE, "additional_fields": call}
    assert tally.misfits == dict.fromkeys(columns, 1)
    assert email(call) == {**BARE, "additional_fields": call}
    tally = Tally("email_opened")
    assert email(call, "id", *columns, tally=tally) == BARE
    assert not tally.misfits


@pytest.mark.parametrize(
    ("body", "name", "columns"),
    [
        ({}, "", {}),
        ({}, "contact_added", {"event": "contact_added"}),
        ({"event": "", "contact_id": ""}, "contact_added",
         {"event": "contact_added", "contact_id": None}),
        ({"event": "contact_updated"}, "contact_added", {"event": "contact_updated"}),
        ({"event": 5, "list_id": 7, "segment_id": "s"}, "",
         {"event": "5", "list_id": "7", "segment_id": "s"}),
        ({"contact": {"ContactId": 7, "EMAIL": "e", "event": "x"}}, "", {
            "contact_id": "7", "email": "e",
            "additional_fields": {"contact": {"ContactId": 7, "EMAIL": "e", "event": "x"}}}),
        ({"contact_id": "c", "email": "f", "contact": {"contact_id": "d", "email": "e"}}, "", {
            "contact_id": "c", "email": "f",
            "additional_fields": {"contact": {"contact_id": "d", "email": "e"}}}),
        ({"contact": {"contact_id": [1]}}, "",
         {"additional_fields": {"contact": {"contact_id": [1]}}}),
        ({"contact": "c", "id": "x", "receivedAt": 5}, "",
         {"additional_fields": {"contact": "c", "id": "x", "receivedAt": 5}}),
        ([7], "", {"additional_fields": {"value": [7]}}),
    ],
)  # fmt: skip
def test_the_delivery_of_a_hook(body: Any, name: str, columns: dict[str, Any]) -> None:
    schema = load_schema("contact_events")
    whole = {**dict.fromkeys(schema["properties"]), **STAMPS, **columns}
    row = compile_contact_event(schema, schema, Tally("contact_events"))(pushed(body, name))
    assert row == whole
    assert list(row) == list(schema["properties"])
    for deselected in (("event", "received_at", "list_id"), ("email", "contact_id")):
        selected = without(schema, *deselected)
        make = compile_contact_event(schema, selected, Tally("contact_events"))
        expected = {column: whole[column] for column in selected["properties"]}
        assert make(pushed(body, name)) == expected


@pytest.mark.parametrize(
    ("body", "name", "columns"),
    [
        ({"event": "x", "n": 1}, "email.opened",
         {"event": "email.opened", "additional_fields": {"event": "x", "n": 1}}),
        ([1], "", {"event": None, "additional_fields": {"value": [1]}}),
        (None, "", {"event": None, "additional_fields": {"value": None}}),
    ],
)  # fmt: skip
def test_an_activity(body: Any, name: str, columns: dict[str, Any]) -> None:
    schema = load_schema("activities")
    whole = {**STAMPS, **columns}
    for deselected in ((), ("event",), ("received_at", "additional_fields")):
        selected = without(schema, *deselected)
        row = compile_activity(selected)(pushed(body, name))
        assert row == {column: whole[column] for column in selected["properties"]}
        assert list(row) == list(selected["properties"])


def test_an_event_with_many_spellings_takes_no_column_from_later_events() -> None:
    """A sender must not be able to change what others send."""
    schema = load_schema("email_opened")
    make = compile_email(schema, schema, "email_opened")

    def odd(name: str) -> dict[str, str]:
        return {f"{'_' * number}{name}": "x" for number in range(1, 30)}

    call = {
        "messageId": "m",
        "timestamp": "2020-01-02T03:04:05Z",
        "context": {"traits": {"contact_id": "person_1"}},
        "properties": {"email_id": "e"},
    }
    before = make(pushed(call))
    make = compile_email(schema, schema, "email_opened")
    traits, properties = odd("contact_id"), odd("email_id")
    make(pushed({**odd("messageId"), **odd("timestamp"), "context": {"traits": traits},
                 "properties": properties}))  # fmt: skip
    assert make(pushed(call)) == before
