"""The table of custom fields, from whatever the API says of them."""

from __future__ import annotations

from typing import Any

import pytest

from tap_autopilot.sandbox.account import Account
from tests import in_process
from tests.conftest import Serve
from tests.invariants import Run
from tests.scripted import Scripted, page


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
    [(403, {}), (404, {"message": "none"}), (400, {}), page("a", "b"), (200, {"contacts": []})],
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
