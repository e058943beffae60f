"""Only what changed, loaded by real targets: they end up with what the account has."""

from __future__ import annotations

import json
import os
import random
import re
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.sandbox.account import Account
from tap_autopilot.streams import STREAMS
from tests.conftest import USUAL_STREAMS, Serve, Tap
from tests.replica import everything
from tests.targets import test_targets as targets
from tests.targets.test_targets import (
    Pipeline,
    Postgres,
    check_tables,
    keys,
    program,
    shown,
)

pytestmark = pytest.mark.targets
postgres = targets.postgres  # a fixture

PRESENT = "_sdc_deleted_at is null"


def tables(found: Postgres, schema: str, where: str = PRESENT) -> dict[str, list[dict[str, Any]]]:
    """The rows of all tables except membership_changes."""
    stored = found.tables(schema, where)
    return {name: stored[name] for name in USUAL_STREAMS}


def sent(tap: Tap) -> int:
    """How many contacts the last run sent."""
    found = re.search(r"INFO contacts: ([\d,]+) rows", (tap.folder / "tap.log").read_text())
    assert found is not None
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize("hard_delete", [True, False])
def test_postgres_after_nights_and_kills(
    tap: Tap,
    serve: Serve,
    postgres: Postgres,
    hard_delete: bool,
) -> None:
    account = Account(contacts=1500, lists=6, segments=4, members=300)
    schema = f"changes{int(hard_delete)}"
    into = postgres.pipeline(schema, hard_delete=hard_delete, batch_size_rows=500)
    path = str(tap.folder / "digests")
    state = into.run(serve(account), digests=path)
    check_tables(tables(postgres, schema), account)
    rng = random.Random(1)
    for day in range(1, 4):
        account.move_on(day)
        slow = serve(account, latency=0.05)
        state = into.run(slow, state=state, digests=path, kill_after=rng.randrange(4, 16))
        account.move_on(10 + day)
        state = into.run(serve(account), state=state, digests=path)
        assert 0 < sent(tap) < 700
        state = into.run(serve(account), state=state, digests=path)  # sees every deletion
        check_tables(tables(postgres, schema), account)
    gone = postgres.query(f"select count(*) from {schema}.contacts where not {PRESENT}")
    assert gone[0]["count"] > 100, "this target only marks deleted rows, even with hard_delete"
    Path(path).write_bytes(b"damaged")
    account.move_on(20)
    state = into.run(serve(account), state=state, digests=path)
    assert sent(tap) == len(account.contact_ids)
    check_tables(tables(postgres, schema), account)
    into.run(serve(account), state=state, digests=path)
    assert sent(tap) == 0
    check_tables(tables(postgres, schema), account)
    whole = postgres.pipeline("uninterrupted", hard_delete=True)
    whole.run(serve(account))
    assert shown(tables(postgres, schema)) == shown(tables(postgres, "uninterrupted"))
    changes = postgres.query(f"select change, count(*) from {schema}.membership_changes group by 1")
    assert {one["change"] for one in changes} == {"joined", "left"}


@pytest.mark.parametrize("seed", range(int(os.environ.get("HISTORIES", "2"))))
def test_five_nights_of_a_changing_account(
    tap: Tap, serve: Serve, postgres: Postgres, seed: int
) -> None:
    """With changes during passes, kills and doubts; HISTORIES sets the number of accounts."""
    rng = random.Random(seed)
    account = Account(seed=seed, contacts=rng.choice((150, 300, 450)), lists=4, segments=3)
    account.settle()
    into = postgres.pipeline(f"history{seed}", use_copy=True, validate_records=False)
    path, state = str(tap.folder / "digests"), None
    for night in range(5):
        lose = rng.choice(("", "", "contacts", "members"))
        living = serve(account, churn=1.0, seed=10 * seed + night, lose=lose, lose_once=True)
        kill_after = rng.randrange(3, 12) if rng.random() < 0.5 else 0
        state = into.run(living, state=state, digests=path, kill_after=kill_after)
        account.settle()
    for _ in range(3):  # one may finish the last pass, one sees every change
        state = into.run(serve(account), state=state, digests=path)
    assert sent(tap) == 0
    check_tables(tables(postgres, f"history{seed}"), account)


@pytest.mark.parametrize("hard_delete", [True, False])
def test_pipelinewise(
    tap: Tap,
    serve: Serve,
    postgres: Postgres,
    hard_delete: bool,
) -> None:
    account = Account(contacts=600, lists=5, segments=3, members=100)
    url = urllib.parse.urlsplit(postgres.uri)
    schema = f"wise{int(hard_delete)}"
    config = {
        "host": url.hostname or urllib.parse.parse_qs(url.query)["host"][0],
        "port": url.port or 5432,
        "user": url.username,
        "password": "any",
        "dbname": url.path[1:],
        "default_target_schema": schema,
        "hard_delete": hard_delete,
        "add_metadata_columns": True,
    }
    target = tap.file("target.json", config)
    into = Pipeline(tap, [program("pipelinewise", "postgres"), "--config", target])
    path = str(tap.folder / "digests")
    state = into.run(serve(account), digests=path)
    for day in range(1, 4):
        account.move_on(day)
        state = into.run(serve(account), state=state, digests=path)
        assert 0 < sent(tap) < 200
    stored = tables(postgres, schema)
    assert keys(stored) == everything(account)
    everyone = tables(postgres, schema, "true")
    left = len(everyone["contacts"]) - len(stored["contacts"])
    assert left == 0 if hard_delete else left > 50


def test_stitch_accepts_every_batch_with_tombstones(tap: Tap, serve: Serve) -> None:
    account = Account(contacts=450)
    path = str(tap.folder / "digests")
    saved = tap.folder / "batches"
    into = Pipeline(tap, [program("stitch"), "--dry-run", "--output-file", saved])
    state = into.run(serve(account), digests=path)
    saved.unlink()
    account.move_on(1)
    into.run(serve(account), state=state, digests=path)
    batches = [json.loads(line) for line in saved.read_text().splitlines()]
    messages = [(one["table_name"], message) for one in batches for message in one["messages"]]
    assert {message["action"] for _, message in messages} == {"upsert"}
    deleted = [message["data"] for _, message in messages if message["data"]["_sdc_deleted_at"]]
    assert len(deleted) > 18
    assert len(messages) < 900
    assert {one["table_name"] for one in batches} <= STREAMS.keys()
