"""What a command asks of a store: to prune it, to erase a person, to forget a destination.

Only one process may write to a file. If a collector is using it, a command asks that collector,
through a socket next to the file: `<database>.sock`. Both carry out an errand in short steps,
between which the collector stores what comes in.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tap_autopilot import logs
from tap_autopilot.collector.reader import POSTGRES
from tap_autopilot.collector.store import Store, Unavailable
from tap_autopilot.exceptions import RunError, UserError
from tap_autopilot.files import check_owner

if TYPE_CHECKING:
    from tap_autopilot.collector.writer import Writer

LOG = logging.getLogger(__name__)

LONGEST = 1_000_000  # bytes of a request
TELL_EVERY = 1.0  # seconds between signs of life
MAX_SILENCE = 60.0  # seconds to wait for a sign of life
START = 3.0  # seconds that a collector may take to start
TURN = 5.0  # seconds to wait for another command, as for one that was just interrupted
LOOK_EVERY = 0.05  # seconds
LONG = 3  # times what is usual
REST = 50  # times what a long step took
MAX_REST = 1.0  # seconds
MAX_PATH = 100  # bytes of a socket's path; systems allow 104 or 108

C = TypeVar("C")
R = TypeVar("R", bound=tuple[Any, ...])
T = TypeVar("T")


class Do(Protocol):
    """Runs a step of an errand in the thread that has the store, and returns its result."""

    def __call__(self, step: Callable[[Store], T], /) -> T: ...  # noqa: D102


Errand = Callable[[Do], dict[str, Any]]  # returns what to tell the command


class Wanted(Exception):
    """A collector is starting, and waits for the store that a command is using."""


def alone(store: Store) -> Do:
    """Runs steps in a store that no collector is using. Raises Wanted once one waits for it."""

    def do(step: Callable[[Store], T]) -> T:
        if store.is_wanted():
            raise Wanted
        return step(store)

    return do


def all_rows(do: Do, read: Callable[[Store, int], Sequence[R]], after: int = 0) -> Iterator[R]:
    """All rows after a number, which each of them begins with; `read` returns a slice of them.

    If looking at a slice takes long, there are steps that do nothing, for a sign of life.
    """

    def read_on(store: Store) -> Sequence[R]:
        return read(store, after)

    while rows := do(read_on):
        told = time.monotonic()
        for row in rows:
            yield row
            if time.monotonic() - told > TELL_EVERY:
                do(lambda _: None)
                told = time.monotonic()
        after = rows[-1][0]


def go_through(
    do: Do,
    read: Callable[[Store, int], Sequence[R]],
    choose: Callable[[R], C | None],
    change: Callable[[Store, list[C]], object],
    after: int = 0,
) -> int:
    """Change the chosen ones of the rows that `all_rows` yields; returns how many there were.

    Choosing can be slow, so it happens between steps. The next one begins with the changes.
    """
    chosen: list[C] = []

    def change_and_read(store: Store, after: int) -> Sequence[R]:
        if chosen:
            change(store, chosen)
            chosen.clear()
        return read(store, after)

    count = 0
    for row in all_rows(do, change_and_read, after):
        if (choice := choose(row)) is not None:
            chosen.append(choice)
            count += 1
    return count


def ask(database: str, request: dict[str, Any]) -> Any:
    """Have the collector that is using this file carry out an errand; returns its answer."""
    path = _socket_of(database)
    check_owner(path, [Path(database).stat().st_uid])
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(MAX_SILENCE)
            _connect(connection, path)
            with connection.makefile("rwb") as stream:
                stream.write(json.dumps(request).encode() + b"\n")
                stream.flush()
                for line in stream:
                    if line.strip():
                        match json.loads(line):
                            case {"error": error}:
                                raise UserError(str(error))
                            case {"is_busy": True}:
                                raise busy(database)
                            case answer:
                                return answer
    except PermissionError:
        raise UserError(
            f"Cannot ask the collector that is using {database}: {path} belongs to {_owners(path)};"
            " run this as one of them."
        ) from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise busy(database) from None
    except (OSError, ValueError, RecursionError) as problem:
        raise RunError(
            f"The collector that is using {database} did not respond ({problem}); see its log."
        ) from None
    raise RunError(f"The collector that is using {database} exited. Try again.")


def busy(name: str) -> RunError:
    """The error of a command that finds another one at work."""
    return RunError(f"Another command is using the store {name}. Try again later.")


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


class ErrandServer:
    """Carries out the errands that commands ask of a running collector, one at a time."""

    def __init__(self, database: str, writer: Writer, errand_of: Callable[[Any], Errand]) -> None:
        """`errand_of` makes an errand of a request; it raises UserError if it is malformed."""
        self._path = _socket_of(database)
        self._writer = writer
        self._errand_of = errand_of
        self._busy = Lock()
        # Commands can write to PostgreSQL themselves.
        listener = None if database.startswith(POSTGRES) else _listen(self._path)
        if listener is not None:
            Thread(target=self._serve, args=(listener,), name="errands", daemon=True).start()

    def close(self) -> None:
        """Accept no more errands. The next collector deletes a socket that is left."""
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
                Thread(target=self._respond, args=(connection,), name="errand", daemon=True).start()
            except (OSError, RuntimeError):  # too many files are open, or threads
                time.sleep(LOOK_EVERY)

    def _respond(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(MAX_SILENCE)
            answer = self._answer(connection)
            connection.sendall(json.dumps(answer).encode() + b"\n")

    def _answer(self, connection: socket.socket) -> dict[str, Any]:
        try:
            with connection.makefile("rb") as stream:
                request = json.loads(stream.readline(LONGEST))
        except (OSError, ValueError, RecursionError):
            return {"error": "The request is malformed."}
        if not self._busy.acquire(timeout=TURN):
            return {"is_busy": True}
        try:
            return self._errand_of(request)(self._steps(connection))
        except (UserError, Unavailable) as problem:
            LOG.error("A command failed: %s", problem)
            is_clear = isinstance(problem, UserError)
            return {"error": str(problem) if is_clear else f"Cannot write to the store: {problem}."}
        except (ConnectionError, TimeoutError):
            LOG.info("A command was interrupted, so its work stopped.")
            return {}
        except Exception as error:  # noqa: BLE001 - a bug, from which senders must not suffer
            logs.log_bug(error)
            return {"error": f"An unexpected {type(error).__name__}; the collector's log has it."}
        finally:
            self._busy.release()

    def _steps(self, connection: socket.socket) -> Do:
        """Runs steps between commits, as long as the command is there."""
        connection.sendall(b"\n")  # a command that has gone reported failure
        last_sign = ended = time.monotonic()
        pauses = Pauses()

        def do(step: Callable[[Store], T]) -> T:
            nonlocal last_sign, ended
            began = time.monotonic()
            result, took = self._writer.post(partial(_timed, step)).result()
            now = time.monotonic()
            worked = min(began - ended, MAX_REST)  # since the last step
            time.sleep(pauses.after(took, now - began) + worked)
            if now - last_sign > TELL_EVERY:
                last_sign = now
                connection.sendall(b"\n")
            ended = time.monotonic()
            return result

        return do


class Pauses:
    """How long to leave the store to others after each step, in seconds."""

    def __init__(self) -> None:
        self._usual = 0.0

    def after(self, took: float, waited: float) -> float:
        """The pause after a step that `took` so long, and `waited` with the wait for its turn.

        Half of the time is for what comes in. After an unusually long step, such as one that writes
        a checkpoint, it is nearly all of it, so that few requests have to wait for one.
        """
        is_long = took > LONG * self._usual > 0
        self._usual += (took - self._usual) / 10 if self._usual else took
        return min(REST * took, MAX_REST) if is_long else waited


def _timed(step: Callable[[Store], T], store: Store) -> tuple[T, float]:
    """What a step returns, and how many seconds it took."""
    began = time.monotonic()
    result = step(store)
    return result, time.monotonic() - began


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
    return Path(f"{os.path.realpath(database)}.sock")  # the same for all links to it


def _owners(path: Path) -> str:
    try:
        return f"{path.owner()} and the group {path.group()}"
    except (OSError, KeyError):
        return "others"
