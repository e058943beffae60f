"""Retention: events that a STATE shows to be loaded lose their bodies, and no others do."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

from tap_autopilot.amounts import amount
from tap_autopilot.collector import errands
from tap_autopilot.collector.commands import erase, prune
from tap_autopilot.collector.database import open_reader
from tap_autopilot.collector.errands import Do, Errand, Pauses, Wanted, alone, reachable
from tap_autopilot.collector.prune import prune_loaded
from tap_autopilot.collector.reader import Event
from tap_autopilot.collector.sqlite import SqliteStore
from tap_autopilot.collector.store import Loaded, Store
from tap_autopilot.exceptions import UserError
from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.mail import all_occurrences, track_call
from tests.collector.conftest import TOKEN, Collector, Start, event
from tests.collector.test_remnant import LEFT, OPENED
from tests.conftest import PATIENCE, wait_until


def state(path: Path, **bookmarks: Any) -> str:
    """A file with a STATE. A bookmark may be just its position in the store."""
    found = {
        name: one if isinstance(one, dict) else {"collected": one}
        for name, one in bookmarks.items()
    }
    path.write_text(json.dumps({"bookmarks": {"contacts": {"version": 1}, **found}}))
    return str(path)


class Stored(NamedTuple):
    """A store of two events, and what a STATE says about the first."""

    database: str
    store_id: str
    fingerprint: str

    def pruned(self) -> list[bool]:
        with open_reader(self.database) as reader:
            return [one.pruned for one in reader.read(0, 10)]


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    database = str(tmp_path / "events.db")
    store = SqliteStore(database)
    for changed in ({}, {"timestamp": "soon"}):
        store.append([event({**OPENED, **changed})])
    store.close()
    with open_reader(database) as reader:
        fingerprint = reader.fingerprint(1)
    assert fingerprint is not None
    return Stored(database, store.store_id, fingerprint)


@pytest.mark.parametrize("running", [True, False])
def test_loaded_events_are_pruned(start: Start, tmp_path: Path, running: bool) -> None:
    collector = start()
    collector.post("/v1/track", OPENED)
    collector.post(f"/hooks/{TOKEN}", {"event": "contact_added"})
    collector.post("/v1/track", {**OPENED, "messageId": "n"})
    collector.post(f"/activity/{TOKEN}", b'{"event": "sms.sent"}')
    collector.post("/v1/track", {**OPENED, "event": "Order Completed", "messageId": "o"})
    with open_reader(collector.database) as reader:
        store_id = reader.store_id
        opened = [store_id, 2, reader.fingerprint(2)]
    if not running:
        collector.stop()
    path = state(tmp_path / "state.json", email_opened=opened, contact_events=[store_id, 5])
    for pruned in (2, 0):
        done = collector.run("--prune", "--state", path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"Pruned {amount(pruned, 'event')} and freed ")
    first, second, *others = collector.events()
    assert (json.loads(first.body), first.pruned) == (LEFT, True)
    assert (second.body, second.pruned) == (b"{}", True)
    assert not any(one.pruned for one in others)  # not loaded yet, or in no table
    assert len(list(tmp_path.glob("*.sock"))) == running
    if not running:
        collector.start(fork=True)
    assert collector.post("/v1/track", OPENED).status_code == 200  # still recognized
    assert len(collector.events()) == 5


NO_TIMES: list[Any] = [5, "soon", [], "2024-01-01"]


@pytest.mark.parametrize(
    ("bookmarks", "said"),
    [
        ({}, "mentions no store"),
        ({"a": ["other", 1]}, "another store"),
        ({"a": ["other", 1], "b": ["this", 1]}, "another store"),
        ({"a": "x"}, "mentions no store"),
        ({"a": [5, 5]}, "mentions no store"),
        *(
            ({"a": {"collected": ["this", 1], "collected_from": odd}}, "bookmark of a is malformed")
            for odd in NO_TIMES
        ),
        ({"email_opened": ["this", 1, "0" * 16]}, "it has a different event there"),
        ({"email_opened": ["this", 1, 5]}, "it has a different event there"),
        ({"email_opened": ["this", 1, "short"]}, "it has a different event there"),
        ({"email_opened": ["this", 3, "of the first"]}, "it ends at event 2"),
        ({"email_opened": ["this", 3]}, "it ends at event 2"),
    ],
    ids=range(14),
)
def test_a_state_that_is_not_of_this_store_or_malformed_prunes_nothing(
    stored: Stored, tmp_path: Path, bookmarks: dict[str, Any], said: str
) -> None:
    path = Path(state(tmp_path / "s", **bookmarks))
    text = path.read_text().replace("of the first", stored.fingerprint)
    path.write_text(text.replace('"this"', f'"{stored.store_id}"'))
    with pytest.raises(UserError, match=r"(?i)nothing was pruned") as caught:
        prune(stored.database, str(path), None)
    assert said in str(caught.value)
    assert stored.pruned() == [False, False]


@pytest.mark.parametrize(
    ("since", "pruned"),
    [("2023-12-31T00:00:00Z", 1), ("2024-01-01T00:00:00Z", 1), ("2024-01-02T00:00:00Z", 0)],
)
def test_events_skipped_by_start_date_are_not_pruned(
    stored: Stored, tmp_path: Path, since: str, pruned: int
) -> None:
    bookmark = {"collected": [stored.store_id, 2], "collected_from": since}
    path = state(tmp_path / "s", email_opened=bookmark)
    assert prune(stored.database, path, None).startswith(
        f"Pruned {amount(pruned, 'event')} and freed "
    )
    assert stored.pruned() == [pruned == 1, False]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--state", os.devnull], "--state is only for --prune"),
        (["--stats", "--check"], "argument --check: not allowed with argument --stats"),
        (["--prune"], "state"),
        (["--prune", "--state", "/nowhere"], "state"),
        (["--prune", "--state", "odd"], "not valid Unicode"),
        (["--erase", " "], "--erase needs"),
    ],
)
def test_commands_that_say_too_little_or_too_much_are_refused(
    stored: Stored, tmp_path: Path, arguments: list[str], said: str
) -> None:
    odd = state(tmp_path / "odd", **{"email_opened\ud800": [stored.store_id, 1]})
    arguments = [odd if one == "odd" else one for one in arguments]
    assert said in Collector(tmp_path, database=stored.database).refusal(*arguments)
    assert stored.pruned() == [False, False]


@contextlib.contextmanager
def asking(collector: Collector) -> Iterator[socket.socket]:
    """A connection to the collector's own socket, as commands have."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        with reachable(Path(f"{collector.database}.sock")) as address:
            connection.connect(address)
        yield connection


def endless(*_: object) -> Errand:
    def run(do: Do) -> NoReturn:
        while True:
            do(lambda _: None)

    return run


@pytest.mark.parametrize("command", ["--prune", "--erase"])
def test_a_collector_that_starts_takes_over_from_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, command: str
) -> None:
    caplog.set_level("INFO")
    collector = Collector(tmp_path, constants={"cli.WAIT_FOR_STORE": PATIENCE})
    with contextlib.closing(SqliteStore(collector.database)) as store:
        count = 3 * store.prune_slice
        store.append([event(OPENED)] * count)
    path = state(tmp_path / "state.json", email_opened=[store.store_id, count])
    starting = threading.Thread(target=collector.start, kwargs={"fork": True})
    read = SqliteStore.prunable

    def read_and_see_it_start(store: SqliteStore, after: int, up_to: int) -> list[Event]:
        if after == store.prune_slice:
            starting.start()
            wait_until(store.is_wanted)
        return read(store, after, up_to)

    monkeypatch.setattr(SqliteStore, "prunable", read_and_see_it_start)
    monkeypatch.setattr(errands, "START", PATIENCE)
    try:
        if command == "--prune":
            said = prune(collector.database, path, None)
            left = amount(count - store.prune_slice, "event")
            assert said.startswith(f"Pruned {left} ")
        else:
            said = erase(collector.database, "person_of_no_event")
            assert said.startswith("Erased 0 events ")
        assert "A collector is starting" in caplog.text
        starting.join()
        assert collector.post("/v1/track", OPENED).status_code == 200
        assert all(one.pruned == (command == "--prune") for one in collector.events()[:count])
    finally:
        starting.join()
        assert collector.stop() == 0


def test_a_collector_that_starts_waits_for_what_is_being_erased(tmp_path: Path) -> None:
    """Or what connects the ids of a person might be gone, and the other ids not erased."""
    collector = Collector(tmp_path, constants={"cli.WAIT_FOR_STORE": PATIENCE})
    with contextlib.closing(SqliteStore(collector.database)) as store:
        starting = threading.Thread(target=collector.start, kwargs={"fork": True})
        starting.start()
        wait_until(store.is_wanted)
        with pytest.raises(Wanted):
            alone(store)(lambda store: store.probe())
        store.begin_wipe()
        assert alone(store)(lambda store: store.probe()) == 2
    starting.join()
    assert collector.stop() == 0


def test_the_work_of_an_interrupted_command_stops(start: Start) -> None:
    collector = start(constants={"errands.TELL_EVERY": 0, "server.errand_of": endless})
    with asking(collector) as connection:
        connection.sendall(b"{}\n")
    wait_until(lambda: "A command was interrupted" in collector.log.read_text())
    assert collector.stop() == 0
    assert "Unexpected" not in collector.log.read_text()


def test_a_command_is_refused_while_the_collector_works_for_another(start: Start) -> None:
    collector = start(constants={"errands.TURN": 0, "server.errand_of": endless})
    with asking(collector) as connection:
        connection.sendall(b"{}\n")
        assert connection.recv(1) == b"\n"  # it is under way
        done = collector.run("--erase", "ada@example.com")
    assert done.returncode == 1
    assert "Another command is using the store" in done.stderr


def test_a_command_that_has_gone_is_not_carried_out(start: Start) -> None:
    collector = start()
    collector.post("/v1/track", {"userId": "ada@example.com"})
    with asking(collector) as connection:
        connection.sendall(b'{"erase": "ada@example.com"}')  # its end is that of the connection
    wait_until(lambda: "A command was interrupted" in collector.log.read_text())
    assert b"ada@example.com" in collector.bodies()[0]


@pytest.mark.parametrize(
    "request_text",
    [
        "{", "{}", "[1]", '{"prune": {"email_opened": 5}}', '"x"',
        '{"prune": {"email_opened": [1, 5]}}', '{"prune": {"email_opened": [1, "soon"]}}',
        '{"prune": {"email_opened": ["1"]}}', '{"prune": {"email_opened": "ab"}}', "",
        '{"prune": {"email_opened": [1e3]}}', '{"prune": {"email_opened": [true]}}',
        '{"prune": {"\\ud800": [1, null]}}', '{"erase": "\\udfff"}', '{"forget": "\\ud8ff"}',
        '{"prune": {"email_opened": [9223372036854775808]}}', "x" * 2_000_000, "[" * 500_000,
    ],
)  # fmt: skip
def test_a_malformed_request_does_no_harm(shared: Collector, request_text: str) -> None:
    with asking(shared) as connection, contextlib.suppress(OSError):
        connection.sendall(request_text.encode() + b"\n")
        answer = connection.makefile().readline()
        assert not answer or "error" in json.loads(answer)
    assert shared.post("/v1/track", OPENED).status_code == 200
    assert "RecursionError" not in shared.log.read_text()


@pytest.mark.parametrize("running", [True, False])
def test_of_an_event_of_autopilots_own_form_at_most_200_bytes_remain_on_disk(
    start: Start, tmp_path: Path, running: bool
) -> None:
    collector = start()
    empty = Path(collector.database).stat().st_size
    account = Account(contacts=2000)
    opened = [one for one in all_occurrences(account) if one.kind == "opened"]
    calls = [track_call(account.seed, one) for one in opened]
    batch = [call for call in calls if "contact_id" in call["context"].get("traits", {})]
    count = len(batch)
    assert count > 2000
    assert collector.post("/v1/batch", {"batch": batch}).status_code == 200
    with open_reader(collector.database) as reader:
        path = state(tmp_path / "s", email_opened=[reader.store_id, count])
    if not running:
        collector.stop()
    done = collector.run("--prune", "--state", path)
    collector.stop()
    assert (Path(collector.database).stat().st_size - empty) / count < 200
    assert done.stdout.startswith(f"Pruned {amount(count, 'event')} and freed ")
    freed = int(done.stdout.split()[-2].replace(",", ""))
    assert freed > 500 * count
    assert b"@example.com" not in Path(collector.database).read_bytes()
    with open_reader(collector.database) as reader:
        assert reader.stats()["pruned"] == reader.stats()["events"] == count


def test_pruning_starts_where_the_last_one_stopped(store: Store) -> None:
    """Events that no table takes are read once, not each night."""
    for name in ("page", "Email Opened"):
        store.append([event(OPENED, name=name)] * store.prune_slice)
    last = 2 * store.prune_slice
    examined = 0

    def do(step: Callable[[Store], Any]) -> Any:
        nonlocal examined
        result = step(store)
        examined += isinstance(result, list) and result != []  # a slice of events
        return result

    def counting(tables: dict[str, Loaded]) -> dict[str, int]:
        nonlocal examined
        examined = 0
        return prune_loaded(do, tables)

    assert counting({"email_opened": Loaded(last)})["pruned"] == store.prune_slice
    assert examined == 2
    store.append([event(OPENED)] * 10)
    assert counting({"email_opened": Loaded(last + 10)})["pruned"] == 10
    assert examined == 1
    assert counting({"email_opened": Loaded(last + 10)})["pruned"] == 0
    assert examined == 0
    assert counting({"email_opened": Loaded(last + 10, "2025-01-01T00:00:00Z")})["pruned"] == 0
    assert examined == 1  # another start_date: from the beginning


def test_after_an_unusually_long_step_pruning_pauses_for_longer() -> None:
    pauses = Pauses()
    assert [pauses.after(0.001, waited) for waited in (0.001, 0.005)] == [0.001, 0.005]
    assert pauses.after(0.006, 0.007) == pytest.approx(0.3)
    assert pauses.after(0.2, 0.2) == 1
    assert [pauses.after(0.3, 0.4) for _ in range(9)][-1] == 0.4, "on a slow disk it is usual"
