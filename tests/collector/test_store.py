"""The store: what it keeps, who may write to it, what readers see, and the summary of messages."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tap_autopilot.collector import postgres, sqlite_file, summary
from tap_autopilot.collector.backup import backup
from tap_autopilot.collector.commands import erase
from tap_autopilot.collector.database import open_reader
from tap_autopilot.collector.reader import FORMAT
from tap_autopilot.collector.received import Received
from tap_autopilot.collector.sqlite import SqliteStore
from tap_autopilot.collector.sqlite_file import MAX_WAL
from tap_autopilot.collector.store import Store, StoreLost
from tap_autopilot.collector.summary import Summarizer
from tap_autopilot.exceptions import RunError, UserError
from tests.collector.conftest import Collector, Start, as_another, event
from tests.collector.test_any_store import OF_FORMAT_1, in_sqlite
from tests.conftest import wait_until


def test_the_store_keeps_its_id_and_never_reuses_a_seq(database: str, tmp_path: Path) -> None:
    with closing(SqliteStore(database)) as store:
        store.append([event(), event()])
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("DELETE FROM events")
    with closing(SqliteStore(database)) as again, open_reader(database) as reader:
        assert again.store_id == store.store_id
        again.append([event()])
        assert [one.seq for one in reader.read(0, 10)] == [3]
    with closing(SqliteStore(str(tmp_path / "other.db"))) as other:
        assert other.store_id != store.store_id


def test_a_lock_is_no_mistake_of_the_user(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run may find it gone."""
    monkeypatch.setattr(sqlite_file, "WAIT_FOR_LOCKS", 0)
    SqliteStore(database).close()
    with closing(sqlite3.connect(database)) as other:
        other.executescript("PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE")
        with pytest.raises(RunError, match="Another program has locked the store"):
            open_reader(database)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
@pytest.mark.parametrize("closed", [True, False])
def test_a_copy_in_a_read_only_folder_can_be_read_if_it_was_closed(*, closed: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "copy"
        store = SqliteStore(f"{name}/events.db")
        store.append([event()])
        folder.mkdir()
        if closed:
            store.close()
        for path in Path(name).glob("events.db*"):
            if not path.name.endswith("-shm"):  # as after a power cut
                shutil.copy(path, folder)
        for path in (Path(name), folder, *folder.iterdir()):
            path.chmod(0o555)
        said = as_another(folder / "events.db", "lambda path: len(SqliteReader(path).read(0, 10))")
        if not closed:
            store.close()
    assert said.endswith(
        "1\n" if closed else "run tap-autopilot-collector --check as its owner, root.\n"
    )


def test_a_link_to_a_store_is_as_good_as_its_name(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, link = tmp_path / "real" / "events.db", tmp_path / "link.db"
    real.parent.mkdir()
    SqliteStore(str(real)).close()
    link.symlink_to(real)
    collector = start(database=str(link))
    assert erase(str(real), "nobody@example.com") == "Erased 0 events of nobody@example.com."
    assert collector.stop() == 0
    with closing(SqliteStore(str(link))) as store:
        free = {tmp_path: 1, real.parent: 2}
        monkeypatch.setattr(
            os, "statvfs", lambda path: SimpleNamespace(f_bavail=free[path], f_frsize=1)
        )
        assert store.free_bytes() == 2
        Path(f"{real}-wal").unlink()
        with pytest.raises(StoreLost, match="deleted while in use"):
            store.append([event()])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
@pytest.mark.parametrize("stops", [True, False])
def test_a_collector_that_starts_while_the_tap_reads_does_not_confuse_it(*, stops: bool) -> None:
    """Who may not write to the folder takes the file for immutable while there is no collector."""
    read_twice = """lambda path: (
        reader := SqliteReader(path), len(reader.read(0, 10)),
        open(path + ".fifo").read(), len(reader.read(0, 10)),
    )[1:]"""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as another:
        database = f"{folder}/events.db"
        os.mkfifo(f"{database}.fifo")
        with closing(SqliteStore(database)) as store:
            store.append([event()])
        for path in Path(folder), Path(database), Path(f"{database}.fifo"):
            path.chmod(0o755)
        said = another.submit(as_another, database, read_twice)
        with Path(f"{database}.fifo").open("w"):  # once it has read
            store = SqliteStore(database)
            store.append([event()])
            if stops:
                store.close()
        assert said.result() == "(1, '', 2)\n"
        if not stops:
            store.close()


def test_commits_are_synced_and_the_wal_does_not_stay_large(
    database: str, store: SqliteStore
) -> None:
    assert store._query("PRAGMA synchronous") == [(2,)]  # FULL
    assert store._query("PRAGMA journal_mode") == [("wal",)]
    wal = Path(f"{database}-wal")
    with closing(sqlite3.connect(database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchall()  # holds up the checkpoint
        for _ in range(5):
            store.append([event(b"x" * 10_000_000)])
        assert wal.stat().st_size > 50_000_000
    for _ in range(3):
        store.append([event()])
    assert wal.stat().st_size <= MAX_WAL


def test_the_log_of_a_collector_without_stderr_does_not_go_into_the_store(tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    SqliteStore(collector.database).close()
    collector.under = ["sh", "-c", 'exec "$@" 2>&-', "sh"]
    collector.start()
    assert collector.post("/v1/track", b"{}").status_code == 200
    assert collector.stop() == 0
    assert len(collector.events()) == 1


def test_the_tap_and_reading_a_store_do_not_import_the_extra() -> None:
    program = (
        "import sys, tap_autopilot.cli, tap_autopilot.run.sync, tap_autopilot.collector.sqlite\n"
        "print(sorted({'httptools', 'prometheus_client', 'psycopg', 'uvloop'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"[]\n"


COLUMNS = """
SELECT tables.name, columns.name FROM sqlite_master tables, pragma_table_info(tables.name) columns
WHERE tables.type = 'table'
"""


def test_an_upgraded_store_has_the_tables_of_a_new_one(tmp_path: Path) -> None:
    columns = []
    older = in_sqlite(str(tmp_path / "older.db"), OF_FORMAT_1)
    for path in (older, str(tmp_path / "new.db")):
        with closing(SqliteStore(path)) as store:
            columns.append(set(store._query(COLUMNS)))
    assert columns[0] == {*columns[1], ("events", "pruned")}  # which stays


def test_every_older_format_has_an_upgrade() -> None:
    assert [*sqlite_file.UPGRADES] == [*range(1, FORMAT)]
    assert [*postgres.UPGRADES] == [*range(1, FORMAT)]


def test_no_store_replaces_one_whose_newest_events_are_left(database: str, tmp_path: Path) -> None:
    """As after a kill, if only the database is moved: SQLite would delete its WAL."""
    with closing(SqliteStore(database)) as store:
        store.append([event()])
        for path in tmp_path.glob("events.db*"):
            shutil.copy(path, tmp_path / path.name.replace("events", "left"))
    moved = (tmp_path / "left.db").rename(tmp_path / "moved.db")
    for _ in range(2):
        with pytest.raises(UserError, match=r"left\.db-wal still has its newest events"):
            SqliteStore(str(tmp_path / "left.db"))
    moved.rename(tmp_path / "left.db")
    with closing(SqliteStore(str(tmp_path / "left.db"))) as again:
        assert again.last_seq == 1


def test_a_copy_without_the_newest_events_is_noticed(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Even one made right after the start, as after a kill; but no backup, and not after the end."""
    copy, backed_up = str(tmp_path / "copy.db"), str(tmp_path / "backup.db")
    store = SqliteStore(database)
    shutil.copy(database, copy)
    store.append([event()])
    backup(database, backed_up)
    for file in tmp_path.glob("events.db*"):
        shutil.copy(file, tmp_path / file.name.replace("events", "killed"))
    store.close()
    for path in (database, backed_up, str(tmp_path / "killed.db")):
        with closing(SqliteStore(path)) as again:
            assert again.last_seq == 1
    assert not caplog.messages
    with open_reader(copy):  # which creates an empty WAL
        pass
    for _ in range(2):
        SqliteStore(copy).close()
    (message,) = caplog.messages
    assert f"The store {copy} was not closed properly, but there is no copy.db-wal" in message
    assert "Do not add it now" in message


# What a WAL has of a store that is copied while it is open.
COPIED: dict[str, Callable[[SqliteStore], object]] = {
    "all": lambda _: None,
    "one event": lambda store: emptied(store).append([event({"n": "last"})]),
    "space given back": lambda store: emptied(store).release(),
    "a test": lambda store: emptied(store).probe(),
}


def emptied(store: SqliteStore) -> SqliteStore:
    """The store with a WAL that the next change begins anew."""
    store._query("PRAGMA wal_checkpoint")
    return store


@pytest.mark.parametrize("later", [0, 1, 3000])
@pytest.mark.parametrize("copied", COPIED)
def test_a_wal_of_an_earlier_copy_is_not_mixed_in(
    database: str, tmp_path: Path, copied: str, later: int
) -> None:
    """As after copying a folder twice, to another machine, with the collector stopped in between."""
    copy = tmp_path / "copy" / "events.db"
    copy.parent.mkdir()
    with closing(SqliteStore(database)) as store:
        store.append([event({"n": number}) for number in range(100)])
        COPIED[copied](store)
        for file in tmp_path.glob("events.db*"):
            shutil.copy(file, copy.parent)
        for start in range(0, later, 500):
            store.append([event({"later": start + number}) for number in range(min(later, 500))])
        last = store.last_seq
    shutil.copy(database, copy)
    for _ in range(2):
        with pytest.raises(UserError, match=r"does not match .*-wal.* Move that file away"):
            SqliteStore(str(copy))
    assert copy.read_bytes() == Path(database).read_bytes()
    sqlite_file.wal(copy).unlink()
    with closing(SqliteStore(str(copy))) as moved:
        assert moved.last_seq == last


def test_a_kill_during_a_checkpoint_leaves_a_store_that_opens(
    database: str, tmp_path: Path
) -> None:
    """Its file alone may be no database then, but the WAL has the whole of it."""
    killed = tmp_path / "killed.db"
    with closing(SqliteStore(database)) as store:
        store.append([event({"n": number}) for number in range(2000)])
        for file in tmp_path.glob("events.db*"):
            shutil.copy(file, tmp_path / file.name.replace("events", "killed"))
    killed.write_bytes(bytes(100) + killed.read_bytes()[100:])
    with pytest.raises(sqlite3.DatabaseError):
        sqlite_file._age(killed, "&immutable=1")
    with closing(SqliteStore(str(killed))) as again:
        assert again.last_seq == 2000


def test_a_wal_is_not_mixed_into_an_earlier_backup(database: str, tmp_path: Path) -> None:
    backed_up = tmp_path / "backup.db"
    with closing(SqliteStore(database)) as store:
        store.append([event({"n": number}) for number in range(100)])
        backup(database, str(backed_up))
        emptied(store).append([event({"later": number}) for number in range(10)])
        shutil.copy(sqlite_file.wal(database), sqlite_file.wal(backed_up))
    with pytest.raises(UserError, match="Move that file away"):
        SqliteStore(str(backed_up))


def test_a_wal_is_not_mixed_in_after_a_start_without_it(database: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with closing(SqliteStore(database)) as store:
        shutil.copy(database, copy)
        for number in range(20):
            store.append([event({"n": number})])
        kept = sqlite_file.wal(database).read_bytes()
    with closing(SqliteStore(str(copy))) as without:
        without.append([event()])
    sqlite_file.wal(copy).write_bytes(kept)
    with pytest.raises(UserError, match="Move that file away"):
        SqliteStore(str(copy))


def test_a_store_that_cannot_be_marked_as_open_opens_all_the_same(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk, if its WAL still has room."""
    monkeypatch.setattr(sqlite_file, "OPENED", "SELECT no_such_function()")
    with closing(SqliteStore(database)) as store:
        assert store.append([event()]) == 1


def test_an_erasure_leaves_a_wal_that_shows_a_copy_is_whole(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a kill; to erase it from the disk, the WAL is emptied."""
    with closing(SqliteStore(database)) as store:
        store.append([event()])
        store.begin_wipe()
        assert store.end_wipe()
        for file in tmp_path.glob("events.db*"):
            shutil.copy(file, tmp_path / file.name.replace("events", "killed"))
    SqliteStore(str(tmp_path / "killed.db")).close()
    assert not caplog.messages


def test_a_store_is_not_mounted_without_its_folder(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its newest events would stay in the container, and a tap in another would not see them."""
    assert "/proc" in sqlite_file._mounts() or not Path("/proc/self").exists()
    SqliteStore(database).close()
    monkeypatch.setattr(sqlite_file, "_mounts", lambda: ["/", os.path.realpath(database)])
    for use in (SqliteStore, open_reader):
        with pytest.raises(UserError, match="Mount its folder instead"):
            use(database)


def test_a_damaged_file_is_reported(database: str) -> None:
    SqliteStore(database).close()
    with closing(sqlite3.connect(database)) as connection:
        ((page,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'store'")
        connection.execute("DELETE FROM store")
        connection.commit()
    for opened in (open_reader, SqliteStore):
        with pytest.raises(UserError, match="is damaged: it has no id"):
            opened(database)
    with Path(database).open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    for opened in (open_reader, SqliteStore):
        with pytest.raises(UserError, match=r"Cannot (read|open) the store .* malformed"):
            opened(database)


class Writer:
    """Runs tasks at once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run(self, task: Callable[[Store], Any]) -> Any:
        return task(self._store)


def opened(message: str, at: str) -> Received:
    return event({"timestamp": at, "properties": {"email_id": message}})


def test_events_are_summarized_while_few_come_in(
    database: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "MAX_RECENT", 10)
    monkeypatch.setattr(summary, "BUSY", 100)
    monkeypatch.setattr(summary, "SLICE", 30)
    work = Summarizer(partial(open_reader, database), Writer(store))  # type: ignore[arg-type]

    def up_to(more: int) -> int:
        day = f"2024-01-{1 + more % 28:02d}T00:00:00Z"
        store.append([opened("m", day)] * more)
        asyncio.run(work._go_on())
        return store.summarized_up_to

    assert [up_to(10), up_to(10)] == [0, 20]
    assert up_to(9) == 20  # readers can read these themselves
    assert up_to(101) == 20  # too many at once
    assert up_to(0) == 130
    with open_reader(database) as reader:
        times = [json.loads(one.body)["timestamp"][:10] for one in reader.summary()]
    assert times == ["2024-01-10", "2024-01-18"]


def test_a_running_collector_keeps_a_summary(start: Start, tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "events.db"))
    store.append([opened("m", "2024-01-01T00:00:00Z")] * 11)
    store.close()
    collector = start(constants={"summary.EVERY": 0.05, "summary.MAX_RECENT": 10})
    with open_reader(collector.database) as reader:
        wait_until(lambda: reader.summarized_up_to == 11)
    assert b"email_id" in collector.bodies()[0]
    collector.stop()  # or it would make another one
    collector.run("--erase", "nobody@example.com")
    with open_reader(collector.database) as reader:
        assert (reader.summarized_up_to < 0, [*reader.summary()]) == (True, [])
