"""Pushes: the account's email events, sent the way Segment sends them.

A separate thread posts them in chronological order, at a given rate: as Segment's Webhooks
destination does, as a client of its tracking API does, or both. Some are repeated, some are late
and some are never sent.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import queue
import random
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import requests

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.command import option, rate, share, url
from tap_autopilot.sandbox.documents import Document, iso
from tap_autopilot.sandbox.mail import Occurrence, all_occurrences, occurrences_of, track_call


@dataclass(frozen=True)
class Pushing:
    """Where to push, and how reliably. Shares are between 0 and 1, times in seconds.

    - `batch`: maximum number of events in a request. Half of the requests have just one.
    - `patience`: how long to retry a request before its events count as lost.
    """

    webhook: str = option("", "URL of a Webhooks destination", name="push-segment", read=url)
    secret: str = option("", "signs the posts to that URL", name="webhook-secret", metavar="SECRET")
    tracking: str = option(
        "",
        "base URL of a tracking API, such as http://127.0.0.1:8787/v1; /batch or /track is added",
        read=url,
    )
    write_key: str = option("", "sent with pushes to both", name="write-key", metavar="KEY")
    rate: float = option(100.0, "events per second; 0 is as fast as possible", read=rate)
    batch: int = 50
    repeated: float = option(
        0.05, "share of events that are sent again, with the same messageId", read=share
    )
    late: float = option(0.05, "share of events that are sent after newer ones", read=share)
    withheld: float = option(0.05, "share of events that are never sent", read=share)
    seed: int = option(1, "seed that picks the events for each of these")
    other_keys: bool = option(
        False,
        "give emails ids in pushes that are unrelated to their ids in contacts",
        name="other-keys",
    )
    timeout: float = 5.0
    patience: float = 4 * 3600.0


class Pusher:
    """Pushes an account's email events: first the existing ones, then those of changed contacts.

    Of the `occurrences` so far, the ids of those never to be sent are in `withheld`; `acknowledged`
    counts the 2xx responses to each of the others.
    """

    def __init__(self, account: Account, pushing: Pushing, now: Callable[[], datetime]) -> None:
        self._account = account
        self._pushing = pushing
        self._now = now
        self._rng = random.Random(f"pushes {pushing.seed}")
        self._changed: queue.Queue[str] = queue.Queue()
        self._caught_up = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.occurrences: dict[str, Occurrence] = {}
        self.withheld: set[str] = set()
        self.acknowledged: Counter[str] = Counter()
        self._first: list[Occurrence] = []
        self._receivers: list[tuple[Receiver, Callable[[list[Document]], Post]]] = []
        if pushing.webhook:
            self._receivers.append((Receiver(pushing.webhook, pushing.timeout), self._as_webhook))
        if pushing.tracking:
            self._receivers.append((Receiver(pushing.tracking, pushing.timeout), self._as_tracking))

    def start(self) -> None:
        """Start pushing, beginning with the existing events."""
        self._first = self._plan(all_occurrences(self._account))
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current request."""
        self._stopped.set()
        self._thread.join()

    def notify(self, contact_id: str) -> None:
        """Push the new events of a contact that has changed."""
        self._changed.put(contact_id)

    def wait(self, timeout: float) -> bool:
        """Wait until there is nothing left to push; False if that times out."""
        deadline = time.monotonic() + timeout
        while not (self._caught_up.is_set() and not self._changed.unfinished_tasks):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _plan(self, occurrences: Iterable[Occurrence]) -> list[Occurrence]:
        """The occurrences to push, in order, repeats included."""
        turns: list[tuple[float, Occurrence]] = []
        for number, occurrence in enumerate(occurrences):
            self.occurrences[occurrence.message_id] = occurrence
            rng = random.Random(f"{self._pushing.seed} {occurrence.message_id}")
            turn = float(number)
            if rng.random() < self._pushing.withheld:
                self.withheld.add(occurrence.message_id)
                continue
            if rng.random() < self._pushing.late:
                turn += rng.uniform(10, 500)
            turns.append((turn, occurrence))
            if rng.random() < self._pushing.repeated:
                again = range(rng.randint(1, 3))
                turns += [(turn + rng.uniform(0, 200), occurrence) for _ in again]
        return [occurrence for _, occurrence in sorted(turns, key=lambda each: each[0])]

    def _run(self) -> None:
        self._push(self._first)
        self._caught_up.set()
        while not self._stopped.is_set():
            try:
                contact_id = self._changed.get(timeout=0.05)
            except queue.Empty:
                continue
            self._push(self._plan(self._new_occurrences(contact_id)))
            self._changed.task_done()
        for receiver, _ in self._receivers:
            receiver.close()

    def _new_occurrences(self, contact_id: str) -> list[Occurrence]:
        if contact_id not in self._account:  # it has been deleted since
            return []
        occurrences = occurrences_of(self._account, contact_id)
        return [each for each in occurrences if each.message_id not in self.occurrences]

    def _push(self, occurrences: list[Occurrence]) -> None:
        due = time.monotonic()
        for batch in self._batches(occurrences):
            if self._pushing.rate:
                due += len(batch) / self._pushing.rate
            other, seed = self._pushing.other_keys, self._account.seed
            calls = [track_call(seed, each, other_keys=other) for each in batch]
            for receiver, form in self._receivers:
                self._deliver(receiver, form(calls), [each.message_id for each in batch])
            if self._stopped.wait(max(0.0, due - time.monotonic())):
                return

    def _batches(self, occurrences: list[Occurrence]) -> Iterator[list[Occurrence]]:
        """Divide them into requests, none with more than a second's events."""
        start, most = 0, self._pushing.batch
        if self._pushing.rate:
            most = max(1, min(most, int(self._pushing.rate)))
        while start < len(occurrences):
            size = 1 if self._rng.random() < 0.5 else self._rng.randint(1, most)
            yield occurrences[start : start + size]
            start += size

    def _deliver(self, receiver: Receiver, post: Post, message_ids: list[str]) -> None:
        """Post until the response is final: a 2xx, or a 4xx other than 429."""
        deadline, wait = time.monotonic() + self._pushing.patience, 0.05
        while True:
            status, asked = receiver.post(post)
            if 200 <= status < 300:
                self.acknowledged.update(message_ids)
                return
            if 400 <= status < 500 and status != 429:
                return
            pause = asked or wait
            if time.monotonic() + pause > deadline or self._stopped.wait(pause):
                return
            wait = min(wait * 2, 30)

    def _as_webhook(self, calls: list[Document]) -> Post:
        """The request of a Webhooks destination. It signs the raw bytes of the first event."""
        events = [_dump(call | self._times(call)) for call in calls]
        body = events[0] if len(events) == 1 else b"[%b]" % b",".join(events)
        headers = {**self._basic(), "User-Agent": "Segment.io/1.0"}
        if self._pushing.secret:
            signature = hmac.new(self._pushing.secret.encode(), events[0], hashlib.sha1)
            headers["X-Signature"] = signature.hexdigest()
        return Post("", body, headers)

    def _times(self, call: Document) -> Document:
        """The times that Segment adds. A wrong sender's clock shifts both of its times alike."""
        received = self._now()
        skew = timedelta(seconds=self._rng.choice((0, 0, 0, -3600, 86_400)))
        happened = datetime.fromisoformat(call["timestamp"].replace("Z", "+00:00"))
        return {
            "originalTimestamp": iso(happened + skew),
            "sentAt": iso(received + skew),
            "receivedAt": iso(received),
        }

    def _as_tracking(self, calls: list[Document]) -> Post:
        """The request of a client of the tracking API."""
        sent = {"sentAt": iso(self._now())}
        if len(calls) == 1 and self._rng.random() < 0.5:
            return Post("/track", _dump(calls[0] | sent), self._basic())
        batch = {"batch": calls, "context": {"library": {"name": "autopilot"}}, **sent}
        return Post("/batch", _dump(batch), self._basic())

    def _basic(self) -> dict[str, str]:
        if not self._pushing.write_key:
            return {}
        encoded = base64.b64encode(f"{self._pushing.write_key}:".encode()).decode()
        return {"Authorization": f"Basic {encoded}"}


@dataclass(frozen=True)
class Post:
    """A request to send: the path below the receiver's URL, the body, and headers."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Receiver:
    """A receiver's URL, and one keep-alive connection to it. Raises ValueError for another URL."""

    def __init__(self, url: str, timeout: float) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an http or https URL")
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._session = requests.Session()
        self._session.trust_env = False

    def post(self, post: Post) -> tuple[int, float]:
        """The status (0 if there was no response) and the seconds in its Retry-After."""
        headers = {"Content-Type": "application/json", **post.headers}
        try:
            answer = self._session.post(
                self._url + post.path, post.body, headers=headers, timeout=self._timeout,
                allow_redirects=False,
            )  # fmt: skip
        except requests.RequestException:
            return 0, 0.0
        wait = answer.headers.get("Retry-After", "")
        return answer.status_code, float(wait) if wait.isdecimal() else 0.0

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
