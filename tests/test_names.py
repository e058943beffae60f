"""Field names in any spelling: which column a field fills, and what is deselected."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tap_autopilot.rows import names as module
from tap_autopilot.rows.names import Names, compile_pick
from tap_autopilot.rows.shape import compile_shape
from tap_autopilot.rows.tally import Tally
from tests.test_shape import SCHEMA, shaped


def test_the_spellings_of_a_column_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SPELLINGS", 2)
    names = Names({"email": str}, [])
    pick = compile_pick(["email"])
    for name in ("Email", "EMAIL", "e_mail", "email", "Email"):
        column = (name, None) if name == "e_mail" else ("email", str)
        assert names[name] == column
        assert pick({name: "a"}) == ({} if name == "e_mail" else {"email": "a"})
    assert names.shared == {"email": ["Email", "EMAIL", "email"]}


def test_a_column_is_contested_only_by_fields_of_the_same_document() -> None:
    names = Names({"first_name": str, "email": str}, ["phone"])
    names["FirstName"], names["Email"], names["Phone"], names["PHONE"]
    assert names.shared == {}
    names["first_name"], names["firstName"]
    assert names.shared == {"first_name": ["FirstName", "first_name", "firstName"]}
    for alone in ({}, {"Email": "e"}, {"FirstName": "Ada"}, {"first_name": "Ada", "x": "y"}):
        assert names.contested(alone) == []
    for first, own, expected in (
        ("Ada", "Augusta", ["first_name", "FirstName"]),
        ("Ada", "", ["FirstName", "first_name"]),
        ("Ada", None, ["FirstName", "first_name"]),
        ("", None, ["first_name", "FirstName"]),
    ):
        document = {"FirstName": first, "first_name": own}
        assert names.contested(document) == [("first_name", expected)]
    both = {"firstName": "Ada", "FirstName": "Augusta"}
    assert names.contested(both) == [("first_name", ["FirstName", "firstName"])]


def test_long_names_have_no_column_and_are_not_remembered() -> None:
    names = Names({"email": str}, [])
    pick = compile_pick(["email"])
    for long in ("n" * 201, "email" + "_" * 200):
        assert names[long] == (long, None)
        assert pick({long: "a", "Email": "b"}) == {"email": "b"}
    assert names["Email"] == ("email", str)
    assert list(names) == ["Email"]


@pytest.mark.parametrize(
    ("document", "picked"),
    [
        ({"contact_id": 0, "Lists": ["a"]}, {"contact_id": 0, "lists": ["a"]}),
        ({"ContactId": False}, {"contact_id": False}),
        ({"contact_id": "", "lists": [], "Lists": {}, "other": 1}, {}),
        ({"contact_id": None, "CONTACT_ID": "b"}, {"contact_id": "b"}),
        ({"ContactId": "b", "contact_id": "a"}, {"contact_id": "a"}),
        ({"Lists": ["b"], "lists": ["a"]}, {"lists": ["a", "b"]}),
        ({"Lists": {"a": 1, "b": 2}, "lists": {"a": 3}}, {"lists": {"a": 3, "b": 2}}),
        ({"Lists": ["b"], "lists": {"a": 1}}, {"lists": {"a": 1}}),
        ({"Lists": {"a": 1}, "lists": ["b"]}, {"lists": ["b"]}),
        ({"Lists": ["b"], "lists": "a"}, {"lists": "a"}),
        ({"Lists": "b", "lists": ["a"]}, {"lists": ["a"]}),
        ({"Lists": ["b"], "lists": False}, {"lists": ["b"]}),
        ({"Lists": False, "lists": ["a"]}, {"lists": ["a"]}),
        (["lists"], {}),
        (None, {}),
    ],
)
def test_what_is_picked_from_a_document(document: Any, picked: dict[str, Any]) -> None:
    pick = compile_pick(["contact_id", "lists"])
    for _ in range(2):
        assert pick(document) == picked
        assert pick({"other": 1}) == {}


# Deselected parts


def without(*paths: str) -> Any:
    """The schema without these columns, or parts of columns."""
    schema = json.loads(json.dumps(SCHEMA))
    for path in paths:
        column, _, part = path.partition(".")
        if part:
            values = schema["properties"][column]
            del values.get("items", values)["properties"][part]
        else:
            del schema["properties"][column]
    return schema


def test_deselecting_a_part_keeps_the_rest_of_an_odd_value() -> None:
    schema = without(
        "employees_range.max", "custom_fields.value", "mail_opened.timestamp", "mail_clicked.id"
    )
    row = shaped(
        {
            "employeesRange": {"min": "ten", "Max": 20, "avg": 5},
            "custom_fields": [{"kind": "K", "value": "secret", "deleted": "no"}],
            "mail_opened": {"m": "soon"},
            "mail_clicked": {"m": "soon"},
            "company_priority": "high",
        },
        schema,
    )
    assert row == {
        "additional_fields": {
            "employeesRange": {"min": "ten", "avg": 5},
            "custom_fields": [{"kind": "K", "deleted": "no"}],
            "mail_opened": {"m": None},
            "mail_clicked": ["soon"],
            "company_priority": "high",
        }
    }


def test_what_is_deselected_is_dropped() -> None:
    schema = without("first_name", "additional_fields", "mail_opened.id", "mail_opened.timestamp")
    tally = Tally("contacts")
    odd = {"FirstName": "Ada", "Email": "e", "score": 1, "unsubscribed": "no"}
    assert shaped(odd, schema, tally) == {"email": "e"}
    assert tally.unknown == {"score": 1}
    schema["properties"]["additional_fields"] = SCHEMA["properties"]["additional_fields"]
    assert shaped({"FirstName": "Ada", "mail_opened": {"m": "soon"}}, schema) == {}


@pytest.mark.parametrize("odd", ["x", 5.5, True, [1], ["x", None], {"a": 1}], ids=repr)
def test_an_odd_value_is_kept_whatever_part_of_its_column_is_deselected(odd: Any) -> None:
    schema = without(
        "employees_range.max", "custom_fields.value", "mail_opened.timestamp", "mail_clicked.id"
    )
    if not isinstance(odd, dict):
        document = {"employeesRange": odd, "mail_opened": odd, "mail_clicked": odd}
        assert shaped(document, schema) == {"additional_fields": document}
    assert shaped({"custom_fields": odd}, schema) == {"additional_fields": {"custom_fields": odd}}


@pytest.mark.parametrize(
    ("document", "row", "left"),
    [
        ({"unsubscribed": True, "Unsubscribed": False}, {"unsubscribed": True}, ["Unsubscribed"]),
        ({"unsubscribed": "x", "Unsubscribed": False}, {"unsubscribed": False}, ["unsubscribed"]),
        # an empty one does not hide another
        ({"unsubscribed": None, "Unsubscribed": False}, {"unsubscribed": False}, []),
        ({"Unsubscribed": False, "unsubscribed": None}, {"unsubscribed": False}, []),
        ({"unsubscribed": "", "Unsubscribed": False}, {"unsubscribed": False}, []),
        ({"first_name": "", "FirstName": "Ada"}, {"first_name": "Ada"}, []),
        ({"FirstName": "Ada", "first_name": ""}, {"first_name": "Ada"}, []),
        ({"FirstName": "", "first_name": ""}, {"first_name": ""}, []),
        ({"CreatedAt": "", "created_at": "", "Created_At": None}, {}, []),
    ],
)
def test_two_spellings_of_one_column_lose_nothing(document: Any, row: Any, left: list[str]) -> None:
    kept = {"additional_fields": {name: document[name] for name in left}} if left else {}
    assert shaped(document) == {**row, **kept}


def test_an_empty_key_does_not_hide_another_spelling_of_it() -> None:
    shape = compile_shape(SCHEMA, SCHEMA, ("contact_id",), Tally("contacts"))
    assert (shape({"contact_id": "", "ContactId": "p1"}) or {})["contact_id"] == "p1"


def test_the_first_of_two_spellings_fills_what_the_column_can_hold() -> None:
    first, second = {"min": 1, "avg": 2}, {"min": 3, "max": 4}
    assert shaped({"employees_range": first, "employeesRange": second}) == {
        "employees_range": {"min": 1, "max": None},
        "additional_fields": {"employees_range": first, "employeesRange": second},
    }
    assert shaped({"employees_range": second, "employeesRange": first}) == {
        "employees_range": {"min": 3, "max": 4},
        "additional_fields": {"employeesRange": first},
    }


def test_a_value_with_two_spellings_of_a_name_is_kept_whole() -> None:
    shape = compile_shape(SCHEMA, SCHEMA, ("contact_id",), Tally("contacts"))
    both = {"min": 1, "Min": 2}
    for value, kept in (({"Min": 2}, False), (both, True), ({"min": 1}, False), ({}, False)):
        row = shape({"contact_id": "1", "employeesRange": value})
        assert row is not None
        assert row["employees_range"] == {"min": max([*value.values()], default=None), "max": None}
        assert row["additional_fields"] == ({"employeesRange": value} if kept else None)
