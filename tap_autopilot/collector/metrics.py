"""Metrics for Prometheus, without contact data or keys."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest

from tap_autopilot.collector.notices import OTHER
from tap_autopilot.collector.received import Received

PREFIX = "tap_autopilot_collector_"
RENDER_EVERY = 1.0  # seconds, because anyone may ask, and rendering takes as long as 20 requests
COMMIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5)


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._counter(
            "requests",
            'Requests by route and status; the route "refused" stands for those not read.',
            "route",
            "status",
        )
        # Without labels, so that it is there before the first one.
        self._refused_requests = self._counter(
            "rejected_requests",
            "Requests rejected with a 4xx, whose events are lost; not those of the route "
            f'"{OTHER}".',
        )
        self._received = self._counter("events_received", "Events received and committed.")
        self._by_source = self._counter(
            "events_received_by_source", "Events received and committed.", "source"
        )
        self._stored = self._counter("events_stored", "Events stored, without duplicates.")
        self._malformed = self._counter("malformed_lines", "Lines that are not JSON, kept as text.")
        self._commits = Histogram(
            f"{PREFIX}commit_seconds",
            "Time that a commit took, fsync included.",
            buckets=COMMIT_BUCKETS,
            registry=self._registry,
        )
        self._lag = self._gauge(
            "destination_lag_events", "Events not yet forwarded.", "destination"
        )
        self._oldest = self._gauge(
            "destination_oldest_unsent_seconds",
            "The age of the oldest event not yet forwarded; 0 if there is none.",
            "destination",
        )
        self._sent = self._gauge("destination_sent_events", "Events forwarded.", "destination")
        self._refused = self._gauge(
            "destination_refused_events", "Events that a destination refused.", "destination"
        )
        self.repeated = 0  # events that were not stored because they had been already
        self._responses: Counter[tuple[str, int]] = Counter()  # since the last scrape
        self._text = b""
        self._rendered_at = -math.inf

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is computed at each scrape."""
        self._gauge(name, about).set_function(value)

    def responded(self, route: str, status: int) -> None:
        """Count a response."""
        self._responses[route, status] += 1
        if 400 <= status < 500 and route != OTHER:
            self._refused_requests.inc()

    def expect(self, source: str) -> None:
        """Show that a source has sent nothing yet."""
        self._by_source.labels(source)

    def committed(self, events: Sequence[Received], new: int, seconds: float) -> None:
        """Count a commit."""
        self._received.inc(len(events))
        for source, count in Counter(event.source for event in events).items():
            self._by_source.labels(source).inc(count)
        self._stored.inc(new)
        self.repeated += len(events) - new
        self._commits.observe(seconds)

    def malformed(self, lines: int) -> None:
        """Count lines that are not JSON."""
        self._malformed.inc(lines)

    def forwarded(
        self, destination: str, lag: int, oldest: int | None, sent: int, refused: int
    ) -> None:
        """Record a destination's progress; `oldest` is when its next event was received, if any."""
        self._lag.labels(destination).set(lag)
        self._oldest.labels(destination).set_function(partial(_age, oldest))
        self._sent.labels(destination).set(sent)
        self._refused.labels(destination).set(refused)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format, rendered at most every RENDER_EVERY seconds."""
        now = time.monotonic()
        if now < self._rendered_at + RENDER_EVERY:
            return self._text
        self._rendered_at = now
        for (route, status), count in self._responses.items():
            self._requests.labels(route, str(status)).inc(count)
        self._responses.clear()
        self._text = generate_latest(self._registry)
        return self._text

    def _counter(self, name: str, about: str, *labels: str) -> prometheus_client.Counter:
        return prometheus_client.Counter(PREFIX + name, about, labels, registry=self._registry)

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(PREFIX + name, about, labels, registry=self._registry)


def _age(at: int | None) -> float:
    """The seconds since a time in epoch milliseconds; 0 without a time."""
    return 0.0 if at is None else max(time.time() - at / 1000, 0.0)
