"""Kills a collector repeatedly while it receives and forwards.

Every acknowledged event must be stored once, and reach a destination that does everything wrong.

python -m tests.soak.collector --kills 100
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import requests

from tests.collector.conftest import TOKEN, Collector, sending
from tests.conftest import wait_until
from tests.receiver import serving
from tests.soak.destination import WildDestination
from tests.soak.runner import report

WORKERS = 4
LAG = 'destination_lag_events{destination="wild"}'


class Figures(NamedTuple):
    """How many events there were, and how many different answers the destination gave."""

    acknowledged: int
    stored: int
    forwarded: int
    refused: int
    answers: int


def kill_under_load(folder: Path, kills: int, most: int, *, fork: bool = False) -> Figures:
    """Kill a collector again and again, each time after it has acknowledged up to `most` events.

    Fails if an acknowledged event is missing, if an event is stored twice, if only a part of a
    batch is stored, or if a destination does not get each event at least once and in order.
    """
    with serving(WildDestination()) as destination:
        collector = Collector(folder, destinations=[destination.setting("wild")])
        acknowledged: set[str] = set()
        serial = iter(range(10**9))
        for _ in range(kills):
            destination.wildness = random.choice((0.0, 0.1, 0.7))
            collector.start(fork=fork)
            with sending(partial(_send, collector, serial, acknowledged), WORKERS):
                _wait_for_more(acknowledged, random.randint(1, most))
                time.sleep(random.uniform(0, 0.02))  # not only just after a response
                collector.stop(signal.SIGKILL)
        bodies = [json.loads(body) for body in collector.bodies()]
        stored = Counter(body["n"] for body in bodies)
        assert acknowledged <= stored.keys()
        assert all(count == 1 for count in stored.values())
        parts = Counter(name.rpartition(".")[0] for name in stored if "." in name)
        assert all(count == 10 for count in parts.values())
        _forward_the_rest(collector, destination, fork=fork)
        _check_forwarded([body["n"] for body in bodies if "event" in body], destination)
        return Figures(
            len(acknowledged),
            len(stored),
            len(destination.accepted),
            len(destination.refused_alone - destination.accepted.keys()),
            len(destination.answers),
        )


def _wait_for_more(acknowledged: set[str], count: int) -> None:
    enough = len(acknowledged) + count
    wait_until(lambda: len(acknowledged) >= enough)


def _forward_the_rest(collector: Collector, destination: WildDestination, *, fork: bool) -> None:
    destination.wildness, destination.is_strict = 0.0, False
    collector.start(fork=fork)
    wait_until(lambda: collector.metric(LAG) == 0)
    assert collector.stop() == 0


def _check_forwarded(stored: list[str], destination: WildDestination) -> None:
    """Each of these events was accepted, in this order, or refused alone."""
    assert set(stored) == destination.accepted.keys() | destination.refused_alone
    accepted = [name for name in destination.accepted if name not in destination.refused_alone]
    assert accepted == [name for name in stored if name not in destination.refused_alone]


def _send(
    collector: Collector,
    serial: Iterator[int],
    acknowledged: set[str],
    _: int,
    over: threading.Event,
) -> None:
    while not over.is_set():
        number = next(serial)
        names = [f"{number}.{part}" for part in range(10)] if number % 3 == 0 else [f"{number}"]
        events = [{"messageId": name, "n": name, "event": "E"} for name in names]
        for _ in range(2):  # without a response, a sender tries again
            try:
                if number % 3 == 0:
                    answer = collector.post("/v1/batch", {"batch": events})
                elif number % 3 == 1:
                    answer = collector.post("/v1/track", events[0])
                else:
                    answer = collector.post(f"/hooks/{TOKEN}", {"n": names[0]})
            except requests.RequestException:
                continue
            if answer.status_code == 200:
                acknowledged.update(names)
                break


def play(args: argparse.Namespace, folder: Path) -> tuple[str, bool]:
    """Kill a collector so often: the figures. It fails as soon as something is wrong."""
    random.seed(args.seed)
    done = kill_under_load(folder, args.kills, most=6000)
    figures = (
        f"{args.kills} kills: all {done.acknowledged:,} acknowledged events are among the"
        f" {done.stored:,} stored, each once; a destination with {done.answers} kinds of answers"
        f" accepted {done.forwarded:,} in order and refused {done.refused:,} alone"
    )
    return figures, True


if __name__ == "__main__":
    sys.exit(report(play, kills=20))
