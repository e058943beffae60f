"""Retention: what a STATE shows to be loaded loses its body, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.collector.prune import told
from tests.collector.conftest import TOKEN, Collector, Start

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


def test_what_stays_of_an_event() -> None:
    assert json.loads(told("segment", "batch", json.dumps(OPENED).encode())) == LEFT
    assert told("segment", "identify", b'{"traits": {}}') == b"{}"
    assert told("segment", "batch", b'{"type": "page", "messageId": "1"}') == b"{}"
    assert told("segment", "track", b"5") == b"{}"
    assert told("hook", "hooks", b'{"event": "contact_added"}') == b"{}"
    assert told("activity", "activity", b"no json") == b"{}"


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
    assert not any(event.pruned for event in others)  # of what is not loaded, or in no table
    assert not list(tmp_path.glob("*.prune*"))
    if not running:
        collector.start()
    assert collector.post("/v1/track", OPENED).status_code == 200  # still recognised
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


def test_prune_needs_a_state(start: Start, tmp_path: Path) -> None:
    collector = start()
    assert collector.run("--prune").returncode == 2
    assert collector.run("--prune", "--state", str(tmp_path / "none")).returncode == 2


def test_pruning_gives_the_disk_its_space_back(tmp_path: Path) -> None:
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
