"""--erase, --backup and --check, with and without a collector that is using the store."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tap_autopilot.collector import backup
from tap_autopilot.collector.commands import erase
from tap_autopilot.collector.database import open_reader
from tap_autopilot.collector.erase import erase_person
from tap_autopilot.collector.errands import alone
from tap_autopilot.collector.prune import prune_range
from tap_autopilot.collector.remnant import NOTHING, remains
from tap_autopilot.collector.sqlite import SqliteReader, SqliteStore
from tap_autopilot.collector.sqlite_file import Immutable
from tap_autopilot.collector.store import Store, Unavailable
from tap_autopilot.exceptions import RunError, UserError
from tests.collector.conftest import (
    COMMAND,
    TOKEN,
    Collector,
    Start,
    as_another,
    event,
    sending,
    stuck,
)
from tests.conftest import PATIENCE, wait_until
from tests.invariants import untimed

ADA, CONTACT = "Ada@example.com", "person_ADA"


def call(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "track", "event": "Email Opened", "messageId": name, **more}


def about_ada() -> list[dict[str, Any]]:
    return [
        call("1", context={"traits": {"email": ADA, "contact_id": CONTACT}}),
        call("2", anonymousId=ADA.lower()),
        call("3", userId=ADA.upper()),
        call("4", properties={"ContactId": CONTACT}),
        call("5", traits={"email": f" {ADA} "}),
    ]


def about_others() -> list[dict[str, Any]]:
    return [
        call("6", context={"traits": {"email": "bob@example.com", "contact_id": "person_BOB"}}),
        call("7", properties={"reply_to": f"{ADA}.au", "text": f"a.{ADA}, {ADA}-1"}),
        call("8", anonymousId="not-" + ADA),
        call("9"),
    ]


@pytest.mark.parametrize("who", [ADA, CONTACT])
@pytest.mark.parametrize("running", [True, False])
def test_a_person_is_erased_from_the_disk(start: Start, running: bool, who: str) -> None:
    collector = start()
    collector.post("/v1/batch", {"batch": [*about_ada(), *about_others()]})
    collector.post(f"/hooks/{TOKEN}", {"event": "contact_added", "contact": {"Email": ADA}})
    escaped = json.dumps({"email": ADA}).replace("@", "\\u0040").encode()
    collector.post(f"/activity/{TOKEN}", escaped + b"\nsent to ada@example.com, not JSON")
    if not running:
        collector.stop()
    with open_reader(collector.database) as reader:
        marks = [reader.fingerprint(seq) for seq in range(1, 13)]
    done = collector.run("--erase", who)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Erased 8 events of {who} (and of 1 other id of this person).\n"
    left = [one for one in collector.events() if one.body != b"{}"]
    assert [json.loads(one.body)["messageId"] for one in left] == ["6", "7", "8", "9"]
    with open_reader(collector.database) as reader:
        assert [reader.fingerprint(seq) for seq in range(1, 13)] == marks
    assert collector.run("--erase", who).stdout.startswith("Erased 0 events of ")
    if running:
        assert collector.post("/v1/track", about_ada()[0]).status_code == 200  # still a repeat
        assert len(collector.events()) == 12
    collector.stop()
    for path in collector.folder.glob("events.db*"):
        if path.is_file():
            assert CONTACT.encode() not in path.read_bytes()
            assert b'"email": "Ada' not in path.read_bytes()


def test_what_was_pruned_before_leaves_the_disk(tmp_path: Path) -> None:
    database = str(tmp_path / "events.db")
    with closing(SqliteStore(database)) as store:
        store.begin_wipe()
        assert store.end_wipe()  # as after an earlier --erase
        about = json.dumps(about_ada()[0]).encode()
        store.append([event(about if n % 2 else b"{}") for n in range(40)])
        prune_range(alone(store), 0, 40, lambda one: None if one.seq % 2 else NOTHING)
        while store.release():
            pass
    assert CONTACT.encode() not in Path(database).read_bytes()


def test_no_piece_of_what_is_pruned_stays_in_a_page_that_is_used_again(tmp_path: Path) -> None:
    database = str(tmp_path / "events.db")
    with closing(SqliteStore(database)) as store:
        for number in range(100):
            properties = {"email_id": str(number), "email_subject": "x" * 20 * number}
            body = call("", properties=properties, pad=f"{ADA} " * 50 * (number % 9))
            store.append([event(json.dumps(body).encode())])
        prune_range(alone(store), 0, 100, lambda one: remains(one.source, one.body))
        while store.release():
            pass
    assert ADA.encode() not in Path(database).read_bytes()


def test_what_an_erasure_has_erased_leaves_the_disk_even_if_it_fails(
    database: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Store) -> bool:
        raise Unavailable("database or disk is full")

    monkeypatch.setattr(Store, "forget_summary", fail)
    store.append([event(b'{"email": "%s"}' % ADA.encode())])
    with pytest.raises(Unavailable):
        erase_person(alone(store), ADA)
    assert ADA.encode() not in Path(database).read_bytes() + Path(f"{database}-wal").read_bytes()


def test_erasing_says_what_a_reader_keeps_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tap_autopilot.collector.erase.WAIT_FOR_READERS", 0.3)
    database = str(tmp_path / "events.db")
    with closing(SqliteStore(database)) as store:
        store.append([event(json.dumps(about_ada()[0]).encode())])
    with closing(sqlite3.connect(database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()
        with pytest.raises(RunError, match=r"Erased 1 event of Ada.* run this again when"):
            erase(database, ADA)
        assert any(CONTACT.encode() in path.read_bytes() for path in tmp_path.iterdir())
    assert erase(database, ADA).startswith("Erased 0 events of")
    assert not any(CONTACT.encode() in path.read_bytes() for path in tmp_path.iterdir())


def test_a_backup_is_a_whole_store_while_events_come_in(start: Start, tmp_path: Path) -> None:
    collector = start()
    copy = tmp_path / "copy.db"

    def send(_: int, over: threading.Event) -> None:
        number = 0
        while not over.is_set():
            number += 1
            assert collector.post("/v1/track", call(str(number))).status_code == 200

    with sending(send, 1):
        wait_until(lambda: len(collector.events()) >= 20)
        before = len(collector.events())
        done = collector.run("--backup", str(copy))
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    copied = Collector(tmp_path, database=str(copy)).events()
    assert len(copied) >= before
    assert copied == collector.events()[: len(copied)]
    restored = SqliteStore(str(copy))  # it goes on as a store
    with open_reader(collector.database) as reader:
        assert restored.store_id == reader.store_id
    assert restored.last_seq == len(copied)
    restored.close()


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "folder"])
def test_a_backup_replaces_nothing(start: Start, tmp_path: Path, kind: str) -> None:
    collector = start()
    other, target = tmp_path / "other", tmp_path / "copy.db"
    if kind == "file":
        target.write_text("mine")
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to(other)
        if kind == "link":
            other.write_text("mine")
    assert "already exists" in collector.refusal("--backup", str(target))
    assert not other.exists() or other.read_text() == "mine"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".copy")]
    refusal = collector.refusal("--backup", str(tmp_path / "nowhere" / "copy.db"))
    assert "Cannot write the backup" in refusal


def test_a_backup_fails_if_a_collector_starts_meanwhile(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that was taken for immutable, it may have old and new parts."""

    def open_before_it_starts(path: str) -> sqlite3.Connection:
        connection = sqlite3.connect(path, factory=Immutable)
        connection.seen = None
        return connection

    SqliteStore(database).close()
    monkeypatch.setattr(backup, "open_read_only", open_before_it_starts)
    with pytest.raises(RunError, match="a collector started meanwhile; run it again"):
        backup.backup(database, str(tmp_path / "copy.db"))
    assert not (tmp_path / "copy.db").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_backup_leaves_nothing(tmp_path: Path, number: int) -> None:
    SqliteStore(str(tmp_path / "events.db")).close()
    (folder := tmp_path / "backups").mkdir()
    constants = {"backup._copy": stuck}
    with (tmp_path / "out").open("w") as out:
        process = Collector(tmp_path, constants=constants).fork(
            out.fileno(), out.fileno(), "--backup", str(folder / "copy.db")
        )
    try:
        wait_until(lambda: any(folder.glob("*/copy")))
        process.send_signal(number)
        assert process.wait(PATIENCE) == 128 + number
    finally:
        process.kill()
    assert not list(folder.iterdir())
    assert (
        untimed((tmp_path / "out").read_text())
        == f"CRITICAL Stopped by {signal.Signals(number).name}.\n"
    )


@pytest.mark.parametrize("name", ["events.db-wal", "events.db-shm", "events.db.sock"])
def test_a_file_beside_a_store_does_not_become_one(tmp_path: Path, name: str) -> None:
    done = Collector(tmp_path, database=str(tmp_path / name)).run("--check")
    assert done.returncode == 2
    assert "name the store itself" in done.stderr
    assert not (tmp_path / name).exists()


@pytest.fixture
def foreign(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Another program's database."""
    path = tmp_path_factory.mktemp("foreign") / "mine.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (a)")
    return path.read_bytes()


@pytest.mark.parametrize("command", ["--stats", "--prune", "--backup", "--erase", "--check"])
def test_no_command_touches_what_is_no_store(tmp_path: Path, foreign: bytes, command: str) -> None:
    more = {"--prune": ["--state", os.devnull], "--backup": [str(tmp_path / "copy")],
            "--erase": [ADA]}.get(command, [])  # fmt: skip
    collector = Collector(tmp_path)
    path = Path(collector.database)
    if command != "--check":  # which creates one
        assert "There is no store" in collector.refusal(command, *more)
        path.touch()
        assert "CRITICAL" in collector.refusal(command, *more).splitlines()[-1]
        assert path.read_bytes() == b""
    for content in (b"hello, this is not a database", foreign):
        path.write_bytes(content)
        assert "CRITICAL" in collector.refusal(command, *more).splitlines()[-1]
        assert path.read_bytes() == content
        assert {one.name for one in tmp_path.iterdir()} == {"collector.json", "events.db"}


def test_stats_and_check(start: Start) -> None:
    collector = start()
    collector.post("/v1/batch", {"batch": [{"type": "track", "event": "E"}, {"type": "page"}]})
    collector.post(f"/hooks/{TOKEN}/contact_added", {})
    found = json.loads(collector.run("--stats").stdout)
    assert len(found["store_id"]) == 32
    assert (found["events"], found["by_source"]) == (3, {"segment": 2, "hook": 1})
    for options in (["--check"], []):  # nor does a second collector start
        assert re.search(
            "A collector or a command is using .* stop it first", collector.refusal(*options)
        )
    assert collector.post("/v1/track", b"{}").status_code == 200
    collector.stop()
    done = collector.run("--check")
    assert done.returncode == 0
    assert "works" in done.stdout


@pytest.mark.parametrize("tokens", [[], [TOKEN]])
def test_a_check_warns_if_no_sender_could_authenticate(tmp_path: Path, tokens: list[str]) -> None:
    none: dict[str, Any] = {"write_keys": [], "webhook_secrets": []}
    done = Collector(tmp_path, **none, hook_tokens=tokens, api_key="of-the-account").run("--check")
    assert done.returncode == 0
    assert ("No secrets are set yet" in done.stderr) is (not tokens)


class Stale(SqliteReader):
    """A second connection that sees none of what the first has written."""

    probed = 0


class Unreadable(SqliteReader):
    """A second connection to a broken disk."""

    def stats(self) -> NoReturn:
        raise UserError("Cannot read the store: disk I/O error.")


def test_a_check_reads_what_it_has_written_through_another_connection(tmp_path: Path) -> None:
    collector = Collector(tmp_path, constants={"cli.open_reader": Stale})
    assert "cannot be read back" in collector.refusal("--check")


def test_a_check_that_cannot_read_says_so_once(tmp_path: Path) -> None:
    collector = Collector(tmp_path, constants={"cli.open_reader": Unreadable})
    assert "CRITICAL Cannot read the store: disk I/O error.\n" in collector.refusal("--check")


def test_a_collector_that_starts_during_a_check_waits_for_it(tmp_path: Path) -> None:
    collector = Collector(tmp_path, constants={"cli.WAIT_FOR_STORE": PATIENCE})
    checking = SqliteStore(collector.database)
    threading.Timer(0.3, checking.close).start()
    collector.start(fork=True)
    assert collector.post("/v1/track", call("1")).status_code == 200
    collector.stop()
    assert collector.run("--check").returncode == 0


@pytest.mark.parametrize("option", ["--stats", "--about", "--help"])
def test_a_reader_of_stdout_that_has_gone_is_told_in_one_line(start: Start, option: str) -> None:
    collector = start()
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, *collector.arguments(option)], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr.endswith(b" CRITICAL Cannot write to stdout: Broken pipe.\n")
    assert done.stderr.count(b"\n") == 1


def test_it_serves_even_if_nobody_reads_where_it_listens(tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    with collector.log.open("a") as log:
        collector.process = subprocess.Popen(collector.command(), stdout=writer, stderr=log)
    os.close(writer)
    try:
        wait_until(lambda: "/activity is on" in collector.log.read_text())
    finally:
        assert collector.stop() == 0


def test_a_store_is_not_created_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "events.db").symlink_to(tmp_path / "elsewhere")
    assert "CRITICAL" in Collector(tmp_path).refusal("--check")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become other users")
def test_members_of_the_stores_group_may_ask_the_collector_and_others_are_told_whom() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        collector = Collector(folder).start(fork=True)
        erase = 'lambda database: commands.erase(database, "nobody")'
        try:
            path = Path(f"{collector.database}.sock")
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            for file in folder.glob("events.db*"):
                os.chown(file, 0, 1234)
            assert as_another(collector.database, erase, 1234) == "Erased 0 events of nobody.\n"
            assert "Cannot read the store" in as_another(collector.database, erase, 99)
            for file in folder.glob("events.db*"):
                file.chmod(file.stat().st_mode | stat.S_IROTH)
            assert "Cannot ask" in as_another(collector.database, erase, 99)
        finally:
            collector.stop()
        denied = as_another(collector.database, erase, 1234)
        assert "Permission denied; run this as its owner" in denied
    assert not path.exists()
