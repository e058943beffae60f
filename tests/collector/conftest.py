"""Runs the real collector, as a separate process or, more quickly, as a fork."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any, ParamSpec

import pytest
import requests

from tap_autopilot.collector.cli import main
from tap_autopilot.collector.database import open_reader, open_store
from tap_autopilot.collector.reader import Event
from tap_autopilot.collector.received import Received
from tap_autopilot.collector.store import Store
from tests.collector.destination import Destination
from tests.conftest import PATIENCE
from tests.fork_server import Fork, altered, finished
from tests.invariants import untimed
from tests.receiver import serving

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tap_autopilot.collector"]
KEY = "wr1te-key-of-the-tests"
SECRET = "webh00k-secret-of-the-tests"
TOKEN = "t0ken-of-the-tests-in-urls"
HEAD = b"POST /v1/track HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n" % KEY.encode()
REQUEST = HEAD + b"Content-Length: 2\r\n\r\n{}"
NOW = 1_700_000_000_000
Given = ParamSpec("Given")
SETTINGS = {
    "write_keys": [KEY],
    "webhook_secrets": [SECRET],
    "hook_tokens": [TOKEN],
    "min_free_mb": 0,
}
# In forks. What a test would only wait for comes soon; what a busy machine may take long for is not
# given up.
CONSTANTS: dict[str, Any] = {
    "cli.WAIT_FOR_STORE": 0.1,
    "client.BODY": 0.2,
    "destinations.FIRST_WAIT": 0.05,
    "destinations.MAX_WAIT": 0.05,
    "destinations.LOOK_EVERY": 0.02,
    "destinations.SYNC_EVERY": 0.05,
    "hooks.WAITS": (0.05,) * 5,
    "http.TICK": 0.05,
    "metrics.RENDER_EVERY": 0.0,
    "server.LAST_RESPONSES": PATIENCE,
    "server.LAST_COMMIT": PATIENCE,
    "writer.STORE_WITHIN": PATIENCE,
    "writer.RETRY_EVERY": 0.05,
}


class Collector:
    """A collector in a folder, which tests start and stop."""

    under: Sequence[str] = ()  # a program that runs it
    forgotten = 0  # how many events, of earlier tests, `events` leaves out

    def __init__(self, folder: Path, *, constants: Any = None, **settings: Any) -> None:
        """`constants` replace some of the collector's own, in forks."""
        self.folder = folder
        self._main = partial(altered, main, {**CONSTANTS, **(constants or {})})
        self.database = str(settings.get("database", folder / "events.db"))
        self.settings = {**SETTINGS, "database": self.database, **settings}
        self.settings.setdefault("listen", "127.0.0.1:0")
        self.log = folder / "stderr"
        self.process: subprocess.Popen[bytes] | Fork
        self.url = ""

    def arguments(self, *more: str) -> list[str]:
        path = self.folder / "collector.json"
        path.write_text(json.dumps(self.settings))
        return ["--config", str(path), *more]

    def command(self) -> list[str]:
        return [*self.under, *COMMAND, *self.arguments()]

    def start(self, *, fork: bool = False) -> Collector:
        reader, writer = os.pipe()
        with self.log.open("a") as log, os.fdopen(reader) as stdout:
            try:
                if fork:
                    self.process = self.fork(writer, log.fileno())
                else:
                    self.process = subprocess.Popen(
                        self.command(), stdout=writer, stderr=log, cwd=ROOT
                    )
            finally:
                os.close(writer)
            line = stdout.readline()
        assert line.startswith("listening on http://"), self.log.read_text()
        self.url = line.split()[-1]
        return self

    def fork(self, stdout: int, stderr: int, *more: str) -> Fork:
        """Start the command with these options."""
        return Fork(self._main, self.arguments(*more), ROOT, stdout, stderr)

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def restart(self, **settings: Any) -> None:
        """Stop, and start again with these settings changed."""
        self.stop()
        self.settings |= settings
        self.start(fork=True)

    def run(self, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command with these options to completion."""
        arguments = self.arguments(*more)
        code, out, err = finished(self._main, arguments, ROOT, environment, PATIENCE)
        return subprocess.CompletedProcess(arguments, code, out.decode(), untimed(err.decode()))

    def refusal(self, *more: str, **environment: str) -> str:
        """Run the command with options that it must refuse; returns what it says."""
        done = self.run(*more, **environment)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        return done.stderr

    def post(
        self, path: str, body: Any, *, key: str | None = KEY, **more: Any
    ) -> requests.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **more.pop("headers", {})}
        if key is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(f"{key}:".encode()).decode()
        return requests.post(self.url + path, data, headers=headers, timeout=PATIENCE, **more)

    def webhook(self, body: bytes, signed: bytes | None = None, **more: Any) -> int:
        """Post to /segment, with the signature of the body or of this part; returns the status."""
        headers = {"X-Signature": signature(body if signed is None else signed)}
        return self.post("/segment", body, headers=headers, **more).status_code

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=PATIENCE)

    def events(self) -> list[Event]:
        with open_reader(self.database) as reader:
            events: list[Event] = []
            while more := reader.read(events[-1].seq if events else self.forgotten, 100_000):
                events += more
            return events

    def forget(self) -> Collector:
        """Leave the events so far to earlier tests."""
        with open_reader(self.database) as reader:
            self.forgotten = reader.last_seq
        return self

    def bodies(self) -> list[bytes]:
        return [event.body for event in self.events()]

    def connect(self) -> socket.socket:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return socket.create_connection((host, int(port)), timeout=PATIENCE)

    def raw(self, data: bytes) -> bytes:
        """Send these bytes, and read until the connection is closed."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_all(connection)

    def metric(self, name: str) -> float:
        """The value of a metric; NaN, which equals nothing, while it has none."""
        text = self.get("/metrics").text
        lines = [
            line for line in text.splitlines() if line.startswith(f"tap_autopilot_collector_{name}")
        ]
        return float(lines[0].rpartition(" ")[2]) if lines else math.nan


def read_all(connection: socket.socket) -> bytes:
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


@contextmanager
def sending(
    send: Callable[[int, threading.Event], object], workers: int
) -> Iterator[threading.Event]:
    """Several senders, each in its own thread: its number, and an event that tells it to end."""
    over = threading.Event()
    threads = [threading.Thread(target=send, args=(worker, over)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield over
    finally:
        over.set()
        for thread in threads:
            thread.join()


AS_ANOTHER = """
import grp, os, pwd, sys  # before it may no longer read them
from tap_autopilot.collector import commands
from tap_autopilot.collector.sqlite import SqliteReader
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(65534)
try:
    print(eval(sys.argv[3])(sys.argv[1]))
except Exception as problem:
    print(problem)
"""


def as_another(database: Path | str, do: str, group: int = 65534) -> str:
    """What this expression prints of a database as another user, or the message of its error."""
    done = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER, database, str(group), do],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    return done.stdout


def stuck(*_: object, **__: object) -> None:
    """Work that never ends."""
    threading.Event().wait()


def signature(body: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha1).hexdigest()


def event(
    body: Any = b'{"a": 1}',
    key: bytes | None = None,
    *,
    name: str = "Email Opened",
    at: int = NOW,
    for_good: bool = True,
) -> Received:
    """An event to store; a body that is no bytes becomes JSON."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Received(at, "segment", "track", name, text, key and key.ljust(16), for_good)


def in_a_loop(test: Callable[Given, Coroutine[Any, Any, None]]) -> Callable[Given, None]:
    """Run a test in an event loop."""

    @wraps(test)
    def run(*args: Given.args, **more: Given.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **more), PATIENCE))

    return run


Start = Callable[..., Collector]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a collector: `start(max_body_mb=1)`; with `fork=False`, as a separate process."""
    with ExitStack() as stack:

        def begin(*, fork: bool = True, **settings: Any) -> Collector:
            collector = Collector(tmp_path, **settings).start(fork=fork)
            stack.callback(collector.stop)
            return collector

        yield begin


@pytest.fixture(scope="module")
def _shared(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    settings = getattr(request.module, "SETTINGS_OF_ALL", {})
    collector = Collector(tmp_path_factory.mktemp("collector"), **settings).start(fork=True)
    yield collector
    collector.stop()


@pytest.fixture
def shared(_shared: Collector) -> Collector:
    """One collector shared by a module's tests, each of which sees only its own events."""
    return _shared.forget()


@pytest.fixture
def destination() -> Iterator[Destination]:
    with serving(Destination()) as found:
        yield found


@pytest.fixture
def other() -> Iterator[Destination]:
    with serving(Destination()) as found:
        yield found


@pytest.fixture
def database(tmp_path: Path) -> str:
    """The path of a store that does not exist yet."""
    return str(tmp_path / "events.db")


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    """A new store, which is closed afterwards."""
    with closing(open_store(database)) as found:
        yield found
