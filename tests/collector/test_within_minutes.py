"""The whole way: the sandbox pushes, a collector stores, and the tap reads what is new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.pushes import Pushing
from tap_autopilot.streams import EMAILS
from tests.collector.conftest import KEY, Start
from tests.conftest import Serve, Tap


def test_events_are_loaded_while_they_are_pushed(
    tmp_path: Path, serve: Serve, start: Start
) -> None:
    """Each event once, by runs that ask the API nothing; then a night adds what was withheld."""
    (tmp_path / "tap").mkdir()
    tap, collector = Tap(tmp_path / "tap"), start()
    pushing = Pushing(tracking=f"{collector.url}/v1", write_key=KEY, rate=400)
    account = Account(contacts=250, segments=1, odd=False)
    sandbox = serve(account, pushing=pushing)
    assert sandbox.pusher is not None
    log = {"streams": [{"stream": name, "replication_method": "LOG_BASED"} for name in EMAILS]}
    state: Any = None
    loaded: list[str] = []
    is_last = False
    while not is_last:
        is_last = sandbox.pusher.wait(0.2)
        run = tap.sync(sandbox, catalog=log, state=state, collector_database=collector.database)
        assert (run.code, run.requests) == (0, [])
        loaded += [row["id"] for name in EMAILS for row in run.rows(name)]
        state = run.state
    acknowledged = sandbox.pusher.acknowledged
    assert sorted(loaded) == sorted(acknowledged)
    night = tap.sync(sandbox, state=state, collector_database=collector.database)
    assert night.code == 0
    ids = {row["id"] for name in EMAILS for row in night.rows(name)}
    assert ids >= acknowledged.keys()
    polled = [one for one in ids if one not in acknowledged]
    assert 0 < len(polled) <= len(sandbox.pusher.withheld)
