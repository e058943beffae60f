"""Turning documents into rows: a case for every rule about odd values."""

from __future__ import annotations

import json
import random
import time
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from tap_autopilot.api import parsing
from tap_autopilot.api.parsing import decode, decode_keys, read, values
from tap_autopilot.exceptions import Retryable
from tap_autopilot.protocol.catalog import discover
from tap_autopilot.rows.names import plain
from tap_autopilot.rows.shape import compile_shape
from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.values import MAX_NESTED, as_key, converter, shallow
from tap_autopilot.sources.listings import keys_of
from tap_autopilot.streams.contacts import MAPS
from tests.in_process import logged

SCHEMA = discover({})["streams"][0]["schema"]


def shaped(document: Any, schema: Any = SCHEMA, tally: Tally | None = None) -> dict[str, Any]:
    """The columns of a contact's row that are not null, except its id."""
    if isinstance(document, dict):
        document = {"contact_id": "person_1", **document}
    tally = tally or Tally("contacts")
    row = compile_shape(SCHEMA, schema, ("contact_id",), tally, maps=MAPS)(document)
    assert row is not None
    assert list(row) == list(schema["properties"])
    tally.sent([row])
    return {
        name: value for name, value in row.items() if value is not None and name[:7] != "contact"
    }


@pytest.mark.parametrize("spelling", ["FirstName", "first_name", "firstName", "FIRST_NAME"])
def test_a_column_is_found_in_any_spelling(spelling: str) -> None:
    assert shaped({spelling: "Ada"}) == {"first_name": "Ada"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", ""),
        (10001, "10001"),
        (10**30, "1" + "0" * 30),
        (Decimal("10.50"), "10.50"),
        (Decimal("1E+400"), "1E+400"),
        (True, "true"),
        ("١٢", "١٢"),
    ],
)
def test_a_text_column_holds_other_types_as_json(value: Any, text: str) -> None:
    assert shaped({"NumberOfEmployees": value}) == {"number_of_employees": text}


TIMES = [
    ("2016-12-20T07:31:12.000Z", "2016-12-20T07:31:12.000Z"),
    ("2016-12-20T07:31:12Z", "2016-12-20T07:31:12Z"),
    ("2016-12-20T07:31:12.123456789Z", "2016-12-20T07:31:12.123456789Z"),
    ("2016-12-20T07:31:12", "2016-12-20T07:31:12Z"),
    ("2016-12-20 07:31:12", "2016-12-20T07:31:12Z"),
    ("2016-12-20 07:31:12Z", "2016-12-20T07:31:12Z"),
    ("2016-12-20T07:31Z", "2016-12-20T07:31:00Z"),
    ("20161220T073112Z", "2016-12-20T07:31:12Z"),
    ("2016-12-20T07:31:12,5Z", "2016-12-20T07:31:12.500000Z"),
    ("2016-12-20T24:00:00Z", "2016-12-21T00:00:00Z"),
    ("2016-12-20", "2016-12-20T00:00:00Z"),
    ("2016-02-29T23:59:59.5+10:00", "2016-02-29T13:59:59.500000Z"),
    ("Fri, 02 Jun 2017 15:18:58 GMT", "2017-06-02T15:18:58Z"),
    ("2 jun 2017 15:18:58 +1000", "2017-06-02T05:18:58Z"),
    ("Fri, 02 Jun 2017 15:18:58", "2017-06-02T15:18:58Z"),
    ("2016-12-20 07:31:12 +0000", "2016-12-20T07:31:12Z"),
    ("2016-12-20 07:31:12.5 -05:30", "2016-12-20T13:01:12.500000Z"),
    ("2016-12-20 07:31:12  UTC", "2016-12-20T07:31:12Z"),
    ("2016-12-20T07:31:12 gmt", "2016-12-20T07:31:12Z"),
    (" 2016-12-20T07:31:12.123456789Z\n", "2016-12-20T07:31:12.123456789Z"),
    (" Fri, 02 Jun 2017 15:18:58 UT ", "2017-06-02T15:18:58Z"),
    ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
    ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
    (0, "1970-01-01T00:00:00.000Z"),
    (1482221012001, "2016-12-20T08:03:32.001Z"),
    (-1, "1969-12-31T23:59:59.999Z"),
    (Decimal("1482221012001.0"), "2016-12-20T08:03:32.001Z"),
    (Decimal("1.482221012001E12"), "2016-12-20T08:03:32.001Z"),
    (-62135596800000, "0001-01-01T00:00:00.000Z"),
    (253402300799999, "9999-12-31T23:59:59.999Z"),
]


@pytest.mark.parametrize(("value", "text"), TIMES)
def test_times_are_utc_with_z(value: Any, text: str) -> None:
    assert shaped({"created_at": value}) == {"created_at": text}
    assert shaped({"mail_opened": {"m": value}}) == {
        "mail_opened": [{"id": "m", "timestamp": text}]
    }


def test_times_are_utc_wherever_the_tap_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        for text in ("2016-12-20 07:31", "2016-12-20T17:31+10:00"):
            assert shaped({"created_at": text}) == {"created_at": "2016-12-20T07:31:00Z"}
    finally:
        monkeypatch.undo()
        time.tzset()


NO_FIT = [
    ("created_at", "soon"),
    ("created_at", "Fri, 31 Feb 2017 15:18:58 GMT"),
    ("created_at", "Fri, 02 Jun 2017 15:18:58 PST"),
    ("created_at", "Fri, 02 Jun 0049 15:18:58 GMT"),
    ("created_at", "Fri, 02 Jun 2017 15:18:58 +9959"),
    ("created_at", "Fri, 02 Foo 2017 15:18:58 GMT"),
    ("created_at", "2016-12-20T07:31:12Z UTC"),
    ("created_at", "2016-12-20T07:31:12 UTC UTC"),
    ("created_at", "2016-12-20 07:31:12 +00"),
    ("created_at", " "),
    ("created_at", "2016-02-30T00:00:00Z"),
    ("created_at", "2016-12-20T07:31:60Z"),
    ("created_at", "0000-01-01T00:00:00Z"),
    ("created_at", "10000-01-01T00:00:00Z"),
    ("created_at", "0001-01-01T00:00:00+10:00"),
    ("created_at", "２０１６-12-20T07:31:12Z"),
    ("created_at", True),
    ("created_at", 1.5),
    ("created_at", Decimal("1482221012001.5")),
    ("created_at", 253402300800000),
    ("created_at", -62135596800001),
    ("created_at", 10**400),
    ("created_at", {}),
    ("company_priority", "true"),
    ("company_priority", 1),
    ("Name", {"first": "Ada"}),
    ("Name", ["Ada"]),
    ("lists", "contactlist_1"),
    ("lists", [None]),
    ("lists", [{}]),
    ("employeesRange", 5),
    ("employeesRange", {"min": "ten"}),
    ("employeesRange", {"min": True}),
    ("employeesRange", {"min": 2**63}),
    ("anywhere_utm", ["//site"]),
    ("anywhere_utm", {"//site": "yes"}),
    ("mail_opened", {"m": "soon"}),
    ("mail_opened", {"m": 1482221012001, "n": True}),
    ("custom_fields", {"kind": "x"}),
    ("custom_fields", "none"),
    ("custom_fields", [None]),
    ("custom_fields", [{"deleted": "no"}]),
]


@pytest.mark.parametrize(("name", "value"), NO_FIT)
def test_a_value_that_does_not_fit_is_kept_unchanged(name: str, value: Any) -> None:
    tally = Tally("contacts")
    assert shaped({name: value, "Email": "e"}, tally=tally) == {
        "email": "e",
        "additional_fields": {name: value},
    }
    (column,) = tally.unfit.elements()
    assert plain(column) == plain(name)


@pytest.mark.parametrize("name", ["created_at", "unsubscribed", "lists", "employeesRange"])
@pytest.mark.parametrize("none", ["", None])
def test_every_form_of_an_empty_value_becomes_null(name: str, none: Any) -> None:
    tally = Tally("contacts")
    assert shaped({name: none}, tally=tally) == {}
    assert not tally.unfit


def test_empty_values_inside_a_value_become_null() -> None:
    row = shaped({"employeesRange": {"min": "", "max": None}, "anywhere_utm": {"//site": None}})
    assert row == {
        "employees_range": {"min": None, "max": None},
        "anywhere_utm": [{"url": "//site", "value": None}],
    }


def test_a_map_is_an_array_of_its_pairs() -> None:
    row = shaped({"anywhere_utm": {"//b": True, "//a": False}, "mail_opened": {"m": 0, "n": None}})
    assert row == {
        "anywhere_utm": [{"url": "//b", "value": True}, {"url": "//a", "value": False}],
        "mail_opened": [
            {"id": "m", "timestamp": "1970-01-01T00:00:00.000Z"},
            {"id": "n", "timestamp": None},
        ],
    }


@pytest.mark.parametrize("empty", [{}, []])
def test_an_empty_map_is_an_empty_array_in_either_form(empty: Any) -> None:
    for name in ("mail_opened", "anywhere_utm", "custom_fields", "lists"):
        assert shaped({name: empty}) == {name: []}
    assert shaped({"employeesRange": empty}) == {"employees_range": {"min": None, "max": None}}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10, "10"),
        (Decimal("0.10"), "0.10"),
        (12345678901234567890123, "12345678901234567890123"),
        (False, "false"),
        ("2017-01-14T11:58:42.000Z", "2017-01-14T11:58:42.000Z"),
        ("", ""),
        (None, None),
        (["a", {"b": 1}], '["a",{"b":1}]'),
    ],
)
def test_a_custom_value_is_text_in_json_spelling(value: Any, text: Any) -> None:
    field = {"kind": "K", "value": value, "fieldType": "t", "deleted": False}
    assert shaped({"custom_fields": [field]}) == {
        "custom_fields": [{"kind": "K", "field_type": "t", "value": text, "deleted": False}]
    }


def test_unknown_fields_are_kept_unchanged() -> None:
    tally = Tally("contacts")
    unknown = {"score": Decimal("1.10"), "Geo": {"a": [None]}, "x": None, "additional_fields": 1}
    assert shaped(unknown, tally=tally) == {"additional_fields": unknown}
    assert sorted(tally.unknown) == ["Geo", "additional_fields", "score", "x"]


def test_unknown_fields_inside_a_column_keep_the_whole_value_too() -> None:
    fields = [{"kind": "K", "order": 1}]
    row = shaped({"custom_fields": fields, "employeesRange": {"min": 1, "avg": 2}})
    assert row["custom_fields"][0]["kind"] == "K"
    assert row["employees_range"] == {"min": 1, "max": None}
    assert row["additional_fields"] == {
        "custom_fields": fields,
        "employeesRange": {"min": 1, "avg": 2},
    }


def test_the_same_spelling_wins_whatever_came_before() -> None:
    shape = compile_shape(SCHEMA, SCHEMA, ("contact_id",), Tally("contacts"))
    both = {"contact_id": "1", "Unsubscribed": True, "unsubscribed": False}
    expected = (False, {"Unsubscribed": True})
    for document in (
        both,
        {"contact_id": "2", "Unsubscribed": True},
        both,
        dict(sorted(both.items())),
    ):
        row = shape(document)
        assert row is not None
        if document["contact_id"] == "1":
            assert (row["unsubscribed"], row["additional_fields"]) == expected


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


def test_two_spellings_lose_nothing_however_many_names_came_before() -> None:
    shape = compile_shape(SCHEMA, SCHEMA, ("contact_id",), Tally("contacts"))
    for number in range(11_000):
        shape({"contact_id": "1", f"field{number}": number})
    row = shape({"contact_id": "1", "FirstName": "Ada", "firstName": "Augusta"})
    assert row is not None
    assert {row["first_name"], *row["additional_fields"].values()} == {"Ada", "Augusta"}


def test_a_whole_number_may_be_written_as_a_fraction() -> None:
    row = shaped({"employeesRange": {"min": Decimal("10.0"), "max": Decimal("1E+2")}})
    assert row == {"employees_range": {"min": 10, "max": 100}}
    for odd in (Decimal("10.5"), Decimal("1E+900"), Decimal("NaN")):
        row = shaped({"employeesRange": {"min": odd}})
        assert row["additional_fields"]["employeesRange"]["min"] is odd


@pytest.mark.parametrize("number", [2**63 - 1, 1 - 2**63])
def test_an_integer_may_be_as_large_as_in_sql(number: int) -> None:
    row = shaped({"employeesRange": {"min": number}})
    assert row == {"employees_range": {"min": number, "max": None}}


def test_a_number_keeps_all_its_digits() -> None:
    number = {"type": ["null", "number"]}
    convert = converter(number, number)
    for value in (7, 2**70, Decimal("0.10")):
        assert convert(value) is value
    for odd in ("7", True, None, 10**400):
        with pytest.raises(ValueError):  # noqa: PT011
            convert(odd)


def test_only_what_is_nested_too_deeply_becomes_text() -> None:
    def nested(levels: int, innermost: Any = ()) -> Any:
        value: Any = [*innermost]
        for _ in range(levels - 1):
            value = [value]
        return value

    def depth(value: Any) -> int:
        return 1 + depth(value[0] if value else None) if isinstance(value, list) else 0

    for levels in (*range(1, MAX_NESTED + 310), 1000):
        for innermost in ((), (7,)):
            assert depth(shallow(nested(levels, innermost))) == min(levels, MAX_NESTED)
    value = nested(MAX_NESTED - 1)
    wide = [value, nested(MAX_NESTED), {"a": nested(MAX_NESTED - 1)}, 5]
    assert [depth(one) for one in shallow(wide)] == [MAX_NESTED - 1, MAX_NESTED - 1, 0, 0]


@pytest.mark.parametrize(
    ("value", "key"),
    [("a", "a"), (" ", " "), (0, "0"), (True, "true"), (Decimal("1.50"), "1.50"),
     ("", None), (None, None), ([], None), ({"a": 1}, None)],
)  # fmt: skip
def test_a_key_is_text_that_is_not_empty(value: Any, key: str | None) -> None:
    assert as_key(value) == key


@pytest.mark.parametrize("levels", [99, 100, 101, 500, 900, 5000])
def test_a_value_nested_too_deeply_is_kept_as_text(levels: int) -> None:
    deep: Any = 7
    for level in range(levels):
        deep = {"k": deep} if level % 2 else [deep]
    value = shaped({"odd": deep})["additional_fields"]["odd"]
    depth = 0
    while not isinstance(value, int):
        if isinstance(value, str):
            value = json.loads(value)
        value = value["k"] if isinstance(value, dict) else value[0]
        depth += 1
    assert depth == levels
    assert json.dumps(shaped({"odd": deep}))


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


def test_a_value_with_two_spellings_of_a_name_is_kept_whole() -> None:
    shape = compile_shape(SCHEMA, SCHEMA, ("contact_id",), Tally("contacts"))
    both = {"min": 1, "Min": 2}
    for value, kept in (({"Min": 2}, False), (both, True), ({"min": 1}, False), ({}, False)):
        row = shape({"contact_id": "1", "employeesRange": value})
        assert row is not None
        assert row["employees_range"] == {"min": max([*value.values()], default=None), "max": None}
        assert row["additional_fields"] == ({"employeesRange": value} if kept else None)


def test_lists_are_texts() -> None:
    assert shaped({"lists": ["a", 5, True, ""]}) == {"lists": ["a", "5", "true", ""]}


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


@pytest.mark.parametrize("document", [None, "person_1", [], 5])
def test_a_document_that_is_not_an_object_makes_no_row(document: Any) -> None:
    tally = Tally("contacts")
    with logged() as lines:
        assert compile_shape(SCHEMA, SCHEMA, ("contact_id",), tally)(document) is None
    assert tally.skipped == 1
    assert lines == ["WARNING contacts: skipped a document: it is not an object."]


@pytest.mark.parametrize("key", ["", None, {}, []])
def test_a_document_without_its_key_makes_no_row(key: Any) -> None:
    tally = Tally("contacts")
    shape = compile_shape(SCHEMA, SCHEMA, ("contact_id",), tally)
    with logged() as lines:
        assert shape({"contact_id": key, "Name": "Ada"}) is None
        assert shape({"Name": "Ada"}) is None
    assert tally.skipped == 2
    assert [line for line in lines if "fit" not in line] == [
        "WARNING contacts: skipped a document: it has no contact_id."
    ]


def test_a_numeric_key_becomes_text() -> None:
    row = compile_shape(SCHEMA, SCHEMA, ("contact_id",), Tally("contacts"))({"contact_id": 7})
    assert row is not None
    assert row["contact_id"] == "7"


def test_unknown_field_names_are_counted_separately_only_up_to_a_limit() -> None:
    tally = Tally("contacts")
    shape = compile_shape(SCHEMA, SCHEMA, ("contact_id",), tally)
    for number in range(20_000):
        assert shape({"contact_id": "1", f"field{number}": number}) is not None
    assert len(tally.unknown) <= 201
    assert tally.unknown.total() == 20_000


def body(text: str) -> bytes:
    return f'{{"contacts": [{{"contact_id": "a", "v": {text}}}], "total_contacts": 1}}'.encode()


@pytest.mark.parametrize(
    ("text", "value", "cleaned"),
    [
        ('"a\\u0000b"', "ab", 1),
        ('"\\ud83d!"', "\ufffd!", 1),
        ('"\\udc00\\ud800"', "\ufffd\ufffd", 2),
        ('"\\\\u0000"', "\\u0000", 0),
        ('"a\tb\nc\x01"', "a\tb\nc\x01", 0),
        ('"a\x00b"', "ab", 1),
        ("NaN", "NaN", 0),
        ("[-Infinity]", ["-Infinity"], 0),
        ("9" * 4300, int("9" * 4300), 0),
        ("9" * 5000, "9" * 5000, 0),
        ("1e1000000000000000000", "1e1000000000000000000", 0),
        ('["\\u0000", ' + "[" * 400 + "]" * 400 + "]", None, 1),
        ('{"k": ' * 600 + "7" + "}" * 600, None, 0),
        ("[" * 5000 + "]" * 5000, None, 0),
        ('"\\ud83d\\ude00"', "😀", 0),
        ('["\\ud83d", NaN]', ["\ufffd", "NaN"], 1),
        ('["\\ud83d", "\\ud83c\\udf89"]', ["\ufffd", "🎉"], 1),
        ('"\\ud83d \\ud83d\\ude00 \\\\ud83d \\\\\\ud83d \\\\u0000 \\\\\\u0000"',
         "\ufffd 😀 \\ud83d \\\ufffd \\u0000 \\", 3),
        ('{"\\u0000k": ["\\ud83d"]}', {"k": ["\ufffd"]}, 2),
        ('{"k": 1, "k\\u0000": 2}', {"k": 1, "k\ufffd": 2}, 1),
        ("10.50", Decimal("10.50"), 0),
        ('{"a": [{"b": [1e400]}]}', {"a": [{"b": ["1e400"]}]}, 0),
        ('[1e309, -1E+309, 1e308, "1e309"]', ["1e309", "-1E+309", Decimal("1e308"), "1e309"], 0),
        ("[1e-20000, 1e-320, 0e9]", ["1e-20000", Decimal("1e-320"), Decimal("0e9")], 0),
        ("[0e-20000, 0.0]", ["0e-20000", Decimal("0.0")], 0),
        (f"[1.{'5' * 16_383}, 1.{'5' * 16_384}]",
         [Decimal(f"1.{'5' * 16_383}"), f"1.{'5' * 16_384}"], 0),
        ("7" * 309 + ".5", "7" * 309 + ".5", 0),
        ('["\\ud83d", 1e400]', ["\ufffd", "1e400"], 1),
        ("0.10000000000000000555", Decimal("0.10000000000000000555"), 0),
        ("123456789012345678901234567890", 123456789012345678901234567890, 0),
        ('["\\ud83d", 123456789012345678901234567890.5]',
         ["\ufffd", Decimal("123456789012345678901234567890.5")], 1),
    ],
)  # fmt: skip
def test_responses_are_read_exactly_and_cleaned(text: str, value: Any, cleaned: int) -> None:
    listing = decode(body(text), "contacts")
    documents, replaced = read(listing.documents)
    if value is not None:
        assert documents == [{"contact_id": "a", "v": value}]
    assert documents[0]["contact_id"] == "a"
    assert listing.cleaned + replaced == cleaned
    assert list(values(listing.documents, "contact_id")) == ["a"]


@pytest.mark.parametrize(
    "answer",
    [b"", b"null", b'"contacts"', b"[]", b"{}", b'{"contacts": null}', b'{"contacts": {}}',
     b'{"contacts": [', b'{"contacts": [{"a": "b', b"<html>", b'{"contacts": []} x', b'{"error": "e", "message": "m"}',
     b"[" * 100_000],
)  # fmt: skip
def test_a_response_without_its_listing_is_retried(answer: bytes) -> None:
    with pytest.raises(Retryable):
        decode(answer, "contacts")


def test_text_that_is_replaced_is_counted_though_only_keys_are_read() -> None:
    page = (
        b'{"contacts": [{"contact_id": "a", "v": "\\ud83d \\ud83c\\udf89"}, {"contact_id": "b"}]}'
    )
    listing = decode_keys(page, "contacts", "contact_id")
    assert listing.documents == [{"contact_id": "a"}, {"contact_id": "b"}]
    assert listing.cleaned == 1


@pytest.mark.parametrize("digits", range(26, 34))
def test_numbers_of_any_length_are_times_and_integers_or_none(digits: int) -> None:
    for text in (f"1e{digits}", "7" * digits + ".5", f"1.5e{digits}", f"-1e{digits}"):
        value = Decimal(text)
        for field in ("updated_at", "mail_opened", "employeesRange"):
            odd = {"m": value} if field == "mail_opened" else value
            odd = {"min": value} if field == "employeesRange" else odd
            assert shaped({field: odd})["additional_fields"] == {field: odd}


def test_many_names_that_cleaning_makes_equal_take_no_time() -> None:
    page = b'{"contacts": [{"contact_id": "a", %s "v": NaN}]}' % (b'"x": 1, ' * 20_000)
    began = time.process_time()
    ((document,), _) = read(decode(page, "contacts").documents)
    assert len(document) == 13
    assert time.process_time() - began < 5


def test_one_odd_document_leaves_the_others_alone() -> None:
    good = b'{"contact_id": "b", "n": 10.50}'
    for odd in (
        b'{"contact_id": "a", "v": "M\xfcller"}',
        b'{"contact_id": "a", "v": "tab\there"}',
        b'{"contact_id": "a", "v": NaN}',
        b'{"contact_id": "a", "v": "half \\ud83d"}',
        b'{"contact_id": "a", "v": "nul \\u0000"}',
        b'{"contact_id": "a", "v": ' + b"7" * 5000 + b"}",
        b'{"contact_id": "a", "v": ' + b'{"k":' * 5000 + b"1" + b"}" * 5001,
        b'{"contact_id": "a", "v": 1e1000000000000000000}',
    ):
        page = b'{"contacts": [%b, %b, %b], "bookmark": "x", "total_contacts": 3}' % (
            good,
            odd,
            good,
        )
        listing = decode(page, "contacts")
        documents, _ = read(listing.documents)
        assert [one["contact_id"] for one in documents] == ["b", "a", "b"]
        assert documents[2]["n"] == Decimal("10.50")
        assert (listing.bookmark, listing.total) == ("x", 3)
        assert keys_of(listing.documents, "contact_id") == ["b", "a", "b"]
    assert read(decode(b'{"contacts": ["M\xfcller"]}', "contacts").documents)[1] == 1


def test_only_the_odd_documents_of_a_page_are_parsed_leniently() -> None:
    good = b'{"contact_id": "b", "n": 10.50, "v": "\\ud83d\\ude00"}'
    for odd in (b'{"contact_id": "a", "v": "\\ud83d"}', b'{"contact_id": "a", "v": "\\u0000"}'):
        page = b'{"contacts": [%b, %b, %b]}' % (good, odd, good)
        kinds = [type(one) for one in decode(page, "contacts").documents]
        assert kinds == [msgspec.Raw, parsing._Odd, msgspec.Raw]


def test_a_page_that_can_be_split_into_documents_can_be_read() -> None:
    page = (
        b'{"contacts":[{"contact_id":"a","n":-1.5e+3,"v":[1,0,true,null,"x\\n\\u00e9\\ud83d\\ude00"],'
        b'"w":{"d":12345678901234567890123,"e":1e400,"f":false,"g":"\xc3\xa9"}}],"total_contacts":1}'
    )
    pieces = [bytes([one]) for one in b'019+-.eE"\\{}[],:tfnulra \n\x00\x01\xff\xc3'] + [
        b"\\u0000", b"\\ud800", b"NaN", b"00", b"1e",
    ]  # fmt: skip
    rng, taken_apart = random.Random(1), 0
    for _ in range(20_000):
        text = page
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(14, len(text) - 22)
            text = text[:at] + rng.choice([b"", rng.choice(pieces)]) + text[at + rng.randrange(2) :]
        try:
            documents = decode(text, "contacts").documents
        except Retryable:
            continue
        taken_apart += any(isinstance(one, msgspec.Raw) for one in documents)
        read(documents)
    assert taken_apart > 2_000


def test_a_byte_order_mark_does_not_matter() -> None:
    listing = decode(b"\xef\xbb\xbf" + body("1"), "contacts")
    assert read(listing.documents)[0] == [{"contact_id": "a", "v": 1}]


def test_members_are_found_among_odd_documents() -> None:
    answer = json.dumps(
        {"contacts": [None, "x", {"contact_id": 5}, {}, {"contact_id": "b"}, {"ContactId": "c"}]}
    )
    found = keys_of(decode(answer.encode(), "contacts").documents, "contact_id")
    assert found == [None, None, 5, None, "b", "c"]
