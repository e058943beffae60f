"""Forwards events, as they arrive, to anything that speaks Segment's tracking API.

Each destination reads the store from its own cursor, in its own thread, so an outage delays neither
other destinations nor incoming requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import TypeVar

from tap_autopilot.api.failures import PASSING_STATUSES
from tap_autopilot.api.retry import retry_after
from tap_autopilot.collector.client import Client, NoResponse
from tap_autopilot.collector.config import Destination
from tap_autopilot.collector.metrics import Metrics
from tap_autopilot.collector.reader import Cursor
from tap_autopilot.collector.store import Store
from tap_autopilot.collector.track_calls import TrackCall, TrackCalls
from tap_autopilot.collector.writer import Writer
from tap_autopilot.exceptions import TapError
from tap_autopilot.rfc3339 import rfc3339

LOG = logging.getLogger(__name__)

MAX_EVENTS = 100  # in a batch; Segment allows 2,500 events and 500 kB
MAX_BYTES = 475_000
LOOK_EVERY = 0.5  # seconds, for new events
SYNC_EVERY = 1.0  # seconds, with the store: the cursor, and which collector forwards
FIRST_WAIT, MAX_WAIT = 1.0, 60.0  # seconds between tries
MAX_RETRY_AFTER = 3600.0
WARN_EVERY = 60.0  # seconds between log lines about the same problem
# The key, path or timing is wrong, not an event. Since that can be fixed, no event is skipped.
TO_CHECK = {401: "write_key", 403: "write_key", 404: "url", 405: "url", 407: "proxy"}
WHOLE_REQUEST = TO_CHECK.keys() | PASSING_STATUSES

T = TypeVar("T")


class _Retry(Exception):
    """An attempt failed; a retry may succeed. The destination asked for `wait` seconds, if any."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _NotOurs(Exception):
    """Another collector forwards to this destination now."""


def first_cursors(store: Store, destinations: Sequence[Destination]) -> None:
    """Give new destinations their first cursor, and warn of cursors without a destination."""
    known = store.cursors()
    for to in destinations:
        if to.name not in known:
            store.save_cursor(to.name, Cursor(0 if to.from_start else store.last_seq, 0, 0))
    for name in sorted(known.keys() - {to.name for to in destinations}):
        LOG.warning(
            "Destination %s is no longer in the settings, but the store still has its cursor, which"
            " holds up --prune. If it is gone for good, use --forget-destination; if it was"
            " renamed, the new name starts over.",
            name,
        )


class Forwarder:
    """Forwards events to one destination, forever.

    What was read from the store and not sent yet is kept for the next batch.
    """

    def __init__(
        self, destination: Destination, calls: TrackCalls, writer: Writer, metrics: Metrics
    ) -> None:
        self._destination = destination
        self._calls = calls
        self._writer = writer
        self._metrics = metrics
        self._client = Client(destination.url)
        self._thread = ThreadPoolExecutor(1, f"to-{destination.name}")
        self._ours = False
        self._cursor = self._saved = Cursor(0, 0, 0)
        self._unsent: deque[TrackCall] = deque()
        self._read_up_to = 0
        # Of the batches refused as a whole: the first event, the last `seq`.
        self._doubted: TrackCall | None = None
        self._doubted_up_to = 0
        self._at_fault_up_to = 0  # `seq` of the last one before an event that was accepted
        self._next_sync = 0.0
        self._wait = FIRST_WAIT
        self._next_warnings: dict[str, float] = {}
        self._troubled_since: float | None = None

    async def run(self) -> None:
        """Forward events until cancelled."""
        try:
            while True:
                try:
                    await self._go_on()
                except _NotOurs:
                    continue
                except TapError as problem:
                    self._warn("store", "cannot use the store: %s", str(problem).removesuffix("."))
                    self._ours = False  # another collector may have taken over
                    await asyncio.sleep(FIRST_WAIT)
        finally:  # what was sent just now need not be sent again after a restart
            if self._ours:
                self._writer.post(self._save)

    async def _go_on(self) -> None:
        """Send the next batch, or wait for events."""
        await self._sync()
        if not self._ours:
            await asyncio.sleep(SYNC_EVERY)
            return
        batch = self._batch()
        if len(batch) == len(self._unsent):  # there may be room for more
            is_end = not await self._in_thread(self._read_ahead)
            batch = self._batch()
            if not batch and self._doubted:
                if is_end:  # nothing shows that it is an event's fault
                    self._start_over()
                    await self._pause(None)
                return
            if not batch:
                self._advance(self._read_up_to, 0, 0)
                if is_end:
                    await self._sync(now=True)
                    await asyncio.sleep(LOOK_EVERY)
                return
        if self._doubted:
            await asyncio.sleep(FIRST_WAIT)
            if not await self._deliver([self._doubted]):
                self._start_over()
                return
        refused = await self._deliver(batch)
        if len(refused) < len(batch):
            self._succeeded()
            if self._doubted:  # the destination may work only now, so nothing is skipped untried
                self._start_over(self._doubted_up_to)
                return
        elif self._is_doubtful(refused):
            self._warn("all", "rejects every event, such as %s; retrying", batch[0].id)
            self._doubted = self._doubted or batch[0]
            self._doubted_up_to = batch[-1].seq
            for _ in batch:
                self._unsent.popleft()
            return
        if refused:
            self._tell_refused(refused, len(batch))
        for _ in batch:
            self._unsent.popleft()
        upto = batch[-1].seq if self._unsent else self._read_up_to
        self._advance(upto, len(batch) - len(refused), len(refused))

    def _batch(self) -> list[TrackCall]:
        batch: list[TrackCall] = []
        size = 0
        for item in self._unsent:
            size += len(item.body) + 1
            if batch and (len(batch) == MAX_EVENTS or size > MAX_BYTES):
                break
            batch.append(item)
        return batch

    def _read_ahead(self) -> bool:
        """Read more events from the store; whether there were any."""
        before, chosen = self._read_up_to, self._destination.events
        calls, self._read_up_to = self._calls.after(before)
        self._unsent += [call for call in calls if chosen is None or call.kind in chosen]
        return self._read_up_to > before

    def _is_doubtful(self, refused: Sequence[tuple[TrackCall, int]]) -> bool:
        """Whether a batch that is refused as a whole may not be at fault, but the destination.

        Only an event behind it that is accepted can tell, unless it is a single event that is too
        large even for a batch.
        """
        last, status = refused[-1]
        is_too_large = status == 413 and len(last.body) > MAX_BYTES
        return last.seq > self._at_fault_up_to and (self._doubted is not None or not is_too_large)

    def _start_over(self, at_fault_up_to: int = 0) -> None:
        """Go back to the cursor."""
        self._read_up_to = self._cursor.seq
        self._unsent.clear()
        self._doubted, self._at_fault_up_to = None, at_fault_up_to

    def _advance(self, seq: int, sent: int, refused: int) -> None:
        self._cursor = Cursor(seq, self._cursor.sent + sent, self._cursor.refused + refused)

    async def _sync(self, *, now: bool = False) -> None:
        """Save the cursor, learn which collector forwards, and update the metrics."""
        if time.monotonic() < self._next_sync and not (now and self._cursor != self._saved):
            return
        self._next_sync = time.monotonic() + SYNC_EVERY
        was_ours = self._ours
        self._ours, saved, last_seq = await self._writer.run(self._save)
        if self._ours and not was_ours:
            self._cursor = max(saved, self._cursor)
            self._start_over()
        self._saved = self._cursor if was_ours else saved
        shown = self._cursor if self._ours else saved
        lag = max(last_seq - shown.seq, 0)
        self._metrics.forwarded(self._destination.name, lag, shown.sent, shown.refused)
        if was_ours and not self._ours:
            raise _NotOurs

    def _save(self, store: Store) -> tuple[bool, Cursor, int]:
        """Save the cursor if we forward. Returns whether, the saved cursor and the newest `seq`."""
        name = self._destination.name
        ours = store.owns(name)
        if ours and self._ours and self._cursor != self._saved:
            store.save_cursor(name, self._cursor)
        return ours, store.cursors().get(name, Cursor(0, 0, 0)), store.last_seq

    async def _deliver(self, batch: Sequence[TrackCall]) -> list[tuple[TrackCall, int]]:
        """Send a batch; if it is refused, split it up. Returns what is refused, with the status."""
        while True:
            try:
                status = await self._in_thread(self._post, batch)
                break
            except _Retry as problem:
                self._warn(str(problem), "%s; retrying", problem)
                await self._pause(problem.wait)
        if status < 300:
            self._wait = FIRST_WAIT
            return []
        if len(batch) == 1:
            return [(batch[0], status)]
        half = len(batch) // 2
        return [*await self._deliver(batch[:half]), *await self._deliver(batch[half:])]

    async def _pause(self, asked: float | None) -> None:
        """Wait for a growing time, or for longer if asked, and keep reporting the lag meanwhile."""
        own = self._wait * random.uniform(0.7, 1)
        self._wait = min(self._wait * 2, MAX_WAIT)
        end = time.monotonic() + max(own, min(asked or 0.0, MAX_RETRY_AFTER))
        while (rest := end - time.monotonic()) > 0:
            with contextlib.suppress(TapError):
                await self._sync()
            await asyncio.sleep(min(rest, SYNC_EVERY))

    def _post(self, batch: Sequence[TrackCall]) -> int:
        """The status of a final response. Raises _Retry otherwise."""
        now = rfc3339(datetime.now(timezone.utc))
        body = b",".join(item.body for item in batch)
        try:
            response = self._client.send(
                "POST",
                "/batch",
                b'{"batch":[%s],"sentAt":"%s"}' % (body, now.encode()),
                headers={"Content-Type": "application/json"},
                auth=(self._destination.write_key, ""),
            )
        except NoResponse as problem:
            raise _Retry(str(problem)) from None
        status = response.status
        if status < 300 or (400 <= status < 500 and status not in WHOLE_REQUEST):
            return status
        advice = f", so check its {TO_CHECK[status]}" if status in TO_CHECK else ""
        raise _Retry(f"HTTP {status}{advice}", retry_after(response.headers.get("Retry-After")))

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _tell_refused(self, refused: Sequence[tuple[TrackCall, int]], of: int) -> None:
        """Log the events that are skipped: always, because they are lost."""
        item, status = refused[0]
        LOG.warning(
            f"Destination {self._destination.name}: skipped %d of %d events, which it rejected"
            " (HTTP %d); the first one's messageId is %s.",
            len(refused), of, status, item.id,
        )  # fmt: skip

    def _warn(self, kind: str, text: str, *arguments: object) -> None:
        """Log a problem; the same kind at most once a minute."""
        now = time.monotonic()
        if self._troubled_since is None:
            self._troubled_since = now
        if now >= self._next_warnings.get(kind, 0.0):
            self._next_warnings[kind] = now + WARN_EVERY
            LOG.warning(f"Destination %s: {text}.", self._destination.name, *arguments)

    def _succeeded(self) -> None:
        self._wait = FIRST_WAIT
        if self._troubled_since is not None:
            seconds = time.monotonic() - self._troubled_since
            self._troubled_since = None
            self._next_warnings.clear()
            LOG.info("Destination %s: works again, after %.0f s.", self._destination.name, seconds)
