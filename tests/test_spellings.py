"""Fields whose names are spelled in other ways than their columns, or in two ways."""

from __future__ import annotations

from typing import Any

import pytest

from tap_autopilot.rows.shape import compile_shape
from tap_autopilot.rows.tally import Tally
from tests.test_shape import SCHEMA, shaped


@pytest.mark.parametrize("spelling", ["FirstName", "first_name", "firstName", "FIRST_NAME"])
def test_a_column_is_found_in_any_spelling(spelling: str) -> None:
    assert shaped({spelling: "Ada"}) == {"first_name": "Ada"}


@pytest.mark.parametrize(
    ("document", "row"),
    [
        ({"unsubscribed": True, "Unsubscribed": False}, {"unsubscribed": True}),
        ({"unsubscribed": None, "Unsubscribed": False}, {"unsubscribed": False}),
        ({"unsubscribed": "x", "Unsubscribed": False}, {"unsubscribed": False}),
        ({"Unsubscribed": False, "unsubscribed": None}, {"unsubscribed": False}),
        ({"unsubscribed": "", "Unsubscribed": False}, {"unsubscribed": False}),
    ],
)
def test_two_spellings_of_one_column_lose_nothing(document: Any, row: Any) -> None:
    left = {name: it for name, it in document.items() if it not in (None, "", row["unsubscribed"])}
    assert shaped(document) == {**row, **({"additional_fields": left} if left else {})}


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


def test_an_empty_spelling_does_not_hide_another() -> None:
    assert shaped({"first_name": "", "FirstName": "Ada"}) == {"first_name": "Ada"}
    assert shaped({"FirstName": "Ada", "first_name": ""}) == {"first_name": "Ada"}
    assert shaped({"FirstName": "", "first_name": ""}) == {"first_name": ""}
    assert shaped({"CreatedAt": "", "created_at": "", "Created_At": None}) == {}
    shape = compile_shape(SCHEMA, SCHEMA, ("contact_id",), Tally("contacts"))
    row = shape({"contact_id": "", "ContactId": "p1"})
    assert row is not None
    assert row["contact_id"] == "p1"


def test_a_value_with_two_spellings_of_a_name_is_kept_whole() -> None:
    shape = compile_shape(SCHEMA, SCHEMA, ("contact_id",), Tally("contacts"))
    both = {"min": 1, "Min": 2}
    for value, kept in (({"Min": 2}, False), (both, True), ({"min": 1}, False), ({}, False)):
        row = shape({"contact_id": "1", "employeesRange": value})
        assert row is not None
        assert row["employees_range"] == {"min": max([*value.values()], default=None), "max": None}
        assert row["additional_fields"] == ({"employeesRange": value} if kept else None)
