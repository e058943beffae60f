"""What names a store: a file, whatever its name looks like, or a safe address of PostgreSQL."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.collector.config import CollectorConfig
from tap_autopilot.collector.database import open_reader
from tap_autopilot.collector.postgres_address import check_address
from tap_autopilot.collector.sqlite import SqliteStore
from tap_autopilot.config import Config
from tap_autopilot.exceptions import UserError
from tests.collector.conftest import event

SSL_REQUEST = (80877103).to_bytes(4, "big")


@pytest.mark.parametrize("name", [":memory:", "file:x.db", "file:x.db?mode=memory", "a?b#c%41"])
def test_any_file_name_is_only_a_file_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    store = SqliteStore(name)
    store.append([event()])
    assert (tmp_path / name).stat().st_size > 0
    with open_reader(name) as reader:
        assert reader.last_seq == 1
        assert reader.probed == store.probe() - 1
    with pytest.raises(UserError, match="A collector or a command is using"):
        SqliteStore(str(tmp_path / name))
    store.close()


@pytest.mark.parametrize(
    "address",
    ["host=db.example.com password=s3cret-of-the-test", "dbname = x  PASSWORD=s3cret-of-the-test",
     "mysql://u:s3cret-of-the-test@db/x", "jdbc:postgresql://db/x?password=s3cret-of-the-test",
     "postgresql+psycopg://u:s3cret-of-the-test@db/x", "postgresql:u:s3cret-of-the-test@db/x",
     "u:s3cret-of-the-test@db/x", "Server=db;User Id=u;Pwd=s3cret-of-the-test",
     "x.db?password=s3cret-of-the-test", "pgpassword=s3cret-of-the-test"],
)  # fmt: skip
@pytest.mark.parametrize("read", [CollectorConfig.from_mapping, Config.from_mapping])
def test_another_kind_of_address_is_refused_without_being_quoted(read: Any, address: str) -> None:
    given = {"api_key": "k", "database": address, "collector_database": address}
    with pytest.raises(UserError, match="must be a file or a postgresql:// URL") as caught:
        read(given)
    assert "s3cret" not in str(caught.value)


PG = "postgresql://u:s3cret-of-the-test@"


@pytest.mark.parametrize(
    "url",
    ["postgresql:///x", f"{PG}localhost/x", f"{PG}127.0.0.9,[::1]/x", f"{PG}/x?host=/run/pg",
     f"{PG}%2Frun%2Fpg/x", f"{PG}db.example.com/x?sslmode=require", f"{PG}10.0.0.1/x?ssl=true",
     f"{PG}db.example.com/x?sslmode=verify-full&sslrootcert=system"],
)  # fmt: skip
def test_addresses_of_postgresql_that_are_safe(url: str) -> None:
    check_address(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"{PG}db.example.com/x", "add the parameter sslmode=require"),
        (f"{PG}db.example.com/x?sslmode=prefer", "add the parameter sslmode=require"),
        (f"{PG}localhost,db.example.com/x", "add the parameter sslmode=require"),
        (f"{PG}/x?host=db.example.com", "add the parameter sslmode=require"),
        (f"{PG}localhost/x?hostaddr=10.0.0.1", "add the parameter sslmode=require"),
        ("postgresql:///x?service=far", "add the parameter sslmode=require"),
        (f"{PG}here,db.example.com/x?hostaddr=127.0.0.1,", "add the parameter sslmode=require"),
        ("postgresql://u:p@s3cret@localhost/x?sslmode=require", "percent-encoded"),
        (f"{PG}localhost/x?pgbouncer=true", "no parameter pgbouncer"),
        ("postgresql://u:s3cret-of-the-test%zz@localhost/x", "percent-encoded"),
        ("postgresql://u:p?s3cret=1@localhost/x?pgbouncer=1", "percent-encoded"),
        ("postgresql://10.0.0.1/x?password=p@s3cret", "add the parameter sslmode=require"),
        ("postgresql://u:s3cret", "percent-encoded"),
        ("postgresql://u%3As3cret%40db.example.com/x", "percent-encoded"),
        ("postgresql://db.example.com/x?password=p&s3cret", "percent-encoded"),
        ("postgresql://u:s3cret/x?sslmode=require", "percent-encoded"),
        ("postgresql://u:s3cret%40db.example.com/x", "percent-encoded"),
        ("postgresql://10.0.0.1/x;password=s3cret", "add the parameter sslmode=require"),
    ],
)
def test_addresses_of_postgresql_that_are_refused(url: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        check_address(url)
    assert "s3cret" not in str(caught.value)


def test_libpqs_environment_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example.com")
    with pytest.raises(UserError, match="sslmode=require"):
        check_address("postgresql:///x")
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    check_address("postgresql:///x")
    with pytest.raises(UserError, match="sslmode=require"):  # the service's file may disable it
        check_address("postgresql:///x?service=far")


def test_little_is_shown_of_what_a_server_says_about_an_error() -> None:
    said = f"no, \x1b[31m{'never ' * 4000}"
    error = f"SFATAL\0VFATAL\0C28000\0M{said}\0\0".encode()

    def respond() -> None:
        connection, _ = server.accept()
        with connection:
            while connection.recv(4096)[4:8] == SSL_REQUEST:
                connection.sendall(b"N")
            connection.sendall(b"E" + (len(error) + 4).to_bytes(4, "big") + error)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=respond)
        thread.start()
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=r"FATAL: *no, ") as problem:
            open_reader(f"postgresql://me@127.0.0.1:{port}/x?sslmode=prefer&gssencmode=disable")
        thread.join()
    assert len(str(problem.value)) < 500
