"""How long the collector's commands take on a large store: `python -m benchmarks.store [EVENTS]`.

It fills a store in a temporary folder with events of Autopilot's own form, then measures --check,
--stats, the start, a run of the tap that reads only what is new, --prune of all events, and what
remains on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from tap_autopilot.collector.database import open_reader
from tap_autopilot.collector.received import Received
from tap_autopilot.collector.sqlite import SqliteStore
from tap_autopilot.collector.summary import Summary

COMMAND = [sys.executable, "-m", "tap_autopilot.collector"]
TAP = [sys.executable, "-m", "tap_autopilot"]
MESSAGES = 500
NEW = 100  # events before a run of the tap
PART = 20_000
BODY = (
    '{"type":"track","event":"Email Opened","messageId":"%(id)s","timestamp":"%(time)s",'
    '"anonymousId":"somebody.%(n)d@example.com","context":{"traits":{"email":'
    '"somebody.%(n)d@example.com","contact_id":"person_%(person)s"}},"properties":{"event":"opened",'
    '"campaign_id":"campaign_CBD5C1FA-3532-42AB-B498-7A93F9CCC72B","campaign_name":"Onboarding",'
    '"email_id":"batchcampaign_1477963234959-639D1900-9FD1-11E6-95FC-1DF74F%(m)06d","email_name":'
    '"Onboarding Email %(m)d","email_subject":"Welcome","transactional":false,"link_id":"%(n)d",'
    '"link_url":"https://www.example.com/welcome?utm_source=autopilot&person=%(person)s"}}'
)


def fill(path: str, events: int) -> None:
    """A store with this many events."""
    store = SqliteStore(path)
    start = int(time.time() * 1000) - events
    for first in range(0, events, PART):
        store.append([event(number, start) for number in range(first, min(first + PART, events))])
    store.close()


def event(number: int, start: int) -> Received:
    """One of Autopilot's own events."""
    unique = hashlib.blake2b(b"%d" % number, digest_size=16).digest()
    moment = time.gmtime((start + number) / 1000)
    fields = {
        "id": uuid.UUID(bytes=unique), "n": number, "m": number % MESSAGES,
        "person": str(uuid.UUID(int=number)).upper(), "time": time.strftime("%FT%TZ", moment),
    }  # fmt: skip
    body = (BODY % fields).encode()
    return Received(start + number, "segment", "segment", "Email Opened", body, unique, True)


def run(*options: str) -> float:
    """How many seconds a command takes."""
    began = time.monotonic()
    subprocess.run([*COMMAND, *options], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began


def start_and_stop(database: str) -> float:
    """How many seconds a collector takes to listen."""
    environment = {**os.environ, "TAP_AUTOPILOT_COLLECTOR_WRITE_KEYS": "key-of-the-benchmark"}
    began = time.monotonic()
    with subprocess.Popen(
        [*COMMAND, "--database", database, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, env=environment,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.monotonic() - began
        process.terminate()
    return seconds


def summarize(database: str) -> float:
    """Summarize all events; how many seconds that takes."""
    began = time.monotonic()
    store = SqliteStore(database)
    summary = Summary(0)
    with open_reader(database) as reader:
        while events := reader.read(summary.up_to, 500):
            for one in events:
                summary.add(one)
    summary.save(store)
    store.close()
    return time.monotonic() - began


def read_new(database: str, folder: Path) -> float:
    """How many seconds the tap takes to read some new events and the messages they are about."""
    with open_reader(database) as reader:
        last = reader.last_seq
        position = [reader.store_id, last, reader.fingerprint(last)]
    store = SqliteStore(database)
    store.append([event(last + number, int(time.time() * 1000)) for number in range(NEW)])
    store.close()
    names = ["email_opened", "email_messages"]
    streams = [{"stream": name, "replication_method": "LOG_BASED"} for name in names]
    catalog, state = folder / "catalog.json", folder / "state.json"
    catalog.write_text(json.dumps({"streams": streams}))
    state.write_text(json.dumps({"bookmarks": {name: {"collected": position} for name in names}}))
    settings = {"API_KEY": "unused", "COLLECTOR_DATABASE": database}
    variables = {f"TAP_AUTOPILOT_{name}": value for name, value in settings.items()}
    began = time.monotonic()
    done = subprocess.run(
        [*TAP, "--catalog", str(catalog), "--state", str(state)],
        env={**os.environ, **variables}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.count('"type":"RECORD"') == 2 * NEW
    return time.monotonic() - began


def main(events: int) -> None:
    """Print a list."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        database = str(Path(folder) / "events.db")
        fill(database, events)
        print(f"- a store of {events:,} events takes {size(database, events)}")
        check, stats = [run("--database", database, name) for name in ("--check", "--stats")]
        start = start_and_stop(database)
        print(f"- `--check` takes {check:.1f} s, `--stats` {stats:.1f} s, a start {start:.1f} s")
        summary = summarize(database)
        seconds = read_new(database, Path(folder))
        print(
            f"- a run of the tap reads {NEW} new events in {seconds:.1f} s, because the collector"
            f" has summarized the older ones; that took {summary:.0f} s in all"
        )
        with open_reader(database) as reader:
            events = reader.last_seq
            position = [reader.store_id, events, reader.fingerprint(events)]
        state = Path(folder) / "state.json"
        state.write_text(json.dumps({"bookmarks": {"email_opened": {"collected": position}}}))
        prune = ("--database", database, "--prune", "--state", str(state))
        first, again = run(*prune), run(*prune)
        print(f"- `--prune` of all events takes {first:.0f} s, and then {again:.1f} s")
        check, stats = [run("--database", database, name) for name in ("--check", "--stats")]
        print(f"- the pruned store takes {size(database, events)}")
        print(f"- there, `--check` takes {check:.1f} s, `--stats` {stats:.1f} s")


def size(database: str, events: int) -> str:
    """The size of a store, for people."""
    taken = Path(database).stat().st_size
    return f"{taken / 1e6:,.0f} MB, {taken / events:.0f} bytes an event"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5_000_000)
