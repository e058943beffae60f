"""What three targets store in a real PostgreSQL, and what becomes of deleted rows there."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.sandbox.account import Account
from tests.targets.conftest import Nights, Pipeline, Postgres, program
from tests.targets.loaded import pasted

pytestmark = pytest.mark.targets

PRESENT = "_sdc_deleted_at is null"


def deleted(postgres: Postgres, schema: str) -> int:
    """How many contacts are marked as deleted."""
    (row,) = postgres.query(f"select count(*) from {schema}.contacts where not {PRESENT}")
    found: int = row["count"]
    return found


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"hard_delete": True}, {}),
        ({"hard_delete": True, "use_copy": True, "validate_records": False}, {}),
        ({}, {"custom_fields_as_columns": True}),
    ],
)
def test_what_was_served_is_stored_and_deleted_rows_leave(
    nights: Nights, postgres: Postgres, theirs: dict[str, Any], ours: dict[str, Any]
) -> None:
    into = postgres.pipeline("whole", **theirs)
    for _ in range(2):  # the second run changes nothing
        nights.load(into, **ours)
        nights.check(postgres.tables("whole"), settings=ours)
    before = set(nights.account.contact_ids)
    nights.account.move_on(1)
    gone = before - set(nights.account.contact_ids)
    nights.load(into, **ours)
    nights.check(postgres.tables("whole", PRESENT), settings=ours)
    assert deleted(postgres, "whole") == (0 if "hard_delete" in theirs else len(gone))


def test_with_digests_after_changes_during_passes_and_kills(
    nights: Nights, postgres: Postgres
) -> None:
    nights.account = account = Account(contacts=1500, lists=6, segments=4, members=300)
    into = postgres.pipeline("changes", hard_delete=True, batch_size_rows=500)
    nights.load(into, **nights.digests)
    rng = random.Random(1)
    for day in range(1, 4):
        account.move_on(day)
        living = nights.serve(account, latency=0.05, churn=1.0, seed=day)
        kill_after = rng.randrange(4, 16)
        nights.state = into.run(living, state=nights.state, kill_after=kill_after, **nights.digests)
        account.move_on(10 + day)
        nights.load(into, **nights.digests)
        assert 0 < nights.sent() < 700
        nights.load(into, **nights.digests)  # sees every deletion
        nights.check(postgres.tables("changes", PRESENT))
    assert deleted(postgres, "changes") > 100, "it only marks deleted rows, even with hard_delete"
    Path(nights.digests["digests"]).write_bytes(b"damaged")
    account.move_on(20)
    for sent in (len(account.contact_ids), 0):
        nights.load(into, **nights.digests)
        assert nights.sent() == sent
        nights.check(postgres.tables("changes", PRESENT))
    changes = postgres.query("select change, count(*) from changes.membership_changes group by 1")
    assert {one["change"] for one in changes} == {"joined", "left"}


@pytest.mark.parametrize("hard_delete", [True, False])
def test_pipelinewise(nights: Nights, postgres: Postgres, hard_delete: bool) -> None:
    nights.load_as_pasted(
        "pipelinewise-target-postgres", program("pipelinewise", "postgres"),
        default_target_schema="wise", hard_delete=hard_delete, **postgres.parts,
    )  # fmt: skip
    nights.check(postgres.tables("wise", PRESENT), empty_is_null=True)
    assert (deleted(postgres, "wise") == 0) == hard_delete


def test_datamill(nights: Nights, postgres: Postgres) -> None:
    settings = {f"postgres_{name}": value for name, value in postgres.parts.items()}
    settings["postgres_database"] = settings.pop("postgres_dbname")
    settings["postgres_username"] = settings.pop("postgres_user")
    theirs, ours = pasted("singer-target-postgres")
    for schema in ("nested", "whole"):
        postgres.query(f"create schema {schema}")
    command = program("datamill", "postgres")
    nights.load(Pipeline(nights.tap, command, postgres_schema="nested", **settings))
    columns = "select column_name from information_schema.columns where table_schema = 'nested'"
    assert {"column_name": "contact_id"} in postgres.query(columns)
    assert {"column_name": "additional_fields"} not in postgres.query(columns), "now unneeded"
    nights.state = None
    into = Pipeline(nights.tap, command, postgres_schema="whole", **settings, **theirs)
    nights.load_both(into, **ours)
    nights.check(postgres.tables("whole"))
