"""The dbt package's SQL for warehouses that are not there: `warehouses.py NAME PROJECT DATABASE`.

Run where dbt's adapter of that warehouse is installed. The adapter compiles the models as always, but
is told that all tables are loaded, with the types that targets use there. sqlglot, which knows the
warehouse's dialect, translates the SQL for DuckDB, and it runs in DATABASE, in a schema of that name.

So the SQL is what the warehouse would get, and means the right thing to a careful reader of its
dialect. Whether the warehouse agrees, only the warehouse knows.
"""

import importlib
import json
import sys
from pathlib import Path

import duckdb
import sqlglot
from dbt.adapters.contracts.relation import RelationType
from dbt.cli.main import dbtRunner

SCHEMAS = Path(__file__).parents[2] / "schemas"
NAMES = {"snowflake": "Snowflake", "bigquery": "BigQuery", "redshift": "Redshift"}
PROFILES = {
    "snowflake": {"account": "none", "user": "none", "password": "none", "database": "LAKE",
                  "warehouse": "none", "schema": "ANSWERS"},
    "bigquery": {"method": "oauth", "project": "lake", "dataset": "answers"},
    "redshift": {"host": "none.invalid", "user": "none", "password": "none", "dbname": "lake",
                 "port": 5439, "schema": "answers"},
}  # fmt: skip
TYPES = {
    "snowflake": {"date-time": "TIMESTAMP_TZ", "string": "VARCHAR", "boolean": "BOOLEAN",
                  "json": "VARIANT"},
    "bigquery": {"date-time": "TIMESTAMP", "string": "STRING", "boolean": "BOOLEAN",
                 "json": "JSON"},
    "redshift": {"date-time": "timestamp with time zone", "string": "character varying(65535)",
                 "boolean": "boolean", "json": "super"},
}  # fmt: skip


def types(warehouse, table):
    """The columns of a loaded table and their types."""
    found = {"_sdc_deleted_at": TYPES[warehouse]["date-time"]}
    for name, column in json.loads((SCHEMAS / f"{table}.json").read_text())["properties"].items():
        kinds = [one for one in ("string", "boolean") if one in column["type"]]
        kind = column.get("format") or (kinds[0] if kinds else "json")
        found[name] = TYPES[warehouse][kind]
    return found


def pretend(warehouse):
    """Let the adapter believe that every table is loaded."""
    module = importlib.import_module(f"dbt.adapters.{warehouse}.impl")
    adapter = getattr(module, f"{NAMES[warehouse]}Adapter")

    def get_relation(self, database, schema, identifier, **_):
        return self.Relation.create(
            database=database, schema=schema, identifier=identifier, type=RelationType.Table,
            quote_policy=self.config.quoting,
        )  # fmt: skip

    def get_columns_in_relation(self, relation):
        spelled = str.upper if warehouse == "snowflake" else str
        return [
            self.Column.create(spelled(name), kind)
            for name, kind in types(warehouse, relation.identifier).items()
        ]

    def refuse(*_, **__):
        raise AssertionError("the warehouse was asked")

    adapter.get_relation = get_relation
    adapter.get_columns_in_relation = get_columns_in_relation
    adapter.ConnectionManager.open = classmethod(refuse)
    adapter.ConnectionManager.close = classmethod(lambda _, connection: connection)


def compile_models(warehouse, project):
    """The SQL of each model, in an order in which they can be built."""
    profile = {"type": warehouse, "threads": 1, **PROFILES[warehouse]}
    (Path(project) / "profiles.yml").write_text(
        json.dumps({"warehouse": {"target": "it", "outputs": {"it": profile}}})
    )
    done = dbtRunner().invoke([
        "--quiet", "--warn-error", "--no-send-anonymous-usage-stats", "compile",
        "--vars", '{"autopilot_schema": "tap_autopilot"}',
        "--no-populate-cache", "--project-dir", project, "--profiles-dir", project,
        "--target-path", f"target-{warehouse}",
    ])  # fmt: skip
    if not done.success:
        raise SystemExit(str(done.exception or [one.message for one in done.result.results]))
    nodes = [one.node for one in done.result.results if one.node.resource_type == "model"]
    return {one.name: one.compiled_code for one in nodes}


def main(warehouse, project, database):
    """Compile, translate and build."""
    pretend(warehouse)
    models = compile_models(warehouse, project)
    with duckdb.connect(database) as connection:
        connection.execute("create or replace macro json_serialize(value) as value::varchar")
        if warehouse == "bigquery":
            connection.execute("set timezone = 'UTC'")  # its timestamps have no other
        connection.execute(f"create schema {warehouse}")
        for name, sql in models.items():
            tree = sqlglot.parse_one(sql, read=warehouse)
            for table in tree.find_all(sqlglot.exp.Table):
                if table.catalog:
                    ours = table.db.lower() == "answers"
                    table.set("catalog", None)
                    table.set("db", sqlglot.exp.to_identifier(warehouse if ours else table.db))
            connection.execute(f"create table {warehouse}.{name} as {tree.sql('duckdb')}")


if __name__ == "__main__":
    main(*sys.argv[1:])
