"""Runs the real command against a sandbox, and checks the invariants after every run."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
import singer.metrics  # noqa: F401  # sets up the root logger, whenever it is imported first

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.faults import Fault, Faults
from tap_autopilot.streams import STREAMS
from tests.fork_server import finished, hasty, no_name_server
from tests.invariants import Run, check
from tests.lying_pager import KEY as KEY
from tests.lying_pager import Options
from tests.pushed_store import PushedStore
from tests.recording import Sandbox

PATIENCE = 120  # seconds
COMMAND = [sys.executable, "-m", "tap_autopilot"]
USUAL_STREAMS = {name: one for name, one in STREAMS.items() if one.setting is None}

Serve = Callable[..., Sandbox]

# In `make test` the fuzzers try the same few examples every time; in `make fuzz`, new ones.
_ONCE = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
for _name, _examples, _same, _phases in (
    ("quick", 30, True, _ONCE),
    ("long", 10_000, False, (*_ONCE, hypothesis.Phase.shrink)),
):
    hypothesis.settings.register_profile(
        _name, derandomize=_same, database=None, deadline=None, max_examples=_examples,
        phases=_phases, print_blob=True, suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
hypothesis.settings.load_profile("quick")


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Let programs started by tests receive signals, even if nohup or a shell ignores them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    no_name_server(monkeypatch.setattr)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a sandbox: `serve(account, "3:503", bookmarks="next", …)`."""
    with ExitStack() as stack:

        def start(account: Account | None = None, *faults: str, **options: Any) -> Sandbox:
            struck = Faults(map(Fault.parse, faults))
            chosen = Options(**{"faults": struck, **options})
            return stack.enter_context(Sandbox(account or Account(contacts=250), chosen))

        yield start


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace sleeping; collects the seconds that the client would have slept."""
    slept: list[float] = []
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=slept.append)
    monkeypatch.setattr("tap_autopilot.api.client.time", clock)
    return slept


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections, and that nothing but a sandbox can take meanwhile."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something to happen, long enough for a busy machine."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


class Clock:
    """A clock that stands still until a test moves it."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Tap:
    """The command, run in its own folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def config(self, sandbox: Sandbox | None = None, **settings: Any) -> dict[str, Any]:
        """A config for a sandbox, with short retries."""
        found = {"api_key": KEY, "max_requests_per_second": 1000, "retry_timeout": 5}
        if sandbox is not None:
            found["api_url"] = sandbox.url
        return {**found, **settings}

    def file(self, name: str, value: Any) -> str:
        """Write a file into the folder: text unchanged, anything else as JSON."""
        path = self.folder / name
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        return str(path)

    def arguments(self, sandbox: Sandbox, *, catalog: Any, state: Any, config: Any) -> list[str]:
        """The arguments of a sync."""
        found = ["--config", self.file("config.json", self.config(sandbox, **config))]
        if catalog is not None:
            found += ["--catalog", self.file("catalog.json", catalog)]
        if state is not None:
            found += ["--state", self.file("state.json", state)]
        return found

    def sync(
        self, sandbox: Sandbox, *, catalog: Any = None, state: Any = None, **config: Any
    ) -> Run:
        """Sync from a sandbox."""
        before = len(sandbox.requests)
        arguments = self.arguments(sandbox, catalog=catalog, state=state, config=config)
        files = {path: path.read_bytes() for path in self.folder.iterdir() if path.is_file()}
        run = self.run(*arguments, key=str(config.get("api_key", KEY)))
        run.watch(sandbox, before, state, config)
        assert files.items() == {
            (path, path.read_bytes()) for path in self.folder.iterdir() if path.is_file()
        }
        assert sandbox.most_connections <= int(config.get("concurrency", 8))
        return check(run)

    def call(self, sandbox: Sandbox | None = None, *options: str, **settings: Any) -> Run:
        """Run the command with these options and settings."""
        return self.run("-c", self.file("c.json", self.config(sandbox, **settings)), *options)

    def command(self, sandbox: Sandbox | None = None, *options: str, **settings: Any) -> list[str]:
        """The command with these options and settings, for a process of its own."""
        config = self.file("config.json", self.config(sandbox, **settings))
        return [*COMMAND, "--config", config, *options]

    def run(self, *arguments: str, key: str = KEY, **environment: str) -> Run:
        """Run the command with any arguments, in a fork."""
        code, stdout, stderr = finished(hasty, arguments, self.folder, environment, PATIENCE)
        return Run(code, stdout, stderr.decode(), key)


@pytest.fixture
def tap(tmp_path: Path) -> Tap:
    """The command, with its own folder."""
    return Tap(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> PushedStore:
    """A collector's store, in a folder of its own."""
    folder = tmp_path / "store"
    folder.mkdir()
    return PushedStore(folder / "events.db")


@pytest.fixture(scope="session")
def catalog_text() -> str:
    """What --discover prints."""
    done = subprocess.run([*COMMAND, "--discover"], capture_output=True, check=True)
    return done.stdout.decode()


@pytest.fixture
def catalog(catalog_text: str) -> Any:
    """The discovered catalog, which a test may modify."""
    return json.loads(catalog_text)
