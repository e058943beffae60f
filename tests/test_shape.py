"""Turning documents into rows: a case for every rule about odd values."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import pytest

from tap_autopilot.protocol.catalog import discover
from tap_autopilot.rows.names import plain
from tap_autopilot.rows.shape import compile_shape
from tap_autopilot.rows.tally import MAX_NAME, MAX_NAMES, Tally
from tap_autopilot.rows.values import MAX_NESTED, as_key, converter, shallow
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
    tally.count_sent([row])
    return {
        name: value for name, value in row.items() if value is not None and name[:7] != "contact"
    }


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
    (f"2016-12-20T07:31:12.{'1' * 10}Z", "2016-12-20T07:31:12.111111Z"),
    (f"2016-12-20T07:31:12.{'1' * 10_000}Z", "2016-12-20T07:31:12.111111Z"),
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
    (column,) = tally.misfits.elements()
    assert plain(column) == plain(name)


@pytest.mark.parametrize("name", ["created_at", "unsubscribed", "lists", "employeesRange"])
@pytest.mark.parametrize("none", ["", None])
def test_every_form_of_an_empty_value_becomes_null(name: str, none: Any) -> None:
    tally = Tally("contacts")
    assert shaped({name: none}, tally=tally) == {}
    assert not tally.misfits


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


@pytest.mark.parametrize("names", [("custom_fields",), ("custom_fields", "CustomFields")])
def test_a_custom_value_of_any_depth_is_text(names: tuple[str, ...]) -> None:
    """Even one nested as deeply as a parser allows, with less of Python's stack left."""
    deep: Any = []
    for _ in range(2000):
        deep = [deep]
    row = shaped({name: [{"kind": "K", "x": 1, "value": deep}] for name in names})
    assert row["custom_fields"][0]["value"].startswith("[[[")


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


def test_a_whole_number_may_be_written_as_a_fraction() -> None:
    row = shaped({"employeesRange": {"min": Decimal("10.0"), "max": Decimal("1E+2")}})
    assert row == {"employees_range": {"min": 10, "max": 100}}
    for odd in (Decimal("10.5"), Decimal("1E+900"), Decimal("NaN")):
        row = shaped({"employeesRange": {"min": odd}})
        assert row["additional_fields"]["employeesRange"]["min"] is odd


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
    assert len(str(shallow(nested(4_500)))) < 10_000
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


@pytest.mark.parametrize(
    "document", [{"contact_id": [], "ContactId": "i" * 401}, {"contact_id": 10**400}]
)
def test_a_document_with_too_long_a_key_makes_no_row(document: Any) -> None:
    """Wherever the key is: digests remember each."""
    tally = Tally("contacts")
    with logged() as lines:
        assert compile_shape(SCHEMA, SCHEMA, ("contact_id",), tally)(document) is None
    assert "WARNING contacts: skipped a document: its contact_id is too long." in lines


# What is counted, and how much of it is logged


def test_everything_is_counted_and_each_kind_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tally = Tally("contacts")
    with caplog.at_level("INFO", "tap_autopilot"):
        tally.count_replaced(0)
        for _ in range(2):
            tally.count_replaced(3)
            tally.skip("it has no id")
            tally.count_misfit("name")
            tally.count_misfit("title")
            tally.count_unknown("Plan")
            tally.count_unknown("Score")
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("WARNING", "contacts: replaced characters that are not valid Unicode."),
        ("WARNING", "contacts: skipped a document: it has no id."),
        ("WARNING", "contacts: a value does not fit column name; kept in additional_fields."),
        ("WARNING", "contacts: a value does not fit column title; kept in additional_fields."),
        ("INFO", "contacts: no column for field 'Plan'; kept in additional_fields."),
        ("INFO", "contacts: no column for field 'Score'; kept in additional_fields."),
    ]
    assert {vars(one)["stream_name"] for one in caplog.records} == {"contacts"}
    assert (tally.skipped, tally.replaced) == (2, 6)
    assert tally.misfits == {"name": 2, "title": 2}
    assert tally.unknown == {"Plan": 2, "Score": 2}


def test_values_count_only_if_their_row_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally("contacts")
    rows = [{"n": number} for number in range(4)]
    for row in rows[:3]:
        tally.note_misfit("name", row)
    tally.note_misfit("title", rows[1])
    assert not caplog.records
    tally.count_sent([rows[1], rows[3]])
    assert (tally.rows, tally.misfits) == (2, {"name": 1, "title": 1})
    tally.count_sent(rows)
    assert (tally.rows, tally.misfits) == (6, {"name": 1, "title": 1})
    assert len(caplog.records) == 2


def test_unknown_fields_beyond_a_limit_are_counted_together(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tally = Tally("contacts")
    with caplog.at_level("INFO", "tap_autopilot"):
        for number in [*range(MAX_NAMES + 3), 0]:
            tally.count_unknown(f"field{number}")
    assert len(caplog.records) == MAX_NAMES
    assert len(tally.unknown) == MAX_NAMES + 1
    assert (tally.unknown["(others)"], tally.unknown["field0"]) == (3, 2)


def test_unknown_fields_with_long_names_are_counted_together(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tally = Tally("contacts")
    with caplog.at_level("INFO", "tap_autopilot"):
        for name in ("x" * MAX_NAME, "x" * (MAX_NAME + 1), "x" * (MAX_NAME + 2)):
            tally.count_unknown(name)
    assert tally.unknown == {"x" * MAX_NAME: 1, "(others)": 2}
    assert len(caplog.records) == 1


def test_notes_mention_only_what_happened() -> None:
    tally = Tally("email_opened")
    counts = (tally.rows, tally.unchanged, tally.deleted, tally.skipped, tally.replaced,
              tally.pushed, tally.waiting, tally.missed)  # fmt: skip
    assert counts == (0,) * 8
    tally.rows = 9
    assert tally.notes() == []
    tally.unchanged, tally.deleted, tally.skipped = 1, 2, 3
    tally.pushed, tally.missed, tally.waiting = 4, 5, 6
    tally.misfits.update({"name": 1, "title": 6})
    tally.unknown.update({"Score": 3, "Geo": 5})
    tally.replaced = 9
    assert tally.notes() == [
        "2 of them deleted",
        "1 unchanged",
        "3 documents skipped",
        "4 skipped as already pushed",
        "5 missed by the collector",
        "6 too recent, left for the next run",
        "7 values did not fit (name 1, title 6)",
        "8 values without a column",
        "9 characters replaced",
    ]
