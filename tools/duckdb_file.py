"""A DuckDB database of the tap's tables. It runs where dbt is installed, and needs only duckdb.

    python duckdb_file.py load DATABASE FOLDER     from target-jsonl's files
    python duckdb_file.py query DATABASE           queries from stdin, rows to stdout, as JSON

target-jsonl appends, so the last line of each key is the row that counts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import duckdb

SCHEMAS = Path(__file__).parents[1] / "schemas"
SCHEMA = "tap_autopilot"
KEYS = {
    "contacts": ("contact_id",),
    "custom_fields": ("name",),
    "email_messages": ("email_id",),
    "lists": ("list_id",),
    "lists_contacts": ("list_id", "contact_id"),
    "smart_segments": ("segment_id",),
    "smart_segments_contacts": ("segment_id", "contact_id"),
}  # of the other tables: id
TYPES = {"string": "VARCHAR", "boolean": "BOOLEAN"}


def load(database: str, folder: str) -> None:
    """Create one table for each file, in a new database."""
    Path(database).unlink(missing_ok=True)
    with duckdb.connect(database) as connection:
        connection.execute("SET threads = 1")  # keeps the order of lines
        connection.execute(f"CREATE SCHEMA {SCHEMA}")
        for path in sorted(Path(folder).glob("*.jsonl")):
            _load_file(connection, path)


def _load_file(connection: Any, path: Path) -> None:
    columns = json.loads((SCHEMAS / f"{path.stem}.json").read_text())["properties"]
    types = {name: _type(column) for name, column in columns.items()}
    types["_sdc_deleted_at"] = "TIMESTAMPTZ"
    key = ", ".join(KEYS.get(path.stem, ("id",)))
    connection.execute(
        f"""
        CREATE TABLE {SCHEMA}.{path.stem} AS
        SELECT * EXCLUDE line
        FROM (
            SELECT *, row_number() OVER () AS line
            FROM read_json($file, columns = {types}, format = 'newline_delimited')
        )
        QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY line DESC) = 1
        """,  # noqa: S608
        {"file": str(path)},
    )


def _type(column: dict[str, Any]) -> str:
    if column.get("format") == "date-time":
        return "TIMESTAMPTZ"
    return next((TYPES[kind] for kind in TYPES if kind in column["type"]), "JSON")


def query(database: str) -> None:
    """Run each query, a JSON text per line, and print its rows, a JSON array of objects."""
    with duckdb.connect(database, read_only=True) as connection:
        for line in sys.stdin:
            cursor = connection.execute(json.loads(line))
            names = [column[0] for column in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
            print(json.dumps(rows, default=str))


if __name__ == "__main__":
    if sys.argv[1] == "load":
        load(*sys.argv[2:])
    else:
        query(*sys.argv[2:])
