"""The account's custom fields: their own table and, if the setting is on, columns of contacts."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tap_autopilot.rows.custom_columns import columns
from tap_autopilot.sandbox.account import Account
from tests import in_process
from tests.conftest import Serve, Tap
from tests.in_process import logged
from tests.invariants import Run
from tests.scripted import Scripted, page
from tests.test_selection import choose, entry

INTEGER = {"type": ["null", "integer"]}
NUMBER = {"type": ["null", "number"]}
BOOLEAN = {"type": ["null", "boolean"]}
TIME = {"type": ["null", "string"], "format": "date-time"}
TEXT = {"type": ["null", "string"]}


def test_discovery_adds_a_typed_column_for_each(tap: Tap, serve: Serve) -> None:
    sandbox = serve()
    run = tap.call(sandbox, "--discover", custom_fields_as_columns=True)
    assert run.code == 0
    assert [request.path for request in sandbox.requests] == ["/v1/contacts/custom_fields"]
    found = entry(json.loads(run.stdout), "contacts")
    properties = found["schema"]["properties"]
    assert {name: part for name, part in properties.items() if "title" in part} == {
        "custom_nps_rating": INTEGER | {"title": "NPS Rating"},
        "custom_nps_date": TIME | {"title": "NPS Date"},
        "custom_has_reviewed": BOOLEAN | {"title": "Has Reviewed"},
        "custom_order_value": NUMBER | {"title": "Order Value"},
        "custom_lieblingsgericht": TEXT | {"title": "Lieblingsgericht"},
    }
    breadcrumbs = [tuple(one["breadcrumb"]) for one in found["metadata"]]
    assert ("properties", "custom_nps_rating") in breadcrumbs


def test_with_the_setting_discovery_says_what_is_missing(tap: Tap, serve: Serve) -> None:
    config = tap.file("config.json", {"custom_fields_as_columns": True})
    run = tap.run("--config", config, "--discover")
    assert run.code == 2
    assert "api_key is missing" in run.last_words
    run = tap.call(serve(), "--discover", api_key="wrong", custom_fields_as_columns=True)
    assert run.code == 2
    assert "status 401" in run.last_words
    assert not run.stdout


def test_the_columns_hold_what_the_array_holds(tap: Tap, serve: Serve) -> None:
    account = Account(contacts=400)
    run = tap.sync(serve(account), custom_fields_as_columns=True)
    assert run.code == 0
    kinds = {"NPS Rating": "custom_nps_rating", "NPS Date": "custom_nps_date", "Has Reviewed": "custom_has_reviewed", "Order Value": "custom_order_value", "Lieblingsgericht": "custom_lieblingsgericht"}  # fmt: skip
    filled = 0
    for row in run.rows("contacts"):
        expected = dict.fromkeys(kinds.values())
        for field in account.contact(row["contact_id"]).get("custom_fields") or ():
            if field["kind"] in kinds and not field["deleted"]:
                expected[kinds[field["kind"]]] = field["value"]
        assert {name: row[name] for name in expected} == expected
        filled += any(value is not None for value in expected.values())
    assert filled > 300


def test_values_that_do_not_fit_are_null_and_counted() -> None:
    def contact(number: int, value: Any) -> dict[str, Any]:
        return {
            "contact_id": f"c{number}",
            "custom_fields": [
                {"kind": "Size", "value": value},
                "x",
                {"kind": ["Size"], "value": 1},
            ],
        }

    values = [3, "3", 3.5, True, None, 10**17, {"a": 1}]
    answers = {
        "/contacts": {"contacts": [*(contact(n, value) for n, value in enumerate(values)), {"contact_id": "d", "custom_fields": "none"}, {"contact_id": "e", "custom_fields": [{"kind": "Size", "value": 1, "deleted": True}]}]},
        "/contacts/custom_fields": (200, [{"name": "Size", "fieldType": "integer"}]),
    }  # fmt: skip
    run = in_process.run(Scripted(answers), custom_fields_as_columns=True)
    sizes = [row["custom_size"] for row in run.rows("contacts")]
    assert sizes == [3, None, None, None, None, 10**17, None, None, None]
    assert any("custom_size 4" in line for line in run.log)


def names(*fields: str) -> list[str]:
    definitions = [{"name": field, "fieldType": "string"} for field in fields]
    found = columns(definitions, ["custom_fields"])
    assert list(found) == list(columns(definitions[::-1], ["custom_fields"])), "any order will do"
    by_field = {part["title"]: column for column, part in found.items()}
    return [by_field[field] for field in dict.fromkeys(fields)]


def test_column_names_are_safe_and_distinct() -> None:
    assert names("NPS Rating", "nps-rating") == ["custom_nps_rating", "custom_nps_rating_39f9d6ce"]
    assert names("NPS Rating", "NPS rating") == [
        "custom_nps_rating_6b58511d",
        "custom_nps_rating_6cf4542b",
    ]
    assert names("Größe; DROP TABLE", "Élan", "寿司", "🙂") == [
        "custom_groe_drop_table_5567dffa",
        "custom_elan_6fe7b85a",
        "custom_field_96a5d068",
        "custom_field_f258e529",
    ]
    assert names("Fields")[0].startswith("custom_fields_")
    assert names("Field S") == ["custom_field_s"]
    assert all(len(name) <= 63 for name in names("x" * 100, "x" * 101))
    assert names("A", "A") == ["custom_a"]


def test_a_name_that_may_have_been_cut_gets_a_suffix() -> None:
    assert names("x" * 42) == ["custom_" + "x" * 42]
    for letters in (43, 44):
        (name,) = names("x" * letters)
        assert re.fullmatch(f"custom_{'x' * 43}_[0-9a-f]{{8}}", name)


def test_a_definition_without_a_name_that_values_can_have_is_warned_of() -> None:
    with logged() as lines:
        bad = [{"fieldType": "integer"}, "text", {"name": ["a"]}, {"name": "x" * 401}]
        assert columns(bad, []) == {}
    (line,) = {*lines}
    assert line == "WARNING A custom field has no name, or too long a name, so it gets no column."
    assert len(lines) == len(bad)
    assert names("x" * 400)


@pytest.mark.parametrize(
    "new", ["NPS-Rating", "NPS_Rating", "NPS  Rating", "NPS Rating!", " NPS Rating"]
)
def test_a_new_field_never_renames_an_existing_column(new: str) -> None:
    for order in (["NPS Rating", new], [new, "NPS Rating"]):
        found = dict(zip(order, names(*order), strict=True))
        assert found["NPS Rating"] == "custom_nps_rating"
        assert found[new] == names(new)[0]
        assert re.fullmatch("custom_nps_rating_[0-9a-f]{8}", found[new])


def test_names_that_differ_only_in_case_are_warned_of() -> None:
    with logged() as lines:
        assert names("NPS rating", "Size", "NPS Rating", "NPS-Rating")[1] == "custom_size"
        names("Fields", "fields", "A", "A")  # these never had the columns that they resemble
    assert set(lines) == {(
        "WARNING Custom fields 'NPS Rating' (custom_nps_rating_6b58511d) and 'NPS rating'"
        " (custom_nps_rating_6cf4542b) differ only in case, so none of them has the column"
        " custom_nps_rating."
    )}  # fmt: skip


@pytest.mark.parametrize("columns_too", [False, True])
def test_a_name_listed_twice_makes_one_row(columns_too: bool) -> None:
    served = [
        {"name": "A", "fieldType": "integer"},
        {"name": "A", "fieldType": "string", "deleted": True},
        {"name": "B", "fieldType": "float", "deleted": True},
        {"kind": "B", "fieldType": "date", "deleted": True},
        {"name": "C", "fieldType": "boolean"},
        {"name": "C", "fieldType": "integer", "deleted": False},
    ]
    answers = {
        "/contacts/custom_fields": (200, served),
        "/contacts": {"contacts": [{"contact_id": "a"}], "total_contacts": 1},
    }
    run = in_process.run(Scripted(answers), custom_fields_as_columns=columns_too)
    rows = [(row["name"], row["field_type"], row["deleted"]) for row in run.rows("custom_fields")]
    assert sorted(rows) == [("A", "integer", None), ("B", "date", True), ("C", "integer", False)]
    assert run.of("ACTIVATE_VERSION", "custom_fields")
    if columns_too:
        found = run.of("SCHEMA", "contacts")[0]["schema"]["properties"]
        assert (found["custom_a"]["type"], found["custom_c"]["type"]) == (
            ["null", "integer"], ["null", "integer"],
        )  # fmt: skip
        assert "custom_b" not in found


@pytest.mark.parametrize(
    ("path", "listing", "key"),
    [("/lists", "lists", "list_id"), ("/smart_segments", "segments", "segment_id")],
)
def test_an_id_listed_twice_makes_one_row(path: str, listing: str, key: str) -> None:
    served = [{key: "x", "title": "old"}, {key: "y", "title": "y"}, {key: "x", "title": "new"}]
    run = in_process.run(Scripted({path: {listing: served}}))
    rows = run.rows(path[1:])
    assert [(row[key], row["title"]) for row in rows] == [("x", "new"), ("y", "y")]
    assert run.of("ACTIVATE_VERSION", path[1:])


def test_a_value_that_does_not_fit_is_kept_without_the_array(catalog: Any) -> None:
    choose(catalog, "contacts", "properties", "custom_fields", selected=False)
    unchosen = {"breadcrumb": ["properties", "custom_other"], "metadata": {"selected": False}}
    entry(catalog, "contacts")["metadata"].append(unchosen)
    served = [{"kind": "Score", "value": "high"}, {"kind": "Other", "value": 1}]
    answers = {
        "/contacts/custom_fields": (
            200,
            [{"name": "Score", "fieldType": "integer"}, {"name": "Other"}],
        ),
        "/contacts": {"contacts": [{"contact_id": "a", "custom_fields": served, "x": 1}]},
    }
    run = in_process.run(Scripted(answers), catalog=catalog, custom_fields_as_columns=True)
    (row,) = run.rows("contacts")
    assert row["custom_score"] is None
    assert row["additional_fields"] == {"x": 1, "custom_score": "high"}
    assert "custom_other" not in row
    assert not any("does not exist" in line for line in run.log)


def test_a_field_whose_column_resembles_the_array_is_not_confused_with_it() -> None:
    served = [{"kind": "Field S", "value": "x"}]
    answers = {
        "/contacts/custom_fields": (200, [{"name": "Field S"}]),
        "/contacts": {"contacts": [{"contact_id": "a", "customFields": served}]},
    }
    (row,) = in_process.run(Scripted(answers), custom_fields_as_columns=True).rows("contacts")
    assert row["custom_field_s"] == "x"
    assert [one["value"] for one in row["custom_fields"]] == ["x"]


@pytest.mark.parametrize("field", ["fieldType", "field_type", "type"])
@pytest.mark.parametrize(
    ("kind", "part"),
    [("integer", INTEGER), ("float", NUMBER), ("number", NUMBER), ("decimal", NUMBER),
     ("boolean", BOOLEAN), ("date", TIME), ("datetime", TIME), ("Decimal", NUMBER),
     ("string", TEXT), ("", TEXT), (None, TEXT), (5, TEXT)],
)  # fmt: skip
def test_the_type_of_a_column(field: str, kind: Any, part: dict[str, Any]) -> None:
    assert columns([{"kind": "A", field: kind}], []) == {"custom_a": part | {"title": "A"}}


# Their own table


def definitions(answer: Any, **settings: Any) -> Run:
    """A run that reads only the definitions, from an API that responds with `answer`."""
    catalog = {"streams": [{"tap_stream_id": "custom_fields"}]}
    return in_process.run(
        Scripted({"/contacts/custom_fields": answer}), catalog=catalog, **settings
    )


def test_the_table_has_every_definition(serve: Serve) -> None:
    account = Account(contacts=5)
    run = in_process.run(serve(account))
    assert run.rows("custom_fields") == [
        {
            "name": field["name"],
            "field_type": field["fieldType"],
            "deleted": None,
            "additional_fields": None,
        }
        for field in account.custom_fields
    ]
    assert len(run.of("ACTIVATE_VERSION", "custom_fields")) == 1
    assert run.of("SCHEMA", "custom_fields")[0]["key_properties"] == ["name"]


def test_a_definition_may_name_its_fields_as_a_contact_does() -> None:
    served = [
        {"kind": "Age", "type": "integer", "deleted": True},
        {"Name": "Size", "kind": "custom", "field_type": "float", "type": "x"},
        {"name": "Bare", "order": 3},
        {"fieldType": "string"},
        "text",
    ]
    run = definitions({"fields": served})
    assert run.rows("custom_fields") == [
        {"name": "Age", "field_type": "integer", "deleted": True, "additional_fields": None},
        {"name": "Size", "field_type": "float", "deleted": None,
         "additional_fields": {"kind": "custom", "type": "x"}},
        {"name": "Bare", "field_type": None, "deleted": None, "additional_fields": {"order": 3}},
    ]  # fmt: skip
    assert any("2 documents skipped" in line for line in run.log)
    assert not run.of("ACTIVATE_VERSION")


@pytest.mark.parametrize(
    "odd",
    [
        {"warnings": [], "status": "degraded"},
        {"errors": [{"code": 1}]},
        {"a": [{"name": "x"}], "b": [{"name": "y"}]},
    ],
)
def test_an_object_with_other_arrays_is_not_the_custom_fields(odd: Any) -> None:
    run = definitions(odd)
    assert run.code == 1
    assert not run.of("ACTIVATE_VERSION")
    assert "the response has no listing 'custom_fields'" in run.last_words


@pytest.mark.parametrize("empty", [[], {"custom_fields": []}, {"fields": []}], ids=str)
def test_an_account_without_custom_fields_is_normal(empty: Any) -> None:
    run = definitions((200, empty))
    assert run.code == 0
    assert not run.rows("custom_fields")
    assert len(run.of("ACTIVATE_VERSION")) == 1
    assert not any(line.startswith("WARNING") for line in run.log)


@pytest.mark.parametrize(
    "answer",
    [
        (403, {}),
        (404, {"message": "none"}),
        (400, {}),
        page("a", "b"),
        (200, {"contacts": []}),
        (200, {"errors": []}),
        (200, {"data": []}),
    ],
)
@pytest.mark.parametrize("check_totals", [True, False])
def test_an_api_without_definitions_fails_and_deletes_nothing(
    answer: Any, check_totals: bool
) -> None:
    run = definitions(answer, check_totals=check_totals)
    assert run.code == 0
    assert not run.rows("custom_fields")
    assert not run.of("ACTIVATE_VERSION")
    (warning,) = [line for line in run.log if line.startswith("WARNING")]
    assert warning.startswith(
        "WARNING custom_fields: the API does not offer this account's custom fields"
    )
    assert "deleted rows are kept this time" in warning
    assert len(run.requests) == 1


@pytest.mark.parametrize("answer", [(404, {}), (403, {}), {"contacts": []}])
def test_columns_need_an_api_with_definitions(answer: Any) -> None:
    run = in_process.run(
        Scripted({"/contacts/custom_fields": answer}), custom_fields_as_columns=True
    )
    assert run.code == 2
    assert "does not offer this account's custom fields" in run.last_words
    assert "Turn custom_fields_as_columns off" in run.last_words


@pytest.mark.parametrize("answer", [(500, {}), {}, "text"])
def test_an_error_in_reading_definitions_fails_the_run(answer: Any) -> None:
    run = definitions(answer)
    assert run.code == 1
    assert "custom_fields (GET /contacts/custom_fields:" in run.last_words
