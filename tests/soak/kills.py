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
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
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
from tests.soak.runner import Runner, report, soup


class Part:
    """A part of the runs, one after the other in a folder of its own, and what came of them."""

    def __init__(self, folder: Path, seed: str) -> None:
        folder.mkdir()
        self.folder, self.runner = folder, Runner(folder)
        self.rng = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.resent: list[int] = []  # rows, after each kill
        self.exits: list[float] = []  # seconds, after each signal

    def _count(self, run: Run) -> Run:
        """Count a run, check its invariants, and search its output for the key."""
        text = run.stdout.decode("utf-8", "replace") + run.stderr
        self.counts["runs"] += 1
        self.counts["bytes"] += len(run.stdout) + len(run.stderr)
        self.counts["leaks"] += sum(form in text for form in forms(KEY))
        return check(run)

    def _push(self, account: Account, share: float = 0.5) -> tuple[dict[str, Any], set[Key]]:
        """For this share of the accounts, a store of most of what they pushed.

        Returns the settings to read it, and the keys of all rows of the account and the store.
        """
        expected = everything(account)
        if self.rng.random() >= share:
            return {}, expected
        path = self.folder / f"{self.rng.getrandbits(64):x}.db"
        received = [one for one in all_occurrences(account) if self.rng.random() > 0.1]
        PushedStore(path).webhook([track_call(account.seed, one) for one in received], at=0)
        expected -= {
            (EVENT_TABLES[one.kind], f"{EVENT_TABLES[one.kind]}:{one.contact_id}:{one.message}")
            for one in received
        }
        expected |= {(EVENT_TABLES[one.kind], one.message_id) for one in received}
        return {"collector_database": str(path)}, expected

    def replay_states(self, contacts: int, bookmarks: str) -> None:
        """Resume from every STATE of a run, and count the rows that are missing."""
        account = Account(contacts=contacts, lists=2, segments=4, members=101)
        settings, expected = self._push(account)
        with Sandbox(account, Options(api_key=KEY, bookmarks=bookmarks)) as sandbox:
            whole = self._count(self.runner.run(sandbox, **settings))
            missing = expected - set(keys(whole.messages))
            for number, message in enumerate(whole.messages[:-1]):
                if message["type"] == "STATE":
                    rest = self._count(self.runner.run(sandbox, message["value"], **settings))
                    sent = keys([*whole.messages[:number], *rest.messages])
                    missing |= expected - set(sent)
                    self.counts["states"] += 1
        self.counts["lost"] += len(missing)

    def kill_and_resume(self, share: float = 0.5) -> None:
        """Kill a run at random, again and again, resuming from the target's last state."""
        rng = self.rng
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
        settings, expected = self._push(account, share)
        lives = rng.randrange(1, 6)  # the last run is not killed
        with Sandbox(account, options) as sandbox:
            for life in range(lives + 1):
                settings["concurrency"] = rng.choice((1, 2, 8))
                kill = rng if life < lives else None
                run = self._count(self.runner.run(sandbox, target.state, kill=kill, **settings))
                target.take(run.messages)
                sent = keys(run.messages)
                if life:
                    self.resent[-1] += len(sent) - len(set(sent) - received)
                received.update(sent)
                entries = target.state["bookmarks"].values() if target.state else [{"progress": 1}]
                if not run.killed or all(one["progress"] is None for one in entries):
                    break  # the pass is complete; another run would start a new one
                self.resent.append(0)
        self.counts["lost"] += len(expected - target.keys())

    def read_with_faults(self) -> None:
        """One run in which every tenth request, at random, has a fault."""
        seed = self.rng.randrange(10**6)
        account = Account(seed=seed % 7, contacts=330, lists=3, segments=4, members=150)
        bookmarks = self.rng.choice(list(BOOKMARKS))
        options = Options(api_key=KEY, bookmarks=bookmarks, faults=soup(10, seed))
        settings, expected = self._push(account)
        with Sandbox(account, options) as sandbox:
            done = self.runner.run(sandbox, request_timeout=0.7, retry_timeout=60, **settings)
        missing = expected - set(keys(self._count(done).messages))
        self.counts["completed"] += done.code == 0 and not missing
        self.counts["silent"] += done.code == 0 and bool(missing)

    def interrupt(self) -> None:
        """One run, ended by SIGTERM or SIGINT at a random moment."""
        number = self.rng.choice((signal.SIGTERM, signal.SIGINT))
        fault = self.rng.choice(("5-:hang", "3-:503", "9-:drip", "999:500"))
        options = Options(api_key=KEY, latency=0.02, faults=Faults([Fault.parse(fault)]))
        with Sandbox(Account(contacts=450, segments=4, members=150), options) as sandbox:
            process = self.runner.start(sandbox)
            while not sandbox.requests and process.poll() is None:
                time.sleep(0.002)
            time.sleep(self.rng.random() * 0.4)
            sent = time.monotonic()
            process.send_signal(number)
            done = self.runner.finish(process)
        self.exits.append(time.monotonic() - sent)
        self.counts["broken lines"] += not done.stdout.endswith(b"\n")
        assert self._count(done).code in (0, 128 + number), done.stderr


def percentile(values: list[float] | list[int], percent: int) -> float:
    """A percentile of some values; 0 if there are none."""
    if len(values) < 2:
        return values[0] if values else 0
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def play(args: argparse.Namespace, folder: Path) -> tuple[str, bool]:
    """Run everything, in four threads: the figures, and whether all is well."""
    parts = [Part(folder / str(number), f"{args.seed} {number}") for number in range(4)]

    def resume() -> None:
        for contacts in (100, 101, 199, 200, 201)[: args.accounts]:
            for bookmarks in BOOKMARKS:
                parts[0].replay_states(contacts, bookmarks)
        while len(parts[0].resent) < args.kills:
            parts[0].kill_and_resume()

    def interrupt() -> None:
        for _ in range(args.signals):
            parts[1].interrupt()

    def break_api(part: Part, count: int) -> None:
        for _ in range(count):
            part.read_with_faults()

    half = args.soups // 2
    with ThreadPoolExecutor(4) as pool:
        for job in (
            pool.submit(resume),
            pool.submit(interrupt),
            pool.submit(break_api, parts[2], half),
            pool.submit(break_api, parts[3], args.soups - half),
        ):
            job.result()
    counts = sum((part.counts for part in parts), Counter[str]())
    resent, exits = parts[0].resent, parts[1].exits
    is_well = not any(counts[one] for one in ("lost", "silent", "broken lines", "leaks"))
    figures = (
        f"{counts['states']} states resumed and {len(resent)} kills: {counts['lost']} rows lost,"
        f" rows resent per kill: median {percentile(resent, 50):.0f},"
        f" p99 {percentile(resent, 99):.0f}; {args.soups} runs with faults:"
        f" {counts['completed']} complete, {counts['silent']} silently incomplete;"
        f" {len(exits)} signals: {counts['broken lines']} broken lines, time to exit p99"
        f" {percentile(exits, 99):.2f} s; API key found {counts['leaks']} times in"
        f" {counts['bytes'] / 1e6:.0f} MB of output of {counts['runs']} runs"
    )
    return figures, is_well and counts["completed"] >= 0.99 * args.soups


if __name__ == "__main__":
    sys.exit(report(play, accounts=5, kills=1000, soups=500, signals=300))
