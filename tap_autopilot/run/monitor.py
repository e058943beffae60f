"""Metrics, progress, and a summary at the end of a run."""

from __future__ import annotations

import collections
import contextlib
import importlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tap_autopilot import logs
from tap_autopilot.amounts import amount, duration
from tap_autopilot.api.client import Api
from tap_autopilot.protocol.messages import Writer
from tap_autopilot.rows.tally import Tally
from tap_autopilot.run.terminal import SILENCE, Live, Part, as_table, screen_width, time_left
from tap_autopilot.sources.listings import ENDPOINTS, Page
from tap_autopilot.streams import Stream

LOG = logging.getLogger(__name__)

METRICS_EVERY = 60.0  # seconds


@dataclass
class _Table:
    """What a run has done for one stream so far."""

    stream: type[Stream]
    written: int = 0  # rows; its tally also counts those not written
    counted: int = 0  # rows already in the metrics
    documents: int = 0
    total: int | None = None  # documents, as the API reports them
    share: float | None = None  # what part is done, if known
    counted_from: tuple[float, float] = (0.0, 0.0)  # the first share, and when
    ended: float | None = None  # when it was complete
    # Why its deletions are withheld, if they are.
    withheld: str | None = "an earlier run completed the stream"


class Monitor:
    """Logs how the streams of a run are doing, from their tallies and the API's traffic.

    The metrics have the names and tags of Meltano's SDK. There are too many requests for a line
    each, so `http_request_duration` is the mean over the requests in `http_request_count`. JSON
    logs have all metrics, text logs only how many rows each table got, and terminals none.
    """

    def __init__(
        self,
        streams: Mapping[str, type[Stream]],
        tallies: Mapping[str, Tally],
        api: Api,
        writer: Writer,
    ) -> None:
        self._tallies = tallies
        self._tables = {name: _Table(stream) for name, stream in streams.items()}
        self._api = api
        self._writer = writer
        self._live: Live | None = None
        self._latest = next(iter(streams), "")  # the stream that was written last
        self._moved = 0.0  # when something was written last
        # Requests and their seconds already in the metrics, by source.
        self._requested: dict[str, tuple[int, float]] = {}
        self._began = self._measured = time.monotonic()
        self._open: list[str] = []  # the streams that are not complete yet

    def start(self, incomplete: set[str], *, quiet: bool) -> None:
        """Announce the streams that are going to be read; unless `quiet`, show live progress."""
        self._began = self._moved = time.monotonic()
        self._open = [name for name in self._tables if name in incomplete]
        if self._open:
            LOG.info("Reading %s.", ", ".join(self._open))
        if self._open and logs.at_terminal() and not quiet and os.environ.get("TERM") != "dumb":
            self._live = Live(self._progress)

    def prepare(self) -> None:
        """Do the slow imports while waiting for the first responses."""
        if not logs.at_terminal():
            importlib.import_module("singer.metrics")

    def note_rows(self) -> None:
        """Note that all rows made so far were written."""
        for name, table in self._tables.items():
            table.written = self._tallies[name].rows

    def note_written(self, stream: str, share: float | None = None) -> None:
        """Note that a page of a stream was written, and what share of the stream is done."""
        table = self._tables[stream]
        if share is not None:
            if table.share is None or share < table.share:  # new, or read once more
                table.counted_from = share, time.monotonic()  # first, because a thread reads both
            table.share = share
        self._latest, self._moved = stream, time.monotonic()
        if time.monotonic() - self._measured > METRICS_EVERY:
            self._measured = time.monotonic()
            if logs.are_json():
                self._measure()
            if self._live is None:
                LOG.info("So far: %s.", ", ".join(map(self._so_far, self._tables)))

    def _progress(self) -> list[Part]:
        """The parts of the live line. Called by another thread."""
        now = time.monotonic()
        name, done = self._under_way(), len(self._tables) - len(self._open)
        rows, share = self._tables[name].written, self._tables[name].share
        seconds, waits = now - self._began, self._waits(now)
        rate = f"{rows / seconds:,.0f}/s" if rows and not waits else ""
        remaining = ""
        if share is not None and not waits:
            first, since = self._tables[name].counted_from
            remaining = time_left(now - since, first, share)
        return [
            (8, name),
            (4, amount(rows, "row")),
            (1, rate),
            (6, "" if share is None else f"{min(share, 1):.0%}"),
            (7, remaining),
            (9, waits),
            (5, "throttled" if self._api.pacer.is_throttled() else ""),
            (2, f"{done} of {len(self._tables)} tables done" if done else ""),
        ]

    def _under_way(self) -> str:
        """The stream that has the most left, as far as that is known."""
        shares = {name: self._tables[name].share for name in self._open}
        known = {name: share for name, share in shares.items() if share is not None}
        if known:
            return min(known, key=known.__getitem__)
        return self._latest if self._latest in shares else next(iter(shares), self._latest)

    def _waits(self, now: float) -> str:
        """What the run has been waiting for, if for long."""
        if now - self._moved < SILENCE:
            return ""
        awaited = list(self._api.awaited.values())
        if self._writer.is_writing:
            return f"waiting for the target, {duration(now - self._moved)}"
        if not awaited:
            return ""
        since, path = min(awaited)
        return f"waiting for {logs.clean(path)}, {duration(now - since)}"

    def _so_far(self, name: str) -> str:
        share = self._tables[name].share
        shown = "" if share is None else f" ({min(share, 1):.0%})"
        return f"{name} {amount(self._tables[name].written, 'row')}{shown}"

    def note_page(self, stream: str, page: Page) -> None:
        """Note that a page of the API was read for a stream."""
        table, total = self._tables[stream], page.census.latest
        table.documents += len(page.documents)
        if total is not None and page.walk.segment_id is None:
            table.total = total
        elif total is not None and page.after is None:
            table.total = (table.total or 0) + total

    def conclude(self, stream: str, withheld: str | None) -> None:
        """Note that a stream is complete, and why its deletions are withheld, if they are."""
        table = self._tables[stream]
        table.ended, table.withheld = time.monotonic(), withheld
        self._open = [name for name in self._open if name != stream]

    def close(self, incomplete: set[str]) -> None:
        """Log the summary: rows per stream, requests, and everything that went wrong."""
        for name, table in self._tables.items():
            table.written += self._writer.written_early(name)
        if logs.are_json():
            self._measure()
            self._time(incomplete)
        elif not logs.at_terminal():
            self._count_rows()
        lines = []
        first = self._first_streams()
        for name, table in self._tables.items():
            if name in incomplete and not table.documents and not table.written:
                continue  # the last line says why it was not read
            notes, source = self._tallies[name].notes(), table.stream.sources[0]
            traffic = self._api.traffic[source]
            if first.get(source) == name and traffic.requests:
                notes.append(str(traffic))
            if name in incomplete:
                notes.insert(0, "NOT complete")
            elif table.ended is None:
                notes.insert(0, "completed by the interrupted run")
            lines.append((name, table.written, ", ".join(notes)))
        if self._live is not None:
            self._live.close()
        if logs.at_terminal() and lines:
            lines = [(name, rows, logs.clean(notes)) for name, rows, notes in lines]
            with contextlib.suppress(OSError):
                logs.stderr().write(as_table(lines, screen_width()))
        else:
            for name, rows, text in lines:
                notes = list(filter(None, (amount(rows, "row"), text)))
                LOG.info("%s: %s.", name, ", ".join(notes), extra={"stream_name": name})

    def facts(self, incomplete: set[str]) -> dict[str, Any]:
        """The run's results, as numbers and names."""
        traffic = list(self._api.traffic.values())
        statuses = sum((source.statuses for source in traffic), start=collections.Counter[str]())
        return {
            "streams": {name: self._facts_of(name, incomplete) for name in self._tables},
            "requests": dict(sorted(statuses.items())),
            "retries": sum(source.retries for source in traffic),
            "throttled_seconds": round(sum(source.throttled for source in traffic), 3),
            "requests_per_second": round(self._api.pacer.rate, 2),
        }

    def _facts_of(self, name: str, incomplete: set[str]) -> dict[str, Any]:
        table, tally = self._tables[name], self._tallies[name]
        withheld = "the stream is not complete" if name in incomplete else table.withheld
        return {
            "rows": table.written,
            "documents": table.documents,
            "reported_total": table.total,
            "complete": name not in incomplete,
            "skipped": tally.skipped,
            "nulled": dict(tally.misfits),
            "unknown_fields": dict(tally.unknown),
            "deletions": "withheld" if withheld else "sent",
            "withheld_because": withheld,
        }

    def _first_streams(self) -> dict[str, str]:
        """The first stream of each source that is read through the API."""
        firsts: dict[str, str] = {}
        for name, table in self._tables.items():
            if table.stream.sources[0] in ENDPOINTS:
                firsts.setdefault(table.stream.sources[0], name)
        return firsts

    def _count_rows(self) -> None:
        """Log the new rows of each stream, as metrics; in text logs only if there are any."""
        from singer import metrics

        for name, table in self._tables.items():
            tags = _tags(name, table.stream.sources[0])
            new, table.counted = table.written - table.counted, table.written
            if new or logs.are_json():
                metrics.log(LOG, metrics.Point("counter", metrics.Metric.record_count, new, tags))

    def _measure(self) -> None:
        """Log what is new since the last time, as metrics."""
        from singer import metrics

        self._count_rows()
        for source, name in self._first_streams().items():
            traffic, tags = self._api.traffic[source], _tags(name, source)
            before, now = self._requested.get(source, (0, 0.0)), (traffic.requests, traffic.seconds)
            count, seconds = now[0] - before[0], now[1] - before[1]
            self._requested[source] = now
            if count:
                metrics.log(LOG, metrics.Point("counter", "http_request_count", count, tags))
                timer, mean = metrics.Metric.http_request_duration, round(seconds / count, 6)
                metrics.log(LOG, metrics.Point("timer", timer, mean, tags))

    def _time(self, incomplete: set[str]) -> None:
        """Log how long each stream took, as a metric."""
        from singer import metrics

        for name, table in self._tables.items():
            is_failed, ended = name in incomplete, table.ended
            if is_failed or ended is not None:
                status = metrics.Status.failed if is_failed else metrics.Status.succeeded
                tags = _tags(name, table.stream.sources[0]) | {metrics.Tag.status: status}
                seconds = round((ended or time.monotonic()) - self._began, 6)
                metrics.log(LOG, metrics.Point("timer", "sync_duration", seconds, tags))


def _tags(stream: str, source: str) -> dict[str, str]:
    return {"stream": stream, "endpoint": ENDPOINTS.get(source, source)}
