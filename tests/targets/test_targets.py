"""Real targets, each in its own environment: what they stored, compared with what was served.

`make test-targets` installs the targets and runs these.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.sandbox.account import Account
from tests.conftest import COMMAND, KEY, Serve, Tap
from tests.conftest import USUAL_STREAMS as STREAMS
from tests.recording import Sandbox
from tests.replica import everything
from tests.test_rows import TIME, expected_row, instant, read_row, served
from tests.test_selection import choose

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": ""}

pytestmark = pytest.mark.targets


class Pipeline:
    """The tap on a sandbox, piped into a target."""

    def __init__(self, tap: Tap, target: list[str | Path]) -> None:
        self.tap = tap
        self.target = target

    def run(
        self,
        sandbox: Sandbox,
        *,
        catalog: Any = None,
        state: Any = None,
        kill_after: int = 0,
        **config: Any,
    ) -> Any:
        """Sync from a sandbox into the target. Returns the target's last state.

        `kill_after` is the number of requests after which the tap is killed.
        """
        arguments = self.tap.arguments(sandbox, catalog=catalog, state=state, config=config)
        asked = len(sandbox.requests)
        with (self.tap.folder / "tap.log").open("wb") as log:
            reading = subprocess.Popen(
                [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=log, cwd=ROOT
            )
            writing = subprocess.Popen(
                self.target,
                stdin=reading.stdout,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=ENVIRONMENT,
                cwd=self.tap.folder,
            )
            assert reading.stdout is not None
            reading.stdout.close()
            while (
                kill_after and len(sandbox.requests) - asked < kill_after and reading.poll() is None
            ):
                time.sleep(0.005)
            if kill_after:
                reading.send_signal(signal.SIGKILL)
            out, err = writing.communicate(timeout=300)
            code = reading.wait()
        if not kill_after:
            said = (self.tap.folder / "tap.log").read_text() + err.decode()[-3000:]
            assert (code, writing.returncode) == (0, 0), said
        states = out.decode().splitlines()
        return json.loads(states[-1]) if states else state


def program(target: str, name: str = "") -> Path:
    path = ROOT / f".venv-target-{target}/bin/target-{name or target}"
    assert path.exists(), "make test-targets installs it"
    return path


def text_of(value: Any) -> Any:
    """A value as it is written to a text file."""
    return (
        ""
        if value is None
        else json.dumps(value)
        if isinstance(value, (list, dict))
        else str(value)
    )


def test_jsonl(tap: Tap, serve: Serve) -> None:
    account = Account(contacts=450)
    folder = tap.folder / "stored"
    folder.mkdir()
    config = tap.file("target.json", {"destination_path": str(folder), "do_timestamp_file": False})
    state = Pipeline(tap, [program("jsonl"), "--config", config]).run(serve(account))
    assert {one["progress"] for one in state["bookmarks"].values()} == {None}
    stored = {
        stream: [json.loads(line) for line in (folder / f"{stream}.jsonl").read_text().splitlines()]
        for stream in STREAMS
    }
    assert keys(stored) == everything(account)
    for row in stored["contacts"]:
        assert read_row(row) == expected_row(list(row), served(account.contact(row["contact_id"])))


def keys(stored: dict[str, list[dict[str, Any]]]) -> set[tuple[str, ...]]:
    """The keys of all stored rows; no two rows may share one."""
    found = [
        (stream, *(row[key] for key in STREAMS[stream].key_properties))
        for stream, rows in stored.items()
        for row in rows
    ]
    assert len(found) == len(set(found))
    return set(found)


def test_csv(tap: Tap, serve: Serve) -> None:
    account = Account(contacts=450)
    folder = tap.folder / "stored"
    folder.mkdir()
    settings = {
        "output_path_prefix": f"{folder}/",
        "file_naming_scheme": "{stream_name}.csv",
        "overwrite_behavior": "append_records",
    }
    config = tap.file("target.json", settings)
    Pipeline(tap, [program("csv"), "--config", config]).run(serve(account))
    stored = {}
    for stream in STREAMS:
        with (folder / f"{stream}.csv").open(newline="", encoding="utf-8") as file:
            stored[stream] = list(csv.DictReader(file))
    assert keys(stored) == everything(account)
    rows = {row["contact_id"]: row for row in tap.sync(serve(account)).rows("contacts")}
    for row in stored["contacts"]:
        wanted = rows[row["contact_id"]]
        for column in (
            "name",
            "first_name",
            "mailing_country",
            "company",
            "unsubscribed",
        ):
            assert row[column] == text_of(wanted[column])
        if wanted["created_at"]:
            assert instant(row["created_at"].replace(" ", "T")) == instant(wanted["created_at"])


def test_stitch_accepts_every_batch(tap: Tap, serve: Serve) -> None:
    account = Account(contacts=450)
    saved = tap.folder / "batches"
    Pipeline(tap, [program("stitch"), "--dry-run", "--output-file", saved]).run(serve(account))
    stored: dict[str, list[dict[str, Any]]] = {stream: [] for stream in STREAMS}
    ended = set()
    for line in saved.read_text().splitlines():
        batch = json.loads(line)
        stream = batch["table_name"]
        assert batch["key_names"] == list(STREAMS[stream].key_properties)
        for message in batch["messages"]:
            if message["action"] == "upsert":
                stored[stream].append(message["data"])
            else:
                assert message["action"] == "activate_version"
                ended.add(stream)
    assert keys(stored) == everything(account)
    assert ended == STREAMS.keys()


class Postgres:
    """A running PostgreSQL, with the target that loads into it."""

    def __init__(self, address: str, process: subprocess.Popen[str], tap: Tap) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._ask, self._answer = process.stdin, process.stdout
        self._tap = tap
        self.uri = address.replace("postgresql:", "postgresql+psycopg:")

    def pipeline(self, schema: str, **settings: Any) -> Pipeline:
        known = {"sqlalchemy_url": self.uri, "default_target_schema": schema, **settings}
        config = self._tap.file("target.json", known)
        return Pipeline(self._tap, [program("postgres"), "--config", config])

    def query(self, sql: str) -> list[dict[str, Any]]:
        self._ask.write(json.dumps(sql) + "\n")
        self._ask.flush()
        rows: list[dict[str, Any]] = json.loads(self._answer.readline())
        return rows

    def tables(self, schema: str, where: str = "true") -> dict[str, list[dict[str, Any]]]:
        """All rows of all tables; a table that never had a row counts as empty."""
        sql = f"select tablename from pg_tables where schemaname = '{schema}'"
        there = {row["tablename"] for row in self.query(sql)}
        return {
            stream: self.query(f"select * from {schema}.{stream} where {where}")
            if stream in there
            else []
            for stream in STREAMS
        }


@contextmanager
def postgres_server() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server's address, and the process of `postgres.py`."""
    python = program("postgres").parent / "python"
    with subprocess.Popen(
        [python, Path(__file__).with_name("postgres.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "PostgreSQL did not start; its messages are above"
        yield address, process
        process.stdin.close()


@pytest.fixture
def postgres(tap: Tap) -> Iterator[Postgres]:
    with postgres_server() as (address, process):
        yield Postgres(address, process, tap)


def check_tables(stored: dict[str, list[dict[str, Any]]], account: Account) -> None:
    """Compare all tables with the account, the contacts and the events column by column."""
    assert keys(stored) == everything(account)
    for row in stored["contacts"]:
        ours = {name: value for name, value in row.items() if not name.startswith("_sdc")}
        for column in TIME:
            ours[column] = ours[column] and ours[column].replace(" ", "T")
        wanted = expected_row(list(ours), served(account.contact(row["contact_id"])))
        assert read_row(ours) == wanted
    for row in stored["email_opened"]:
        when = account.contact(row["context_traits_contact_id"])["mail_opened"][row["email_id"]]
        if isinstance(when, int):
            assert instant(row["timestamp"].replace(" ", "T")) == instant(when)
        else:
            assert row["timestamp"] is None
        assert row["event_text"] == "Email Opened"
    titles = {one["list_id"]: one["title"] for one in account.lists}
    assert {row["list_id"]: row["title"] for row in stored["lists"]} == titles


@pytest.mark.parametrize("settings", [{}, {"use_copy": True, "validate_records": False}])
def test_postgres_stores_what_was_served_and_deletes_removed_rows(
    serve: Serve, postgres: Postgres, settings: dict[str, Any]
) -> None:
    account = Account(contacts=2000, lists=6, segments=5, members=300)
    sandbox = serve(account)
    into = postgres.pipeline("whole", hard_delete=True, **settings)
    into.run(sandbox)
    first = postgres.tables("whole")
    check_tables(first, account)
    assert sum(row["mailing_country"] is not None for row in first["contacts"]) > 1900

    into.run(sandbox)
    assert shown(postgres.tables("whole")) == shown(first), "nothing changed"

    gone = set(account.contact_ids)
    account.move_on(1)
    gone -= set(account.contact_ids)
    assert len(gone) == 80
    into.run(sandbox)
    check_tables(postgres.tables("whole"), account)


def shown(stored: dict[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
    """The rows without the target's own columns, sorted."""
    return {
        stream: sorted(
            json.dumps({name: value for name, value in row.items() if not name.startswith("_sdc")})
            for row in rows
        )
        for stream, rows in stored.items()
    }


def test_postgres_marks_removed_rows(serve: Serve, postgres: Postgres) -> None:
    account = Account(contacts=300, segments=3, members=50)
    sandbox = serve(account)
    into = postgres.pipeline("marked")
    into.run(sandbox)
    account.move_on(1)
    into.run(sandbox)
    present = postgres.tables("marked", "_sdc_deleted_at is null")
    assert keys(present) == everything(account)
    assert postgres.query(
        "select count(*) from marked.contacts where _sdc_deleted_at is not null"
    ) == [{"count": 12}]


def test_postgres_is_the_same_after_kills(serve: Serve, postgres: Postgres) -> None:
    account = Account(contacts=1500, lists=4, segments=4, members=400)
    slow, sandbox = serve(account, latency=0.05), serve(account)
    state: Any = None
    into = postgres.pipeline("killed", hard_delete=True, batch_size_rows=500)
    for after in (6, 9, 12):
        state = into.run(slow, state=state, kill_after=after)
    into.run(sandbox, state=state)
    whole = postgres.pipeline("uninterrupted", hard_delete=True)
    whole.run(sandbox)
    killed = postgres.tables("killed")
    check_tables(killed, account)
    assert shown(killed) == shown(postgres.tables("uninterrupted"))


def test_postgres_after_days_of_changes_incrementally(
    tap: Tap, serve: Serve, postgres: Postgres, catalog: Any
) -> None:
    account = Account(contacts=2000, lists=6, segments=5, members=300)
    sandbox = serve(account)
    for name, stream in STREAMS.items():
        if stream.replication_key:
            choose(catalog, name, replication_method="INCREMENTAL")
    into = postgres.pipeline("changes", hard_delete=True)
    state = into.run(sandbox, catalog=catalog)
    left: set[str] = set()
    for day in (1, 2):
        before = set(account.contact_ids)
        account.move_on(day)
        left |= before - set(account.contact_ids)
        state = into.run(sandbox, catalog=catalog, state=state)
        assert re.search(r"INFO contacts: (2\d\d|3\d\d) rows", (tap.folder / "tap.log").read_text())
    stored = postgres.tables("changes")
    for name in ("contacts", *(one for one in STREAMS if one.startswith("email"))):
        column = "contact_id" if name == "contacts" else "context_traits_contact_id"
        stored[name] = [row for row in stored[name] if row[column] not in left]
    check_tables(stored, account)


def test_postgres_with_columns_for_custom_fields(serve: Serve, postgres: Postgres) -> None:
    account = Account(contacts=300)
    postgres.pipeline("custom").run(serve(account), custom_fields_as_columns=True)
    for row in postgres.query(
        "select contact_id, custom_nps_rating, custom_order_value, custom_has_reviewed from custom.contacts"
    ):
        said = {
            one["kind"]: one["value"]
            for one in account.contact(row["contact_id"]).get("custom_fields") or ()
            if not one["deleted"]
        }
        assert row["custom_nps_rating"] == said.get("NPS Rating")
        assert row["custom_has_reviewed"] == said.get("Has Reviewed")
        value = row["custom_order_value"]
        assert (value and float(value)) == pytest.approx(said.get("Order Value"))


def test_the_key_is_in_no_log(tap: Tap, serve: Serve) -> None:
    saved = tap.folder / "batches"
    Pipeline(tap, [program("stitch"), "--dry-run", "--output-file", saved]).run(
        serve(Account(contacts=50))
    )
    assert KEY not in (tap.folder / "tap.log").read_text() + saved.read_text()
