"""Forwards events, as they arrive, to anything that speaks Segment's tracking API.

Each destination reads the store from its own cursor, in its own thread, so an outage delays neither
other destinations nor incoming requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import logging
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import TypeVar

import requests

from tap_autopilot.collector import raw_json
from tap_autopilot.collector.config import Destination
from tap_autopilot.collector.events import CALLS
from tap_autopilot.collector.metrics import Metrics
from tap_autopilot.collector.raw_json import NotJson
from tap_autopilot.collector.store import Event, Reader
from tap_autopilot.collector.writer import Writer
from tap_autopilot.collector.writing import Cursor, Store, Unavailable
from tap_autopilot.exceptions import TapError

LOG = logging.getLogger(__name__)

MAX_EVENTS = 100  # in a batch; Segment allows 2,500 events and 500 kB
MAX_BYTES = 475_000
READ_AT_ONCE = 500
LOOK_EVERY = 0.5  # seconds, for new events
TIMEOUT = (10, 30)  # seconds to connect, and to wait for a response
FIRST_WAIT, MAX_WAIT = 1.0, 60.0  # seconds between tries
MAX_RETRY_AFTER = 3600.0
REPORT_EVERY = 5.0  # seconds, while a destination is down
WARN_EVERY = 60.0  # seconds between log lines about the same problem
# The key, path or timing is wrong, not an event. Since that can be fixed, no event is skipped.
WHOLE_REQUEST = (401, 403, 404, 405, 407, 408, 425, 429)

T = TypeVar("T")


class _Retry(Exception):
    """An attempt failed; a retry may succeed. The destination asked for `wait` seconds, if any."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def first_cursor(store: Store, destination: Destination, last_seq: int) -> None:
    """Give a new destination its initial cursor."""
    if destination.name not in store.cursors():
        store.save_cursor(destination.name, Cursor(0 if destination.from_start else last_seq, 0, 0))


def wanted(event: Event, destination: Destination, store_id: str) -> bytes | None:
    """The event as sent to this destination; None if it is not sent.

    Timestamps stay unchanged. A call without an id gets one that is the same whenever it is sent.
    What is a `track` call is decided as when it was stored: a type counts in any case, and without
    any type, an event's name suffices.
    """
    if event.source != "segment" or event.pruned or not raw_json.is_object(event.body):
        return None
    try:
        found = raw_json.members(event.body)
    except NotJson:
        return None
    given = raw_json.string(found.get("type", b""))
    kind = (given or (event.route if event.route in CALLS else "")).lower()
    name = raw_json.string(found.get("event", b""))
    if kind != "track" and (kind or not name):
        return None
    if destination.events is not None and name not in destination.events:
        return None
    added = {}
    if given != "track":
        added["type"] = b'"track"'
    if found.get("messageId", b"null") in (b"null", b'""'):
        added["messageId"] = b'"%s-%d"' % (store_id.encode(), event.seq)
    return raw_json.build({**found, **added}) if added else event.body


class Forwarder:
    """Forwards events to one destination, forever."""

    def __init__(
        self, destination: Destination, open_store: Callable[[], Reader], writer: Writer,
        metrics: Metrics,
    ) -> None:  # fmt: skip
        self._destination = destination
        self._open_store = open_store
        self._writer = writer
        self._metrics = metrics
        self._session = requests.Session()
        self._thread = ThreadPoolExecutor(1, f"to-{destination.name}")
        self._cursor = Cursor(0, 0, 0)
        self._next_warning = 0.0

    async def run(self) -> None:
        """Forward events until cancelled."""
        name = self._destination.name
        reader: Reader | None = None
        owner = False
        while True:
            try:
                if reader is None:
                    reader = await self._in_thread(self._open_store)
                if not await self._writer.run(lambda store: store.owns(name)):
                    owner = False
                    await asyncio.sleep(LOOK_EVERY)
                    continue
                if not owner:
                    saved: Cursor | None = await self._writer.run(
                        lambda store: store.cursors().get(name)
                    )
                    self._cursor = max(saved or self._cursor, self._cursor)
                    owner = True
                events = await self._in_thread(reader.read, self._cursor.seq, READ_AT_ONCE)
                last_seq = await self._report()
            except TapError as problem:
                self._warn("trouble with the store: %s", str(problem).removesuffix("."))
                owner = False  # another collector may have taken over
                if reader is not None:
                    reader.close()
                    reader = None
                await asyncio.sleep(FIRST_WAIT)
                continue
            batch: list[bytes] = []
            upto, size = self._cursor.seq, 0
            for event in events:
                body = wanted(event, self._destination, reader.store_id)
                if body is not None:
                    size += len(body) + 1
                    if batch and (len(batch) == MAX_EVENTS or size > MAX_BYTES):
                        break
                    batch.append(body)
                upto = event.seq
            refused = await self._deliver(batch) if batch else 0
            self._cursor = Cursor(
                upto,
                self._cursor.sent + len(batch) - refused,
                self._cursor.refused + refused,
            )
            if events:
                self._metrics.forwarded(name, last_seq - upto, *self._cursor[1:])
                await self._save()
            if len(events) < READ_AT_ONCE and upto == last_seq:
                await asyncio.sleep(LOOK_EVERY)

    async def _report(self) -> int:
        """Update the metrics; returns the `seq` of the newest event."""
        last_seq: int = await self._writer.run(lambda store: store.last_seq)
        lag = last_seq - self._cursor.seq
        self._metrics.forwarded(self._destination.name, lag, *self._cursor[1:])
        return last_seq

    async def _save(self) -> None:
        name, cursor = self._destination.name, self._cursor
        try:
            await self._writer.run(lambda store: store.save_cursor(name, cursor))
        except Unavailable:
            self._warn("cannot save its cursor; after a restart some events will be sent again")

    async def _deliver(self, batch: Sequence[bytes]) -> int:
        """Send a batch; if it is refused, split it up. Returns how many events were refused."""
        wait = FIRST_WAIT
        while True:
            try:
                status = await self._in_thread(self._post, batch)
                break
            except _Retry as problem:
                self._warn("%s; retrying", problem)
                asked = problem.wait
                await self._pause(asked if asked is not None else wait * random.uniform(0.7, 1))
                wait = min(wait * 2, MAX_WAIT)
        if status < 300:
            return 0
        if len(batch) == 1:
            self._warn("refused an event with HTTP %d; skipping it", status)
            return 1
        half = len(batch) // 2
        return await self._deliver(batch[:half]) + await self._deliver(batch[half:])

    async def _pause(self, seconds: float) -> None:
        """Wait, and keep reporting the lag, which grows meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(TapError):
                await self._report()
            await asyncio.sleep(min(left, REPORT_EVERY))

    def _post(self, batch: Sequence[bytes]) -> int:
        """The status of a final response. Raises _Retry otherwise."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        try:
            response = self._session.post(
                f"{self._destination.url}/batch",
                b'{"batch":[%s],"sentAt":"%s"}' % (b",".join(batch), now.encode()),
                headers={"Content-Type": "application/json"},
                auth=(self._destination.write_key, ""),
                timeout=TIMEOUT,
                allow_redirects=False,
            )
        except (requests.RequestException, ValueError) as problem:  # ValueError: no such host name
            raise _Retry(type(problem).__name__) from None
        status = response.status_code
        if status < 300 or (400 <= status < 500 and status not in WHOLE_REQUEST):
            return status
        raise _Retry(f"HTTP {status}", _retry_after(response.headers.get("Retry-After", "")))

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _warn(self, text: str, *arguments: object) -> None:
        """Log a problem, at most once a minute."""
        if time.monotonic() >= self._next_warning:
            self._next_warning = time.monotonic() + WARN_EVERY
            LOG.warning(f"Destination %s: {text}.", self._destination.name, *arguments)


def _retry_after(value: str) -> float | None:
    """The seconds that a Retry-After header asks for: a number, or an HTTP date."""
    value = value.strip()
    try:
        if value.isascii() and value.isdecimal():
            seconds = float(value)
        else:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
