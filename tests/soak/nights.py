"""Nights with digests: kills, faults, doubts and changing accounts, and what the target ends up with.

`python -m tests.soak.nights` runs the real command for several nights on each of many accounts, which
change between responses. The command is killed at random, as is its target, which may have stored
more than it confirmed; responses break, pages are lost, the digests file is damaged. After two quiet
nights the target must hold what a full load holds. It prints one line of figures; its exit code is 0
only if no row was missing, outdated or left behind.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tap_autopilot.amounts import amount
from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.options import BOOKMARKS
from tests.conftest import KEY
from tests.invariants import Run, check
from tests.lying_pager import Options
from tests.recording import Sandbox
from tests.replica import TABLES, Replica
from tests.soak.runner import Runner, report, soup


class History:
    """One account, its target and its digests file over several nights."""

    def __init__(self, folder: Path, seed: int, counts: Counter[str]) -> None:
        self.runner, self.counts = Runner(folder), counts
        self.rng = random.Random(seed)
        self.path = folder / f"digests{seed}"
        self.replica = Replica()
        self.account = Account(
            seed=seed % 50,
            contacts=self.rng.choice((60, 150, 400)),
            lists=4,
            segments=self.rng.choice((1, 4)),
            members=50,
        )

    def run(self, options: Options, *, kill: bool = False, state: Any = ..., **more: Any) -> Run:
        """Run the real command once, perhaps killing it, without storing any of its output."""
        state = self.replica.state if state is ... else state
        settings = {"request_timeout": 1, "retry_timeout": 5, **more}
        with Sandbox(self.account, options) as sandbox:
            run = self.runner.run(sandbox, state, kill=self.rng if kill else None, **settings)
        self.counts["runs"] += 1
        self.counts["kills"] += run.killed
        try:
            return check(run)
        except AssertionError as problem:
            self.counts["wrong"] += 1
            print(str(problem).splitlines()[0], file=sys.stderr)
            return run

    def strange_night(self) -> None:
        """A night on which anything may go wrong."""
        rng = self.rng
        options = Options(
            api_key=KEY,
            page=20,
            bookmarks=rng.choice(list(BOOKMARKS)),
            churn=rng.choice((0, 0.2, 1.0)),
            lose=rng.choice(("", "", "", "contacts", "members")),
            seed=rng.randrange(10**6),
            faults=soup(rng.choice((0, 0, 4)), rng.randrange(10**6)),
        )
        if self.path.exists() and rng.random() < 0.1:
            damage(self.path, rng)
            self.counts["damaged"] += 1
        run = self.run(options, kill=rng.random() < 0.6, digests=str(self.path))
        messages = run.messages[: rng.choice((None, rng.randrange(len(run.messages) + 1)))]
        self.replica.take(messages, also=rng.choice((0, rng.randrange(300), 10**6)))
        self.account.move_on(self.counts["runs"])

    def settle(self) -> None:
        """Run quiet nights, and count what is wrong after them.

        The first may end a pass in which a strange night lost pages, and fail because of them.
        """
        quiet = Options(api_key=KEY)
        run = self.run(quiet, digests=str(self.path))
        assert run.code == 0 or ", twice. Run again later" in run.last_words, run.stderr
        self.replica.take(run.messages)
        for _ in range(2):
            run = self.run(quiet, digests=str(self.path))
            assert run.code == 0, run.stderr
            self.replica.take(run.messages)
        whole = Replica()
        whole.take(self.run(quiet, state=None).messages)
        for name in TABLES:
            mine, wanted = self.replica.rows[name], whole.rows[name]
            self.counts["rows"] += len(wanted)
            self.counts["missing"] += len(wanted.keys() - mine.keys())
            self.counts["left"] += len(mine.keys() - wanted.keys())
            self.counts["outdated"] += sum(mine[key] != wanted[key] for key in mine.keys() & wanted)
        run = self.run(quiet, digests=str(self.path))
        self.counts["resent"] += len(run.of("RECORD"))


def damage(path: Path, rng: random.Random) -> None:
    """Flip some bits of a file."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 4)):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def play(args: argparse.Namespace, folder: Path) -> tuple[str, bool]:
    """Run the histories: the figures, and whether all is well."""
    counts: Counter[str] = Counter()
    for number in range(args.histories):
        history = History(folder, args.seed * 10_000 + number, counts)
        for _ in range(history.rng.randrange(3, 8)):
            history.strange_night()
        history.settle()
    figures = (
        f"{args.histories} histories with digests, {counts['runs']} runs, {counts['kills']} kills,"
        f" {amount(counts['damaged'], 'damaged file')}: of {counts['rows']:,} rows, {counts['missing']} missing,"
        f" {counts['outdated']} outdated, {counts['left']} left behind; {counts['resent']} rows sent"
        f" on quiet nights; {counts['wrong']} runs broke an invariant"
    )
    return figures, not any(
        counts[one] for one in ("missing", "outdated", "left", "resent", "wrong")
    )


if __name__ == "__main__":
    sys.exit(report(play, histories=100))
