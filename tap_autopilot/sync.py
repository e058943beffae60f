"""The sync: walks in, messages out, and the state in between."""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tap_autopilot.client import Api, Client
from tap_autopilot.config import Config
from tap_autopilot.exceptions import Refused, RunError, TapError
from tap_autopilot.messages import Writer, message, records
from tap_autopilot.selection import Selected, select
from tap_autopilot.shape import Row, compile_shape, compile_since, find_key
from tap_autopilot.state import MEMBERS, Progress
from tap_autopilot.streams import Stream
from tap_autopilot.tally import Tally
from tap_autopilot.walks import SEGMENTS, Failure, Page, Pool, members_of

LOG = logging.getLogger(__name__)

STOP_WITHIN = 4.0  # seconds from a signal to the end, whatever hangs
GARBAGE_EVERY = 100_000  # new objects; rows and documents hold no cycles, so there is little of it
METRICS_EVERY = 60.0  # seconds
MOST_FAILED_SEGMENTS = 10  # after these, the others are not tried in this run


def sync(config: Config, catalog: Any, state: Any, stdout: int) -> None:
    """Read the selected streams and write their messages to the descriptor `stdout`.

    Returns where every one is complete, and raises TapError where not; the last message is a
    STATE either way.
    """
    gc.set_threshold(GARBAGE_EVERY)
    selected = select(catalog)
    progress = Progress(
        state,
        [one.stream for one in selected],
        versions=config.emit_activate_version_messages,
        start_date=config.start_date,
    )
    api = Api(config)
    run = _Run(
        writer=Writer(stdout),
        progress=progress,
        pool=Pool(config.concurrency, lambda: Client(api)),
        tables={one.stream.name: _Table.of(one, config.start_date) for one in selected},
    )
    try:
        with _signals(run.pool):
            run.begin(selected)
            run.read()
            run.end()
    finally:
        run.report(api)


@dataclass(frozen=True)
class _Table:
    """A selected stream at work."""

    stream: type[Stream]
    shape: Callable[[Any], Row | None]
    since: Callable[[Any], bool] | None
    tally: Tally

    @classmethod
    def of(cls, one: Selected, start_date: datetime | None) -> _Table:
        stream, tally = one.stream, Tally(one.stream.name)
        shape = compile_shape(one.schema, one.selected, stream.key_properties, tally)
        since = None
        if start_date is not None and stream.changed:
            since = compile_since(stream.changed, start_date)
        return cls(stream, shape, since, tally)

    def rows(self, page: Page) -> list[Row]:
        documents = page.documents
        if self.since is not None:
            documents = list(filter(self.since, documents))
        return self.stream.rows(documents, self.shape)


@dataclass
class _Run:
    writer: Writer
    progress: Progress
    pool: Pool
    tables: dict[str, _Table]
    failures: dict[str, list[TapError]] = field(default_factory=dict)
    segment_ids: list[str] = field(default_factory=list)
    measured: float = field(default_factory=time.monotonic)
    reported: dict[str, int] = field(default_factory=dict)

    def begin(self, selected: list[Selected]) -> None:
        schemas = [
            message(
                {
                    "type": "SCHEMA",
                    "stream": one.stream.name,
                    "schema": one.selected,
                    "key_properties": one.stream.key_properties,
                }
            )
            for one in selected
        ]
        self.writer.write([*schemas, self._state()])
        if selected:
            LOG.info("Reading %s.", ", ".join(self.tables))

    def read(self) -> None:
        for walk, start in self.progress.walks():
            self.pool.add(walk, start)
        importlib.import_module("singer.metrics")  # takes a while, but the first answers do too
        for result in self.pool.results():
            if isinstance(result, Failure):
                self._fail(result)
            else:
                self._write(result)
            if time.monotonic() - self.measured > METRICS_EVERY:
                self._measure()

    def _write(self, page: Page) -> None:
        """Write a page: its rows in all tables that it feeds, and the state behind them."""
        lines: list[bytes] = []
        walk = page.walk
        names = [MEMBERS] if walk.segment_id is not None else self.progress.unfinished(walk)
        for name in names:
            table = self.tables[name]
            skipped = table.tally.skipped
            rows = table.rows(page)
            lines += records(name, rows, self.progress.version(name))
            table.tally.rows += len(rows)
            table.tally.clean(page.cleaned)
            if table.tally.skipped > skipped:
                self.progress.add_doubt(name, "documents were skipped")
        self.progress.advance(page)
        if walk.kind == SEGMENTS.kind and self.progress.needs_members():
            self._find_segments(page)
            names = [*names, MEMBERS]  # complete already where there is no segment
        for name in names:
            if page.after is None and page.total is not None and page.seen < page.total:
                self.progress.add_doubt(name, "fewer were read than the API promised")
            lines += self._activation(name)
        self.writer.write([*lines, self._state()])

    def _find_segments(self, page: Page) -> None:
        """Collect the ids of the segments, and once all are known read their members."""
        for document in page.documents:
            segment_id = find_key(document, "segment_id")
            if segment_id is not None:
                self.segment_ids.append(segment_id)
            else:
                self.tables[MEMBERS].tally.skip("its segment has no segment_id")
                self.progress.add_doubt(MEMBERS, "documents were skipped")
        if page.after is None:
            for segment_id, start in self.progress.segments(self.segment_ids):
                self.pool.add(members_of(segment_id), start)

    def _activation(self, name: str) -> list[bytes]:
        """The ACTIVATE_VERSION that ends a stream's pass, unless there is a doubt about it."""
        if not self.progress.is_complete(name):
            return []
        version, doubt = self.progress.version(name), self.progress.doubt(name)
        if doubt:
            LOG.warning("%s: %s; rows that are gone are not removed.", name, doubt)
        if doubt or version is None:
            return []
        return [message({"type": "ACTIVATE_VERSION", "stream": name, "version": version})]

    def _fail(self, failure: Failure) -> None:
        walk, error = failure.walk, failure.error
        if walk.segment_id is None:
            LOG.error("%s", error)
            for name in self.progress.unfinished(walk):
                self.failures.setdefault(name, []).append(error)
            if walk.kind == SEGMENTS.kind and self.progress.needs_members():
                self.failures.setdefault(MEMBERS, []).append(error)
        elif isinstance(error, Refused) and error.status == 404:
            LOG.warning("Segment %.80r is gone, so it has no members.", walk.segment_id)
            self.progress.add_doubt(MEMBERS, "a segment was gone")
            self.progress.skip_segment(walk.segment_id)
            self.writer.write([*self._activation(MEMBERS), self._state()])
        else:
            LOG.error("%s", error)
            failures = self.failures.setdefault(MEMBERS, [])
            failures.append(error)
            if len(failures) == MOST_FAILED_SEGMENTS:
                LOG.error("%d segments failed; the others are not tried.", len(failures))
                self.pool.cancel(walk.kind)

    def end(self) -> None:
        """Write the last STATE; raise RunError if a stream is not complete."""
        self.progress.finish()
        self.writer.write([self._state()])
        if self.failures:
            parts = [
                f"{name} ({errors[0]}"
                + (f" And {len(errors) - 1} more" if errors[1:] else "")
                + ")"
                for name, errors in self.failures.items()
            ]
            problem = RunError(f"Not complete: {', '.join(parts)}.")
            problem.exit_code = max(
                error.exit_code for errors in self.failures.values() for error in errors
            )
            raise problem

    def report(self, api: Api) -> None:
        """Say what the run came to: rows of each stream, requests, and all that was not smooth."""
        self._measure()
        for name, table in self.tables.items():
            traffic = api.traffic[table.stream.walk]
            parts = [str(table.tally), f"requests: {traffic.requests}"]
            if traffic.retries:
                parts.append(f"retries: {traffic.retries}")
            if traffic.throttled:
                parts.append(f"throttled for {traffic.throttled:.1f} s")
            if not self.progress.is_complete(name):
                parts.append("NOT complete")
            LOG.info("%s: %s.", name, ", ".join(parts))

    def _measure(self) -> None:
        from singer import metrics

        for name, table in self.tables.items():
            new = table.tally.rows - self.reported.get(name, 0)
            self.reported[name] = table.tally.rows
            tags = {metrics.Tag.endpoint: name}
            point = metrics.Point("counter", metrics.Metric.record_count, new, tags)
            metrics.log(LOG, point)
        self.measured = time.monotonic()

    def _state(self) -> bytes:
        return message({"type": "STATE", "value": self.progress.value()})


@contextlib.contextmanager
def _signals(pool: Pool) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the run after the page under way, and a second one at once."""
    stopping = False

    def stop(signal_number: int, _: object) -> None:
        nonlocal stopping
        if stopping:
            os._exit(128 + signal_number)
        stopping = True
        pool.stop(signal_number, signal.Signals(signal_number).name)
        last = threading.Timer(STOP_WITHIN, os._exit, [128 + signal_number])
        last.daemon = True
        last.start()

    before = {one: signal.signal(one, stop) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
