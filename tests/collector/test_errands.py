"""Commands that ask a collector, or what pretends to be one."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest

from tap_autopilot.collector.commands import erase
from tap_autopilot.collector.errands import reachable
from tap_autopilot.collector.sqlite import SqliteReader, SqliteStore
from tap_autopilot.collector.store import Unavailable
from tap_autopilot.exceptions import TapError, UserError
from tests.collector.conftest import Start

ADA = "ada@example.com"


@pytest.mark.parametrize(
    "answer",
    [b"5", b"[]", b"{}", b'"x"', b'{"erased": "\\u001b[2J", "others": 0, "is_gone": true}',
     b'{"erased": 1}', b'{"error": 5}', b"\xff", b"[" * 9000, b""],
)  # fmt: skip
def test_any_response_of_a_collector_is_understood_or_reported(
    database: str, answer: bytes
) -> None:
    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            stream.readline()
            connection.sendall(answer + b"\n")

    with closing(SqliteStore(database)), socket.socket(socket.AF_UNIX) as listener:
        with reachable(Path(f"{database}.sock")) as address:
            listener.bind(address)
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(TapError, match=r"malformed|did not respond|exited|^5$"):
            erase(database, ADA)
        thread.join()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to own files as another user")
@pytest.mark.parametrize("suffix", ["", "-wal", ".sock"])
def test_what_another_user_may_have_planted_is_not_used(suffix: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        database = str(folder / "events.db")
        SqliteStore(database).close()
        planted = Path(database + suffix)
        planted.touch()
        os.chown(planted, 65534, 65534)
        folder.chmod(0o755)
        SqliteStore(database).close()  # where only its owner creates files
        planted.touch()
        os.chown(planted, 65534, 65534)
        folder.chmod(0o1777)
        if suffix != ".sock":
            with pytest.raises(UserError, match="belongs to another user"):
                SqliteStore(database)
            with pytest.raises(UserError, match="belongs to another user"):
                SqliteReader(database)
            return
        with (
            closing(SqliteStore(database)),
            pytest.raises(UserError, match="belongs to another user"),
        ):
            erase(database, ADA)
        os.chown(database, 65534, 65534)
        folder.chmod(0o755)
        with closing(SqliteStore(database)):
            folder.chmod(0o1777)
            with pytest.raises(UserError, match=r"events\.db belongs to another user"):
                erase(database, ADA)


def full(*_: object, **__: object) -> NoReturn:
    """A command that finds no room."""
    raise Unavailable("database or disk is full")


@pytest.mark.parametrize("running", [True, False])
def test_a_full_disk_is_reported(start: Start, running: bool) -> None:
    collector = start(constants={"commands.erase_person": full})
    if not running:
        collector.stop()
    done = collector.run("--erase", ADA)
    assert done.returncode
    assert done.stderr == "CRITICAL Cannot write to the store: database or disk is full.\n"


def broken(*_: object, **__: object) -> NoReturn:
    """A command with a bug."""
    raise ValueError("a bug")


def test_a_bug_in_a_command_is_logged(start: Start) -> None:
    collector = start(constants={"commands.erase_person": broken})
    done = collector.run("--erase", ADA)
    assert done.stderr == "CRITICAL An unexpected ValueError; the collector's log has it.\n"
    assert "Unexpected ValueError at" in collector.log.read_text()
