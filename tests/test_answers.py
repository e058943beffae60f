"""The dbt package fits the tables. `tests/targets/test_answers.py` runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tap_autopilot.streams import EMAILS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dbt"
SQL = {path.stem: path.read_text() for path in (PACKAGE / "models").rglob("*.sql")}
YML = [yaml.safe_load(path.read_text()) for path in (PACKAGE / "models").rglob("*.yml")]
MODELS = {one["name"]: one for each in YML for one in each.get("models", ())}
SOURCES = {
    one["name"]: one
    for each in YML
    for source in each.get("sources", ())
    for one in source["tables"]
}
MACROS = "\n".join(path.read_text() for path in (PACKAGE / "macros").glob("*.sql"))
TYPES = {"string": "string", "boolean": "boolean", "object": "json", "array": "json"}


def type_of(column: dict[str, Any]) -> str:
    if column.get("format") == "date-time":
        return "timestamp"
    return next(TYPES[one] for one in TYPES if one in column["type"])


@pytest.mark.parametrize("table", SOURCES)
def test_the_package_declares_the_columns_of_the_tables(table: str) -> None:
    schema = json.loads((ROOT / f"schemas/{table}.json").read_text())["properties"]
    declared = {one["name"]: one["data_type"] for one in SOURCES[table]["columns"]}
    assert declared == {name: type_of(column) for name, column in schema.items()}


def test_models_read_only_declared_columns() -> None:
    """dbt would put an empty text in place of an undeclared column."""
    declared = {column["name"] for table in SOURCES.values() for column in table["columns"]}
    read = set(re.findall(r"\.columns\.(\w+)", MACROS + "".join(SQL.values()))) - {"items"}
    assert len(read) > 20
    assert read <= declared


def test_the_email_tables_are_the_taps() -> None:
    events = re.findall(r"'(\w+)'", MACROS.partition("macro events()")[2].partition("endmacro")[0])
    assert [f"email_{event}" for event in events] == list(EMAILS)


def test_there_are_nine_models_and_all_are_described() -> None:
    assert MODELS.keys() == SQL.keys()
    assert len(MODELS) == 9
    for name, model in MODELS.items():
        assert model["description"], name
        for column in model["columns"]:
            assert column["description"].strip().endswith("."), f"{name}.{column['name']}"


@pytest.mark.parametrize("model", [one for one in MODELS if one.startswith("autopilot__")])
def test_each_final_model_has_two_example_questions(model: str) -> None:
    questions = MODELS[model]["description"].partition("Example questions:")[2]
    assert len(re.findall(r"^- [^?]+\?$", questions, re.MULTILINE)) == 2


def test_every_model_and_variable_is_in_the_docs() -> None:
    docs = (ROOT / "docs/answers.md").read_text()
    everything = MACROS + "".join(SQL.values()) + (PACKAGE / "models/sources.yml").read_text()
    for name in {*MODELS, *re.findall(r"var\('(\w+)'", everything)}:
        assert f"`{name}`" in docs
