"""What it takes to find out which polled events were also pushed."""

from __future__ import annotations

import tracemalloc

import pytest

from tap_autopilot.pushed import index
from tap_autopilot.pushed.index import PushedIndex
from tap_autopilot.rows import matching
from tap_autopilot.rows.matching import DESCRIPTION, Occurrence, matched
from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.times import from_epoch
from tests.test_merge import NOW


def test_describing_events_costs_little_however_many_messages_a_store_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(index, "MAX_DESCRIPTIONS", 1000)
    monkeypatch.setattr(index, "MAX_KEYS", 0)  # of a store with more messages than are kept
    pushed = PushedIndex(["email_opened"])
    row = dict.fromkeys(DESCRIPTION, "text") | {"timestamp": None, "transactional": True}
    pushed.describe({**row, "email_id": f"m{number}"} for number in range(20_000))
    pushed.complete()
    pushes = pushed.about({}, 0)
    work = 0

    def count() -> None:
        nonlocal work
        work += 1

    pushed._database.set_progress_handler(count, 1000)
    for number in range(40_000):  # half of them are known
        event = {"email_id": f"m{number}"}
        pushes.describe(event)
        assert event.get("email_subject") == ("text" if number < 20_000 else None)
    assert work < 1000, "thousands of SQLite's steps: 400; more if summed up only when asked for"


def index_of_one_contact(count: int) -> PushedIndex:
    pushed = PushedIndex(["email_opened"])
    row = dict.fromkeys((*DESCRIPTION, "anonymous_id", "user_id", "context_traits_email"))
    row |= {"email_id": "m", "context_traits_contact_id": "c", "timestamp": from_epoch(NOW)}
    pushed.add("email_opened", [row] * count, NOW)
    pushed.complete()
    return pushed


def test_pushes_about_a_contact_take_little_memory() -> None:
    """A sender can make up any number of them."""
    pushed = index_of_one_contact(50_000)
    tracemalloc.start()
    try:
        pushes = pushed.about({"c": None}, NOW)
        left = pushes.unpushed("email_opened", "c", {"m": NOW}, None, Tally("email_opened"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left == {}
    assert peak < 50_000 * 40  # 16 each, and what they grow by


def test_only_so_many_pushes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MAX_PUSHES", 5)
    monkeypatch.setattr(matching, "MAX_NEAR", 1)
    pushes = index_of_one_contact(9).about({"c": None, "d": None}, NOW)
    assert len(pushes.by_contact["email_opened", "c"]) == 2 * 5
    assert matched([Occurrence(1, 0), Occurrence(2, 0)], [(8, 0), (9, 0)]) == {0}
