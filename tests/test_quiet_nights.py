"""With digests: what a night logs about rows it does not send, and how it marks deleted rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.sandbox.account import Account
from tests.conftest import Serve, Tap
from tests.digests import Nights
from tests.invariants import Run


def warnings(run: Run) -> list[str]:
    return [line for line in run.log if line.startswith("WARNING")]


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path, Account(contacts=210, lists=3, segments=2, members=20))


def test_values_of_rows_that_are_not_sent_are_not_warned_of(nights: Nights) -> None:
    first = nights.night()
    assert sum("does not fit column" in line for line in warnings(first)) > 5
    assert any("not valid Unicode" in line for line in warnings(first))
    quiet = nights.night()
    assert (quiet.of("RECORD"), warnings(quiet)) == ([], [])
    assert not any("did not fit" in line or "replaced" in line for line in quiet.log)


def test_values_of_changed_rows_are_warned_of(nights: Nights) -> None:
    nights.night()
    account = nights.account
    changed = account.contact_ids[7]
    account.changed[changed] = {**account.contact(changed), "company_priority": "high"}
    account.changes += 1
    run = nights.night()
    assert [row["contact_id"] for row in run.rows("contacts")] == [changed]
    assert warnings(run) == [
        "WARNING contacts: a value does not fit column company_priority; kept in additional_fields."
    ]
    assert any("1 value did not fit (company_priority 1)" in line for line in run.log)


def test_the_mark_of_deleted_rows_has_the_name_that_was_set(nights: Nights) -> None:
    settings = {"deleted_at_column": "removed_at"}
    nights.night(settings=settings)
    before = set(nights.account.contact_ids)
    nights.account.move_on(1)
    gone = before - set(nights.account.contact_ids)
    assert gone
    run = nights.night(settings=settings)
    assert b"_sdc_deleted_at" not in run.stdout
    for schema in run.of("SCHEMA"):
        assert [*schema["schema"]["properties"]][-1] == "removed_at"
        assert schema["schema"]["properties"]["removed_at"]["format"] == "date-time"
    assert {row["contact_id"] for row in run.rows("contacts") if row["removed_at"]} == gone
    assert any(row["removed_at"] for row in run.rows("lists_contacts"))
    assert not nights.night(settings=settings).of("RECORD")
    renamed = nights.night()
    assert any("columns or settings changed" in line for line in warnings(renamed))
    assert len(renamed.rows("contacts")) == len(nights.account.contact_ids)


@pytest.mark.parametrize("name", ["email", "LIST_ID", "removed at", "", "1st", 5, "x" * 64])
def test_a_name_that_cannot_be_the_marks_is_an_error(tap: Tap, serve: Serve, name: Any) -> None:
    settings = tap.config(serve(Account(contacts=1)), deleted_at_column=name, digests="digests")
    run = tap.run("--config", tap.file("config.json", settings))
    assert run.code == (2 if name else 0)
    assert name == "" or "deleted_at_column" in run.last_words
