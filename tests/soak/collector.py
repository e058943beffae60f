"""Kills a collector repeatedly under load, and checks that every acknowledged event is stored.

python -m tests.soak.collector --kills 100
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import requests

from tests.collector.conftest import TOKEN, Collector

WORKERS = 4


def kill_under_load(folder: Path, kills: int) -> tuple[int, int]:
    """Returns how many events were acknowledged and how many are stored.

    Fails if an acknowledged event is missing, if an event is stored twice, or if only a part of a
    batch is stored.
    """
    collector = Collector(folder)
    acknowledged: set[str] = set()
    serial = iter(range(10**9))
    for _ in range(kills):
        collector.start()
        over = threading.Event()
        threads = [
            threading.Thread(target=_send, args=(collector, serial, acknowledged, over))
            for _ in range(WORKERS)
        ]
        for thread in threads:
            thread.start()
        time.sleep(random.uniform(0.05, 0.6))
        collector.stop(signal.SIGKILL)
        over.set()
        for thread in threads:
            thread.join()
    stored = Counter(json.loads(body)["n"] for body in collector.bodies())
    assert acknowledged <= stored.keys()
    assert all(count == 1 for count in stored.values())
    parts = Counter(name.rpartition(".")[0] for name in stored if "." in name)
    assert all(count == 10 for count in parts.values())
    return len(acknowledged), len(stored)


def _send(
    collector: Collector, serial: object, acknowledged: set[str], over: threading.Event
) -> None:
    while not over.is_set():
        number = next(serial)  # type: ignore[call-overload]
        names = [f"{number}.{part}" for part in range(10)] if number % 3 == 0 else [f"{number}"]
        events = [{"messageId": name, "n": name} for name in names]
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


def main() -> None:
    """Print one line of figures, or fail."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        acknowledged, stored = kill_under_load(Path(folder), args.kills)
    print(
        f"{args.kills} kills: all {acknowledged:,} acknowledged events are among the {stored:,} stored,"
        " each once"
    )


if __name__ == "__main__":
    main()
