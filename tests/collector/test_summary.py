"""The summary of what events say about messages, which a running collector keeps up to date."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.collector import summary
from tap_autopilot.collector.database import open_reader
from tap_autopilot.collector.sqlite import SqliteStore
from tap_autopilot.collector.store import Received, Store
from tap_autopilot.collector.summary import Summarizer
from tests.collector.conftest import Start, event
from tests.conftest import wait_until


class Writer:
    """Runs tasks at once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run(self, task: Callable[[Store], Any]) -> Any:
        return task(self._store)


def opened(message: str, at: str) -> Received:
    return event({"timestamp": at, "properties": {"email_id": message}})


def test_events_are_summarized_while_few_come_in(
    database: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "MAX_RECENT", 10)
    monkeypatch.setattr(summary, "BUSY", 100)
    monkeypatch.setattr(summary, "SLICE", 30)
    work = Summarizer(partial(open_reader, database), Writer(store))  # type: ignore[arg-type]

    def up_to(more: int) -> int:
        day = f"2024-01-{1 + more % 28:02d}T00:00:00Z"
        store.append([opened("m", day)] * more)
        asyncio.run(work._go_on())
        return store.summarized_up_to

    assert [up_to(10), up_to(10)] == [0, 20]
    assert up_to(9) == 20  # readers can read these themselves
    assert up_to(101) == 20  # too many at once
    assert up_to(0) == 130
    with open_reader(database) as reader:
        times = [json.loads(one.body)["timestamp"][:10] for one in reader.summary()]
    assert times == ["2024-01-10", "2024-01-18"]


def test_a_running_collector_keeps_a_summary(start: Start, tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "events.db"))
    store.append([opened("m", "2024-01-01T00:00:00Z")] * 11)
    store.close()
    collector = start(constants={"summary.EVERY": 0.05, "summary.MAX_RECENT": 10})
    with open_reader(collector.database) as reader:
        wait_until(lambda: reader.summarized_up_to == 11)
    assert b"email_id" in collector.bodies()[0]
    collector.stop()  # or it would make another one
    collector.run("--erase", "nobody@example.com")
    with open_reader(collector.database) as reader:
        assert (reader.summarized_up_to, [*reader.summary()]) == (-12, [])
