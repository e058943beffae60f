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
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import NamedTuple

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


class _Retry(Exception):
    """An attempt failed; a retry may succeed. The destination asked for `wait` seconds, if any."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _NotOurs(Exception):
    """Another collector forwards to this destination now."""


class _Doubt(NamedTuple):
    """Batches that were refused as a whole: their first event, and the last one's `seq`."""

    first: TrackCall
    up_to: int


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
            " renamed, change it back, or what it has not received yet may never be sent.",
            name,
        )


class Forwarder:
    """Forwards events to one destination, forever.

    What was read from the store and not sent yet is kept for the next batch.
    """

    def __init__(
        self, destination: Destination, calls: TrackCalls, writer: Writer, metrics: Metrics
    ) -> None:
        self._chosen = destination.events
        self._calls = calls
        self._progress = _Progress(destination.name, writer, metrics)
        self._delivery = _Delivery(destination, self._progress.sync)
        self._unsent: deque[TrackCall] = deque()
        self._read_up_to = 0
        self._doubt: _Doubt | None = None
        self._at_fault_up_to = 0  # `seq` of the last one before an event that was accepted

    async def run(self) -> None:
        """Forward events until cancelled."""
        try:
            while True:
                try:
                    await self._go_on()
                except _NotOurs:
                    continue
                except TapError as problem:
                    reason = str(problem).removesuffix(".")
                    self._delivery.warn("store", "cannot use the store: %s", reason)
                    self._progress.is_ours = False  # another collector may have taken over
                    await asyncio.sleep(FIRST_WAIT)
        finally:  # what was sent just now need not be sent again after a restart
            self._progress.save_last()

    async def _go_on(self) -> None:
        """Send the next batch, or wait for events."""
        if await self._progress.sync():
            self._start_over()
        if not self._progress.is_ours:
            await asyncio.sleep(SYNC_EVERY)
            return
        batch = self._batch()
        if len(batch) == len(self._unsent):  # there may be room for more
            is_end = not await asyncio.to_thread(self._read_ahead)
            batch = self._batch()
            if not batch:
                await self._wait(is_end)
                return
        if not batch[0].body:
            self._skip_pruned(batch)
            return
        if self._doubt is not None:
            await asyncio.sleep(FIRST_WAIT)
            if not await self._delivery.send([self._doubt.first]):  # it was the destination's fault
                self._start_over()
                return
        await self._send(batch)

    async def _wait(self, is_end: bool) -> None:
        """Go on without a batch, because what was read has nothing to send."""
        if self._doubt is None:
            self._progress.advance(self._read_up_to)
            if is_end:
                await self._progress.sync(now=True)
                await asyncio.sleep(LOOK_EVERY)
        elif is_end:  # nothing shows that it is an event's fault
            self._start_over()
            await self._delivery.pause()

    async def _send(self, batch: Sequence[TrackCall]) -> None:
        """Send a batch, and skip what is refused of it, unless it is in doubt."""
        refused = await self._delivery.send(batch)
        is_accepted = len(refused) < len(batch)
        if is_accepted and (self._doubt is not None or await self._send_again(batch, refused)):
            # The destination may work only now, so nothing is skipped untried.
            self._start_over(0 if self._doubt is None else self._doubt.up_to)
            return
        for _ in batch:
            self._unsent.popleft()
        if not is_accepted and self._is_doubtful(*refused[-1]):
            self._delivery.failed("all", "rejects every event, such as %s; retrying", batch[0].id)
            first = batch[0] if self._doubt is None else self._doubt.first
            self._doubt = _Doubt(first, batch[-1].seq)
            return
        if refused:
            self._delivery.tell_refused(refused, len(batch))
        up_to = batch[-1].seq if self._unsent else self._read_up_to
        self._progress.advance(up_to, len(batch) - len(refused), len(refused))

    def _skip_pruned(self, pruned: Sequence[TrackCall]) -> None:
        """Skip what cannot be sent anymore; while there is a doubt, it will be read again."""
        for _ in pruned:
            self._unsent.popleft()
        if self._doubt is None:
            text = "skips events that were pruned before they were forwarded, such as event %d"
            self._delivery.warn("pruned", text, pruned[0].seq)
            up_to = pruned[-1].seq if self._unsent else self._read_up_to
            self._progress.advance(up_to, refused=len(pruned))

    def _batch(self) -> list[TrackCall]:
        """The first events, either such that were pruned or such that can be sent."""
        batch: list[TrackCall] = []
        size = 0
        for item in self._unsent:
            size += len(item.body) + 1
            is_full = len(batch) == MAX_EVENTS or size > MAX_BYTES
            if batch and (is_full or bool(item.body) != bool(batch[0].body)):
                break
            batch.append(item)
        return batch

    def _read_ahead(self) -> bool:
        """Read more events from the store; whether there were any."""
        before, chosen = self._read_up_to, self._chosen
        calls, self._read_up_to = self._calls.after(before)
        self._unsent += [call for call in calls if chosen is None or call.kind in chosen]
        return self._read_up_to > before

    def _is_doubtful(self, last: TrackCall, status: int) -> bool:
        """Whether the destination may be at fault, and not a batch that it refused as a whole.

        Only an event behind it that is accepted can tell, unless it is a single event that is too
        large even for a batch.
        """
        is_too_large = status == 413 and len(last.body) > MAX_BYTES
        return last.seq > self._at_fault_up_to and (self._doubt is not None or not is_too_large)

    async def _send_again(
        self, batch: Sequence[TrackCall], refused: Sequence[tuple[TrackCall, int]]
    ) -> bool:
        """Send what was refused again if others were accepted later; whether some of it now is."""
        if not refused or refused[0][0] is not batch[0]:
            return False
        return len(await self._delivery.send([call for call, _ in refused])) < len(refused)

    def _start_over(self, at_fault_up_to: int = 0) -> None:
        """Go back to the cursor."""
        self._read_up_to = self._progress.cursor.seq
        self._unsent.clear()
        self._doubt, self._at_fault_up_to = None, at_fault_up_to


class _Progress:
    """A destination's cursor, and whether this collector, of all that share the store, forwards."""

    def __init__(self, name: str, writer: Writer, metrics: Metrics) -> None:
        self.is_ours = False
        self.cursor = self._saved = Cursor(0, 0, 0)
        self._name = name
        self._writer = writer
        self._metrics = metrics
        self._next_sync = 0.0

    def advance(self, seq: int, sent: int = 0, refused: int = 0) -> None:
        """Move the cursor to this `seq`, past events that were sent or refused."""
        self.cursor = Cursor(seq, self.cursor.sent + sent, self.cursor.refused + refused)

    async def sync(self, *, now: bool = False) -> bool:
        """Save the cursor, learn which collector forwards, and update the metrics.

        Returns whether we have just taken over, from the saved cursor. Raises _NotOurs if another
        collector has.
        """
        if time.monotonic() < self._next_sync and not (now and self.cursor != self._saved):
            return False
        self._next_sync = time.monotonic() + SYNC_EVERY
        was_ours = self.is_ours
        self.is_ours, saved, last_seq, oldest = await self._writer.run(self._save)
        is_new = self.is_ours and not was_ours
        if is_new:
            self.cursor = max(saved, self.cursor)
        self._saved = self.cursor if was_ours else saved
        shown = self.cursor if self.is_ours else saved
        lag = max(last_seq - shown.seq, 0)
        self._metrics.forwarded(self._name, lag, oldest, shown.sent, shown.refused)
        if was_ours and not self.is_ours:
            raise _NotOurs
        return is_new

    def save_last(self) -> None:
        """Have the cursor saved, if we forward."""
        if self.is_ours:
            self._writer.post(self._save)

    def _save(self, store: Store) -> tuple[bool, Cursor, int, int | None]:
        """Save the cursor if we forward.

        Returns whether, the saved cursor, the newest `seq`, and when the next event was received.
        """
        is_ours = store.owns(self._name)
        if is_ours and self.is_ours and self.cursor != self._saved:
            store.save_cursor(self._name, self.cursor)
        saved = store.cursors().get(self._name, Cursor(0, 0, 0))
        return is_ours, saved, store.last_seq, store.next_received_at(saved.seq)


class _Delivery:
    """Sends batches to a destination, retrying, and logs its troubles.

    While it waits, it calls `meanwhile` about once a second.
    """

    def __init__(
        self, destination: Destination, meanwhile: Callable[[], Awaitable[object]]
    ) -> None:
        self._name = destination.name
        self._auth = (destination.write_key, "")
        self._meanwhile = meanwhile
        self._client = Client(destination.url)
        self._thread = ThreadPoolExecutor(1, f"to-{destination.name}")
        self._next_wait = FIRST_WAIT
        self._next_warnings: dict[str, float] = {}
        self._failing_since: float | None = None

    async def send(self, batch: Sequence[TrackCall]) -> list[tuple[TrackCall, int]]:
        """Send a batch; if it is refused, split it up. Returns what is refused, with the status."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                status = await loop.run_in_executor(self._thread, self._post, batch)
                break
            except _Retry as problem:
                self.failed(str(problem), "%s; retrying", problem)
                await self.pause(problem.wait)
        if status < 300:
            self._succeeded()
            return []
        if len(batch) == 1:
            return [(batch[0], status)]
        half = len(batch) // 2
        return [*await self.send(batch[:half]), *await self.send(batch[half:])]

    async def pause(self, asked: float | None = None) -> None:
        """Wait for a growing time, or for longer if asked."""
        own = self._next_wait * random.uniform(0.7, 1)
        self._next_wait = min(self._next_wait * 2, MAX_WAIT)
        end = time.monotonic() + max(own, min(asked or 0.0, MAX_RETRY_AFTER))
        while (rest := end - time.monotonic()) > 0:
            with contextlib.suppress(TapError):
                await self._meanwhile()
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
                auth=self._auth,
            )
        except NoResponse as problem:
            raise _Retry(str(problem)) from None
        status = response.status
        if status < 300 or (400 <= status < 500 and status not in WHOLE_REQUEST):
            return status
        advice = f", so check its {TO_CHECK[status]}" if status in TO_CHECK else ""
        raise _Retry(f"HTTP {status}{advice}", retry_after(response.headers.get("Retry-After")))

    def tell_refused(self, refused: Sequence[tuple[TrackCall, int]], of: int) -> None:
        """Log the events that are skipped: always, because they are lost."""
        item, status = refused[0]
        LOG.warning(
            "Destination %s: skipped %d of %d events, which it rejected (HTTP %d); the first one's"
            " messageId is %s.",
            self._name, len(refused), of, status, item.id,
        )  # fmt: skip

    def failed(self, kind: str, text: str, *arguments: object) -> None:
        """Warn of a problem of the destination; `_succeeded` logs when it is over."""
        if self._failing_since is None:
            self._failing_since = time.monotonic()
        self.warn(kind, text, *arguments)

    def warn(self, kind: str, text: str, *arguments: object) -> None:
        """Log a problem; the same kind at most once a minute."""
        now = time.monotonic()
        if now >= self._next_warnings.get(kind, 0.0):
            self._next_warnings[kind] = now + WARN_EVERY
            LOG.warning(f"Destination %s: {text}.", self._name, *arguments)

    def _succeeded(self) -> None:
        self._next_wait = FIRST_WAIT
        if self._failing_since is not None:
            seconds = time.monotonic() - self._failing_since
            self._failing_since = None
            self._next_warnings.clear()
            LOG.info("Destination %s: works again, after %.0f s.", self._name, seconds)
