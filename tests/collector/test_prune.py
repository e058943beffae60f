"""Retention: events that a STATE shows to be loaded lose their bodies, and no others do."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.collector.errands import reachable
from tap_autopilot.collector.prune import pruning
from tap_autopilot.collector.reader import open_reader
from tap_autopilot.collector.remnant import NOTHING, body_of, remains
from tap_autopilot.collector.sqlite import SqliteStore
from tap_autopilot.collector.store import Loaded, Received, Slice
from tap_autopilot.protocol.schemas import load_schema
from tap_autopilot.pushed.rows import Pushed, compile_email
from tap_autopilot.rows.times import as_datetime
from tests.collector.conftest import ROOT, TOKEN, Collector, Start
from tests.invariants import untimed

OPENED = {
    "type": "track",
    "event": "Email Opened",
    "messageId": "m",
    "timestamp": "2024-01-01T00:00:00Z",
    "anonymousId": "ada@example.com",
    "context": {"ip": "1.2.3.4", "traits": {"email": "ada@example.com", "phone": "1"}},
    "properties": {"event": "opened", "email_id": "batch_1", "link_url": "https://x", "n": 1},
}
LEFT = {
    "timestamp": "2024-01-01T00:00:00.000Z",
    "anonymousId": "ada@example.com",
    "context": {"traits": {"email": "ada@example.com"}},
    "properties": {"email_id": "batch_1"},
}


def state(path: Path, **positions: Any) -> str:
    bookmarks = {name: {"collected": position} for name, position in positions.items()}
    path.write_text(json.dumps({"bookmarks": {"contacts": {"version": 1}, **bookmarks}}))
    return str(path)


def left(body: bytes) -> Any:
    return json.loads(body_of(remains("segment", body)))


def stats(collector: Collector) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(collector.run("--stats").stdout)
    return found


def autopilots_own(number: int, messages: int) -> dict[str, Any]:
    person = str(uuid.UUID(int=number)).upper()
    email = f"somebody.{number}@example.com"
    which = number % messages
    return {
        "type": "track", "event": "Email Opened", "messageId": str(uuid.uuid4()),
        "timestamp": f"2024-01-01T00:{number // 1000:02}:{number % 60:02}.{number % 1000:03}Z",
        "anonymousId": email,
        "context": {"traits": {"email": email, "contact_id": f"person_{person}"}},
        "properties": {
            "event": "opened", "campaign_id": "campaign_CBD5C1FA-3532-42AB-B498-7A93F9CCC72B",
            "campaign_name": "Onboarding Journey",
            "email_id": f"batchcampaign_{1477963234959 + which}-639D1900-9FD1-11E6-95FC-1DF74FF397DB",
            "email_name": f"Onboarding Email {which}", "email_subject": "Welcome",
            "transactional": False, "link_id": f"link_{person}",
            "link_url": f"https://www.example.com/welcome?utm_source=autopilot&person={person}",
        },
    }  # fmt: skip


def test_what_pruning_keeps_of_an_event() -> None:
    assert left(json.dumps(OPENED).encode()) == LEFT
    assert remains("segment", b"5") == remains("segment", b"{broken") == NOTHING
    assert remains("hook", b'{"event": "contact_added", "email": "a@example.com"}') == NOTHING
    assert remains("activity", b"no json") == NOTHING
    assert body_of(NOTHING) == b"{}"


@pytest.mark.parametrize(
    ("traits", "properties"),
    [({"contact_id": "person_1"}, {}), ({}, {"ContactId": "person_1"}),
     ({"contactId": ""}, {"contact_id": "person_1"})],
)  # fmt: skip
def test_no_email_address_remains_where_the_contact_is_known(
    traits: dict[str, str], properties: dict[str, str]
) -> None:
    address = "ada@example.com"
    call = {
        **OPENED,
        "userId": address,
        "traits": {"email": address},
        "context": {"traits": {"email": address, **traits}},
        "properties": {"email": address, "email_id": "batch_1", **properties},
    }
    found = left(json.dumps(call).encode())
    assert address not in json.dumps(found)
    assert found["context"] == {"traits": {"contact_id": "person_1"}}
    assert found["properties"] == {"email_id": "batch_1"}


@pytest.mark.parametrize("contact", [5, ["x"], "a\nb", "\ud800", "x" * 300, {"a": 1}])
def test_an_odd_contact_id_is_kept_as_it_came(contact: Any) -> None:
    traits = {"contact_id": contact, "email": "a@example.com"}
    found = left(json.dumps({**OPENED, "context": {"traits": traits}}).encode())
    assert found["context"] == {"traits": traits}


@pytest.mark.parametrize("time", ["soon", 5, None, "2024-01-01", ""])
def test_without_a_proper_timestamp_all_times_are_kept(time: Any) -> None:
    times = {"timestamp": time, "sentAt": "x", "originalTimestamp": 1, "receivedAt": None}
    found = left(json.dumps({**OPENED, **times}).encode())
    assert {name: found[name] for name in times} == times


@pytest.mark.parametrize("running", [True, False])
def test_loaded_events_are_pruned(start: Start, tmp_path: Path, running: bool) -> None:
    collector = start()
    collector.post("/v1/track", OPENED)
    collector.post(f"/hooks/{TOKEN}", {"event": "contact_added"})
    collector.post("/v1/track", {**OPENED, "messageId": "n"})
    collector.post(f"/activity/{TOKEN}", b'{"event": "sms.sent"}')
    collector.post("/v1/track", {**OPENED, "event": "Order Completed", "messageId": "o"})
    store_id = json.loads(collector.run("--stats").stdout)["store_id"]
    if not running:
        collector.stop()
    path = state(tmp_path / "state.json", email_opened=[store_id, 2], contact_events=[store_id, 5])
    for pruned in (2, 0):
        done = collector.run("--prune", "--state", path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"Pruned {pruned} events and freed ")
    first, second, *others = collector.events()
    assert (json.loads(first.body), first.pruned) == (LEFT, True)
    assert (second.body, second.pruned) == (b"{}", True)
    assert not any(event.pruned for event in others)  # not loaded yet, or in no table
    assert len(list(tmp_path.glob("*.sock"))) == running
    if not running:
        collector.start()
    assert collector.post("/v1/track", OPENED).status_code == 200  # still recognized
    assert len(collector.events()) == 5


@pytest.mark.parametrize(
    "positions",
    [{}, {"a": ["other", 5]}, {"a": ["other", 5], "b": "this"}, {"a": "x"}, {"a": [5, 5]}],
    ids=range(5),
)
def test_a_state_of_another_store_prunes_nothing(
    start: Start, tmp_path: Path, positions: dict[str, Any]
) -> None:
    collector = start()
    collector.post("/v1/track", OPENED)
    store_id = json.loads(collector.run("--stats").stdout)["store_id"]
    if positions.get("b"):
        positions = {**positions, "b": [store_id, 1]}
    done = collector.run("--prune", "--state", state(tmp_path / "s", **positions))
    assert done.returncode == 2
    assert "nothing was pruned" in done.stderr
    assert [event.pruned for event in collector.events()] == [False]


@pytest.mark.parametrize("since", [5, "soon", [], "2024-01-01"])
def test_a_malformed_bookmark_prunes_nothing(start: Start, tmp_path: Path, since: object) -> None:
    collector = start()
    collector.post("/v1/track", OPENED)
    store_id = json.loads(collector.run("--stats").stdout)["store_id"]
    path = tmp_path / "state.json"
    bookmark = {"collected": [store_id, 1], "collected_from": since}
    path.write_text(json.dumps({"bookmarks": {"email_opened": bookmark}}))
    done = collector.run("--prune", "--state", str(path))
    assert done.returncode == 2
    assert "bookmark of email_opened is malformed" in done.stderr
    assert [event.pruned for event in collector.events()] == [False]


@pytest.mark.parametrize("fingerprint", ["0" * 16, 5, "short"])
@pytest.mark.parametrize("running", [True, False])
def test_a_state_that_names_another_event_prunes_nothing(
    start: Start, tmp_path: Path, running: bool, fingerprint: Any
) -> None:
    collector = start()
    collector.post("/v1/track", OPENED)
    with open_reader(collector.database) as reader:
        store_id, right = reader.store_id, reader.fingerprint(1)
        assert reader.fingerprint(2) is None
    if not running:
        collector.stop()
    for position, said in (
        ([store_id, 1, fingerprint], "it has a different event there"),
        ([store_id, 2, right], "it ends at event 1"),
        ([store_id, 2], "it ends at event 1"),
    ):
        done = collector.run("--prune", "--state", state(tmp_path / "s", email_opened=position))
        assert done.returncode == 2
        assert said in done.stderr
        assert "Nothing was pruned" in done.stderr
    assert [event.pruned for event in collector.events()] == [False]
    for count in (1, 0):  # a pruned event keeps its fingerprint
        path = state(tmp_path / "s", email_opened=[store_id, 1, right])
        done = collector.run("--prune", "--state", path)
        assert done.stdout.startswith(f"Pruned {count} "), done.stderr
    with open_reader(collector.database) as reader:
        assert reader.fingerprint(1) == right
        assert reader.pruned() == {"email_opened": 1}
        assert reader.stats()["pruned"] == 1


@pytest.mark.parametrize(
    "request_text",
    [
        "{", "{}", "[1]", '{"prune": {"email_opened": 5}}', '"x"',
        '{"prune": {"email_opened": [1, 5]}}', '{"prune": {"email_opened": [1, "soon"]}}',
        '{"prune": {"email_opened": ["1"]}}', '{"prune": {"email_opened": "ab"}}', "",
        '{"prune": {"email_opened": [1e3]}}', '{"prune": {"email_opened": [true]}}',
        '{"prune": {"email_opened": [9223372036854775808]}}', "x" * 2_000_000, "[" * 500_000,
    ],
)  # fmt: skip
def test_a_malformed_request_does_no_harm(start: Start, request_text: str) -> None:
    collector = start()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        with reachable(Path(f"{collector.database}.sock")) as address:
            connection.connect(address)
        with contextlib.suppress(OSError):
            connection.sendall(request_text.encode() + b"\n")
            answer = connection.makefile().readline()
            assert not answer or "error" in json.loads(answer)
    assert collector.post("/v1/track", OPENED).status_code == 200
    assert collector.stop() == 0
    assert "RecursionError" not in collector.log.read_text()


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "Track"},
        {"properties": {"emailId": "batch_1", "EmailSubject": "S"}},
        {"context": {"traits": {"contactId": "c", "EMAIL": "a@example.com"}}},
        {"context": {}, "properties": {"contact_id": "c"}},
    ],
)
def test_pruning_keeps_the_columns_that_identify_an_event(odd: dict[str, Any]) -> None:
    body = json.dumps({**OPENED, **odd}).encode()
    schema = load_schema("email_opened")
    make = compile_email(schema, schema, "email_opened", "Email Opened")
    before, after = (
        make(Pushed(1, "1", 0, "", json.loads(one), pruned=False, cleaned=0))
        for one in (body, body_of(remains("segment", body)))
    )
    columns = ["email_id", "email_subject", "context_traits_contact_id"]
    if after["context_traits_contact_id"] is None:
        columns += ["context_traits_email", "anonymous_id"]
    for column in columns:
        assert after[column] == before[column]
    assert as_datetime(after["timestamp"]) == as_datetime(before["timestamp"])


@pytest.mark.parametrize(
    ("since", "pruned"),
    [("2023-12-31T00:00:00Z", 1), ("2024-01-01T00:00:00Z", 1), ("2024-01-02T00:00:00Z", 0)],
)
def test_events_skipped_by_start_date_are_not_pruned(
    start: Start, tmp_path: Path, since: str, pruned: int
) -> None:
    collector = start()
    collector.post("/v1/track", OPENED)
    collector.post("/v1/track", {**OPENED, "messageId": "n", "timestamp": "soon"})
    store_id = json.loads(collector.run("--stats").stdout)["store_id"]
    bookmark = {"collected": [store_id, 2], "collected_from": since}
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"bookmarks": {"email_opened": bookmark}}))
    done = collector.run("--prune", "--state", str(path))
    assert done.stdout.startswith(f"Pruned {pruned} events and freed ")


def test_prune_needs_a_state(start: Start, tmp_path: Path) -> None:
    collector = start()
    assert collector.run("--prune").returncode == 2
    assert collector.run("--prune", "--state", str(tmp_path / "none")).returncode == 2


def test_a_full_disk_while_pruning_is_reported(start: Start, tmp_path: Path) -> None:
    collector = start()
    collector.post("/v1/track", OPENED)
    store_id = json.loads(collector.run("--stats").stdout)["store_id"]
    collector.stop()
    path = state(tmp_path / "state.json", email_opened=[store_id, 1])
    program = (
        "import sys\n"
        "from tap_autopilot.collector import cli, sqlite, store\n"
        "def full(*_): raise store.Unavailable('database or disk is full')\n"
        "sqlite.SqliteStore.prune = full\n"
        "cli.main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *collector.arguments("--prune", "--state", path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert untimed(done.stderr) == "CRITICAL Cannot write to the store: database or disk is full.\n"


@pytest.mark.parametrize("running", [True, False])
def test_of_an_event_of_autopilots_own_form_at_most_200_bytes_remain_on_disk(
    tmp_path: Path, running: bool
) -> None:
    collector = Collector(tmp_path).start()
    events, messages = 20_000, 10
    for part in range(events // 1000):
        batch = [autopilots_own(part * 1000 + n, messages) for n in range(1000)]
        assert collector.post("/v1/batch", {"batch": batch}).status_code == 200
    empty = 150_000
    path = state(tmp_path / "s", email_opened=[stats(collector)["store_id"], events])
    if not running:
        collector.stop()
    done = collector.run("--prune", "--state", path)
    collector.stop()
    after = Path(collector.database).stat().st_size
    assert (after - empty) / events < 200
    assert done.stdout.startswith("Pruned 20,000 events and freed ")
    freed = int(done.stdout.split()[-2].replace(",", ""))
    assert freed > 500 * events
    assert b"@example.com" not in Path(collector.database).read_bytes()
    assert stats(collector)["pruned"] == events == len(collector.events())


def test_pruning_starts_where_the_last_one_stopped(tmp_path: Path) -> None:
    """Events that no table takes are read once, not each night."""
    store = SqliteStore(str(tmp_path / "events.db"))
    body = json.dumps(OPENED).encode()
    for name in ("page", "Email Opened"):
        store.append([Received(0, "segment", "track", name, body, None, True)] * 600)
    examined = 0

    def counting(tables: dict[str, Loaded]) -> dict[str, int]:
        nonlocal examined
        errand = pruning(tables)
        result: Any = None
        examined = 0
        while True:
            try:
                step = errand.send(result)
            except StopIteration as end:
                return {"examined": examined, **end.value}
            result = step(store)
            examined += isinstance(result, Slice)

    assert counting({"email_opened": Loaded(1200)})["pruned"] == 600
    assert examined == 6
    store.append([Received(0, "segment", "track", "Email Opened", body, None, True)] * 10)
    assert counting({"email_opened": Loaded(1210)})["pruned"] == 10
    assert examined == 1
    assert counting({"email_opened": Loaded(1210)})["pruned"] == 0
    assert examined == 0
    assert counting({"email_opened": Loaded(1210, "2025-01-01T00:00:00Z")})["pruned"] == 0
    assert examined > 1  # another start_date: from the beginning
    store.close()
