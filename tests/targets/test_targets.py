"""The targets of docs/targets.md: two nights of an account, loaded with the settings on that page.

After the second night, every table has the account's rows, cell by cell, and no deleted ones.
"""

from __future__ import annotations

import csv
import gzip
import json
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import KEY, USUAL_STREAMS
from tests.replica import everything
from tests.targets.conftest import ENVIRONMENT, Nights, Pipeline, Server, program, serving
from tests.targets.loaded import Tables, keys, pasted, present

pytestmark = pytest.mark.targets

READERS = Path(__file__).with_name("readers.py")
MORE = pytest.mark.more_targets


def read(command: Path, kind: str, place: Path) -> Tables:
    """What a target stored, read in its own environment."""
    done = subprocess.run(
        [command.parent / "python", READERS, kind, place], capture_output=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    found: Tables = json.loads(done.stdout)
    return found


@pytest.fixture
def s3() -> Iterator[Server]:
    """A server of buckets on loopback; targets store into the bucket `data`."""
    with serving(program("plinxore", "s3"), "readers.py", "s3") as server:
        yield server


@pytest.mark.parametrize("digests", [False, True])
def test_stitch_accepts_every_batch(nights: Nights, digests: bool) -> None:
    saved = nights.tap.folder / "batches"
    into = Pipeline(nights.tap, program("stitch"), "--dry-run", "--output-file", saved)
    for night in range(2):
        saved.unlink(missing_ok=True)
        nights.account.move_on(night)
        nights.load(into, **(nights.digests if digests else {}))
        said = saved.read_text()
        assert KEY not in said + (nights.tap.folder / "tap.log").read_text()
        stored: dict[str, list[dict[str, Any]]] = {}
        ended = set()
        for batch in map(json.loads, said.splitlines()):
            stream = batch["table_name"]
            for message in batch["messages"]:
                if message["action"] == "upsert":
                    stored.setdefault(stream, []).append(message["data"])
                else:
                    assert message["action"] == "activate_version"
                    ended.add(stream)
            if stream in USUAL_STREAMS:
                assert batch["key_names"] == list(USUAL_STREAMS[stream].key_properties)
        if digests and night:
            assert not ended
            gone = [row for rows in stored.values() for row in rows if row["_sdc_deleted_at"]]
            assert len(gone) > 9
            assert len(stored["contacts"]) < len(nights.account.contact_ids) / 2
        else:
            stored.pop("membership_changes", None)
            assert keys(stored) == everything(nights.account)
            assert ended == USUAL_STREAMS.keys()


def test_jsonl(nights: Nights) -> None:
    folder = str(nights.tap.folder)
    nights.load_as_pasted(
        "target-jsonl", program("jsonl"), destination_path=folder, do_timestamp_file=False
    )
    stored = {
        name: [json.loads(line) for line in path.read_text().splitlines()]
        for name in USUAL_STREAMS
        if (path := nights.tap.folder / f"{name}.jsonl").exists()
    }
    nights.check(present(stored))


def test_parquet_by_plinxore(nights: Nights, s3: Server) -> None:
    aws = {
        "aws_access_key_id": "x", "aws_secret_access_key": "x", "aws_region": "us-east-1",
        "aws_bucket": "data", "aws_endpoint_override": s3.address,
    }  # fmt: skip
    nights.load_as_pasted(
        "plinxore-target-s3", program("plinxore", "s3"), compression="none",
        cloud_provider={"cloud_provider_type": "aws", "aws": aws},
        fails="'NoneType' object has no attribute 'items'",
    )  # fmt: skip
    nights.check(present(s3.ask("read")), whole_seconds=True)


def test_jsonl_in_s3(nights: Nights, s3: Server) -> None:
    nights.load_as_pasted(
        "target-s3-jsonl", program("s3jsonl", "s3-jsonl"), work_dir=str(nights.tap.folder),
        s3_bucket="data", aws_endpoint_url=s3.address, aws_access_key_id="x",
        aws_secret_access_key="x",
    )  # fmt: skip
    nights.check(present(s3.ask("read")))


def test_csv(nights: Nights) -> None:
    folder = nights.tap.folder / "stored"
    folder.mkdir()
    nights.load_as_pasted("meltanolabs-target-csv", program("csv"), output_path_prefix=f"{folder}/")
    stored = {
        name: [row for path in sorted(folder.glob(f"{name}-*.csv")) for row in read_csv(path)]
        for name in USUAL_STREAMS
    }
    nights.check(present(stored), empty_is_null=True)


def test_csv_in_one_file_has_only_the_last_run(nights: Nights) -> None:
    path = nights.tap.folder / "stored" / "lists_contacts.csv"
    path.parent.mkdir()
    into = Pipeline(
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
    into = Pipeline(nights.tap, program("avro"), disable_collection=True, **theirs)
    with pytest.raises(AssertionError, match="KeyError: 'properties'"):
        nights.load(into, emit_activate_version_messages=False)
    nights.state = None
    nights.load_both(into, **ours)
    stored = read(program("avro"), "avro", nights.tap.folder)
    nights.check(stored, whole_seconds=True)


@MORE
def test_singer_jsonl(nights: Nights) -> None:
    folder = nights.tap.folder / "stored"
    nights.load_as_pasted(
        "target-singer-jsonl", program("singerjsonl", "singer-jsonl"), destination="local",
        local={"folder": str(folder)}, fails="Unknown message type ACTIVATE_VERSION",
    )  # fmt: skip
    stored: dict[str, list[Any]] = {}
    for path in sorted(folder.rglob("*.gz"), key=lambda path: path.name[-24:]):
        for message in map(json.loads, gzip.decompress(path.read_bytes()).splitlines()):
            if message["type"] == "RECORD":
                stored.setdefault(message["stream"], []).append(message["record"])
    nights.check(present(stored))


@MORE
@pytest.mark.parametrize("nested_as_text", [True, False])
def test_sqlite(nights: Nights, nested_as_text: bool) -> None:
    path = nights.tap.folder / "stored"
    as_text = {"nested_as_text": nested_as_text}
    nights.load_as_pasted("target-sqlite", program("sqlite"), more=as_text, database=str(path))
    with closing(sqlite3.connect(path.with_suffix(".db"))) as database:
        database.row_factory = sqlite3.Row
        stored = {
            name: [dict(row) for row in database.execute(f"SELECT * FROM {name}")]
            for name in USUAL_STREAMS
        }
    nights.check(present(stored))


@MORE
def test_duckdb(nights: Nights) -> None:
    path = nights.tap.folder / "stored.duckdb"
    theirs, ours = pasted("target-duckdb")
    into = Pipeline(
        nights.tap, program("duckdb"), path=str(path), default_target_schema="main", **theirs
    )
    with pytest.raises(AssertionError, match="incompatible function arguments"):
        nights.load(into)
    path.unlink()
    nights.state = None
    nights.load_both(into, **nights.digests, **ours)
    stored = read(program("duckdb"), "duckdb", path)
    nights.check(present(stored), empty_is_null=True)


@MORE
def test_parquet_by_automattic(nights: Nights) -> None:
    folder = nights.tap.folder / "stored"
    nights.load_as_pasted("target-parquet", program("parquet"), destination_path=str(folder))
    nights.check(present(read(program("parquet"), "parquet", folder)))
