"""Within a major version no released table, key, column, type or setting is removed."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tools.released import RECORD, broken, contract

RELEASED = json.loads(RECORD.read_text(encoding="utf-8"))


def test_nothing_that_was_released_is_missing() -> None:
    """A change that fails this test needs a new major version."""
    assert broken(RELEASED, contract()) == []


def test_the_record_is_for_this_major_version() -> None:
    assert RELEASED["version"].split(".")[0] == contract()["version"].split(".")[0]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("streams", "lists"), None, "stream lists"),
        (("streams", "lists", "key"), ["title"], "lists: key ['list_id']"),
        (("streams", "contacts", "replication_key"), None, "contacts: replication_key updated_at"),
        (("streams", "contacts", "columns", "email"), None, "contacts.email: null string"),
        (("streams", "contacts", "columns", "created_at"), "null string",
         "contacts.created_at: null string date-time"),
        (("streams", "contacts", "columns", "custom_fields[].kind"), None,
         "contacts.custom_fields[].kind: null string"),
        (("settings", "api_url"), None, "setting api_url: null string"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(path: tuple[str, ...], value: Any, said: str) -> None:
    now = copy.deepcopy(RELEASED)
    part = now
    for name in path[:-1]:
        part = part[name]
    if value is None and path[-1] != "replication_key":
        del part[path[-1]]
    else:
        part[path[-1]] = value
    assert broken(RELEASED, now) == [said]


def test_additions_break_nothing() -> None:
    before = copy.deepcopy(RELEASED)
    del before["streams"]["lists"], before["streams"]["contacts"]["columns"]["email"]
    del before["settings"]["start_date"]
    assert broken(before, RELEASED) == []
