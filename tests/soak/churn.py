"""Hundreds of passes over accounts that change while they are read, each checked for false claims.

`python -m tests.soak.churn --passes 1000 --lost 1000` runs the real command against changing accounts,
with every style of bookmark, and prints one line of figures. Its exit code is 0 only if 99 % of the
passes sent every ACTIVATE_VERSION and moved every bookmark, none of them wrongly, and none of the
passes with a lost page did so for a table that page feeds. The seed determines accounts and changes.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.options import BOOKMARKS, STALE
from tests.conftest import KEY, Tap
from tests.invariants import Run
from tests.lying_pager import Options
from tests.recording import Sandbox
from tests.soak.happenings import TABLES
from tests.soak.runner import report
from tests.witness import check_bookmarks, check_complete, check_served

PAGE = 20
CONTACTS, SEGMENTS, MEMBERS = 400, 4, 100
REQUESTS = 2 + CONTACTS // PAGE + SEGMENTS * MEMBERS // PAGE  # of a pass
FED = {
    "contacts": ("contacts", "lists_contacts", "email_opened"),
    "members": ("smart_segments_contacts",),
}


def catalog(*, incremental: bool) -> dict[str, Any]:
    """A catalog of all these tables: full, or incremental where they can be."""
    streams: list[dict[str, Any]] = [{"tap_stream_id": name} for name in TABLES]
    for one in streams:
        if incremental and one["tap_stream_id"] in ("contacts", "email_opened"):
            one["metadata"] = [
                {"breadcrumb": [], "metadata": {"replication-method": "INCREMENTAL"}}
            ]
    return {"streams": streams}


def one_pass(tap: Tap, number: int, seed: int, lose: str = "") -> tuple[Run, str]:
    """A pass over a new account, and a description of the pass."""
    ways = list(itertools.product(BOOKMARKS, STALE))
    style, stale = ways[number % len(ways)]
    rng = random.Random(f"{seed} {number}")
    share = rng.uniform(0.001, 0.02)
    options = Options(
        api_key=KEY,
        page=PAGE,
        bookmarks=style,
        stale=stale,
        empty_end=rng.random() < 0.2,
        lose=lose,
        churn=share * CONTACTS / REQUESTS,
        clock_skew=rng.choice((0, 0, -5000, 5000)),
        seed=rng.randrange(10**9),
    )
    account = Account(contacts=CONTACTS, segments=SEGMENTS, members=MEMBERS, seed=number % 50)
    with Sandbox(account, options) as sandbox:
        streams = catalog(incremental=number // len(ways) % 2 == 1)
        run = tap.run(*tap.arguments(sandbox, catalog=streams, state=None, config={}))
        run.watch(sandbox, 0)
    return run, f"pass {number}: {style}/{stale}, {lose or 'no'} page lost, churn {share:.1%}"


def claims(run: Run) -> dict[str, bool]:
    """Whether the run claims that each table is complete, by ACTIVATE_VERSION or a bookmark."""
    bookmarks = run.state["bookmarks"]
    return {
        name: bool(bookmarks.get(name, {}).get(run.replication_keys[name]))
        if name in run.replication_keys
        else bool(run.of("ACTIVATE_VERSION", name))
        for name in TABLES
    }


def makes_false_claim(run: Run, words: str) -> bool:
    """Whether the run makes a false claim; prints it on stderr."""
    try:
        check_served(run)
        check_complete([run])
        check_bookmarks([run])
    except AssertionError as problem:
        print(f"{words}: {str(problem).splitlines()[0]}", file=sys.stderr)
        return True
    return False


def play(args: argparse.Namespace, folder: Path) -> tuple[str, bool]:
    """Run the passes: the figures, and whether all is well."""
    counts: Counter[str] = Counter()
    tap = Tap(folder)
    for number in range(args.passes):
        run, words = one_pass(tap, number, args.seed)
        doubted = [name for name, good in claims(run).items() if not good]
        counts["whole"] += run.code == 0 and not doubted
        counts["wrong"] += makes_false_claim(run, words)
        if run.code or doubted:
            print(f"{words}: exit {run.code}, not complete: {doubted}", file=sys.stderr)
    for number in range(args.lost):
        lose = ("contacts", "members")[number % 2]
        run, words = one_pass(tap, number, args.seed + 1, lose)
        lost = any(page.lost for page in run.served)
        counts["lost"] += lost
        counts["missed"] += lost and any(claims(run)[name] for name in FED[lose])
        counts["wrong"] += makes_false_claim(run, words)
    figures = (
        f"{args.passes} passes over changing accounts: {counts['whole']} sent every ACTIVATE_VERSION"
        f" and moved every bookmark; {counts['lost']} passes with a lost page: {counts['missed']}"
        f" activated an affected table or moved its bookmark; {counts['wrong']} false claims"
    )
    return figures, counts["whole"] >= 0.99 * args.passes and not (
        counts["missed"] or counts["wrong"]
    )


if __name__ == "__main__":
    sys.exit(report(play, passes=1000, lost=1000))
