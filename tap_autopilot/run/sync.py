"""The sync: walks in, messages out, and the state in between."""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from tap_autopilot import logs
from tap_autopilot.api.client import Api, Client
from tap_autopilot.config import Config
from tap_autopilot.exceptions import Refused, RunError, Stopped, TapError
from tap_autopilot.protocol.catalog import discover
from tap_autopilot.protocol.messages import Writer, message, records
from tap_autopilot.protocol.selection import Selected, select
from tap_autopilot.protocol.state import MEMBERS, Progress
from tap_autopilot.rows.changed import Window
from tap_autopilot.rows.shape import Row, as_key, compile_pick
from tap_autopilot.rows.tally import Tally
from tap_autopilot.sources.custom_fields import read_definitions
from tap_autopilot.sources.listings import SEGMENTS, Failure, Page, members_of
from tap_autopilot.sources.pool import Pool
from tap_autopilot.streams import Rows, Stream

if TYPE_CHECKING:
    from tap_autopilot.run.terminal import Live

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
    api = Api(config)
    selected = select(catalog, discover())
    if config.custom_fields_as_columns and any(one.stream.name == "contacts" for one in selected):
        selected = select(catalog, discover(read_definitions(api)))
    progress = Progress(
        state,
        [one.stream for one in selected],
        incremental=[one.stream.name for one in selected if one.incremental],
        versions=config.emit_activate_version_messages,
        start_date=config.start_date,
    )
    run = _Run(
        api=api,
        writer=Writer(stdout),
        progress=progress,
        pool=Pool(config.concurrency, lambda: Client(api)),
        tables={
            one.stream.name: _Table.of(one, progress.window(one.stream.name)) for one in selected
        },
        pick=compile_pick({field for one in selected for field in one.stream.reads}),
    )
    try:
        with _signals(run.pool):
            run.begin(selected)
            run.read()
            run.end()
    finally:
        run.report()


@dataclass(frozen=True)
class _Table:
    """A selected stream at work."""

    stream: type[Stream]
    rows: Rows
    tally: Tally
    window: Window | None

    @classmethod
    def of(cls, one: Selected, window: Window | None) -> _Table:
        tally = Tally(one.stream.name)
        rows = one.stream.compile(one.schema, one.selected, tally, window)
        return cls(one.stream, rows, tally, window)


@dataclass
class _Run:
    api: Api
    writer: Writer
    progress: Progress
    pool: Pool
    tables: dict[str, _Table]
    pick: Callable[[Any], Row]
    failures: dict[str, list[TapError]] = field(default_factory=dict)
    segment_ids: list[str] = field(default_factory=list)
    measured: float = field(default_factory=time.monotonic)
    reported: dict[str, int] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)  # of what a stream holds, if known
    live: Live | None = None

    def begin(self, selected: list[Selected]) -> None:
        schemas = [
            message(
                {
                    "type": "SCHEMA",
                    "stream": one.stream.name,
                    "schema": one.selected,
                    "key_properties": one.stream.key_properties,
                }
                | ({"bookmark_properties": [one.stream.replication_key]} if one.incremental else {})
            )
            for one in selected
        ]
        self.writer.write([*schemas, self._state()])
        if selected:
            LOG.info("Reading %s.", ", ".join(self.tables))
            self.live = _live(list(self.tables))

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
                LOG.info("So far: %s.", ", ".join(map(self._so_far, self.tables)))

    def _write(self, page: Page) -> None:
        """Write a page: its rows in all tables that it feeds, and the state behind them."""
        lines: list[bytes] = []
        walk = page.walk
        names = [MEMBERS] if walk.segment_id is not None else self.progress.unfinished(walk)
        reads = any(self.tables[name].stream.reads for name in names)
        parts = list(map(self.pick, page.documents)) if reads else []
        for name in names[:1]:
            self.tables[name].tally.clean(page.cleaned)
        for name in names:
            table = self.tables[name]
            skipped = table.tally.skipped
            rows = table.rows(parts if table.stream.reads else page.documents)
            lines += records(name, rows, self.progress.version(name))
            table.tally.rows += len(rows)
            self.progress.note_newest(name, table.window)
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
            self._note_share(name, page)
        self.writer.write([*lines, self._state()])

    def _note_share(self, name: str, page: Page) -> None:
        """Note how much of a stream is read, and show it where somebody looks."""
        if self.progress.is_complete(name):
            self.shares[name] = 1.0
        elif page.walk.segment_id is None and page.total:
            self.shares[name] = page.seen / page.total
        if self.live is not None:
            rows, share = self.tables[name].tally.rows, self.shares.get(name)
            self.live.show(name, rows, share, throttled=self.api.pacer.is_throttled())

    def _so_far(self, name: str) -> str:
        share = f" ({min(self.shares[name], 1):.0%})" if name in self.shares else ""
        return f"{name} {self.tables[name].tally.rows} rows{share}"

    def _find_segments(self, page: Page) -> None:
        """Collect the ids of the segments, and once all are known read their members."""
        pick = compile_pick(["segment_id"])
        for document in page.documents:
            segment_id = as_key(pick(document).get("segment_id"))
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
            so = "rows that are gone are not removed"
            if self.progress.is_incremental(name):
                so = "its bookmark stays where it was"
            LOG.warning("%s: %s; %s.", name, doubt, so)
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
            causes: dict[str, list[str]] = {}
            for name, errors in self.failures.items():
                more = f" And {len(errors) - 1} more" if errors[1:] else ""
                causes.setdefault(f"{errors[0]}{more}", []).append(name)
            parts = [f"{', '.join(names)} ({cause})" for cause, names in causes.items()]
            problem = RunError(f"Not complete: {'; '.join(parts)}.")
            problem.exit_code = max(
                error.exit_code for errors in self.failures.values() for error in errors
            )
            raise problem

    def report(self) -> None:
        """Say what the run came to: rows of each stream, requests, and all that was not smooth."""
        self._measure()
        lines = []
        told = set()
        for name, table in self.tables.items():
            notes = table.tally.notes()
            if table.stream.walk not in told:
                notes.append(str(self.api.traffic[table.stream.walk]))
                told.add(table.stream.walk)
            if not self.progress.is_complete(name):
                notes.append("NOT complete")
            lines.append((name, table.tally.rows, ", ".join(notes)))
        if self.live is not None:
            self.live.close(lines)
        else:
            for name, rows, notes_text in lines:
                LOG.info("%s: %s.", name, ", ".join(filter(None, (f"{rows} rows", notes_text))))

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


def _end_at_once(stopped: Stopped) -> NoReturn:
    """End the process though something hangs, with the line that ends every failed run."""
    logs.write_last(str(stopped))
    os._exit(stopped.exit_code)


def _live(streams: list[str]) -> Live | None:
    """Live lines for these streams, where stderr is a terminal and its lines are for people."""
    if not (sys.stderr.isatty() and logs.are_for_people()):
        return None
    try:  # the library reads settings of its own from the environment
        from tap_autopilot.run.terminal import Live  # takes a while, and no other run needs it

        return Live(streams)
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def _signals(pool: Pool) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the run after the page under way, and a second one at once."""
    stopping = False

    def stop(signal_number: int, _: object) -> None:
        nonlocal stopping
        stopped = Stopped(signal_number, signal.Signals(signal_number).name)
        if stopping:
            _end_at_once(stopped)
        stopping = True
        pool.stop(stopped)
        last = threading.Timer(STOP_WITHIN, _end_at_once, [stopped])
        last.daemon = True
        last.start()

    before = {one: signal.signal(one, stop) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
