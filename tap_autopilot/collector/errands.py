"""What a command asks of a store: to prune it, to erase a person, to forget a destination.

Only one process may write to a file. If a collector is using it, a command asks that collector,
through a socket next to the file: `<database>.sock`. Both carry out an errand in short steps,
between which the collector stores what comes in.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tap_autopilot.collector.reader import POSTGRES
from tap_autopilot.collector.store import Store, Unavailable
from tap_autopilot.exceptions import RunError, UserError

if TYPE_CHECKING:
    from tap_autopilot.collector.writer import Writer

LOG = logging.getLogger(__name__)

LONGEST = 1_000_000  # bytes of a request
TELL_EVERY = 1.0  # seconds, that an errand is under way
PATIENCE = 60.0  # seconds to wait for a sign of life
START = 3.0  # seconds that a collector may take to start
LOOK_EVERY = 0.05  # seconds
MAX_PATH = 100  # bytes of a socket's path; systems allow 104 or 108

Step = Callable[[Store], Any]
# Yields steps, is sent what each returned, and returns what to tell.
Errand = Generator[Step, Any, dict[str, Any]]
R = TypeVar("R")


def carry_out(errand: Errand, store: Store) -> dict[str, Any]:
    """Carry out an errand in a store that no collector is using."""
    result: Any = None
    while True:
        try:
            step = errand.send(result)
        except StopIteration as end:
            answer: dict[str, Any] = end.value
            return answer
        result = step(store)


def ask(database: str, request: dict[str, Any]) -> dict[str, Any]:
    """Have the collector that is using this file carry out an errand."""
    path = _socket_of(database)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            _connect(connection, path)
            with connection.makefile("rwb") as stream:
                stream.write(json.dumps(request).encode() + b"\n")
                stream.flush()
                for line in stream:
                    if line.strip():
                        return _successful(json.loads(line))
    except PermissionError:
        raise UserError(
            f"Cannot ask the collector that is using {database}: {path} belongs to {_owners(path)};"
            " run this as one of them."
        ) from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise RunError(f"Another command is using the store {database}. Try again later.") from None
    except (OSError, ValueError) as problem:
        raise RunError(
            f"The collector that is using {database} did not respond ({problem}); see its log."
        ) from None
    raise RunError(f"The collector that is using {database} exited. Try again.")


def _connect(connection: socket.socket, path: Path) -> None:
    """Connect to a collector, which may be just about to start."""
    deadline = time.monotonic() + START
    while True:
        try:
            with reachable(path) as address:
                return connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK_EVERY)


def _successful(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer. Raises UserError if it is an error."""
    if "error" in answer:
        raise UserError(str(answer["error"]))
    return answer


class ErrandServer:
    """Carries out the errands that commands ask of a running collector, one at a time."""

    def __init__(self, database: str, writer: Writer, errand: Callable[[Any], Errand]) -> None:
        """`errand` makes an errand of a request; it raises UserError if it is malformed."""
        self._path = _socket_of(database)
        self._writer = writer
        self._errand = errand
        self._one_at_a_time = asyncio.Lock()
        # Commands can write to PostgreSQL themselves.
        self._listener = None if database.startswith(POSTGRES) else _listen(self._path)

    async def run(self) -> None:
        """Serve until cancelled."""
        if self._listener is None:
            await asyncio.get_running_loop().create_future()
        server = await asyncio.start_unix_server(self._serve, sock=self._listener, limit=LONGEST)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = json.loads(await asyncio.wait_for(reader.readline(), PATIENCE))
            async with self._one_at_a_time:
                answer = await self._carry_out(self._errand(request), writer)
        except (UserError, Unavailable) as problem:
            LOG.error("A command failed: %s", problem)
            answer = {"error": str(problem)}
        except ConnectionError:
            LOG.info("A command was interrupted, so its work stopped.")
            answer = {}
        except (OSError, ValueError, RecursionError, asyncio.TimeoutError):
            answer = {"error": "The request is malformed."}
        if not writer.is_closing():
            with contextlib.suppress(OSError):
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def _carry_out(self, errand: Errand, asker: asyncio.StreamWriter) -> dict[str, Any]:
        """Carry out an errand; if the command that asked for it is gone, stop."""
        result: Any = None
        last_sign = time.monotonic()
        while True:
            try:
                step = errand.send(result)
            except StopIteration as end:
                answer: dict[str, Any] = end.value
                return answer
            began = time.monotonic()
            result = await self._writer.run(step)
            now = time.monotonic()
            await asyncio.sleep(now - began)  # half of the time is for what comes in
            if now - last_sign > TELL_EVERY:
                last_sign = now
                if asker.is_closing():
                    raise ConnectionResetError
                asker.write(b"\n")
                await asker.drain()


def _listen(path: Path) -> socket.socket | None:
    """A socket that members of the store's group may use. The caller owns the store."""
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o117)
    try:
        path.unlink(missing_ok=True)  # left by a collector that was killed
        with reachable(path) as address:
            listener.bind(address)
        listener.listen()
        return listener
    except OSError as problem:
        LOG.warning(
            "--prune, --erase and --forget-destination cannot reach this collector: %s.",
            problem.strerror or problem,
        )
        listener.close()
        return None
    finally:
        os.umask(mask)


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A path short enough for a socket."""
    if len(os.fsencode(path)) <= MAX_PATH or not Path("/proc/self/fd").is_dir():
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _socket_of(database: str) -> Path:
    return Path(f"{database}.sock").absolute()


def _owners(path: Path) -> str:
    try:
        return f"{path.owner()} and the group {path.group()}"
    except (OSError, KeyError):
        return "others"
