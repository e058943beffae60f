"""Digests files that are missing, damaged, foreign or old: they are not trusted."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.digests.file import trouble
from tap_autopilot.exceptions import UserError
from tests.test_digests_file import compare, doubt, fill, opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "digests"


def test_a_file_is_trusted_only_if_the_state_names_it(path: Path) -> None:
    assert doubt(path, None) is None, "the very first run"
    assert "missing" in str(doubt(path, [1, "ab"]))
    first = fill(path, 1500)
    of_first = path.read_bytes()
    assert doubt(path, first) is None
    assert "does not mention" in str(doubt(path, None))
    assert "another account" in str(doubt(path, first, "somebody else"))
    wrong: list[Any] = [
        7,
        [1],
        [first[0], 3],
        ["1", first[1]],
        [first[0], "zz"],
        [10**30, first[1]],
        {},
        [True, first[1]],
    ]
    for position in wrong:
        assert doubt(path, position)
    assert "not the file that" in str(doubt(path, [first[0] - 1, first[1]]))
    second = fill(path, 1500, state=first)
    assert doubt(path, second) is None
    assert doubt(path, first) is None, "the state before the last run is good too"
    third = fill(path, 1500, state=second)
    assert "not the file that" in str(doubt(path, first)), "an older state"
    path.write_bytes(of_first)
    assert "not the file that" in str(doubt(path, third)), "an older file"


def test_damage_is_noticed_or_harmless(path: Path) -> None:
    position = fill(path, 300)
    data = path.read_bytes()
    keys = [f"{number:08}" for number in range(300)]
    rng = random.Random(1)
    noticed = 0
    for at in (*range(100), *rng.sample(range(100, len(data)), 150)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])
        if doubt(path, position):
            noticed += 1
            continue
        with opened(path, position) as digests:
            assert [table.name for table in digests.confirmed()] == ["one"]
            assert compare(digests, keys) == [], at
            assert list(digests.bury("one")) == [], at
    assert noticed > 80
    for size in rng.sample(range(len(data)), 20):
        path.write_bytes(data[:size])
        assert doubt(path, position), size


@pytest.mark.parametrize("column", ["key", "digest", "sent", "new"])
def test_damage_that_sqlite_does_not_see(path: Path, column: str) -> None:
    position = fill(path, 300)
    with contextlib.closing(sqlite3.connect(path)) as file:
        changed = "key || 'x'" if column == "key" else f"{column} + 1"
        file.execute(f"update rows set {column} = {changed} where key = '00000150'")
        file.commit()
    assert "damaged" in str(doubt(path, position))


def test_an_old_file_under_a_newer_journal(path: Path) -> None:
    position = fill(path, 300)
    old = path.read_bytes()
    for night in range(3):
        position = fill(path, 300, state=position, version=str(night))
    journal = path.with_name("digests-wal")
    with opened(path, position) as digests:
        digests.note_start("one", "now")
        digests.flush()
        position = digests.position
        newer = journal.read_bytes()
    path.write_bytes(old)
    journal.write_bytes(newer)
    assert "damaged" in str(doubt(path, position))


def test_an_older_format_is_taken_for_damage(path: Path) -> None:
    path.write_bytes(b"tap-autopilot digests 1\n" + bytes(5000))
    assert "another version of the tap" in str(doubt(path, [5000, "ab"]))
    assert fill(path, 3, state=[5000, "ab"])


@pytest.mark.parametrize("content", ["a,b\n1,2\n" * 1000, "notes"])
def test_what_is_no_database_is_moved_aside(
    path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    earlier = [path.with_name(name) for name in ("digests.damaged", "digests.damaged-2")]
    for one in earlier:
        one.write_text("moved aside before")
    path.write_text(content)
    assert trouble(path) == "is damaged, or not a digests file"
    assert "damaged" in str(doubt(path, None))
    assert path.read_text() == content
    assert fill(path, 3)
    assert path.with_name("digests.damaged-3").read_text() == content
    assert {one.read_text() for one in earlier} == {"moved aside before"}
    assert "What was in" in caplog.text
    assert trouble(path) is None


def test_a_damaged_file_that_cannot_be_moved_aside(path: Path) -> None:
    path = path.with_name("d" * 250)  # too long for ".damaged"
    path.write_text("notes")
    with pytest.raises(UserError, match="which is damaged: File name too long"):
        fill(path, 3)
    assert path.read_text() == "notes"


@pytest.mark.parametrize("tables", [["events"], ["steps", "precious"], ["rows", "seen", "events"]])
def test_another_database_is_left_alone(path: Path, tables: list[str]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as file:
        for table in tables:
            file.execute(f"create table {table} (id)")
    before = path.read_bytes()
    assert trouble(path) == "is another program's database"
    with pytest.raises(UserError, match="is another program's database"):
        doubt(path, None)
    assert path.read_bytes() == before  # SQLite's mode, too


def test_an_empty_file_counts_as_missing(path: Path) -> None:
    path.touch()
    assert doubt(path, None) is None
    assert "missing" in str(doubt(path, [1, "ab"]))
