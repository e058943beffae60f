"""REST hooks: the account's changes, posted to registered URLs.

A delivery has no signature, id or time. A failed delivery is retried three to five times and then
lost.
"""

from __future__ import annotations

import json
import queue
import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tap_autopilot.sandbox.account import CONTACTS, Account, Change, whose_members
from tap_autopilot.sandbox.documents import Document, as_json, iso, uuid
from tap_autopilot.sandbox.options import Options
from tap_autopilot.sandbox.pushes import Post, Receiver
from tap_autopilot.sandbox.wire import error

TIMEOUT = 5.0  # seconds for each try
# By event, of what kind of listing it is about, and what happens to an entry of it.
EVENTS = {
    "contact_added": (CONTACTS, "created"),
    "contact_updated": (CONTACTS, "changed"),
    "contact_unsubscribed": (CONTACTS, "unsubscribed"),
    "contact_unsubscribes": (CONTACTS, "unsubscribed"),
    "contact_added_to_list": ("list", "created"),
    "contact_removed_from_list": ("list", "deleted"),
    "contact_entered_segment": ("smart_segments", "created"),
    "contact_left_segment": ("smart_segments", "deleted"),
}


@dataclass(frozen=True)
class Hook:
    """A URL registered for one event."""

    hook_id: str
    event: str
    target_url: str
    created_at: str


@dataclass
class Delivery:
    """An event to deliver to a hook.

    `of` is the id of the list or segment, if any. The `outcome` is `delivered`, `lost`, or `gone`
    if the hook was removed, or its target responded with 410.
    """

    hook: Hook
    contact_id: str
    of: str
    tries: int = 0
    outcome: str = ""


class Hooks:
    """The registered hooks, and a thread that delivers to them."""

    def __init__(self, account: Account, options: Options, now: Callable[[], datetime]) -> None:
        self._account = account
        self._options = options
        self._now = now
        self._rng = random.Random("hooks 1")
        self._hooks: dict[str, Hook] = {}
        self._receivers: dict[str, Receiver] = {}
        self._queue: queue.SimpleQueue[Delivery | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.deliveries: list[Delivery] = []

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body for a request to `/hook`, `/hooks` or `/hook/<id>`."""
        match method, path.strip("/").split("/"):
            case "GET", ["hooks"]:
                return 200, as_json({"hooks": [vars(hook) for hook in self._hooks.values()]})
            case "POST", ["hook"]:
                return self._register(body)
            case "DELETE", ["hook", hook_id]:
                if self._hooks.pop(hook_id, None) is None:
                    return error(404, "No such hook.")
                return 200, as_json({})
        return error(404, "No such path.")

    def _register(self, body: bytes) -> tuple[int, bytes]:
        try:
            asked = json.loads(body)
            event, url = asked["event"], asked["target_url"]
            Receiver(url, TIMEOUT)
        except (ValueError, TypeError, KeyError, AttributeError):
            return error(400, "A hook needs an event and a target_url.")
        if event not in EVENTS:
            return error(400, "No such event.")
        if any(hook.target_url == url for hook in self._hooks.values()):
            return error(409, "This target_url is already registered.")
        hook = Hook(f"hook_{uuid(self._rng)}", event, url, iso(self._now()))
        self._hooks[hook.hook_id] = hook
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return 201, as_json({"id": hook.hook_id})

    def notify(self, changes: Iterable[Change]) -> None:
        """Deliver changes to the hooks registered for them.

        There is no hook for deleted contacts, lists and segments, nor for the memberships that end
        with them.
        """
        for change in changes if self._hooks else ():
            kind, list_or_segment = whose_members(change.listing)
            happened = (kind or change.listing, change.what)
            if self._account.ids(change.listing) is None:
                continue
            for hook in list(self._hooks.values()):
                if EVENTS.get(hook.event) == happened:
                    self._put(hook, filter(self._account.__contains__, change.ids), list_or_segment)

    def _put(self, hook: Hook, contact_ids: Iterable[str], of: str) -> None:
        for contact_id in contact_ids:
            delivery = Delivery(hook, contact_id, of)
            self.deliveries.append(delivery)
            self._queue.put(delivery)

    def stop(self) -> None:
        """Stop after the current delivery."""
        self._stopped.set()
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (delivery := self._queue.get()) is not None and not self._stopped.is_set():
            delivery.outcome = self._deliver(delivery)
        for receiver in self._receivers.values():
            receiver.close()

    def _deliver(self, delivery: Delivery) -> str:
        """Deliver, and return the outcome."""
        hook = delivery.hook
        if hook.hook_id not in self._hooks:
            return "gone"
        try:
            body = as_json(self._body(delivery))
        except KeyError:  # the contact has been deleted since
            return "lost"
        receiver = self._receivers.setdefault(hook.hook_id, Receiver(hook.target_url, TIMEOUT))
        for _ in range(1 + self._rng.randint(3, 5)):
            if delivery.tries and self._stopped.wait(self._options.hook_wait):
                break
            delivery.tries += 1
            status, _ = receiver.post(Post("", body))
            if 200 <= status <= 204:
                return "delivered"
            if status == 410:
                self._hooks.pop(hook.hook_id, None)
                return "gone"
        return "lost"

    def _body(self, delivery: Delivery) -> Document:
        contact = self._account.contact(delivery.contact_id)
        body: dict[str, Any] = {"event": delivery.hook.event, "contact_id": delivery.contact_id}
        if self._options.hook_shape == "contact":
            body["contact"] = contact
        else:
            body["email"] = contact.get("Email")
        if delivery.of:
            body["list_id" if "list" in delivery.hook.event else "segment_id"] = delivery.of
        return body
