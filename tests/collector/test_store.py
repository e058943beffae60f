"""The store: what it keeps, who may write to it, and what readers see."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from tap_autopilot.collector.database import open_reader
from tap_autopilot.collector.reader import Event
from tap_autopilot.collector.remnant import NOTHING
from tap_autopilot.collector.sqlite import SqliteStore
from tap_autopilot.collector.sqlite_file import MAX_WAL
from tap_autopilot.collector.store import (
    PRUNE_SLICE,
    Cursor,
    Received,
)
from tap_autopilot.exceptions import UserError

NOW = 1_700_000_000_000


def event(
    body: bytes = b'{"a": 1}', key: bytes | None = None, *, at: int = NOW, for_good: bool = True
) -> Received:
    key = key and key.ljust(16)
    return Received(at, "segment", "track", "Email Opened", body, key, for_good)


def test_events_are_read_unchanged_and_in_order(database: str) -> None:
    store = SqliteStore(database)
    assert store.append([event(b'{"n": 1}'), event(b'{"n": "\\ud800"}')]) == 2
    with open_reader(database) as reader:
        first, second = reader.read(0, 10)
        assert first == Event(1, NOW, "segment", "track", "Email Opened", b'{"n": 1}', False)
        assert second.body == b'{"n": "\\ud800"}'
        assert reader.read(1, 10) == [second]
        assert reader.read(0, 1) == [first]
        assert reader.last_seq == 2
        store.append([event()])  # a reader does not hold up the writer, and sees what it wrote
        assert reader.last_seq == 3
        assert reader.store_id == store.store_id
    store.close()


def test_the_store_keeps_its_id_and_never_reuses_a_seq(database: str, tmp_path: Path) -> None:
    store = SqliteStore(database)
    store.append([event(), event()])
    store.close()
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM events")
    connection.close()
    again = SqliteStore(database)
    assert again.store_id == store.store_id
    again.append([event()])
    again.close()
    with open_reader(database) as reader:
        assert [one.seq for one in reader.read(0, 10)] == [3]
    other = SqliteStore(str(tmp_path / "other.db"))
    assert other.store_id != store.store_id
    other.close()


def test_only_one_process_writes(database: str) -> None:
    store = SqliteStore(database)
    with pytest.raises(UserError, match="A collector is using"):
        SqliteStore(database)
    assert store.append([event()]) == 1
    store.close()
    SqliteStore(database).close()


def test_a_slice_of_pruning_is_bounded(database: str) -> None:
    store = SqliteStore(database)
    store.append([event()] * (PRUNE_SLICE + 1))
    assert store.prune(0, 10**9, lambda *_: NOTHING)[:2] == (PRUNE_SLICE, PRUNE_SLICE)
    assert store.prune(PRUNE_SLICE, 10**9, lambda *_: None)[:2] == (PRUNE_SLICE + 1, 0)
    assert store.prune(PRUNE_SLICE + 1, 10**9, lambda *_: None)[:2] == (10**9, 0)
    assert store.prune(PRUNE_SLICE, PRUNE_SLICE + 1, lambda *_: NOTHING)[1] == 1
    with open_reader(database) as reader:
        assert [one.seq for one in reader.read(1, 9)] == list(range(2, 11))
    store.close()


def test_statistics_come_from_kept_counts(database: str) -> None:
    store = SqliteStore(database)
    store.append([event(key=b"a"), event(key=b"a"), event(at=NOW + 5)])
    store.append([Received(NOW, "hook", "hooks", "contact_added", b"{}", None, True)])
    store.prune(0, 1, lambda *_: NOTHING)
    with open_reader(database) as reader:
        found = reader.stats()
        assert found.pop("bytes") > 0
        assert found == {
            "store_id": store.store_id, "events": 3, "pruned": 1, "first_seq": 1, "last_seq": 3,
            "by_source": {"segment": 2, "hook": 1},
            "by_event": {"Email Opened": 2, "contact_added": 1},
            "last_received_at": {
                "segment": "2023-11-14T22:13:20.005Z", "hook": "2023-11-14T22:13:20.000Z",
            },
        }  # fmt: skip
        assert reader.pruned() == {"email_opened": 1}
    store.close()


def test_cursors_never_move_back(database: str) -> None:
    store = SqliteStore(database)
    assert store.cursors() == {}
    for cursor in (Cursor(5, 4, 1), Cursor(6, 5, 1), Cursor(5, 9, 9)):
        store.save_cursor("warehouse", cursor)
    store.close()
    store = SqliteStore(database)
    assert store.cursors() == {"warehouse": Cursor(6, 5, 1)}
    store.forget_cursor("warehouse")
    assert store.cursors() == {}
    store.close()


@pytest.mark.parametrize("content", [b"", b"hello, this is not a database", None, "sqlite"])
def test_a_file_that_is_not_a_store_is_refused_and_left_alone(
    tmp_path: Path, content: bytes | str | None
) -> None:
    path = tmp_path / "events.db"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "sqlite":
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE mine (a)")
        connection.close()
    before = {one: one.read_bytes() for one in tmp_path.iterdir()}
    with pytest.raises(UserError):
        open_reader(str(path))
    if content:
        with pytest.raises(UserError):
            SqliteStore(str(path))
    assert {one: one.read_bytes() for one in tmp_path.iterdir()} == before


def test_a_newer_store_is_refused(database: str) -> None:
    SqliteStore(database).close()
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA user_version = 3")
    connection.close()
    for opened in (open_reader, SqliteStore):
        with pytest.raises(UserError, match="newer version"):
            opened(database)


OF_FORMAT_1 = """
PRAGMA auto_vacuum = INCREMENTAL;
CREATE TABLE store (id TEXT NOT NULL, probed INTEGER NOT NULL DEFAULT 0);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, received_at INTEGER NOT NULL, source TEXT NOT NULL,
    route TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL, pruned INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE seen (key BLOB PRIMARY KEY, until INTEGER) WITHOUT ROWID;
CREATE INDEX seen_until ON seen (until) WHERE until IS NOT NULL;
CREATE TABLE cursors (
    destination TEXT PRIMARY KEY, seq INTEGER NOT NULL, sent INTEGER NOT NULL,
    refused INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO store (id) VALUES ('one');
INSERT INTO events (received_at, source, route, name, body, pruned) VALUES
    (1, 'segment', 'track', 'Email Opened', x'7B2261223A317D', 1),
    (2, 'segment', 'track', 'Email Opened', x'7B2261223A327D', 0),
    (3, 'hook', 'hooks', 'contact_added', x'7B7D', 1);
INSERT INTO cursors VALUES ('x', 2, 1, 0);
INSERT INTO seen VALUES
    (x'6B202020202020202020202020202020', NULL), (x'68202020202020202020202020202020', 5);
PRAGMA application_id = 1095779670;
PRAGMA user_version = 1;
"""


def assert_upgraded(database: str) -> None:
    """Fail if the three events of an older store are not what they were."""
    with open_reader(database) as reader:
        assert reader.store_id == "one"
        assert [(one.seq, one.body, one.pruned) for one in reader.read(0, 9)] == [
            (1, b'{"a":1}', True), (2, b'{"a":2}', False), (3, b"{}", True),
        ]  # fmt: skip
        assert reader.stats()["by_source"] == {"segment": 2, "hook": 1}
        assert reader.pruned() == {"email_opened": 1, "contact_events": 1}
        assert len({reader.fingerprint(seq) for seq in (1, 2, 3)}) == 3


def test_a_store_of_an_older_version_is_upgraded(database: str) -> None:
    with sqlite3.connect(database) as connection:
        connection.executescript(OF_FORMAT_1)
    connection.close()
    with pytest.raises(UserError, match="older version"):
        open_reader(database)
    known, delivery = b"k".ljust(16), b"h".ljust(16)
    for _ in range(2):
        store = SqliteStore(database)
        assert store.append([event(key=known)]) == 0
        assert store.append([event(key=delivery, for_good=False)._replace(received_at=4)]) == 0
        assert store.cursors() == {"x": Cursor(2, 1, 0)}
        store.close()
    assert_upgraded(database)
    store = SqliteStore(database)
    assert store.append([event(key=b"new".ljust(16))]) == 1
    assert store.prune(0, 9, lambda *_: NOTHING).pruned == 2
    store.close()
    with open_reader(database) as reader:
        assert all(one.pruned for one in reader.read(0, 9))


READ_AS_NOBODY = """
import os, sys
from tap_autopilot.collector.sqlite import SqliteReader
os.setuid(65534)
try:
    print(len(SqliteReader(sys.argv[1]).read(0, 10)))
except Exception as problem:
    print(problem)
"""


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
        done = subprocess.run(
            [sys.executable, "-c", READ_AS_NOBODY, folder / "events.db"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if not closed:
            store.close()
    said = "1\n" if closed else "run tap-autopilot-collector --check as its owner, root.\n"
    assert done.stdout.endswith(said), done.stderr


def test_a_store_that_is_deleted_while_in_use_ends_the_collector(database: str) -> None:
    store = SqliteStore(database)
    store.append([event()])
    Path(database).unlink()
    with pytest.raises(Exception, match="moved or deleted"):
        store.append([event()])
    store.close()


def test_commits_are_synced_and_the_wal_does_not_stay_large(database: str) -> None:
    store = SqliteStore(database)
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
    store.close()


def test_the_tap_and_reading_a_store_do_not_import_the_extra() -> None:
    program = (
        "import sys, tap_autopilot.cli, tap_autopilot.run.sync, tap_autopilot.collector.sqlite\n"
        "print(sorted({'httptools', 'prometheus_client', 'psycopg', 'uvloop'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"[]\n"


def test_large_events_are_read_a_few_at_a_time(database: str) -> None:
    store = SqliteStore(database)
    for _ in range(6):
        store.append([event(b'"%s"' % (b"x" * 7_000_000))])
    with open_reader(database) as reader:
        after, reads = 0, []
        while found := reader.read(after, 1000):
            reads.append(len(found))
            after = found[-1].seq
    assert reads == [3, 3]
    store.close()
