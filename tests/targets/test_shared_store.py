"""Several collectors that share a store in a real PostgreSQL."""

from __future__ import annotations

import itertools
import json
import signal
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from tap_autopilot.collector.commands import forget, prune
from tap_autopilot.collector.postgres import PostgresStore
from tap_autopilot.collector.reader import Cursor
from tap_autopilot.exceptions import UserError
from tests.collector.conftest import Collector, event, sending
from tests.collector.destination import Destination
from tests.collector.test_destinations import send
from tests.collector.test_prune import state
from tests.collector.test_remnant import OPENED
from tests.conftest import wait_until
from tests.receiver import serving

pytestmark = pytest.mark.targets


def test_collectors_share_a_store_and_survive_kills(database: str, tmp_path: Path) -> None:
    collectors = two_collectors(tmp_path, database)
    acknowledged: set[str] = set()

    def send(worker: int, over: threading.Event) -> None:
        for number in itertools.count():
            if over.is_set():
                return
            name = f"{worker}.{number}"
            for collector in collectors:  # the same event to both
                try:
                    answer = collector.post("/v1/track", {"messageId": name, "n": name})
                    if answer.status_code == 200:
                        acknowledged.add(name)
                except requests.RequestException:
                    continue

    with sending(send, 3):
        for _ in range(3):
            time.sleep(0.5)
            collectors[0].stop(signal.SIGKILL)
            collectors[0].start()
    stored = Counter(json.loads(one.body)["n"] for one in collectors[0].events())
    assert acknowledged <= stored.keys()
    assert set(stored.values()) == {1}
    assert len(acknowledged) > 50
    for collector in collectors:
        assert collector.stop() == 0


def two_collectors(folder: Path, database: str, **settings: Any) -> list[Collector]:
    """Two collectors that share a store."""
    folders = [folder / "one", folder / "two"]
    for one in folders:
        one.mkdir()
    return [Collector(one, database=database, **settings).start() for one in folders]


def test_one_collector_forwards_and_another_takes_over(database: str, tmp_path: Path) -> None:
    with serving(Destination()) as destination:
        collectors = two_collectors(tmp_path, database, destinations=[destination.setting()])
        first, second = collectors
        send(first, "a", "b")
        send(second, "c")
        destination.wait_for(3)
        sent, lag = (f'destination_{name}_events{{destination="one"}}' for name in ("sent", "lag"))
        for collector in collectors:  # the one that does not forward shows the store's cursor
            wait_until(lambda one=collector: (one.metric(sent), one.metric(lag)) == (3, 0))  # type: ignore[misc]
        first.stop(signal.SIGKILL)
        send(second, "d")
        destination.wait_for(4)
        first.start()
        send(first, "e")
        destination.wait_for(5)
        assert destination.ids == ["a", "b", "c", "d", "e"]
        wait_until(lambda: (first.metric(sent), first.metric(lag)) == (5, 0))
        for collector in collectors:
            assert collector.stop() == 0


def test_a_destination_is_not_forgotten_while_another_collector_forwards_to_it(
    database: str,
) -> None:
    with closing(PostgresStore(database)) as store:
        store.save_cursor("one", Cursor(1, 1, 0))
        assert store.owns("one")
        with pytest.raises(UserError, match="A collector is forwarding to destination one"):
            forget(database, "one", [])
        assert store.cursors() == {"one": Cursor(1, 1, 0)}
    assert forget(database, "one", []) == "Forgot destination one."


def test_what_another_collector_has_not_forwarded_is_not_pruned(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(PostgresStore(database)) as store:
        store.append([event(OPENED), event(OPENED)])
        path = state(tmp_path / "state", email_opened=[store.store_id, 2])
        store.save_cursor("one", Cursor(1, 1, 0))
        assert store.owns("one")
        assert prune(database, path, []).startswith("Pruned 1 event ")
        assert "destination one has not received yet (lag: 1)" in caplog.text
    assert prune(database, path, []).startswith("Pruned 1 event ")
