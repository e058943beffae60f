"""Retention: events that a STATE shows to be loaded lose their bodies, and no others do."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.collector.prune import remains, serve_prune_requests
from tap_autopilot.protocol.schemas import load_schema
from tap_autopilot.pushed.rows import Pushed, compile_email
from tests.collector.conftest import ROOT, TOKEN, Collector, Start

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
    **OPENED,
    "context": {"traits": {"email": "ada@example.com"}},
    "properties": {"event": "opened", "email_id": "batch_1"},
}


def state(path: Path, **positions: Any) -> str:
    bookmarks = {name: {"collected": position} for name, position in positions.items()}
    path.write_text(json.dumps({"bookmarks": {"contacts": {"version": 1}, **bookmarks}}))
    return str(path)


def test_what_pruning_keeps_of_an_event() -> None:
    assert json.loads(remains("segment", "batch", json.dumps(OPENED).encode())) == LEFT
    assert remains("segment", "identify", b'{"traits": {}}') == b"{}"
    assert remains("segment", "batch", b'{"type": "page", "messageId": "1"}') == b"{}"
    assert remains("segment", "track", b"5") == b"{}"
    assert remains("hook", "hooks", b'{"event": "contact_added"}') == b"{}"
    assert remains("activity", "activity", b"no json") == b"{}"


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
        assert done.stdout == f"Pruned {pruned} events.\n"
    first, second, *others = collector.events()
    assert (json.loads(first.body), first.pruned) == (LEFT, True)
    assert (second.body, second.pruned) == (b"{}", True)
    assert not any(event.pruned for event in others)  # not loaded yet, or in no table
    assert not list(tmp_path.glob("*.prune*"))
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


def test_the_result_of_an_interrupted_command_is_not_taken_for_a_new_one(
    start: Start, tmp_path: Path
) -> None:
    collector = start()
    collector.post("/v1/track", OPENED)
    store_id = json.loads(collector.run("--stats").stdout)["store_id"]
    path = state(tmp_path / "state.json", email_opened=[store_id, 1])
    result = Path(f"{collector.database}.pruned")
    result.mkdir()
    done = collector.run("--prune", "--state", path)
    assert done.returncode == 2
    assert "nothing was pruned" in done.stderr
    result.rmdir()
    result.write_text('{"pruned": 7}')
    assert collector.run("--prune", "--state", path).stdout == "Pruned 1 events.\n"


@pytest.mark.parametrize(
    "request_text",
    [
        "{", "{}", "[1]", '{"email_opened": 5}', '"x"', '{"email_opened": [1, 5]}',
        '{"email_opened": [1, "soon"]}', '{"email_opened": ["1"]}', '{"email_opened": "ab"}',
        '{"email_opened": [1e3]}', '{"email_opened": [9223372036854775808]}',
    ],
)  # fmt: skip
def test_a_malformed_prune_request_does_no_harm(start: Start, request_text: str) -> None:
    collector = start()
    request = Path(f"{collector.database}.prune")
    request.write_text(request_text)
    deadline = time.monotonic() + 10
    while request.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not request.exists()
    assert "Cannot prune" in collector.log.read_text()
    assert collector.post("/v1/track", OPENED).status_code == 200


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
        for one in (body, remains("segment", "batch", body))
    )
    for column in ("timestamp", "email_id", "email_subject", "context_traits_contact_id",
                   "context_traits_email", "anonymous_id"):  # fmt: skip
        assert after[column] == before[column]


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
    assert done.stdout == f"Pruned {pruned} events.\n"


def test_a_url_is_not_taken_for_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tap_autopilot.collector.prune.LOOK_EVERY", 0)
    monkeypatch.chdir(tmp_path)
    request = Path("postgresql:/localhost/events.prune")
    request.parent.mkdir(parents=True)
    request.write_text("{")
    nobody: Any = None
    serving = serve_prune_requests("postgresql://localhost/events", nobody)
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(serving, 0.1))
    assert request.exists()


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
        "from tap_autopilot.collector import cli, sqlite, writing\n"
        "def full(*_): raise writing.Unavailable('database or disk is full')\n"
        "sqlite.SqliteStore.prune = full\n"
        "cli.main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *collector.arguments("--prune", "--state", path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "CRITICAL Cannot write to the store: database or disk is full.\n"


def test_pruning_frees_disk_space(tmp_path: Path) -> None:
    collector = Collector(tmp_path).start()
    large = {**OPENED, "properties": {"text": "x" * 2000}}
    for part in range(10):
        events = [{**large, "messageId": f"{part}-{n}"} for n in range(300)]
        assert collector.post("/v1/batch", {"batch": events}).status_code == 200
    collector.stop()
    before = Path(collector.database).stat().st_size
    store_id = json.loads(collector.run("--stats").stdout)["store_id"]
    path = state(tmp_path / "s", email_opened=[store_id, 3000])
    assert collector.run("--prune", "--state", path).stdout.startswith("Pruned 3,000 ")
    assert Path(collector.database).stat().st_size < before / 2
    assert len(collector.events()) == 3000
