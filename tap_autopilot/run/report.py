"""What a run says about itself: metrics, how far it is, and a summary at the end."""

from __future__ import annotations

import importlib
import logging
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tap_autopilot import logs
from tap_autopilot.api.client import Api
from tap_autopilot.rows.tally import Tally
from tap_autopilot.streams import Stream

if TYPE_CHECKING:
    from tap_autopilot.run.terminal import Live

LOG = logging.getLogger(__name__)

METRICS_EVERY = 60.0  # seconds


class Report:
    """Reports on the streams of a run, from their tallies and the API's traffic."""

    def __init__(self, streams: Mapping[str, type[Stream]], api: Api) -> None:
        self.tallies = {name: Tally(name) for name in streams}
        self._streams = streams
        self._api = api
        self._live: Live | None = None
        self._shares: dict[str, float] = {}  # of what a stream holds, where that is known
        self._counted = dict.fromkeys(streams, 0)  # rows that the metrics have told of
        self._measured = time.monotonic()

    def begin(self) -> None:
        """Announce the streams."""
        LOG.info("Reading %s.", ", ".join(self._streams))
        self._live = _live(list(self._streams))
        importlib.import_module("singer.metrics")  # takes a while, but the first answers do too

    def wrote(self, stream: str, share: float | None = None) -> None:
        """Note that a page was written to a stream, and how much of the stream that makes."""
        if share is not None:
            self._shares[stream] = share
        rows, share = self.tallies[stream].rows, self._shares.get(stream)
        if self._live is not None:
            self._live.show(stream, rows, share, throttled=self._api.pacer.is_throttled())
        if time.monotonic() - self._measured > METRICS_EVERY:
            self._measure()
            LOG.info("So far: %s.", ", ".join(map(self._so_far, self._streams)))

    def _so_far(self, name: str) -> str:
        share = f" ({min(self._shares[name], 1):.0%})" if name in self._shares else ""
        return f"{name} {self.tallies[name].rows} rows{share}"

    def close(self, incomplete: set[str]) -> None:
        """Log the summary: rows per stream, requests, and everything that went wrong."""
        self._measure()
        lines = []
        told = set()
        for name, stream in self._streams.items():
            notes = self.tallies[name].notes()
            source = stream.sources[0]
            if source in self._api.traffic and source not in told:
                notes.append(str(self._api.traffic[source]))
                told.add(source)
            if name in incomplete:
                notes.append("NOT complete")
            lines.append((name, self.tallies[name].rows, ", ".join(notes)))
        if self._live is not None:
            self._live.close(lines)
        else:
            for name, rows, text in lines:
                LOG.info("%s: %s.", name, ", ".join(filter(None, (f"{rows} rows", text))))

    def _measure(self) -> None:
        from singer import metrics

        for name, tally in self.tallies.items():
            new, self._counted[name] = tally.rows - self._counted[name], tally.rows
            tags = {metrics.Tag.endpoint: name}
            metrics.log(LOG, metrics.Point("counter", metrics.Metric.record_count, new, tags))
        self._measured = time.monotonic()


def _live(streams: list[str]) -> Live | None:
    """Live progress for these streams if stderr is a terminal and the log is text."""
    if not (sys.stderr.isatty() and logs.are_for_people()):
        return None
    try:  # the library reads settings of its own from the environment
        from tap_autopilot.run.terminal import Live  # takes a while, and no other run needs it

        return Live(streams)
    except (OSError, ValueError):
        return None
