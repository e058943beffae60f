"""Nights with digests that try to make the target differ from the account."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.faults import Fault, Faults
from tests import in_process
from tests.invariants import Run
from tests.lying_pager import Options
from tests.recording import Sandbox
from tests.replica import TABLES, Replica


class Nights:
    """Nights of one account, its target and its digests file, within the test's process."""

    def __init__(self, folder: Path, account: Account) -> None:
        self.account = account
        self.replica = Replica()
        self.path = folder / "kept" / "digests"
        self.path.parent.mkdir(exist_ok=True)

    def run(self, *faults: str, catalog: Any = None, settings: Any = None, **options: Any) -> Run:
        """A night's run, without storing any of it."""
        struck = Faults(map(Fault.parse, faults))
        options = {"page": 20, "faults": struck, **options}
        chosen = {"digests": str(self.path), **(settings or {})}
        return in_process.run(
            Sandbox(self.account, Options(**options)),
            state=self.replica.state,
            catalog=catalog,
            **chosen,
        )

    def night(self, *faults: str, **options: Any) -> Run:
        """A night's run, with all of its rows stored."""
        run = self.run(*faults, **options)
        self.replica.take(run.messages)
        return run

    def full_load(self) -> Replica:
        """A new target, loaded in full without digests."""
        loaded = Replica()
        run = in_process.run(Sandbox(self.account, Options()))
        assert run.code == 0
        loaded.take(run.messages)
        return loaded


def warned(run: Run, text: str) -> bool:
    return any(line.startswith("WARNING") and text in line for line in run.log)


def strange_night(nights: Nights, rng: random.Random, kept: list[tuple[Replica, bytes]]) -> str:
    """A night on which something may go wrong. Returns what it was."""
    what = rng.choice(
        ("nothing", "nothing", "cut", "cut", "cut", "broken", "short", "gone", "damaged", "cut file",
         "older file", "older target", "column", "start_date", "thrown away")
    )  # fmt: skip
    path, settings, faults, expected = nights.path, {}, [], {0}
    options: dict[str, Any] = {"churn": rng.choice((0, 0.3, 1.5)), "seed": rng.randrange(10**6)}
    catalog: Any = None
    if what == "broken":
        where = rng.choice(("/contacts", "/smart_segments/", "/lists", "/smart_segments"))
        faults, expected = [f"{where}@{rng.randrange(1, 5)}-:500"], {0, 1}
    elif what == "short":
        options["lose"], expected = rng.choice(("contacts", "members")), {0, 1}
    elif what == "gone":
        path.unlink(missing_ok=True)
    elif what == "damaged" and path.exists():
        damage(path, rng)
    elif what == "cut file" and path.exists():
        data = path.read_bytes()
        path.write_bytes(data[: rng.randrange(len(data) + 1)])
    elif what == "older file" and kept:
        path.write_bytes(rng.choice(kept)[1])
    elif what == "older target" and kept:
        nights.replica = rng.choice(kept)[0].copy()
    elif what == "column":
        left_out = rng.choice(("company", "mail_opened", "created_at"))
        metadata = [{"breadcrumb": ["properties", left_out], "metadata": {"selected": False}}]
        catalog = {"streams": [{"tap_stream_id": name} for name in (*TABLES, "membership_changes")]}
        catalog["streams"][0]["metadata"] = metadata
    elif what == "start_date":
        settings["start_date"] = "2016-06-01"
    elif what == "thrown away":
        names = rng.sample(sorted(TABLES), 3)
        catalog = {"streams": [{"tap_stream_id": name} for name in names]}
    run = nights.run(*faults, catalog=catalog, settings=settings, **options)
    assert run.code in expected, run.stderr
    if what == "thrown away":
        return what
    messages = run.messages
    if what == "cut":
        messages = messages[: rng.randrange(len(messages) + 1)]
    nights.replica.take(messages, also=rng.choice((0, 0, rng.randrange(60), 10**6)))
    return what


def damage(path: Path, rng: random.Random) -> None:
    """Flip some bits of a file."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 4)):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def small_account(rng: random.Random) -> Account:
    return Account(
        seed=rng.randrange(50),
        contacts=rng.randrange(20, 70),
        lists=4,
        segments=rng.choice((1, 3, 4)),
        members=25,
    )
