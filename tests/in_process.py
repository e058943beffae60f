"""Whole runs inside the test: no process, sockets or threads, and walks in any order."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any
from unittest import mock

from tap_autopilot.api.client import Client, Request, Response
from tap_autopilot.api.failures import may_pass, rule_of
from tap_autopilot.config import Config
from tap_autopilot.exceptions import Retryable, RunError, TapError, Unreachable, UserError
from tap_autopilot.protocol.state import read_state
from tap_autopilot.run import changes
from tap_autopilot.run import sync as module
from tap_autopilot.run.report import Report
from tap_autopilot.sources import custom_fields
from tap_autopilot.sources.listings import Failure, Page, Position, Walk
from tap_autopilot.sources.pool import NotTried
from tap_autopilot.sources.reading import pages
from tap_autopilot.streams import emails, lists, smart_segments
from tests.invariants import Run, check_messages
from tests.lying_pager import KEY
from tests.recording import Sandbox
from tests.witness import check_bookmarks, check_complete, check_served, check_tombstones

MAX_REQUESTS = 2000


class Killed(BaseException):
    """Ends a run, as a kill does."""


class DirectClient(Client):
    """A client that calls the sandbox directly; the requests numbered in `failing` fail.

    Nothing is retried. Of faults, it knows statuses only. `date` is the API's time, now by default.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        key: str,
        failing: set[int],
        date: datetime | None = None,
        *,
        most: int = MAX_REQUESTS,
    ) -> None:
        self._sandbox = sandbox
        self._headers = {"autopilotapikey": key}
        self._failing = failing
        self._date = date
        self._most = most

    def forget(self) -> None: ...

    def get(self, request: Request, decode: Callable[[bytes], Any]) -> Response[Any]:
        number = len(self._sandbox.requests) + 1
        assert number < self._most, "it never ends"
        fault = self._sandbox.options.faults.strike(request.path)
        answer = self._sandbox.respond("GET", f"/v1{request.path}", self._headers, fault)
        if number in self._failing:
            if answer.served is not None:
                answer.served.fault = "reset"
            raise RunError(f"{request}: connection reset.")
        answer.delivered = True
        if may_pass(answer.status):
            raise RunError(f"{request}: status {answer.status}; gave up after 0 s.")
        if answer.status != 200:
            text = f"{request}: status {answer.status}."
            raise rule_of(answer.status).exception(answer.status, text)
        now = datetime.now(timezone.utc)
        try:
            return Response(decode(answer.body), now, self._date or now)
        except Retryable as problem:
            raise RunError(f"{request}: {problem}; gave up after 0 s.") from None


class InProcessPool:
    """A pool that reads one page at a time, of the walk that `choose` picks."""

    def __init__(self, client: Client, choose: Callable[[int], int], kill_after: int) -> None:
        self._client = client
        self._choose = choose
        self._left = kill_after
        self._check_totals = True
        self._walks: list[tuple[Walk, Iterator[Page]]] = []
        self._cancelled: set[str] = set()

    def __call__(self, *_: object, check_totals: bool) -> InProcessPool:
        self._check_totals = check_totals
        return self

    def add(self, walk: Walk, start: Position) -> None:
        found = pages(walk, start, self._client, check_totals=self._check_totals)
        self._walks.append((walk, found))

    def cancel(self, source: str) -> None:
        self._cancelled.add(source)

    def check(self) -> None: ...

    def stop(self, stopped: TapError) -> None:
        raise AssertionError(stopped)

    def results(self) -> Iterator[Page | Failure]:
        while self._walks:
            number = self._choose(len(self._walks))
            walk, found = self._walks[number]
            result: Page | Failure
            try:
                if walk.source in self._cancelled:
                    raise NotTried(f"GET {walk.path}: not tried.")
                result = next(found)
            except (UserError, Unreachable):
                raise
            except TapError as error:
                result = Failure(walk, error)
            if isinstance(result, Failure) or result.after is None:
                del self._walks[number]
            yield result
            self._left -= 1
            if not self._left:
                raise Killed


def run(
    sandbox: Sandbox,
    *,
    catalog: Any = None,
    state: Any = None,
    choose: Callable[[int], int] = lambda _: 0,
    kill_after: int = -1,
    failing: set[int] | None = None,
    date: datetime | None = None,
    **settings: Any,
) -> Run:
    """Run once from a sandbox, which need not be running, with the checks of a real run."""
    before = len(sandbox.requests)
    client = DirectClient(sandbox, settings.get("api_key", KEY), failing or set(), date)
    code, killed = 0, False
    pool = InProcessPool(client, choose, kill_after)
    with (
        tempfile.TemporaryFile() as stdout,
        logged() as lines,
        mock.patch.multiple(module, Pool=pool, Client=lambda _: client),
        mock.patch.object(custom_fields, "Client", return_value=client),
        mock.patch.object(changes, "Client", return_value=client),
    ):
        try:
            config = Config.from_mapping(
                {"api_key": KEY, "api_url": "http://127.0.0.1/v1", **settings}
            )
            module.sync(config, catalog, read_state(state), stdout.fileno(), Report())
        except TapError as error:
            code = error.exit_code
            lines.append(f"CRITICAL {error}")
        except Killed:
            killed = True
        size = os.fstat(stdout.fileno()).st_size
        out = os.pread(stdout.fileno(), size, 0)
    found = Run(code, out, "\n".join(lines), KEY, killed=killed)
    found.watch(sandbox, before, state, settings)
    check_messages(found)
    check_served(found)
    check_complete([found])
    check_bookmarks([found])
    check_tombstones(found)
    return found


@contextlib.contextmanager
def in_parts(rows: int) -> Iterator[None]:
    """Make and write every page in parts of this many rows, as only a huge page is otherwise."""
    with contextlib.ExitStack() as patches:
        for stream in (emails, lists, smart_segments):
            patches.enter_context(mock.patch.object(stream, "MANY", rows))
        patches.enter_context(mock.patch.object(module, "MAX_WAITING", 0))
        yield


@contextlib.contextmanager
def logged() -> Iterator[list[str]]:
    """Collect the lines logged inside the block."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.levelname} {record.getMessage()}")

    log, handler = logging.getLogger("tap_autopilot"), Handler()
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield lines
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before
