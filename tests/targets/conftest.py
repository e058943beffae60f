"""Real targets, each in its own environment, which `make test-targets` installs."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tap_autopilot.sandbox.account import Account
from tests.collector.conftest import ROOT
from tests.conftest import COMMAND, USUAL_STREAMS, Serve, Tap
from tests.recording import Sandbox
from tests.targets.loaded import Tables, check_whole, pasted

ENVIRONMENT = {**os.environ, "PYTHONPATH": ""}


def program(target: str, name: str = "") -> Path:
    path = ROOT / f".venv-target-{target}/bin/target-{name or target}"
    assert path.exists(), "make test-targets installs it"
    return path


class Pipeline:
    """The tap on a sandbox, piped into a target, whose settings are written to a file."""

    def __init__(self, tap: Tap, *target: str | Path, **settings: Any) -> None:
        self.tap = tap
        self.target = target
        if settings:
            self.target = (*target, "--config", tap.file("target.json", settings))

    def run(
        self,
        sandbox: Sandbox,
        *,
        catalog: Any = None,
        state: Any = None,
        kill_after: int = 0,
        **config: Any,
    ) -> Any:
        """Sync from a sandbox into the target. Returns the target's last state.

        `kill_after` is the number of requests after which the tap is killed.
        """
        arguments = self.tap.arguments(sandbox, catalog=catalog, state=state, config=config)
        asked = len(sandbox.requests)
        with (self.tap.folder / "tap.log").open("wb") as log:
            reading = subprocess.Popen(
                [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=log, cwd=ROOT
            )
            writing = subprocess.Popen(
                self.target, stdin=reading.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=ENVIRONMENT, cwd=self.tap.folder,
            )  # fmt: skip
            assert reading.stdout is not None
            reading.stdout.close()
            while (
                kill_after and len(sandbox.requests) - asked < kill_after and reading.poll() is None
            ):
                time.sleep(0.005)
            if kill_after:
                reading.send_signal(signal.SIGKILL)
            out, err = writing.communicate(timeout=300)
            code = reading.wait()
        if not kill_after:
            said = (self.tap.folder / "tap.log").read_text() + err.decode()[-3000:]
            assert (code, writing.returncode) == (0, 0), said
        states = out.decode().splitlines()
        return json.loads(states[-1]) if states else state


class Server:
    """A script that prints the address of its server, and then answers each line of JSON by one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._questions, self._answers = process.stdin, process.stdout
        self.address = self._answers.readline().strip()
        assert self.address, "it did not start; its messages are above"

    def ask(self, question: Any) -> Any:
        self._questions.write(json.dumps(question) + "\n")
        self._questions.flush()
        return json.loads(self._answers.readline())


@contextmanager
def serving(target: Path, script: str, *arguments: str) -> Iterator[Server]:
    """A script of this folder, run in a target's environment until its stdin is closed."""
    path = Path(__file__).with_name(script)
    with subprocess.Popen(
        [target.with_name("python"), path, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
    ) as process:  # fmt: skip
        yield Server(process)
        assert process.stdin is not None
        process.stdin.close()


class Postgres:
    """A running PostgreSQL, with the target that loads into it."""

    def __init__(self, server: Server, tap: Tap) -> None:
        self._server, self._tap = server, tap
        self.uri = server.address.replace("postgresql:", "postgresql+psycopg:")
        url = urllib.parse.urlsplit(self.uri)
        self.parts: dict[str, Any] = {
            "host": url.hostname or urllib.parse.parse_qs(url.query)["host"][0],
            "port": url.port or 5432,
            "user": url.username,
            "password": "any",
            "dbname": url.path[1:],
        }

    def pipeline(self, schema: str, **settings: Any) -> Pipeline:
        known = {"sqlalchemy_url": self.uri, "default_target_schema": schema, **settings}
        return Pipeline(self._tap, program("postgres"), **known)

    def query(self, sql: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._server.ask(sql)
        return rows

    def tables(self, schema: str, where: str = "true") -> dict[str, list[dict[str, Any]]]:
        """All rows of all tables; a table that never had a row counts as empty."""
        sql = f"select tablename from pg_tables where schemaname = '{schema}'"
        there = {row["tablename"] for row in self.query(sql)}
        return {
            stream: self.query(f"select * from {schema}.{stream} where {where}")
            if stream in there
            else []
            for stream in USUAL_STREAMS
        }


def postgres_server() -> AbstractContextManager[Server]:
    return serving(program("postgres"), "postgres.py")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server's address."""
    with postgres_server() as found:
        yield found.address


NUMBERS = itertools.count()


@pytest.fixture
def database(server: str) -> str:
    """A new database for each test."""
    name = f"events{next(NUMBERS)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.replace("/postgres?", f"/{name}?")


@pytest.fixture
def postgres(tap: Tap) -> Iterator[Postgres]:
    with postgres_server() as server:
        yield Postgres(server, tap)


class Nights:
    """Nights of an account; in between, contacts and memberships change and disappear."""

    def __init__(self, tap: Tap, serve: Serve) -> None:
        self.tap, self.serve = tap, serve
        self.account = Account(contacts=210, lists=4, segments=3, members=60)
        self.state: Any = None

    def load(self, into: Pipeline, **settings: Any) -> None:
        """Load the account as it is now."""
        self.state = into.run(self.serve(self.account), state=self.state, **settings)
        passes = self.state["bookmarks"].values() if self.state else ()
        assert not any(one["progress"] for one in passes)

    def load_both(self, into: Pipeline, **settings: Any) -> None:
        """Load two nights."""
        self.load(into, **settings)
        self.account.move_on(1)
        self.load(into, **settings)

    def load_as_pasted(
        self, target: str, command: Path, *, fails: str = "", more: Any = None, **settings: Any
    ) -> None:
        """Load two nights with digests, `more` settings of the tap, and those of docs/targets.md.

        `fails` is how the target fails without the settings of the tap.
        """
        theirs, ours = pasted(target)
        into = Pipeline(self.tap, command, **settings, **theirs)
        if fails:
            with pytest.raises(AssertionError, match=fails):
                self.load(into)
        self.load_both(into, **self.digests, **(more or {}), **ours)

    @property
    def digests(self) -> dict[str, str]:
        """The setting for changes only."""
        return {"digests": str(self.tap.folder / "digests")}

    def sent(self) -> int:
        """How many contacts the last run sent."""
        log = (self.tap.folder / "tap.log").read_text()
        return int(re.findall(r"INFO contacts: ([\d,]+) row", log)[-1].replace(",", ""))

    def check(self, stored: Tables, *, settings: Any = None, **spelled: Any) -> None:
        """Fail unless these tables hold what a full run over the account as it is now has."""
        check_whole(stored, self.tap.sync(self.serve(self.account), **(settings or {})), **spelled)


@pytest.fixture
def nights(tap: Tap, serve: Serve) -> Nights:
    return Nights(tap, serve)
