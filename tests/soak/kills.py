"""Kill the tap, break its API and signal it, thousands of times, and count what was lost.

`python -m tests.soak.kills` runs the real command against sandboxes and prints one line of figures; its
exit code is 0 only if no row was lost, no line broken and no key leaked. The seed determines
everything except the exact moment at which a kill strikes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.faults import ACTIONS, Fault, Faults
from tap_autopilot.sandbox.mail import all_occurrences, track_call
from tap_autopilot.sandbox.server import BOOKMARKS, Options, Sandbox
from tap_autopilot.streams import STREAMS
from tap_autopilot.streams.emails import EmailEvent
from tests.conftest import COMMAND, KEY
from tests.invariants import Run, check, forms
from tests.pushed_store import PushedStore

KEYS = {name: stream.key_properties for name, stream in STREAMS.items()}
MAPS = {name: stream.maps for name, stream in STREAMS.items() if issubclass(stream, EmailEvent)}
TABLES = {
    "delivered": "email_delivered",
    "opened": "email_opened",
    "clicked": "email_clicked",
    "bounced": "email_bounced",
    "complained": "email_marked_as_spam",
    "unsubscribed": "email_unsubscribed",
    "replied": "email_replied",
}  # by the kind of an occurrence
SOUP = ["500", "502", "503", "504", "408", "429", *sorted(set(ACTIONS) - {"drip", "bomb"})]

Key = tuple[str, ...]


class Target:
    """A small target that stores rows with fsync, and emits a STATE only after the rows before it."""

    def __init__(self, folder: Path) -> None:
        self.stored: Counter[Key] = Counter()
        self.received: Counter[Key] = Counter()
        self.state: Any = None
        self._file = (folder / "rows").open("ab")
        self._waiting: list[tuple[Key, bytes]] = []

    def take(self, line: bytes) -> None:
        """Take a line of the tap's output; a partial line is ignored."""
        if not line.endswith(b"\n"):
            return
        message = json.loads(line)
        if message["type"] == "RECORD":
            stream, row = message["stream"], message["record"]
            key = (stream, *(row[name] for name in KEYS[stream]))
            self.received[key] += 1
            self._waiting.append((key, line))
        elif message["type"] == "STATE":
            self._file.writelines(line for _, line in self._waiting)
            self._file.flush()
            os.fsync(self._file.fileno())
            self.stored.update(key for key, _ in self._waiting)
            self._waiting.clear()
            self.state = message["value"]

    def end_of_run(self) -> None:
        """Forget the rows that no STATE followed."""
        self._waiting.clear()


@dataclass
class Figures:
    """The figures to print."""

    runs: int = 0
    bytes: int = 0
    leaks: int = 0
    lost: int = 0
    broken_lines: int = 0
    states: int = 0
    kills: int = 0
    resent: list[int] = field(default_factory=list)
    soups: int = 0
    completed: int = 0
    silent: int = 0
    signals: int = 0
    exits: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, run: Run) -> Run:
        """Count a run, check its invariants, and search its output for the key."""
        text = run.stdout.decode("utf-8", "replace") + run.stderr
        with self.lock:
            self.runs += 1
            self.bytes += len(run.stdout) + len(run.stderr)
            self.leaks += sum(form in text for form in forms(KEY))
        return check(run)


def everything(account: Account) -> set[Key]:
    """The keys of all rows of an account."""
    return {
        *(("contacts", one) for one in account.contact_ids),
        *(("lists", one["list_id"]) for one in account.lists),
        *(("smart_segments", one["segment_id"]) for one in account.segments),
        *(("custom_fields", one["name"]) for one in account.custom_fields),
        *(
            ("smart_segments_contacts", one["segment_id"], contact_id)
            for one in account.segments
            for contact_id in account.segment_members(one["segment_id"]) or ()
        ),
        *(
            ("lists_contacts", one["list_id"], contact_id)
            for one in account.lists
            for contact_id in account.list_members(one["list_id"]) or ()
        ),
        *(
            (stream, f"{stream}:{contact_id}:{message}")
            for contact_id in account.contact_ids
            for stream, maps in MAPS.items()
            for name in maps
            for message in account.contact(contact_id).get(name) or ()
        ),
    }


def push(folder: Path, account: Account, rng: random.Random) -> tuple[dict[str, Any], set[Key]]:
    """For every other account, a store of most of what it pushed.

    Returns the settings to read it, and the keys of all rows of the account and the store.
    """
    expected = everything(account)
    if rng.random() < 0.5:
        return {}, expected
    path = folder / f"{rng.getrandbits(64):x}.db"
    received = [one for one in all_occurrences(account) if rng.random() > 0.1]
    PushedStore(path).webhook([track_call(account.seed, one) for one in received], at=0)
    expected -= {
        (TABLES[one.kind], f"{TABLES[one.kind]}:{one.contact_id}:{one.message}") for one in received
    }
    expected |= {(TABLES[one.kind], one.message_id) for one in received}
    return {"collector_database": str(path)}, expected


def keys(messages: list[dict[str, Any]]) -> set[Key]:
    """The keys of the rows in some messages."""
    return {
        (one["stream"], *(one["record"][name] for name in KEYS[one["stream"]]))
        for one in messages
        if one["type"] == "RECORD"
    }


def start(
    folder: Path, sandbox: Sandbox, state: Any, **settings: Any
) -> tuple[subprocess.Popen[bytes], Path]:
    """Start the command, with stderr in a file."""
    config = {"api_key": KEY, "api_url": sandbox.url, "max_requests_per_second": 2000, **settings}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "state.json").write_text(json.dumps(state))
    arguments = ["--config", f"{folder}/config.json", "--state", f"{folder}/state.json"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=log)
    return process, folder / "log"


def run(folder: Path, sandbox: Sandbox, state: Any = None, **settings: Any) -> Run:
    """Run the command to completion."""
    process, log = start(folder, sandbox, state, **settings)
    stdout, _ = process.communicate(timeout=300)
    return Run(process.returncode, stdout, log.read_text(), KEY)


def replay_states(figures: Figures, folder: Path, contacts: int, bookmarks: str) -> None:
    """Resume from every STATE of a run, and count the rows that are missing."""
    account = Account(contacts=contacts, lists=2, segments=4, members=101)
    settings, expected = push(folder, account, random.Random(f"{contacts} {bookmarks}"))
    with Sandbox(account, Options(api_key=KEY, bookmarks=bookmarks)) as sandbox:
        whole = figures.count(run(folder, sandbox, **settings))
        missing = expected - keys(whole.messages)
        for number, message in enumerate(whole.messages[:-1]):
            if message["type"] == "STATE":
                rest = figures.count(run(folder, sandbox, message["value"], **settings))
                sent = keys(whole.messages[:number]) | keys(rest.messages)
                missing |= expected - sent
                figures.states += 1
    figures.lost += len(missing)


def kill_and_resume(figures: Figures, folder: Path, rng: random.Random, kills: int) -> None:
    """Kill runs at random, resuming each from the target's last state, and count what is missing."""
    while figures.kills < kills:
        account = Account(
            seed=rng.randrange(1000),
            contacts=rng.choice((199, 250, 400, 530)),
            lists=3,
            segments=rng.choice((2, 5, 12)),
            members=rng.choice((5, 100, 150)),
        )
        options = Options(
            api_key=KEY, bookmarks=rng.choice(list(BOOKMARKS)), latency=rng.choice((0, 0, 0.01))
        )
        target = Target(folder)
        settings, expected = push(folder, account, rng)
        with Sandbox(account, options) as sandbox:
            for _ in range(rng.randrange(1, 6)):
                before = target.received.total() - len(target.received)
                killed = _run_and_kill(figures, folder, rng, sandbox, target, settings)
                entries = target.state["bookmarks"].values() if target.state else [{"progress": 1}]
                if not killed or all(one["progress"] is None for one in entries):
                    break  # the pass is complete; another run would start a new one
                figures.kills += 1
                again = target.received.total() - len(target.received)
                figures.resent.append(again - before)
            else:
                rest = figures.count(run(folder, sandbox, target.state, **settings))
                before = target.received.total() - len(target.received)
                for line in rest.stdout.splitlines(keepends=True):
                    target.take(line)
                figures.resent[-1] += target.received.total() - len(target.received) - before
        figures.lost += len(expected - set(target.stored))


def _run_and_kill(
    figures: Figures,
    folder: Path,
    rng: random.Random,
    sandbox: Sandbox,
    target: Target,
    settings: dict[str, Any],
) -> bool:
    """Run and kill; False if the run ended first."""
    settings = {**settings, "concurrency": rng.choice((1, 2, 8))}
    process, log = start(folder, sandbox, target.state, **settings)
    how = rng.choice(("bytes", "pages", "time"))
    at_byte = rng.randrange(1_500_000) if how == "bytes" else sys.maxsize
    over = threading.Event()
    if how == "pages":
        served = len(sandbox.requests) + rng.randrange(1, 14)
        threading.Thread(target=_kill_after, args=(process, sandbox, served, over)).start()
    elif how == "time":
        timer = threading.Timer(0.15 + rng.random() * 0.5, process.kill)
        timer.start()
    stdout = b""
    assert process.stdout is not None
    for line in process.stdout:
        stdout += line
        target.take(line)
        if len(stdout) > at_byte:
            process.kill()
    process.wait()
    over.set()
    if how == "time":
        timer.cancel()
    target.end_of_run()
    killed = process.returncode == -signal.SIGKILL
    figures.count(Run(process.returncode, stdout, log.read_text(), KEY, killed=killed))
    return killed


def _kill_after(
    process: subprocess.Popen[bytes], sandbox: Sandbox, served: int, over: threading.Event
) -> None:
    while len(sandbox.requests) < served and not over.is_set():
        time.sleep(0.0005)
    process.kill()


def soup(figures: Figures, folder: Path, seed: int) -> None:
    """One run in which every tenth request, at random, has a fault."""
    rng = random.Random(seed)
    account = Account(seed=seed % 7, contacts=330, lists=3, segments=4, members=150)
    chance = 10 / len(SOUP)
    faults = Faults((Fault.parse(f"{chance}%:{what}") for what in SOUP), seed)
    options = Options(api_key=KEY, bookmarks=rng.choice(list(BOOKMARKS)), faults=faults)
    settings, expected = push(folder, account, rng)
    with Sandbox(account, options) as sandbox:
        done = run(folder, sandbox, request_timeout=0.7, retry_timeout=60, **settings)
    figures.count(done)
    missing = expected - keys(done.messages)
    with figures.lock:
        figures.soups += 1
        figures.completed += done.code == 0 and not missing
        figures.silent += done.code == 0 and bool(missing)


def interrupt(figures: Figures, folder: Path, rng: random.Random) -> None:
    """One run, ended by SIGTERM or SIGINT at a random moment."""
    number = rng.choice((signal.SIGTERM, signal.SIGINT))
    faults = Faults([Fault.parse(rng.choice(("5-:hang", "3-:503", "9-:drip", "999:500")))])
    options = Options(api_key=KEY, latency=0.02, faults=faults)
    with Sandbox(Account(contacts=450, segments=4, members=150), options) as sandbox:
        process, log = start(folder, sandbox, None)
        while not sandbox.requests and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.4)
        sent = time.monotonic()
        process.send_signal(number)
        stdout, _ = process.communicate(timeout=30)
    figures.exits.append(time.monotonic() - sent)
    figures.signals += 1
    figures.broken_lines += not stdout.endswith(b"\n")
    done = figures.count(Run(process.returncode, stdout, log.read_text(), KEY))
    assert done.code in (0, 128 + number), done.stderr


def percentile(values: list[float] | list[int], percent: int) -> float:
    """A percentile of some values; 0 if there are none."""
    if len(values) < 2:
        return values[0] if values else 0
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def main() -> int:
    """Run everything; returns 0 if it succeeded."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.kills", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--accounts", type=int, default=5, help="accounts whose STATEs are replayed"
    )
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--soups", type=int, default=500)
    parser.add_argument("--signals", type=int, default=300)
    args = parser.parse_args()
    figures, started = Figures(), time.monotonic()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(4) as pool:
        folders = [Path(temporary, str(number)) for number in range(4)]
        for folder in folders:
            folder.mkdir()
        halves = (range(0, args.soups, 2), range(1, args.soups, 2))
        parts = [
            pool.submit(_states_and_kills, figures, folders[0], args),
            pool.submit(_signals, figures, folders[1], args),
            pool.submit(_soups, figures, folders[2], args.seed, halves[0]),
            pool.submit(_soups, figures, folders[3], args.seed, halves[1]),
        ]
        for part in parts:
            part.result()
    minutes = (time.monotonic() - started) / 60
    print(
        f"{figures.states} states resumed and {figures.kills} kills: {figures.lost} rows lost,"
        f" rows resent per kill p50 {percentile(figures.resent, 50):.0f}"
        f" p99 {percentile(figures.resent, 99):.0f}; {figures.soups} runs with faults:"
        f" {figures.completed} complete, {figures.silent} silently incomplete;"
        f" {figures.signals} signals: {figures.broken_lines} broken lines, time to exit p99"
        f" {percentile(figures.exits, 99):.2f} s; API key found {figures.leaks} times in"
        f" {figures.bytes / 1e6:.0f} MB of output; {figures.runs} runs in {minutes:.1f} min,"
        f" seed {args.seed}"
    )
    succeeded = not (figures.lost or figures.silent or figures.broken_lines or figures.leaks)
    return 0 if succeeded and figures.completed >= 0.99 * figures.soups else 1


def _states_and_kills(figures: Figures, folder: Path, args: argparse.Namespace) -> None:
    for contacts in (100, 101, 199, 200, 201)[: args.accounts]:
        for bookmarks in BOOKMARKS:
            replay_states(figures, folder, contacts, bookmarks)
    kill_and_resume(figures, folder, random.Random(args.seed), args.kills)


def _signals(figures: Figures, folder: Path, args: argparse.Namespace) -> None:
    rng = random.Random(args.seed + 1)
    for _ in range(args.signals):
        interrupt(figures, folder, rng)


def _soups(figures: Figures, folder: Path, seed: int, numbers: range) -> None:
    for number in numbers:
        soup(figures, folder, seed * 100_000 + number)


if __name__ == "__main__":
    sys.exit(main())
