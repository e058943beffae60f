"""Nights with digests that try to make the target differ from the account."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.faults import Fault, Faults
from tests import in_process
from tests.invariants import Run
from tests.lying_pager import Options
from tests.recording import Sandbox
from tests.replica import Replica


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
