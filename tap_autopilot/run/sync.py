"""The sync: pages in, messages out, and the state in between."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from tap_autopilot.api.client import Api, Client
from tap_autopilot.config import Config
from tap_autopilot.exceptions import Gone, Refused, RunError
from tap_autopilot.protocol.messages import Writer, message
from tap_autopilot.protocol.progress import Progress
from tap_autopilot.protocol.resuming import APPEND_ONLY, complete_first
from tap_autopilot.protocol.selection import Selected
from tap_autopilot.protocol.state import Pass, State
from tap_autopilot.run import signals
from tap_autopilot.run.failures import Failures
from tap_autopilot.run.monitor import Monitor
from tap_autopilot.run.prepare import pushed_events, selected_streams, sending, start_passes
from tap_autopilot.run.records import Records
from tap_autopilot.run.report import Report
from tap_autopilot.run.sending import Sending
from tap_autopilot.sources.listings import Failure, Page
from tap_autopilot.sources.pool import NotTried, Pool
from tap_autopilot.streams import COLLECTED, DIGESTS
from tap_autopilot.streams.membership_changes import MEMBERSHIPS

if TYPE_CHECKING:
    from tap_autopilot.pushed.events import PushedEvents

LOG = logging.getLogger(__name__)

SWITCH_EVERY = 0.002  # seconds that a walk's next request may wait while rows are being made
MAX_WAITING = 2**24  # bytes of lines; more are written before the STATE that covers them
MAX_FAILED_SEGMENTS = 10  # in a row; the remaining segments are left for the next run


def sync(
    config: Config,
    catalog: Any,
    state: State,
    stdout: int,
    report: Report,
    *,
    quiet: bool = False,
) -> None:
    """Read the selected streams and write their messages to the descriptor `stdout`.

    Returns if every stream is complete, and raises TapError otherwise. Either way the last message
    is a STATE, unless the run fails before it has written anything, or stdout takes no more.
    `quiet` turns live progress off.
    """
    sys.setswitchinterval(SWITCH_EVERY)
    api = Api(config)
    selected = complete_first(selected_streams(config, catalog, api), state)
    with contextlib.closing(sending(api, selected)) as sends:
        pushed = pushed_events(config, selected, sends.tallies)
        progress = start_passes(config, state, selected, pushed, sends)
        run = _Run(api, selected, progress, pushed, sends, Writer(stdout))
        report.facts = lambda: run.monitor.facts(run.incomplete())
        try:
            with signals.graceful_stop(run.pool.stop, run.writer, report.end):
                run.start(quiet=quiet)
                run.read()
                run.end()
        finally:
            run.sum_up()


class _Run:
    """One run, page by page."""

    def __init__(
        self,
        api: Api,
        selected: list[Selected],
        progress: Progress,
        pushed: PushedEvents | None,
        sends: Sending,
        writer: Writer,
    ) -> None:
        config, tallies = api.config, sends.tallies
        self._selected, self._progress, self._pushed = selected, progress, pushed
        self._sends, self.writer = sends, writer
        self._streams = {table.name: table.stream for table in selected}
        self._derived = {
            name for name, stream in self._streams.items() if DIGESTS in stream.sources
        }
        self.monitor = Monitor(self._streams, tallies, api, writer)
        self.pool = Pool(config.concurrency, lambda: Client(api), check_totals=config.check_totals)
        self._state = b""
        self._records = Records(selected, progress, pushed, sends)
        self._failures = Failures()
        self._failed_in_a_row = 0

    def start(self, *, quiet: bool) -> None:
        """Write the SCHEMA messages and a first STATE."""
        schemas = []
        for table in self._selected:
            schema: dict[str, Any] = {
                "type": "SCHEMA",
                "stream": table.name,
                "schema": self._sends.schema(table),
                "key_properties": table.stream.key_properties,
            }
            if table.incremental:
                schema["bookmark_properties"] = [table.stream.replication_key]
            schemas.append(message(schema))
        self._write(schemas)
        if self._selected:
            self.monitor.start(self.incomplete(), quiet=quiet)

    def read(self) -> None:
        """Write pushed events, then the pages of all walks as they arrive.

        Pushed events come first because they show which of the contacts' events were also pushed.
        """
        for walk, start in self._progress.walks():
            self.pool.add(walk, start)
        self.monitor.prepare()
        if self._pushed is not None:
            self._write_pushed(self._pushed)
        for result in self.pool.results():
            if isinstance(result, Failure):
                self._fail(result)
            else:
                self._write_page(result)

    def end(self) -> None:
        """Write the last STATE. Raises RunError if a stream is not complete."""
        self._progress.finish()
        self._write([])
        self._failures.check()

    def sum_up(self) -> None:
        """Conclude the streams that are made from others, and log the summary."""
        incomplete = self.incomplete()
        for name in self._derived - incomplete:
            self.monitor.conclude(name, APPEND_ONLY)
        self.monitor.close(incomplete)

    def incomplete(self) -> set[str]:
        """The incomplete streams, including those derived from them."""
        names = self._progress.incomplete()
        return names | self._derived if names & set(MEMBERSHIPS) else names

    def _write(self, lines: list[bytes]) -> None:
        state = message({"type": "STATE", "value": self._progress.value(self._sends.save())})
        self.writer.write([*lines, state])
        self._state = state
        self.monitor.note_rows()

    def _collect(self, lines: list[bytes], more: Iterable[list[bytes]]) -> None:
        """Add messages to `lines`; if there are too many, write them ahead of their STATE."""
        waiting = sum(map(len, lines))
        for part in more:
            lines += part
            waiting += sum(map(len, part))
            if waiting > MAX_WAITING:
                self._sends.save()
                self.writer.write([*lines, self._state])
                self.monitor.note_rows()
                lines.clear()
                waiting = 0

    def _write_pushed(self, pushed: PushedEvents) -> None:
        """Write the rows of the collector's store."""
        for page in pushed.pages(self._progress.store_positions(), self._progress.sent_before):
            lines: list[bytes] = []
            for name, rows in page.rows.items():
                lines += self._sends.pushed(name, rows, page.fetched_at)
            self._progress.advance_in_store(page.streams, page.last)
            if lines:
                self._write(lines)
            for name in page.rows:
                self.monitor.note_written(name)
            self.pool.check()
        self.pool.check()
        complete = self._progress.finish_source(COLLECTED)
        for name in complete:
            self.monitor.note_written(name, 1.0)
        self._end_passes(complete, [])

    def _write_page(self, page: Page) -> None:
        """Write a page: its rows for every table that it feeds, then the state."""
        walk = page.walk
        names = self._progress.fed_by(walk.source)
        lines: list[bytes] = []
        self._collect(lines, self._records.of(page, names))
        complete = self._completed(names, lambda: self._progress.advance(page))
        if (source := walk.children) and (children := self._progress.fed_by(source)):
            complete += self._completed(children, lambda: self._open_children(source, page))
        self._end_passes(complete, lines)
        if walk.segment_id is not None:
            self._failed_in_a_row = 0
        for name in names:
            self.monitor.note_page(name, page)
            self.monitor.note_written(name, 1.0 if name in complete else _share(page))

    def _completed(self, names: list[str], step: Callable[[], list[str]]) -> list[str]:
        """The streams that a step completes, or none if it shows that something is missing."""
        try:
            return step()
        except RunError as error:
            self._failures.add(names, error)
            return []

    def _open_children(self, source: str, page: Page) -> list[str]:
        """Note the parents on a page; once all are known, start reading their children."""
        for walk, start in self._progress.note_segments(page):
            self.pool.add(walk, start)
        return self._progress.complete(source)

    def _end_passes(self, names: list[str], lines: list[bytes]) -> None:
        """Write `lines`, and end complete passes.

        Only this decides whether deletions are sent, as tombstones or with ACTIVATE_VERSION, or why
        they are withheld.
        """
        warnings: dict[str, list[str]] = {}
        for name in names:
            current = self._progress.pass_of(name)
            always_withheld = self._progress.withheld(name) or self._sends.withheld(current)
            withheld = always_withheld or current.why_in_doubt
            if withheld is None:
                self._collect(lines, self._sends.tombstones(name, current.version))
            if self._sends.end(name, current, whole=withheld is None):
                activate = {"type": "ACTIVATE_VERSION", "stream": name, "version": current.version}
                lines.append(message(activate))
            self.monitor.conclude(name, withheld)
            if current.doubts:
                warning = _warning(current, withholds=always_withheld is None)
                warnings.setdefault(warning, []).append(name)
        for warning, streams in warnings.items():
            LOG.warning("%s: %s.", ", ".join(streams), warning)
        self._write(lines)

    def _fail(self, failure: Failure) -> None:
        walk, error = failure.walk, failure.error
        names = self._progress.fed_by(walk.source)
        if walk.children is not None:
            names += self._progress.fed_by(walk.children)
        if walk.segment_id is not None and isinstance(error, Refused):
            self._failed_in_a_row = 0  # the API did answer
        if walk.segment_id is not None and isinstance(error, Gone):
            LOG.warning("Segment %r no longer exists, so it has no members.", walk.segment_id)
            complete = self._completed(names, lambda: self._progress.note_gone(walk))
            self._end_passes(complete, [])
            return
        if isinstance(error, NotTried):
            return
        self._failures.add(names, error)
        self._progress.note_failure(walk)
        if walk.segment_id is not None and not isinstance(error, Refused):
            self._failed_in_a_row += 1
            if self._failed_in_a_row == MAX_FAILED_SEGMENTS:
                LOG.error(
                    "%d segments in a row failed; leaving the rest for the next run.",
                    MAX_FAILED_SEGMENTS,
                )
                self.pool.cancel(walk.source)


def _share(page: Page) -> float | None:
    """The share of a stream read so far, if one listing feeds all of it."""
    if page.walk.segment_id is not None or not page.census.latest:
        return None
    return page.census.read / page.census.latest


def _warning(current: Pass, *, withholds: bool) -> str:
    """Why a pass is in doubt, and whether that `withholds` deletions or stops its bookmark."""
    doubt = str(current.why_in_doubt)
    if current.incremental and not current.has_all_rows:
        return f"{doubt}; the bookmark stays where it was"
    return f"{doubt}; deleted rows are kept this time" if withholds else doubt
