"""Metrics, progress, and a summary at the end of a run."""

from __future__ import annotations

import collections
import contextlib
import importlib
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from tap_autopilot import logs
from tap_autopilot.amounts import amount, duration
from tap_autopilot.api.client import Api
from tap_autopilot.protocol.messages import Writer
from tap_autopilot.rows.tally import Tally
from tap_autopilot.run.terminal import SILENCE, Live, Part, table, time_left, width
from tap_autopilot.sources.listings import ENDPOINTS, Page
from tap_autopilot.streams import Stream

LOG = logging.getLogger(__name__)

METRICS_EVERY = 60.0  # seconds
MAX_NAME = 60  # characters of an unknown field's name


class Report:
    """Reports on the streams of a run, from their tallies and the API's traffic.

    The metrics have the names and tags of Meltano's SDK. There are too many requests for a line
    each, so `http_request_duration` is the mean over the requests in `http_request_count`. JSON
    logs have all metrics, text logs only how many rows each table got, and terminals none.
    """

    def __init__(self, streams: Mapping[str, type[Stream]], api: Api) -> None:
        self.tallies = {name: Tally(name) for name in streams}
        self._streams = streams
        self._api = api
        self._live: Live | None = None
        self._shares: dict[str, float] = {}  # of each stream, if known
        self._first_shares: dict[str, float] = {}
        self._latest = next(iter(streams), "")  # the stream that was written last
        self._moved = 0.0  # when something was written last
        self._counted = dict.fromkeys(streams, 0)  # rows already in the metrics
        # Requests and their seconds already in the metrics, by source.
        self._requested: dict[str, tuple[int, float]] = {}
        self._began = self._measured = time.monotonic()
        self._ended: dict[str, float] = {}
        self._written = dict.fromkeys(streams, 0)  # rows; tallies also count those not written yet
        self._documents = dict.fromkeys(streams, 0)
        self._totals: dict[str, int] = {}  # documents, as the API reports them
        self._open: list[str] = []  # the streams that are not complete yet
        self._deletions: dict[str, str | None] = {}  # why they are withheld, if they are

    def begin(self, incomplete: set[str], writer: Writer, *, quiet: bool) -> None:
        """Announce the streams that are going to be read; unless `quiet`, show live progress."""
        self._began = self._moved = time.monotonic()
        self._writer = writer
        LOG.info("Reading %s.", ", ".join(filter(incomplete.__contains__, self._streams)))
        self._open = [name for name in self._streams if name in incomplete]
        if self._open and logs.at_terminal() and not quiet and os.environ.get("TERM") != "dumb":
            self._live = Live(self._progress)

    def prepare(self) -> None:
        """Do the slow imports while waiting for the first responses."""
        if not logs.at_terminal():
            importlib.import_module("singer.metrics")

    def wrote(self, stream: str, share: float | None = None) -> None:
        """Note that a page of a stream was written, and what share of the stream is done."""
        self._written[stream] = self.tallies[stream].rows
        if share is not None:
            self._first_shares.setdefault(stream, share)  # first, because a thread reads both
            self._shares[stream] = share
        self._latest, self._moved = stream, time.monotonic()
        if time.monotonic() - self._measured > METRICS_EVERY:
            self._measured = time.monotonic()
            if logs.are_json():
                self._measure()
            if self._live is None:
                LOG.info("So far: %s.", ", ".join(map(self._so_far, self._streams)))

    def _progress(self) -> list[Part]:
        """The parts of the live line. Called by another thread."""
        now = time.monotonic()
        name, done = self._under_way(), len(self._streams) - len(self._open)
        rows, share = self._written[name], self._shares.get(name)
        seconds, waits = now - self._began, self._waits(now)
        rate = f"{rows / seconds:,.0f}/s" if rows and not waits else ""
        remaining = ""
        if share is not None and not waits:
            remaining = time_left(seconds, self._first_shares[name], share)
        return [
            (8, name),
            (4, amount(rows, "row")),
            (1, rate),
            (6, "" if share is None else f"{min(share, 1):.0%}"),
            (7, remaining),
            (9, waits),
            (5, "throttled" if self._api.pacer.is_throttled() else ""),
            (2, f"{done} of {len(self._streams)} tables done" if done else ""),
        ]

    def _under_way(self) -> str:
        """The stream that has the most left, as far as that is known."""
        known = [name for name in self._open if name in self._shares]
        if known:
            return min(known, key=self._shares.__getitem__)
        return self._latest if self._latest in self._open else next(iter(self._open), self._latest)

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
        return f"waiting for {path}, {duration(now - since)}"

    def _so_far(self, name: str) -> str:
        share = f" ({min(self._shares[name], 1):.0%})" if name in self._shares else ""
        return f"{name} {amount(self.tallies[name].rows, 'row')}{share}"

    def read(self, stream: str, page: Page) -> None:
        """Note that a page of the API was read for a stream."""
        self._documents[stream] += len(page.documents)
        if page.census.latest is not None:
            if page.walk.segment_id is None:
                self._totals[stream] = page.census.latest
            elif page.after is None:
                self._totals[stream] = self._totals.get(stream, 0) + page.census.latest

    def concluded(self, stream: str, withheld: str | None) -> None:
        """Note that a stream is complete, and why its deletions are withheld, if they are."""
        self._ended[stream] = time.monotonic()
        self._open = [name for name in self._open if name != stream]
        self._deletions[stream] = withheld

    def close(self, incomplete: set[str]) -> None:
        """Log the summary: rows per stream, requests, and everything that went wrong."""
        self._written = {name: tally.rows for name, tally in self.tallies.items()}
        if logs.are_json():
            self._measure()
            self._time(incomplete)
        elif not logs.at_terminal():
            self._count_rows()
        lines = []
        first = self._first_streams()
        for name, stream in self._streams.items():
            if name in incomplete and not self._documents[name] and not self.tallies[name].rows:
                continue  # the last line says why it was not read
            notes = self.tallies[name].notes()
            traffic = self._api.traffic[stream.sources[0]]
            if first.get(stream.sources[0]) == name and traffic.requests:
                notes.append(str(traffic))
            if name in incomplete:
                notes.insert(0, "NOT complete")
            elif name not in self._deletions:
                notes.insert(0, "completed by the interrupted run")
            lines.append((name, self.tallies[name].rows, ", ".join(notes)))
        if self._live is not None:
            self._live.close()
        if logs.at_terminal() and lines:
            with contextlib.suppress(OSError):
                logs.stderr().write(table(lines, width()))
        else:
            for name, rows, text in lines:
                notes = list(filter(None, (amount(rows, "row"), text)))
                LOG.info("%s: %s.", name, ", ".join(notes), extra={"stream_name": name})

    def facts(self, incomplete: set[str]) -> dict[str, Any]:
        """The run's results, as numbers and names."""
        traffic = list(self._api.traffic.values())
        statuses = sum((source.statuses for source in traffic), start=collections.Counter[str]())
        return {
            "streams": {name: self._facts_of(name, incomplete) for name in self._streams},
            "requests": dict(sorted(statuses.items())),
            "retries": sum(source.retries for source in traffic),
            "throttled_seconds": round(sum(source.throttled for source in traffic), 3),
            "requests_per_second": round(self._api.pacer.rate, 2),
        }

    def _facts_of(self, name: str, incomplete: set[str]) -> dict[str, Any]:
        tally, withheld = self.tallies[name], self._deletions.get(name)
        if name in incomplete:
            withheld = "the stream is not complete"
        elif name not in self._deletions:
            withheld = "an earlier run completed the stream"
        return {
            "rows": self._written[name],
            "documents": self._documents[name],
            "reported_total": self._totals.get(name),
            "complete": name not in incomplete,
            "skipped": tally.skipped,
            "nulled": dict(tally.unfit),
            "unknown_fields": {key[:MAX_NAME]: count for key, count in tally.unknown.items()},
            "deletions": "withheld" if withheld else "sent",
            "withheld_because": withheld,
        }

    def _first_streams(self) -> dict[str, str]:
        """The first stream of each source that is read through the API."""
        reverse = reversed(list(self._streams.items()))
        firsts = {stream.sources[0]: name for name, stream in reverse}
        return {source: name for source, name in firsts.items() if source in ENDPOINTS}

    def _count_rows(self) -> None:
        """Log the new rows of each stream, as metrics; in text logs only if there are any."""
        from singer import metrics

        for name, stream in self._streams.items():
            rows, tags = self.tallies[name].rows, _tags(name, stream.sources[0])
            new, self._counted[name] = rows - self._counted[name], rows
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
                mean, duration = round(seconds / count, 6), metrics.Metric.http_request_duration
                metrics.log(LOG, metrics.Point("counter", "http_request_count", count, tags))
                metrics.log(LOG, metrics.Point("timer", duration, mean, tags))

    def _time(self, incomplete: set[str]) -> None:
        """Log how long each stream took, as a metric."""
        from singer import metrics

        ended = dict.fromkeys(incomplete, time.monotonic()) | self._ended
        for name in filter(ended.__contains__, self._streams):
            status = metrics.Status.failed if name in incomplete else metrics.Status.succeeded
            tags = _tags(name, self._streams[name].sources[0]) | {metrics.Tag.status: status}
            seconds = round(ended[name] - self._began, 6)
            metrics.log(LOG, metrics.Point("timer", "sync_duration", seconds, tags))


def _tags(stream: str, source: str) -> dict[str, str]:
    return {"stream": stream, "endpoint": ENDPOINTS.get(source, source)}
