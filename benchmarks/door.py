"""How long senders wait while the collector forwards or prunes: `python -m benchmarks.door`.

The collector is pinned to one core, and receives at a steady rate. It does nothing else, or also
forwards everything to four destinations, or is pruned. The three take turns on the same store.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.collector import EVENT, KEY, request, start
from benchmarks.store import fill
from tap_autopilot.collector.database import open_reader
from tap_autopilot.collector.received import Received
from tap_autopilot.collector.sqlite import SqliteStore

COLLECTOR = [sys.executable, "-m", "tap_autopilot.collector"]
DESTINATIONS = 4
SENDERS = 16
PAUSE = 0.01  # seconds between two events of a sender
SECONDS = 10.0
LARGE, MANY = 30_000, 10_000  # bytes of an event, events
PRUNED = 30_000  # events in a round
ROUNDS = 4


async def receive(port: int, command: list[str]) -> list[float]:
    """Send events while a command runs. Returns the seconds that each took."""
    took: list[float] = []
    running = await asyncio.create_subprocess_exec(
        "nice", "-n", "19", *command, stdout=subprocess.DEVNULL
    )

    async def send() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while running.returncode is None:
            data = request(1)
            began = time.perf_counter()
            writer.write(data)
            answer = await reader.readuntil(b"}")
            took.append(time.perf_counter() - began)
            assert answer.startswith(b"HTTP/1.1 200"), answer
            await asyncio.sleep(PAUSE)
        writer.close()

    await asyncio.gather(running.wait(), *(send() for _ in range(SENDERS)))
    assert running.returncode == 0
    return took


def measure(settings: Path, command: list[str]) -> list[float]:
    """The same, of a collector with these settings."""
    server, port = start([*COLLECTOR, "--config", str(settings)], 0)
    try:
        return asyncio.run(receive(port, command))
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def forward(folder: str, to: dict[str, str]) -> float:
    """How many large events a collector forwards in a second, of those that it has."""
    database = f"{folder}/large.db"
    store = SqliteStore(database)
    body = json.dumps({**EVENT, "more": "x" * LARGE}).encode()
    store.append([Received(0, "segment", "track", "Email Opened", body, None, True)] * MANY)
    store.close()
    settings = {"database": database, "listen": "127.0.0.1:0", "log_level": "error"}
    path = Path(folder) / "large.json"
    path.write_text(json.dumps({**settings, "destinations": [{**to, "from": "start"}]}))
    began = time.monotonic()
    server, _ = start([*COLLECTOR, "--config", str(path)], 0)
    try:
        with open_reader(database) as reader:
            while MANY not in [cursor.seq for cursor in reader.cursors().values()]:
                time.sleep(0.05)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    return MANY / (time.monotonic() - began)


def main() -> None:
    """Print a list."""
    os.sched_setaffinity(0, {1})
    took: dict[str, list[float]] = {"receives": [], "also forwards": [], "is also pruned": []}
    sink, port = start([sys.executable, "-m", "benchmarks.receivers", "plain"], 1)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        database = f"{folder}/events.db"
        alone, forwarding, state = [Path(folder) / f"{n}.json" for n in ("alone", "to", "state")]
        settings = {"database": database, "listen": "127.0.0.1:0", "log_level": "error"}
        url = f"http://127.0.0.1:{port}/v1"
        to = [{"name": f"to-{n}", "url": url, "write_key": KEY} for n in range(DESTINATIONS)]
        alone.write_text(json.dumps(settings))
        forwarding.write_text(json.dumps({**settings, "destinations": to}))
        wait = [sys.executable, "-c", f"import time; time.sleep({SECONDS})"]
        prune = [*COLLECTOR, "--database", database, "--prune", "--state", str(state)]
        fill(database, ROUNDS * PRUNED)
        for number in range(ROUNDS):
            with open_reader(database) as reader:
                seq = (number + 1) * PRUNED
                position = [reader.store_id, seq, reader.fingerprint(seq)]
            state.write_text(json.dumps({"bookmarks": {"email_opened": {"collected": position}}}))
            took["receives"] += measure(alone, wait)
            took["also forwards"] += measure(forwarding, wait)
            took["is also pruned"] += measure(alone, prune)
        speed = forward(folder, to[0])
    sink.terminate()
    sink.wait()
    p99 = {name: sorted(each)[int(len(each) * 0.99)] for name, each in took.items()}
    for name, seconds in p99.items():
        print(
            f"- while it {name}: p99 {seconds * 1000:.1f} ms, {seconds / p99['receives']:.1f}"
            f" times; {len(took[name]):,} events"
        )
    print(
        f"- it forwards {speed:,.0f} events of {LARGE // 1000} kB in a second, its start included"
    )


if __name__ == "__main__":
    main()
