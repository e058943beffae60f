"""The targets of docs/targets.md: two nights of an account, loaded with the settings on that page.

After the second night, every table has the account's rows, cell by cell, and no deleted ones.
"""

from __future__ import annotations

import csv
import gzip
import json
import sqlite3
import subprocess
import urllib.parse
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.sandbox.account import Account
from tests.conftest import USUAL_STREAMS, Serve, Tap
from tests.invariants import Run
from tests.targets import test_targets as targets
from tests.targets.loaded import Tables, check_whole, latest, pasted
from tests.targets.test_targets import ENVIRONMENT, Pipeline, Postgres, program

pytestmark = pytest.mark.targets
postgres = targets.postgres  # a fixture

READERS = Path(__file__).with_name("readers.py")
MORE = pytest.mark.more_targets
MARK = "deleted_at"


class Nights:
    """Two nights of an account; in between, contacts and memberships change and disappear."""

    def __init__(self, tap: Tap, serve: Serve) -> None:
        self.tap, self.serve = tap, serve
        self.account = Account(contacts=210, lists=4, segments=3, members=60)
        self.state: Any = None

    def load(self, into: Pipeline, **settings: Any) -> None:
        """Load the account as it is now."""
        self.state = into.run(self.serve(self.account), state=self.state, **settings)

    def load_both(self, into: Pipeline, **settings: Any) -> None:
        """Load both nights."""
        self.load(into, **settings)
        self.account.move_on(1)
        self.load(into, **settings)

    @property
    def digests(self) -> dict[str, str]:
        """The setting for changes only."""
        return {"digests": str(self.tap.folder / "digests")}

    def truth(self) -> Run:
        """A full run over the account as it is now."""
        return self.tap.sync(self.serve(self.account))


@pytest.fixture
def nights(tap: Tap, serve: Serve) -> Nights:
    return Nights(tap, serve)


def pipeline(tap: Tap, command: Path, **settings: Any) -> Pipeline:
    return Pipeline(tap, [command, "--config", tap.file("target.json", settings)])


def present(stored: Tables, mark: str = MARK) -> Tables:
    """Of tables that were only appended to, the rows that are still there."""
    return {
        name: latest(table.key_properties, stored.get(name, ()), mark)
        for name, table in USUAL_STREAMS.items()
    }


def read(command: Path, kind: str, place: Path) -> Tables:
    """What a target stored, read in its own environment."""
    done = subprocess.run(
        [command.parent / "python", READERS, kind, place], capture_output=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    found: Tables = json.loads(done.stdout)
    return found


class S3:
    """A server of buckets on loopback; targets store into the bucket `data`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._ask, self._answer = process.stdin, process.stdout
        self.url = self._answer.readline().strip()

    def read(self) -> Tables:
        """The rows in all objects of the bucket, by table."""
        self._ask.write("\n")
        self._ask.flush()
        found: Tables = json.loads(self._answer.readline())
        return found


@pytest.fixture
def s3() -> Iterator[S3]:
    python = program("plinxore", "s3").parent / "python"
    with subprocess.Popen(
        [python, READERS, "s3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT,
    ) as process:  # fmt: skip
        yield S3(process)
        assert process.stdin is not None
        process.stdin.close()


def test_postgres_by_datamill(nights: Nights, postgres: Postgres) -> None:
    url = urllib.parse.urlsplit(postgres.uri)
    settings = {
        "postgres_host": url.hostname or urllib.parse.parse_qs(url.query)["host"][0],
        "postgres_port": url.port or 5432,
        "postgres_database": url.path[1:],
        "postgres_username": url.username,
        "postgres_password": "any",
    }
    command = program("datamill", "postgres")
    theirs, ours = pasted("singer-target-postgres")
    for schema in ("nested", "whole"):
        postgres.query(f"create schema {schema}")
    nights.load(pipeline(nights.tap, command, postgres_schema="nested", **settings))
    columns = "select column_name from information_schema.columns where table_schema = 'nested'"
    assert {"column_name": "contact_id"} in postgres.query(columns)
    assert {"column_name": "additional_fields"} not in postgres.query(columns), "now unneeded"
    nights.state = None
    into = pipeline(nights.tap, command, postgres_schema="whole", **settings, **theirs)
    nights.load_both(into, **ours)
    check_whole(postgres.tables("whole"), nights.truth())


def test_jsonl(nights: Nights) -> None:
    theirs, ours = pasted("target-jsonl")
    into = pipeline(
        nights.tap, program("jsonl"), destination_path=str(nights.tap.folder),
        do_timestamp_file=False, **theirs,
    )  # fmt: skip
    nights.load_both(into, **nights.digests, **ours)
    stored = {
        name: [json.loads(line) for line in path.read_text().splitlines()]
        for name in USUAL_STREAMS
        if (path := nights.tap.folder / f"{name}.jsonl").exists()
    }
    check_whole(present(stored), nights.truth())


def test_parquet_by_plinxore(nights: Nights, s3: S3) -> None:
    aws = {
        "aws_access_key_id": "x", "aws_secret_access_key": "x", "aws_region": "us-east-1",
        "aws_bucket": "data", "aws_endpoint_override": s3.url,
    }  # fmt: skip
    theirs, ours = pasted("plinxore-target-s3")
    into = pipeline(
        nights.tap, program("plinxore", "s3"), compression="none",
        cloud_provider={"cloud_provider_type": "aws", "aws": aws}, **theirs,
    )  # fmt: skip
    with pytest.raises(AssertionError, match="'NoneType' object has no attribute 'items'"):
        nights.load(into)
    nights.state = None
    nights.load_both(into, **nights.digests, **ours)
    check_whole(present(s3.read()), nights.truth(), whole_seconds=True)


def test_jsonl_in_s3(nights: Nights, s3: S3) -> None:
    theirs, ours = pasted("target-s3-jsonl")
    into = pipeline(
        nights.tap, program("s3jsonl", "s3-jsonl"), work_dir=str(nights.tap.folder),
        s3_bucket="data", aws_endpoint_url=s3.url, aws_access_key_id="x",
        aws_secret_access_key="x", **theirs,
    )  # fmt: skip
    nights.load_both(into, **nights.digests, **ours)
    check_whole(present(s3.read()), nights.truth())


def test_csv(nights: Nights) -> None:
    folder = nights.tap.folder / "stored"
    folder.mkdir()
    theirs, ours = pasted("meltanolabs-target-csv")
    into = pipeline(nights.tap, program("csv"), output_path_prefix=f"{folder}/", **theirs)
    nights.load_both(into, **nights.digests, **ours)
    stored = {
        name: [row for path in sorted(folder.glob(f"{name}-*.csv")) for row in read_csv(path)]
        for name in USUAL_STREAMS
    }
    check_whole(present(stored), nights.truth(), empty_is_null=True)


def test_csv_in_one_file_has_only_the_last_run(nights: Nights) -> None:
    path = nights.tap.folder / "stored" / "lists_contacts.csv"
    path.parent.mkdir()
    into = pipeline(
        nights.tap, program("csv"), output_path_prefix=f"{path.parent}/",
        file_naming_scheme="{stream_name}.csv", overwrite_behavior="append_records",
    )  # fmt: skip
    nights.load(into, **nights.digests)
    before = len(read_csv(path))
    nights.account.move_on(1)
    nights.load(into, **nights.digests)
    assert 0 < len(read_csv(path)) < before, "docs/targets.md is wrong now: it appends"


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@MORE
def test_avro(nights: Nights) -> None:
    theirs, ours = pasted("target-avro")
    into = pipeline(nights.tap, program("avro"), disable_collection=True, **theirs)
    with pytest.raises(AssertionError, match="KeyError: 'properties'"):
        nights.load(into, emit_activate_version_messages=False)
    nights.state = None
    nights.load_both(into, **ours)
    stored = read(program("avro"), "avro", nights.tap.folder)
    check_whole(stored, nights.truth(), whole_seconds=True)


@MORE
def test_singer_jsonl(nights: Nights) -> None:
    folder = nights.tap.folder / "stored"
    theirs, ours = pasted("target-singer-jsonl")
    into = pipeline(
        nights.tap, program("singerjsonl", "singer-jsonl"), destination="local",
        local={"folder": str(folder)}, **theirs,
    )  # fmt: skip
    with pytest.raises(AssertionError, match="Unknown message type ACTIVATE_VERSION"):
        nights.load(into)
    nights.load_both(into, **nights.digests, **ours)
    stored: dict[str, list[Any]] = {}
    for path in sorted(folder.rglob("*.gz"), key=lambda path: path.name[-24:]):
        for message in map(json.loads, gzip.decompress(path.read_bytes()).splitlines()):
            if message["type"] == "RECORD":
                stored.setdefault(message["stream"], []).append(message["record"])
    check_whole(present(stored), nights.truth())


@MORE
@pytest.mark.parametrize("nested_as_text", [True, False])
def test_sqlite(nights: Nights, nested_as_text: bool) -> None:
    path = nights.tap.folder / "stored"
    theirs, ours = pasted("target-sqlite")
    into = pipeline(nights.tap, program("sqlite"), database=str(path), **theirs)
    nights.load_both(into, nested_as_text=nested_as_text, **nights.digests, **ours)
    with closing(sqlite3.connect(path.with_suffix(".db"))) as database:
        database.row_factory = sqlite3.Row
        stored = {
            name: [dict(row) for row in database.execute(f"SELECT * FROM {name}")]
            for name in USUAL_STREAMS
        }
    check_whole(present(stored), nights.truth())


@MORE
def test_duckdb(nights: Nights) -> None:
    path = nights.tap.folder / "stored.duckdb"
    theirs, ours = pasted("target-duckdb")
    into = pipeline(
        nights.tap, program("duckdb"), path=str(path), default_target_schema="main", **theirs
    )
    with pytest.raises(AssertionError, match="incompatible function arguments"):
        nights.load(into)
    path.unlink()
    nights.state = None
    nights.load_both(into, **nights.digests, **ours)
    stored = read(program("duckdb"), "duckdb", path)
    check_whole(present(stored), nights.truth(), empty_is_null=True)


@MORE
def test_parquet_by_automattic(nights: Nights) -> None:
    folder = nights.tap.folder / "stored"
    theirs, ours = pasted("target-parquet")
    into = pipeline(nights.tap, program("parquet"), destination_path=str(folder), **theirs)
    nights.load_both(into, **nights.digests, **ours)
    check_whole(present(read(program("parquet"), "parquet", folder)), nights.truth())
