"""Field names in any spelling: which column a field fills, and which of two spellings wins."""

from __future__ import annotations

from typing import Any

import pytest

from tap_autopilot.rows import names as module
from tap_autopilot.rows.names import Names, compile_pick


def test_the_spellings_of_a_column_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SPELLINGS", 2)
    names = Names({"email": str}, [])
    pick = compile_pick(["email"])
    for name in ("Email", "EMAIL", "email", "Email"):
        column = (name, None) if name == "email" else ("email", str)
        assert names[name] == column
        assert pick({name: "a"}) == ({} if name == "email" else {"email": "a"})
    assert names.shared == {"email": ["Email", "EMAIL"]}


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


def test_a_repeated_spelling_counts_once() -> None:
    pick = compile_pick(["lists"])
    for number in range(3):
        assert pick({"Lists": ["a"], f"field{number}": 1}) == {"lists": ["a"]}
