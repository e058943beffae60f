"""Churn: contacts join, change and leave between responses, as in a real account."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

from tap_autopilot.sandbox import people
from tap_autopilot.sandbox.account import Account, mailed, renamed
from tap_autopilot.sandbox.documents import Document, iso, uuid

# How many of 1,000 changes are of each kind.
KINDS = {
    "join": 200,
    "leave": 200,
    "edit": 244,
    "unsubscribe": 10,
    "move between lists": 120,
    "move between segments": 170,
    "mail": 50,
    "segment": 4,
    "list": 2,
}


class Churn:
    """Changes an account at a `rate`, in changes per response.

    The changes depend only on the seed, the account and the number of responses; times in documents
    come from the API's clock.
    """

    def __init__(self, account: Account, rate: float, seed: int = 1) -> None:
        self._account = account
        self._rate = rate
        self._rng = random.Random(f"churn {seed}")

    def before_response(self, now: datetime) -> None:
        """Make the changes that are due before the next response."""
        if not self._rate:
            return
        whole, rest = divmod(self._rate, 1)
        for _ in range(int(whole) + (self._rng.random() < rest)):
            (kind,) = self._rng.choices(list(KINDS), list(KINDS.values()))
            getattr(self, "_" + kind.replace(" ", "_"))(now)

    def _anybody(self) -> str | None:
        ids = self._account.contact_ids
        return ids[self._rng.randrange(len(ids))] if ids else None

    def _update(self, contact_id: str, fields: Document, now: datetime) -> None:
        self._account.change(contact_id, fields | {"updated_at": iso(now)})

    def _join(self, now: datetime) -> None:
        account, rng = self._account, self._rng
        document = account.new_contact(rng, iso(now))
        account.create(document)
        for segment in account.segments:
            members = account.segment_members(segment["segment_id"]) or ()
            if rng.random() < len(members) / len(account.contact_ids):
                account.join(segment["segment_id"], document["contact_id"])

    def _leave(self, _: datetime) -> None:
        contact_id = self._anybody()
        if contact_id and len(self._account.contact_ids) > 1:
            self._account.delete(contact_id)

    def _edit(self, now: datetime) -> None:
        if contact_id := self._anybody():
            self._update(contact_id, renamed(self._rng), now)

    def _unsubscribe(self, now: datetime) -> None:
        if contact_id := self._anybody():
            self._update(contact_id, {"unsubscribed": True}, now)

    def _mail(self, now: datetime) -> None:
        if contact_id := self._anybody():
            document = self._account.contact(contact_id)
            self._update(contact_id, mailed(self._rng, document, now - timedelta(days=1)), now)

    def _move_between_lists(self, now: datetime) -> None:
        account, rng, contact_id = self._account, self._rng, self._anybody()
        if contact_id and account.lists:
            before = list(account.contact(contact_id).get("lists") or ())
            other = rng.choice(account.lists)["list_id"]
            after = [each for each in before if rng.random() < 0.5 and each != other] + [other]
            self._update(contact_id, {"lists": after}, now)

    def _move_between_segments(self, now: datetime) -> None:
        """A contact stops matching one segment, starts matching another, or both."""
        account, rng = self._account, self._rng
        if not account.segments:
            return
        first, second = (rng.choice(account.segments)["segment_id"] for _ in range(2))
        members = account.segment_members(first)
        contact_id = rng.choice(members) if members else self._anybody()
        if contact_id:
            way = rng.randrange(3)
            has_left = way < 2 and account.leave(first, contact_id)
            has_joined = way > 0 and account.join(second, contact_id)
            if has_left or has_joined:
                self._update(contact_id, renamed(rng), now)

    def _segment(self, _: datetime) -> None:
        account, rng = self._account, self._rng
        title = rng.choice(people.SEGMENT_TITLES)
        what = rng.choice(("create", "rename", "delete"))
        if what == "create" or not account.segments:
            segment_id = f"contactlist_sseg{rng.randrange(10**12, 2 * 10**12)}"
            some = min(len(account.contact_ids), 150)
            members = rng.sample(account.contact_ids, rng.randrange(some + 1))
            account.create_segment(segment_id, title, members)
        elif what == "rename":
            account.rename_segment(rng.choice(account.segments)["segment_id"], title)
        elif len(account.segments) > 1:
            account.delete_segment(rng.choice(account.segments)["segment_id"])

    def _list(self, _: datetime) -> None:
        account, rng = self._account, self._rng
        title = rng.choice(people.LIST_TITLES)
        what = rng.choice(("create", "rename", "delete"))
        if what == "create" or not account.lists:
            account.create_list(f"contactlist_{uuid(rng)}", title)
        elif what == "rename":
            account.rename_list(rng.choice(account.lists)["list_id"], title)
        elif len(account.lists) > 1:
            account.delete_list(rng.choice(account.lists)["list_id"])
