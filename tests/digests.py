"""An in-memory target, and nights that try to make it differ from the account."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

from tap_autopilot.sandbox.account import Account
from tap_autopilot.streams import STREAMS
from tests.conftest import USUAL_STREAMS, Serve, Tap
from tests.invariants import Message, Run

DELETED_AT = "_sdc_deleted_at"
KEYS = {
    name: stream.key_properties
    for name, stream in STREAMS.items()
    if stream.setting in (None, "digests")
}
TABLES = list(USUAL_STREAMS)

Key = tuple[str, ...]


class Replica:
    """A target that upserts by key, deletes on tombstones and obeys ACTIVATE_VERSION.

    It may have stored more than its last `state` covers.
    """

    def __init__(self) -> None:
        self.rows: dict[str, dict[Key, dict[str, Any]]] = {name: {} for name in KEYS}
        self.versions: dict[str, dict[Key, Any]] = {name: {} for name in KEYS}
        self.state: Any = None

    def copy(self) -> Replica:
        return copy.deepcopy(self)

    def take(self, messages: list[Message], *, also: int = 0) -> None:
        """Store everything up to the last STATE, and the next `also` messages."""
        states = [number for number, one in enumerate(messages) if one["type"] == "STATE"]
        stop = states[-1] + 1 if states else 0
        for message in messages[: stop + also]:
            self.store(message)
        if states:
            self.state = messages[states[-1]]["value"]

    def store(self, message: Message) -> None:
        """Store one message."""
        kind, stream = message["type"], message.get("stream", "")
        if kind == "RECORD":
            row = dict(message["record"])
            key = tuple(row[name] for name in KEYS[stream])
            if row.pop(DELETED_AT, None) is not None:
                self.rows[stream].pop(key, None)
                self.versions[stream].pop(key, None)
            else:
                self.rows[stream][key] = row
                self.versions[stream][key] = message.get("version")
        elif kind == "ACTIVATE_VERSION":
            for key, version in list(self.versions[stream].items()):
                if self.is_old(version, message["version"]):
                    del self.rows[stream][key], self.versions[stream][key]

    def is_old(self, version: Any, activated: int) -> bool:
        """Whether ACTIVATE_VERSION deletes a row. A strict target deletes all other versions."""
        return bool(version != activated)


def difference(one: Replica, other: Replica) -> dict[str, list[Any]]:
    """The differences between two targets, by table."""
    found = {}
    for name in TABLES:
        mine, others = one.rows[name], other.rows[name]
        if mine != others:
            keys = {key for key in mine.keys() | others.keys() if mine.get(key) != others.get(key)}
            found[name] = [(key, mine.get(key), others.get(key)) for key in sorted(keys)[:3]]
    return found


class Nights:
    """Nights of one account, its target and its digests file."""

    def __init__(self, tap: Tap, serve: Serve, account: Account) -> None:
        self.tap, self.serve, self.account = tap, serve, account
        self.replica = Replica()
        self.path = tap.folder / "kept" / "digests"
        self.path.parent.mkdir(exist_ok=True)

    def run(self, *faults: str, catalog: Any = None, settings: Any = None, **options: Any) -> Run:
        """A night's run, without storing any of it."""
        sandbox = self.serve(self.account, *faults, **{"page": 20, **options})
        chosen = {"digests": str(self.path), "retry_timeout": 0.2, **(settings or {})}
        return self.tap.sync(sandbox, state=self.replica.state, catalog=catalog, **chosen)

    def night(self, *faults: str, **options: Any) -> Run:
        """A night's run, with all of its rows stored."""
        run = self.run(*faults, **options)
        self.replica.take(run.messages)
        return run

    def full_load(self) -> Replica:
        """A new target, loaded in full without digests."""
        loaded = Replica()
        run = self.tap.sync(self.serve(self.account))
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
