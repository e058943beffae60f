"""A collector's store in a file, filled as the collector fills it, but without HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tap_autopilot.collector.errands import alone
from tap_autopilot.collector.events import from_activity, from_call, from_hook, from_webhook
from tap_autopilot.collector.prune import loaded, prune_loaded
from tap_autopilot.collector.received import Received
from tap_autopilot.collector.sqlite import SqliteReader, SqliteStore
from tap_autopilot.collector.summary import Summary
from tests import in_process
from tests.invariants import Run
from tests.recording import Sandbox
from tests.scripted import Scripted

MESSAGE = "1482219072777-48a06f90-c686-11e6-94c6-07e94ae2263b"
CALL = {
    "type": "track",
    "event": "Email Clicked",
    "messageId": "one",
    "timestamp": "2020-01-02T03:04:05Z",
    "originalTimestamp": "2020-01-02T03:04:00.5Z",
    "sentAt": "2020-01-02T03:04:06Z",
    "receivedAt": "2020-01-02T03:04:08Z",
    "userId": "12345",
    "anonymousId": "ada@example.com",
    "integrations": {"All": True},
    "context": {
        "traits": {"email": "ada@example.com", "contact_id": "person_1", "plan": "free"},
        "ip": "1.2.3.4",
    },
    "properties": {
        "event": "clicked",
        "campaign_id": "campaign_1",
        "campaign_name": "Onboarding",
        "email_id": f"batchcampaign_{MESSAGE.upper()}",
        "email_name": "First",
        "email_subject": "Welcome",
        "transactional": False,
        "link_id": "7",
        "link_url": "https://example.com/a?b=c",
    },
}


class PushedStore:
    """A store. Each call stands for one request of a sender, received `at` epoch milliseconds.

    It is open only during a call, because forks must not inherit SQLite connections.
    """

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        with self._open() as store:
            self.store_id = store.store_id

    @contextmanager
    def _open(self) -> Iterator[SqliteStore]:
        with closing(SqliteStore(self.path, 60)) as store:  # forks share its lock
            yield store

    def _append(self, found: Iterable[Received]) -> None:
        with self._open() as store:
            store.append(list(found))

    def track(self, *calls: Any, at: int | None = None) -> None:
        bodies = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in calls]
        self._append(one for body in bodies for one in from_call("track", body, _ms(at)).events)

    def webhook(self, calls: Iterable[Any], at: int | None = None) -> None:
        self._append(from_webhook(json.dumps(list(calls)).encode(), _ms(at))[0].events)

    def hook(self, delivery: Any, event: str = "", at: int | None = None) -> None:
        body = delivery if isinstance(delivery, bytes) else json.dumps(delivery).encode()
        self._append(from_hook(event, body, _ms(at)).events)

    def activity(self, lines: bytes, at: int | None = None) -> None:
        self._append(from_activity(lines, _ms(at)).events)

    def summarize(self) -> int:
        """Summarize what all events say about messages; returns the last event's `seq`."""
        with self._open() as store:
            summary = Summary(store.summarized_up_to)
            with SqliteReader(self.path) as reader:
                for event in reader.read(summary.up_to, 10_000):
                    summary.add(event)
            summary.save(store)
            return summary.up_to

    def forget_summary(self) -> None:
        with self._open() as store:
            store.forget_summary()

    def prune(self, state: Any) -> int:
        with self._open() as store:
            with SqliteReader(self.path) as reader:
                found = loaded(state, reader)
            pruned: int = prune_loaded(alone(store), found)["pruned"]
            return pruned


def _ms(at: int | None) -> int:
    return int(time.time() * 1000) if at is None else at


def read(
    store: PushedStore,
    *contacts: Any,
    sandbox: Sandbox | None = None,
    code: int = 0,
    **options: Any,
) -> Run:
    """Read a sandbox, or an API that lists these contacts, within the test's process."""
    answer = {"contacts": list(contacts), "total_contacts": len(contacts)}
    sandbox = sandbox or Scripted({"/contacts": answer})
    run = in_process.run(sandbox, **{"collector_database": store.path, **options})
    assert run.code == code, run.stderr
    return run


def call(message_id: str, event: str = "Email Opened", **changes: Any) -> dict[str, Any]:
    properties = {**CALL["properties"], **changes.pop("properties", {})}  # type: ignore[dict-item]
    return {**CALL, "messageId": message_id, "event": event, "properties": properties, **changes}
