"""Kill the tap, break its API and signal it, thousands of times, and count what was lost.

`python -m tests.soak.kills` runs the real command against sandboxes and prints one line of figures; its
exit code is 0 only if no row was lost, no line broken and no key leaked. The seed determines
everything except the exact moment at which a kill strikes.
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.faults import Fault, Faults
from tap_autopilot.sandbox.mail import all_occurrences, track_call
from tap_autopilot.sandbox.options import BOOKMARKS
from tests.conftest import KEY
from tests.invariants import Run, check, forms
from tests.lying_pager import Options
from tests.pushed_store import PushedStore
from tests.recording import Sandbox
from tests.replica import EVENT_TABLES, Key, Replica, everything, keys
from tests.soak.runner import Runner, soup


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
        (EVENT_TABLES[one.kind], f"{EVENT_TABLES[one.kind]}:{one.contact_id}:{one.message}")
        for one in received
    }
    expected |= {(EVENT_TABLES[one.kind], one.message_id) for one in received}
    return {"collector_database": str(path)}, expected


def replay_states(figures: Figures, folder: Path, contacts: int, bookmarks: str) -> None:
    """Resume from every STATE of a run, and count the rows that are missing."""
    account = Account(contacts=contacts, lists=2, segments=4, members=101)
    settings, expected = push(folder, account, random.Random(f"{contacts} {bookmarks}"))
    runner = Runner(folder)
    with Sandbox(account, Options(api_key=KEY, bookmarks=bookmarks)) as sandbox:
        whole = figures.count(runner.run(sandbox, **settings))
        missing = expected - set(keys(whole.messages))
        for number, message in enumerate(whole.messages[:-1]):
            if message["type"] == "STATE":
                rest = figures.count(runner.run(sandbox, message["value"], **settings))
                sent = keys([*whole.messages[:number], *rest.messages])
                missing |= expected - set(sent)
                figures.states += 1
    figures.lost += len(missing)


def kill_and_resume(figures: Figures, folder: Path, rng: random.Random, kills: int) -> None:
    """Kill runs at random, resuming each from the target's last state, and count what is missing."""
    runner = Runner(folder)
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
        target, received = Replica(), set[Key]()
        settings, expected = push(folder, account, rng)
        lives = rng.randrange(1, 6)  # the last run is not killed
        with Sandbox(account, options) as sandbox:
            for life in range(lives + 1):
                run = figures.count(
                    runner.run(
                        sandbox,
                        target.state,
                        kill=rng if life < lives else None,
                        concurrency=rng.choice((1, 2, 8)),
                        **settings,
                    )
                )
                target.take(run.messages)
                sent = keys(run.messages)
                if life:
                    figures.resent[-1] += len(sent) - len(set(sent) - received)
                received.update(sent)
                entries = target.state["bookmarks"].values() if target.state else [{"progress": 1}]
                if not run.killed or all(one["progress"] is None for one in entries):
                    break  # the pass is complete; another run would start a new one
                figures.kills += 1
                figures.resent.append(0)
        figures.lost += len(expected - target.keys())


def read_with_faults(figures: Figures, folder: Path, seed: int) -> None:
    """One run in which every tenth request, at random, has a fault."""
    rng = random.Random(seed)
    account = Account(seed=seed % 7, contacts=330, lists=3, segments=4, members=150)
    bookmarks = rng.choice(list(BOOKMARKS))
    options = Options(api_key=KEY, bookmarks=bookmarks, faults=soup(10, seed))
    settings, expected = push(folder, account, rng)
    with Sandbox(account, options) as sandbox:
        done = Runner(folder).run(sandbox, request_timeout=0.7, retry_timeout=60, **settings)
    figures.count(done)
    missing = expected - set(keys(done.messages))
    with figures.lock:
        figures.soups += 1
        figures.completed += done.code == 0 and not missing
        figures.silent += done.code == 0 and bool(missing)


def interrupt(figures: Figures, folder: Path, rng: random.Random) -> None:
    """One run, ended by SIGTERM or SIGINT at a random moment."""
    runner = Runner(folder)
    number = rng.choice((signal.SIGTERM, signal.SIGINT))
    faults = Faults([Fault.parse(rng.choice(("5-:hang", "3-:503", "9-:drip", "999:500")))])
    options = Options(api_key=KEY, latency=0.02, faults=faults)
    with Sandbox(Account(contacts=450, segments=4, members=150), options) as sandbox:
        process = runner.start(sandbox)
        while not sandbox.requests and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.4)
        sent = time.monotonic()
        process.send_signal(number)
        done = runner.finish(process)
    figures.exits.append(time.monotonic() - sent)
    figures.signals += 1
    figures.broken_lines += not done.stdout.endswith(b"\n")
    figures.count(done)
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
        read_with_faults(figures, folder, seed * 100_000 + number)


if __name__ == "__main__":
    sys.exit(main())
