"""Histories: settings change, runs are interrupted, states are merged, files are lost or restored.

`python -m tests.soak.histories` plays many. After each run that ends with exit code 0, and whose rows
and state reached the target, the target must hold every row that exists, in its present form, and
in tables of which the run saw all rows, no other. A failure is shrunk to the shortest history.

Settings change rarely, so that most interrupted passes are resumed. Times are those of the account,
hours apart, so that a bookmark that moves too far skips changes. The runs are inside this process;
`tests.soak.nights` kills real ones.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import hypothesis

from tap_autopilot.protocol.catalog import discover
from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.documents import iso
from tests import in_process
from tests.invariants import Run
from tests.lying_pager import Options
from tests.pushed_store import PushedStore
from tests.recording import Sandbox
from tests.replica import Replica, merge_states
from tests.soak.happenings import (
    FIRST_SETTINGS,
    HISTORY,
    LETTERS,
    OPTIONAL_COLUMNS,
    SETTINGS,
    Night,
)
from tests.soak.runner import report
from tests.test_selection import choose

TIMED = {"contacts": "updated_at", "email_opened": "timestamp"}
START = datetime(2020, 1, 1, tzinfo=timezone.utc)


@dataclass
class Kept:
    """What can be restored: the target with its state, and the files.

    `began` is when the passes that the state interrupts began at the earliest, by table.
    """

    target: Replica
    began: dict[str, datetime]
    digests: bytes | None
    stores: dict[str, bytes]


@dataclass
class History:
    """An account, its target, and the files of the tap and the collector."""

    folder: Path
    settings: dict[str, Any] = field(
        default_factory=lambda: {name: values[0] for name, values in SETTINGS.items()}
    )
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.now = START
        self.made = self.pushed = 0
        self.opened: dict[str, dict[str, int]] = {}  # by contact, the time by message
        self.target = Replica(strict=False)
        self.tables: tuple[str, ...] = ()  # of this night's run
        self.kept: list[Kept] = []
        self.began: dict[str, datetime] = {}
        self.changed: dict[str, datetime] = {}  # when contacts changed, or events were pushed
        self.logs: set[str] = set()  # tables that may have pushed rows
        self.account = Account(contacts=0, lists=0, segments=0)
        for one in "lm":
            self.account.create_list(one, one)
        for one in LETTERS[:10]:
            self.create(one)
        for one in "st":
            self.account.create_segment(one, one, LETTERS[:5])
        self.stores = {}
        for name in ("one", "two"):
            (self.folder / name).mkdir()
            self.stores[name] = PushedStore(self.folder / name / "events.db")

    @property
    def digests(self) -> Path:
        return self.folder / "digests"

    def create(self, letter: str) -> None:
        """Add a contact with new values of every kind."""
        self.made += 1
        self.opened[letter] = {}
        fields = {"contact_id": letter, "created_at": iso(self.now), "lists": ["l"]}
        self.account.create({**fields, **self._fields(letter)})

    def _fields(self, letter: str) -> dict[str, Any]:
        """New values; a contact keeps what it opened."""
        self.made += 1
        self.opened[letter][f"m{self.made % 5}"] = int(self.now.timestamp() * 1000)
        value = {"kind": "Plan", "value": f"p{self.made}", "fieldType": "string", "deleted": False}
        return {
            "updated_at": iso(self.now), "Company": f"c{self.made}", "Phone": f"p{self.made % 3}",
            "mail_opened": {**self.opened[letter]}, "custom_fields": [value],
        }  # fmt: skip

    def change(self, what: str, letter: str) -> None:
        """Change the account, if it can change so."""
        account = self.account
        self.changed[letter] = self.now
        if letter not in account:
            if what == "create":
                self.create(letter)
        elif what == "change":
            account.change(letter, self._fields(letter))
        elif what == "delete" and len(account.contact_ids) > 4:
            account.delete(letter)
        elif what == "join":
            account.join("t", letter)
        elif what == "leave" and len(account.segment_members("s") or ()) > 1:
            account.leave("s", letter)
        elif what == "enlist":
            account.change(letter, {**self._fields(letter), "lists": ["l", "m"]})

    def push(self) -> None:
        """Let both collectors receive one event each."""
        for name, store in self.stores.items():
            self.pushed += 1
            self.changed[f"{name}{self.pushed}"] = self.now
            moment = iso(self.now)
            store.track({
                "type": "track", "event": "Email Opened", "messageId": f"{name}{self.pushed}",
                "timestamp": moment, "context": {"traits": {"contact_id": "zz", "email": "z@z"}},
                "properties": {"email_id": f"pushed{self.pushed}"},
            })  # fmt: skip

    def happen(self, accident: str) -> None:
        """Restore something older, or lose a file."""
        if accident == "no digests file":
            self._write_digests(None)
        if not self.kept:
            return
        kept = self.kept[len(self.kept) // 2]
        if accident == "older target":
            self.target = kept.target.copy()
            self.began = dict(kept.began)
        elif accident == "older state":  # the documentation says to delete the file then
            self.target.state = copy.deepcopy(kept.target.state)
            self.began = dict(kept.began)
            self._write_digests(None)
        elif accident == "older digests file":
            self._write_digests(kept.digests)
        elif accident == "older store":
            for name, data in kept.stores.items():
                Path(self.stores[name].path).write_bytes(data)

    def _write_digests(self, data: bytes | None) -> None:
        for path in self.folder.glob("digests*"):
            path.unlink()
        if data is not None:
            self.digests.write_bytes(data)

    def _keep(self) -> None:
        digests = self.digests.read_bytes() if self.digests.exists() else None
        stores = {name: Path(store.path).read_bytes() for name, store in self.stores.items()}
        self.kept.append(Kept(self.target.copy(), dict(self.began), digests, stores))

    def run(self, *, state: Any, whole: bool = False, **how: Any) -> Run:
        """One run with the present settings; a `whole` one reads everything, without digests."""
        settings = self.settings
        chosen: dict[str, Any] = {"custom_fields_as_columns": settings["custom_fields_as_columns"]}
        if settings["store"]:
            chosen["collector_database"] = self.stores[settings["store"]].path
        if not whole and settings["digests"]:
            chosen["digests"] = str(self.digests)
        if not whole and settings["start_date"]:
            chosen["start_date"] = settings["start_date"]
        catalog = discover(settings={"collector_database"} if settings["store"] else ())
        catalog["streams"] = [one for one in catalog["streams"]
                              if one["stream"] in self.tables]  # fmt: skip
        for name in () if whole else TIMED:
            if name in self.tables and (settings["store"] or settings[name] != "LOG_BASED"):
                choose(catalog, name, replication_method=settings[name])
        if settings["without"] and "contacts" in self.tables:
            choose(catalog, "contacts", "properties", settings["without"], selected=False)
        sandbox = Sandbox(self.account, Options(page=2))
        self.counts["runs"] += 1
        return in_process.run(sandbox, catalog=catalog, state=state, date=self.now, **how, **chosen)

    def play(self, night: Night) -> None:
        """One night. Raises AssertionError if the target is wrong afterwards."""
        self.now += timedelta(hours=12)
        if night.setting is not None:
            self.settings[night.setting[0]] = night.setting[1]
        self.happen(night.accident)
        for change in night.changes:
            self.change(*change)
        for _ in range(night.pushes):
            self.push()
        before = self.target.state if night.full_refresh is None else None
        self.tables = night.full_refresh or self.settings["tables"]
        usual = self.settings
        if night.elsewhere:
            self.settings = {**usual, "digests": False, "store": ""}
        try:
            self._run(night, before)
        finally:
            self.settings = usual

    def _run(self, night: Night, before: Any) -> None:
        failing = set() if night.failing is None else set(range(night.failing, 200))
        run = self.run(state=before, failing=failing, kill_after=night.kill_after)
        if night.thrown_away:
            return
        for name in self.tables:
            self.began.setdefault(name, self.now)
        if self.settings["store"]:
            self.logs.add("email_opened")
        old, messages = self.target.state, run.messages
        self.target.take(messages[: night.keep], also=night.unconfirmed)
        if self.target.state is not old:
            self.target.state = merge_states(old, self.target.state)
        complete = run.code == 0 and not run.killed
        if complete and (night.keep is None or night.keep >= len(messages)):
            self.counts["complete"] += 1
            self.check(run)
            for name in self.tables:
                del self.began[name]
        self._keep()

    def check(self, run: Run) -> None:
        """Compare the target with a whole load, but for contacts that changed during the pass."""
        whole = Replica()
        whole.take(self.run(state=None, whole=True).messages)
        for name in self.tables:
            # An event is held back for hours, until its push can no longer come.
            waits = timedelta(hours=6) if name == "email_opened" else timedelta(0)
            moved = {one for one, at in self.changed.items() if at > self.began[name] - waits}
            mine, wanted = (
                {key: row for key, row in there.rows[name].items()
                 if moved.isdisjoint((row.get("context_traits_contact_id"), *key))}
                for there in (self.target, whole)
            )  # fmt: skip
            key = TIMED.get(name)
            is_incremental = key is not None and self.settings[name] == "INCREMENTAL"
            if key and self.settings["start_date"]:
                wanted = {one: row for one, row in wanted.items()
                          if row[key] is None or row[key] >= self.settings["start_date"]}  # fmt: skip
            if self.settings["store"] and self.settings.get(name) == "LOG_BASED":
                wanted = {one: row for one, row in wanted.items() if row["received_at"]}
            self.counts["rows"] += len(wanted)
            missing = wanted.keys() - mine.keys()
            self.counts["lost"] += len(missing)
            assert not missing, f"{name}: rows that exist are missing: {sorted(missing)}"
            for one, row in wanted.items():
                columns = [
                    column for column in row
                    if not is_incremental
                    or not (column in OPTIONAL_COLUMNS or column.startswith("custom_"))
                ]  # fmt: skip
                now, there = ([it.get(column) for column in columns] for it in (row, mine[one]))
                self.counts["outdated"] += now != there
                assert now == there, f"{name} {one}: outdated: {there}, not {now}"
            sees_all = not is_incremental and not (key and self.settings["start_date"])
            if sees_all and name not in self.logs and not _is_doubtful(run, name):
                left = mine.keys() - wanted.keys()
                self.counts["left"] += len(left)
                assert not left, f"{name}: deleted rows are left behind: {sorted(left)}"


def _is_doubtful(run: Run, name: str) -> bool:
    """Whether the run said that it keeps a table's deleted rows."""
    return any(name in line and "deleted rows are kept" in line for line in run.log)


def live(nights: list[Night], counts: Counter[str] | None = None, **settings: Any) -> None:
    """Play a history in a folder of its own, and two quiet nights after it."""
    with tempfile.TemporaryDirectory() as folder:
        history = History(Path(folder), counts=counts if counts is not None else Counter())
        history.settings |= settings
        for night in [*nights, Night(), Night()]:
            history.play(night)


def play(args: argparse.Namespace, _: Path) -> tuple[str, bool]:
    """Play the histories: the figures. A wrong target ends it, with the shortest history."""
    counts: Counter[str] = Counter()

    @hypothesis.seed(args.seed)
    @hypothesis.settings(
        max_examples=args.histories, database=None, deadline=None, derandomize=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(FIRST_SETTINGS, HISTORY)
    def every(settings: dict[str, Any], nights: list[Night]) -> None:
        counts["histories"] += 1
        live(nights, counts, **settings)

    every()
    figures = (
        f"{counts['histories']} histories, {counts['runs']:,} runs, {counts['complete']:,} complete:"
        f" of {counts['rows']:,} rows, {counts['lost']} lost or wrongly deleted,"
        f" {counts['outdated']} outdated, {counts['left']} left behind"
    )
    return figures, True


if __name__ == "__main__":
    sys.exit(report(play, histories=300))
