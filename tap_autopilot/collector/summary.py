"""Summarizes what pushed events say about email messages.

A run of the tap that reads only new events needs to know what all others said about the same
messages. A store keeps that in a few rows for each message, except for its newest events.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable

from tap_autopilot.collector.names import table_of
from tap_autopilot.collector.reader import MAX_BYTES, Event, Reader
from tap_autopilot.collector.remnant import remains
from tap_autopilot.collector.store import Store
from tap_autopilot.collector.writer import Writer
from tap_autopilot.exceptions import TapError

EVERY = 10.0  # seconds
MAX_RECENT = 10_000  # events without a summary, which readers read
BUSY = 10_000  # new events in EVERY, during which the processor has better things to do
SLICE = 500  # events
SLICES = 100  # at most, each time
SAVE_SLICE = 2000  # descriptions of messages, each on another page of a large summary


class Summary:
    """What the events up to `up_to` say, after those of an earlier summary, up to `after`.

    `messages` has the first and last time, in epoch milliseconds, of each description of a message.
    The times of `undated` events are not clear from their timestamps alone.
    """

    def __init__(self, after: int) -> None:
        self.after = self.up_to = after
        self.messages: dict[bytes, tuple[int, int]] = {}
        self.undated: list[int] = []
        self.size = 0  # bytes of the messages

    def add(self, event: Event) -> None:
        """Add what the next event says."""
        self.up_to = event.seq
        if event.source != "segment" or table_of(event.source, event.name) is None:
            return
        _, at, message, _ = remains(event.source, event.body)
        if message is None:
            return
        if at is None:
            self.undated.append(event.seq)
        else:
            if message not in self.messages:
                self.size += len(message)
            first, last = self.messages.get(message, (at, at))
            self.messages[message] = min(first, at), max(last, at)

    def save(self, store: Store) -> bool:
        """Add some of this to what the store has; whether there is more.

        It has each description with a digest and its times. Nothing is added if the earlier summary
        has gone meanwhile, with a person who was erased.
        """
        if store.summarized_up_to != self.after:
            return False
        some = [self.messages.popitem() for _ in range(min(SAVE_SLICE, len(self.messages)))]
        rows = [
            (hashlib.blake2b(message, digest_size=16).digest(), message, *times)
            for message, times in sorted(some)
        ]
        if self.messages:  # those saved so far do no harm, since they will be saved again
            store.save_summary(self.after, self.after, rows, ())
            return True
        store.save_summary(self.after, self.up_to, rows, self.undated)
        return False


class Summarizer:
    """Keeps a store's summary up to date while the collector has little else to do."""

    def __init__(self, open_reader: Callable[[], Reader], writer: Writer) -> None:
        self._open_reader = open_reader
        self._writer = writer
        self._last = 0

    async def run(self) -> None:
        """Summarize events until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            with contextlib.suppress(TapError):  # the writer tells of it
                await self._go_on()

    async def _go_on(self) -> None:
        before = self._last
        self._last, done = await self._writer.run(
            lambda store: (store.last_seq, store.summarized_up_to)
        )
        if self._last - before <= BUSY and self._last - done > MAX_RECENT:
            summary = await asyncio.to_thread(self._summary, done)
            while await self._writer.run(summary.save):
                pass

    def _summary(self, after: int) -> Summary:
        """A summary of some events after this `seq`; half of the time is for what comes in."""
        summary = Summary(after)
        with self._open_reader() as reader:
            for _ in range(SLICES):
                began = time.monotonic()
                events = reader.read(summary.up_to, SLICE)
                for event in events:
                    summary.add(event)
                if not events or summary.size > MAX_BYTES:
                    break
                time.sleep(time.monotonic() - began)
        return summary
