"""What rows keep of values whose columns, or parts of them, are deselected."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tap_autopilot.rows.tally import Tally
from tests.test_shape import SCHEMA, shaped


def test_deselecting_a_part_keeps_the_rest_of_an_odd_value() -> None:
    schema = json.loads(json.dumps(SCHEMA))
    del schema["properties"]["employees_range"]["properties"]["max"]
    del schema["properties"]["custom_fields"]["items"]["properties"]["value"]
    del schema["properties"]["mail_opened"]["items"]["properties"]["timestamp"]
    del schema["properties"]["mail_clicked"]["items"]["properties"]["id"]
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


def test_either_part_of_a_map_can_be_deselected() -> None:
    schema = json.loads(json.dumps(SCHEMA))
    del schema["properties"]["mail_opened"]["items"]["properties"]["timestamp"]
    del schema["properties"]["mail_clicked"]["items"]["properties"]["id"]
    assert shaped({"mail_opened": {"m": 0}, "mail_clicked": {"m": 0}}, schema) == {
        "mail_opened": [{"id": "m"}],
        "mail_clicked": [{"timestamp": "1970-01-01T00:00:00.000Z"}],
    }


def test_an_unknown_part_is_kept_where_another_is_deselected() -> None:
    schema = json.loads(json.dumps(SCHEMA))
    del schema["properties"]["employees_range"]["properties"]["max"]
    for value in ({"avg": 2, "Max": 3}, {"Max": 3, "avg": 2}):
        assert shaped({"employeesRange": value}, schema) == {
            "employees_range": {"min": None},
            "additional_fields": {"employeesRange": {"avg": 2}},
        }
    assert shaped({"employeesRange": {"Max": 3}}, schema) == {"employees_range": {"min": None}}


def test_what_is_deselected_is_dropped() -> None:
    schema = json.loads(json.dumps(SCHEMA))
    for column in ("first_name", "additional_fields"):
        del schema["properties"][column]
    schema["properties"]["mail_opened"]["items"]["properties"].clear()
    tally = Tally("contacts")
    odd = {"FirstName": "Ada", "Email": "e", "score": 1, "unsubscribed": "no"}
    assert shaped(odd, schema, tally) == {"email": "e"}
    assert tally.unknown == {"score": 1}
    schema["properties"]["additional_fields"] = SCHEMA["properties"]["additional_fields"]
    assert shaped({"FirstName": "Ada", "mail_opened": {"m": "soon"}}, schema) == {}


@pytest.mark.parametrize("odd", ["x", 5.5, True, [1], ["x", None], {"a": 1}], ids=repr)
def test_an_odd_value_is_kept_whatever_part_of_its_column_is_deselected(odd: Any) -> None:
    schema = json.loads(json.dumps(SCHEMA))
    del schema["properties"]["employees_range"]["properties"]["max"]
    del schema["properties"]["custom_fields"]["items"]["properties"]["value"]
    del schema["properties"]["mail_opened"]["items"]["properties"]["timestamp"]
    del schema["properties"]["mail_clicked"]["items"]["properties"]["id"]
    if not isinstance(odd, dict):
        document = {"employeesRange": odd, "mail_opened": odd, "mail_clicked": odd}
        assert shaped(document, schema) == {"additional_fields": document}
    assert shaped({"custom_fields": odd}, schema) == {"additional_fields": {"custom_fields": odd}}
