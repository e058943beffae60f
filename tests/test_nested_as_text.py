"""With `nested_as_text`, arrays and objects are JSON text, and nothing else is different."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tap_autopilot.rows.values import type_of
from tap_autopilot.sandbox.account import Account
from tests import in_process
from tests.conftest import Serve, Tap
from tests.invariants import Run
from tests.pushed_store import PushedStore, call
from tests.recording import Sandbox
from tests.scripted import Scripted
from tests.test_selection import choose, entry

NESTED = ("array", "object")
CUSTOM = {"custom_fields_as_columns": True}


def kinds(run: Run, stream: str) -> dict[str, str]:
    """The type of each column of a stream, ignoring null."""
    (schema,) = run.of("SCHEMA", stream)
    return {name: type_of(part) for name, part in schema["schema"]["properties"].items()}


def check_texts(texts: Run, nested: Run) -> int:
    """Compare a run with the setting with one without; returns how many values became text."""
    assert (texts.code, nested.code) == (0, 0)
    assert texts.selected == nested.selected
    count = 0
    for stream in nested.selected:
        there, here = kinds(nested, stream), kinds(texts, stream)
        assert list(here) == list(there)
        assert not {*here.values()} & {*NESTED}
        assert {name: kind for name, kind in here.items() if there[name] not in NESTED} == {
            name: kind for name, kind in there.items() if kind not in NESTED
        }
        restored = []
        for row in texts.rows(stream):
            for name in there:
                if there[name] in NESTED and row[name] is not None:
                    assert isinstance(row[name], str)
                    row = {**row, name: json.loads(row[name])}
                    count += 1
            restored.append(row)
        assert sorted(map(json.dumps, restored)) == sorted(map(json.dumps, nested.rows(stream)))
    return count


def both(sandbox: Sandbox, **settings: Any) -> tuple[Run, Run]:
    """Two runs with the same settings, with and without `nested_as_text`."""
    return in_process.run(sandbox, nested_as_text=True, **settings), in_process.run(
        sandbox, **settings
    )


def test_every_nested_value_is_the_json_text_of_what_it_was(serve: Serve) -> None:
    sandbox = serve(Account(contacts=150))
    assert check_texts(*both(sandbox)) > 1400
    assert check_texts(*both(sandbox, **CUSTOM)) > 1400


def test_numbers_keep_their_digits_in_the_text() -> None:
    contact = b'{"contact_id": "a", "n": [1.50, 1e400, 12345678901234567890123], "lists": []}'
    (row,) = in_process.run(
        Scripted({"/contacts": b'{"contacts": [%s], "total_contacts": 1}' % contact}),
        nested_as_text=True,
    ).rows("contacts")
    assert row["additional_fields"] == '{"n":[1.50,"1e400",12345678901234567890123]}'
    assert row["lists"] == "[]"
    assert row["mail_opened"] is None


def test_pushed_events(store: PushedStore) -> None:
    store.track({**call("m"), "more": {"a": [1]}})
    store.hook({"event": "contact_added", "contact_id": "c", "contact": {"Email": "e"}})
    store.activity(b'{"event": "email.sent", "n": {"a": 1.50}}')
    with Scripted({}) as sandbox:
        assert check_texts(*both(sandbox, collector_database=store.path)) == 3


def deselect(catalog: Any) -> None:
    """Deselect columns and parts of columns."""
    for path in (
        "lists",
        "anywhere_utm.items.properties.value",
        "employees_range.properties.max",
        "custom_fields.items.properties.value",
        "custom_fields.items.properties.kind",
        "mail_opened.items.properties.timestamp",
    ):
        choose(catalog, "contacts", "properties", *path.split("."), selected=False)
    choose(catalog, "email_opened", "properties", "additional_fields", selected=False)
    choose(catalog, "contacts", replication_method="INCREMENTAL", replication_key="updated_at")


def discovered(tap: Tap, **settings: Any) -> Any:
    run = tap.run("--config", tap.file("discover.json", settings), "--discover")
    assert run.code == 0
    return json.loads(run.stdout)


def test_the_parts_of_a_text_can_be_deselected(tap: Tap, serve: Serve, catalog: Any) -> None:
    sandbox = serve(Account(contacts=150))
    flat = discovered(tap, nested_as_text="true")
    assert [one["metadata"] for one in flat["streams"]] == [
        one["metadata"] for one in catalog["streams"]
    ]
    columns = entry(flat, "contacts")["schema"]["properties"]
    assert columns["custom_fields"] == columns["employees_range"] == {"type": ["null", "string"]}
    deselect(catalog)
    deselect(flat)
    nested = in_process.run(sandbox, catalog=catalog)
    for chosen in (catalog, flat):
        texts = in_process.run(sandbox, catalog=chosen, nested_as_text=True)
        assert check_texts(texts, nested) > 1000
        parts = [json.loads(row["custom_fields"] or "[]") for row in texts.rows("contacts")]
        assert {name for fields in parts for one in fields for name in one} == {
            "field_type", "deleted",
        }  # fmt: skip
    state = texts.state
    again = in_process.run(sandbox, catalog=flat, nested_as_text=True, state=state)
    assert len(again.rows("contacts")) < 40


@pytest.mark.parametrize("nested_as_text", [False, True])
def test_a_catalogs_max_length_is_passed_on(
    serve: Serve, catalog: Any, nested_as_text: bool
) -> None:
    properties = entry(catalog, "contacts")["schema"]["properties"]
    for name in ("contact_id", "email", "created_at", "unsubscribed", "lists"):
        properties[name]["maxLength"] = 255
    properties["name"]["maxLength"] = "50"
    properties["phone"]["maxLength"] = 0
    properties["fax"] = None
    run = in_process.run(
        serve(Account(contacts=5)), catalog=catalog, nested_as_text=nested_as_text
    )  # fmt: skip
    (schema,) = run.of("SCHEMA", "contacts")
    found = {
        name: part["maxLength"]
        for name, part in schema["schema"]["properties"].items()
        if "maxLength" in part
    }
    assert found == {"contact_id": 255, "email": 255, **({"lists": 255} if nested_as_text else {})}
    assert len(run.rows("contacts")) == 5
