"""The sample account: contacts, lists and smart segments, and everything that can happen to them.

The seed and the sizes determine everything: the account is the same on every run and every machine.
Listings stay sorted by id, and a change costs a bisection rather than a sort, so even an account of
100,000 contacts can change between any two responses.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from tap_autopilot.sandbox import people
from tap_autopilot.sandbox.documents import MODELS, NOW, Document, Documents, epoch, iso, uuid

CONTACTS = "/contacts"
LISTS = "/lists"
SEGMENTS = "/smart_segments"


def members_of_segment(segment_id: str) -> str:
    """The listing of a segment's members. Listings are named by their path, unencoded."""
    return f"/smart_segments/{segment_id}/contacts"


def members_of_list(list_id: str) -> str:
    """The listing of a list's members."""
    return f"/list/{list_id}/contacts"


def whose_members(listing: str) -> tuple[str, str]:
    """The kind (`list` or `smart_segments`) and id behind a listing of members; else two blanks."""
    kind, _, rest = listing.removeprefix("/").partition("/")
    return (kind, rest.removesuffix("/contacts")) if rest else ("", "")


class Change(NamedTuple):
    """What happened to entries of a listing: they were `created`, `changed` or `deleted`.

    A contact that unsubscribes is logged as `changed` and as `unsubscribed`.
    """

    what: str
    listing: str
    ids: tuple[str, ...]


class Account:
    """What an Autopilot account holds: contacts (sorted by id), lists and smart segments.

    `members` is the number of contacts in each smart segment, but with three or more segments one
    is empty, as in real accounts. `odd` adds the values that clients trip over; if also `strict`,
    only those that strict parsers of JSON accept.

    `log` has every change so far.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        contacts: int = 432,
        lists: int = 8,
        segments: int = 6,
        members: int = 120,
        odd: bool = True,
        strict: bool = False,
    ) -> None:
        self.seed = seed
        self.changes = 0  # incremented with every change, to invalidate caches
        self.changed: dict[str, Document] = {}  # contacts that have changed since they were created
        self.log: list[Change] = []
        rng = random.Random(seed)
        self.contact_ids = sorted(f"person_{uuid(rng)}" for _ in range(contacts))
        self._index = {contact_id: n for n, contact_id in enumerate(self.contact_ids)}
        self.lists = [
            {"list_id": f"contactlist_{uuid(rng)}", "title": _title(people.LIST_TITLES, n)}
            for n in range(lists)
        ]
        self.segments = [
            {
                "segment_id": f"contactlist_sseg{1456891025207 + n * 168423677}",
                "title": _title(people.SEGMENT_TITLES, n),
            }
            for n in range(segments)
        ]
        rng.shuffle(self.segments)
        self._documents = Documents(
            seed, rng, [each["list_id"] for each in self.lists], odd=odd, strict=strict
        )
        self.deleted_lists: set[str] = set()
        self._lists_of_model: dict[int, tuple[str, ...]] = {}
        self._segment_members = self._draw_members(min(members, contacts))
        self._day = NOW
        self._created = contacts  # including those deleted since

    def __contains__(self, contact_id: str) -> bool:
        return contact_id in self._index

    # The present.

    def contact(self, contact_id: str) -> Document:
        """The document of one contact, as the API would return it."""
        if contact_id in self.changed:
            return self._on_lists_that_exist(self.changed[contact_id])
        return self.model(self.model_of(contact_id)) | {"contact_id": contact_id}

    def model_of(self, contact_id: str) -> int:
        """The number of the model for a contact."""
        return self._index[contact_id] % MODELS

    def model(self, number: int) -> Document:
        """The document of a model; its `contact_id` is empty."""
        return self._on_lists_that_exist(self._documents.model(number))

    def _on_lists_that_exist(self, document: Document) -> Document:
        lists = document.get("lists")
        if not lists or self.deleted_lists.isdisjoint(lists):
            return document
        return document | {"lists": [each for each in lists if each not in self.deleted_lists]}

    @property
    def custom_fields(self) -> list[Document]:
        """The definitions of the account's custom fields."""
        return self._documents.custom_fields

    def segment_members(self, segment_id: str) -> list[str] | None:
        """The ids of a segment's members, in order; None if there is no such segment.

        This is the account's own list; do not modify it.
        """
        return self._segment_members.get(segment_id)

    def _draw_members(self, size: int) -> dict[str, list[str]]:
        members = {}
        for number, segment_id in enumerate(sorted(self.ids(SEGMENTS) or ())):
            rng = random.Random(f"{self.seed} {segment_id}")
            is_empty = number == 1 and len(self.segments) >= 3
            members[segment_id] = [] if is_empty else sorted(rng.sample(self.contact_ids, size))
        return members

    def list_members(self, list_id: str) -> list[str] | None:
        """The ids of a list's members, in order; None if there is no such list."""
        if all(list_id != each["list_id"] for each in self.lists):
            return None
        return [each for each in self.contact_ids if list_id in self._lists_of(each)]

    def _lists_of(self, contact_id: str) -> Iterable[str]:
        if contact_id in self.changed:
            return self.changed[contact_id].get("lists") or ()
        number = self.model_of(contact_id)
        if number not in self._lists_of_model:
            self._lists_of_model[number] = tuple(self.model(number).get("lists") or ())
        return self._lists_of_model[number]

    def ids(self, listing: str) -> list[str] | None:
        """The ids in a listing now; None if there is no such listing."""
        if listing == CONTACTS:
            return self.contact_ids
        if listing == LISTS:
            return [each["list_id"] for each in self.lists]
        if listing == SEGMENTS:
            return [segment["segment_id"] for segment in self.segments]
        kind, group_id = whose_members(listing)
        return self.list_members(group_id) if kind == "list" else self.segment_members(group_id)

    # Changes.

    def create(self, document: Document) -> None:
        """Add a contact. Its document must have a new `contact_id`."""
        contact_id = document["contact_id"]
        self._index[contact_id] = self._created
        self._created += 1
        bisect.insort(self.contact_ids, contact_id)
        self.changed[contact_id] = document
        self._note("created", CONTACTS, contact_id)
        self._relist(contact_id, [], document.get("lists") or [])

    def change(self, contact_id: str, fields: Document) -> None:
        """Change only these fields of a contact; `fields` must include the time of the change."""
        before = self.contact(contact_id)
        self.changed[contact_id] = before | fields
        self._note("changed", CONTACTS, contact_id)
        if fields.get("unsubscribed") is True and before.get("unsubscribed") is not True:
            self._note("unsubscribed", CONTACTS, contact_id)
        if "lists" in fields:
            self._relist(contact_id, before.get("lists") or [], fields["lists"])

    def delete(self, contact_id: str) -> None:
        """Delete a contact, which also removes it from its lists and segments."""
        self._relist(contact_id, self.contact(contact_id).get("lists") or [], [])
        for segment_id, members in self._segment_members.items():
            if _remove(members, contact_id):
                self._note("deleted", members_of_segment(segment_id), contact_id)
        _remove(self.contact_ids, contact_id)
        del self._index[contact_id]
        self.changed.pop(contact_id, None)
        self._note("deleted", CONTACTS, contact_id)

    def join(self, segment_id: str, contact_id: str) -> bool:
        """Add a contact to a segment; False if it was a member already."""
        members = self.segment_members(segment_id)
        if members is None or not _insert(members, contact_id):
            return False
        self._note("created", members_of_segment(segment_id), contact_id)
        return True

    def leave(self, segment_id: str, contact_id: str) -> bool:
        """Remove a contact from a segment; False if it was not a member."""
        members = self.segment_members(segment_id)
        if members is None or not _remove(members, contact_id):
            return False
        self._note("deleted", members_of_segment(segment_id), contact_id)
        return True

    def create_segment(self, segment_id: str, title: str, members: Iterable[str] = ()) -> None:
        """Add a segment."""
        self.segments.append({"segment_id": segment_id, "title": title})
        self._note("created", SEGMENTS, segment_id)
        self._segment_members[segment_id] = sorted(members)
        self._note("created", members_of_segment(segment_id), *self._segment_members[segment_id])

    def rename_segment(self, segment_id: str, title: str) -> None:
        """Change a segment's title."""
        self._segment(segment_id)["title"] = title
        self._note("changed", SEGMENTS, segment_id)

    def delete_segment(self, segment_id: str) -> None:
        """Delete a segment. Its members remain contacts."""
        members = self.segment_members(segment_id) or ()
        self._note("deleted", members_of_segment(segment_id), *members)
        self.segments.remove(self._segment(segment_id))
        del self._segment_members[segment_id]
        self._note("deleted", SEGMENTS, segment_id)

    def create_list(self, list_id: str, title: str) -> None:
        """Add an empty list."""
        self.lists.append({"list_id": list_id, "title": title})
        self._note("created", LISTS, list_id)

    def rename_list(self, list_id: str, title: str) -> None:
        """Change a list's title."""
        self._list(list_id)["title"] = title
        self._note("changed", LISTS, list_id)

    def delete_list(self, list_id: str) -> None:
        """Delete a list. Contacts no longer mention it, but count as unchanged."""
        self._note("deleted", members_of_list(list_id), *(self.list_members(list_id) or ()))
        self.lists.remove(self._list(list_id))
        self.deleted_lists.add(list_id)
        self._note("deleted", LISTS, list_id)

    def _segment(self, segment_id: str) -> Document:
        return next(each for each in self.segments if each["segment_id"] == segment_id)

    def _list(self, list_id: str) -> Document:
        return next(each for each in self.lists if each["list_id"] == list_id)

    def _relist(self, contact_id: str, before: Iterable[str], after: Iterable[str]) -> None:
        for list_id in set(before) - set(after):
            self._note("deleted", members_of_list(list_id), contact_id)
        for list_id in set(after) - set(before):
            self._note("created", members_of_list(list_id), contact_id)

    def _note(self, what: str, listing: str, *ids: str) -> None:
        self.changes += 1
        self.log.append(Change(what, listing, ids))

    # The passage of time.

    def new_contact(self, rng: random.Random, now: str) -> Document:
        """The document of a new contact, with a random id."""
        ids = {"contact_id": f"person_{uuid(rng)}", "created_at": now}
        return self._documents.new(self._created, rng) | ids

    def move_on(self, seed: int) -> None:
        """Simulate a day: the same changes for the same seed and account.

        Some contacts are added, deleted or changed; some join or leave a list or segment; some
        receive, open or click an email. Every changed contact has an `updated_at` of that day.
        """
        rng = random.Random(f"{self.seed} moved on by {seed}")
        self._day += timedelta(days=1)
        few = max(1, len(self.contact_ids) // 25)
        for contact_id in rng.sample(self.contact_ids, max(0, min(few, len(self.contact_ids) - 1))):
            self.delete(contact_id)
        changes: tuple[Callable[[str], Document], ...] = (
            lambda _: renamed(rng),
            lambda _: relisted(rng, self.lists),
            lambda contact_id: mailed(rng, self.contact(contact_id), self._day),
        )
        for change in changes:
            for contact_id in rng.sample(self.contact_ids, min(few, len(self.contact_ids))):
                fields = change(contact_id)
                self.change(contact_id, fields | {"updated_at": self._today(rng)})
        for _ in range(few):
            document = self.new_contact(rng, "")
            self.create(document | {"created_at": self._today(rng)})
        for segment_id, members in self._segment_members.items():
            others = sorted(set(self.contact_ids) - set(members))
            for contact_id in rng.sample(members, len(members) // 25):
                self.leave(segment_id, contact_id)
            for contact_id in rng.sample(others, min(len(others), len(members) // 25)):
                self.join(segment_id, contact_id)

    def _today(self, rng: random.Random) -> str:
        return iso(self._day + timedelta(seconds=rng.randrange(86_400)))


def renamed(rng: random.Random) -> Document:
    """The fields that change when a contact changes jobs."""
    return {"Company": rng.choice(people.COMPANIES), "Title": rng.choice(people.JOBS)}


def relisted(rng: random.Random, lists: list[Document]) -> Document:
    """The fields that change when a contact moves to other lists."""
    return {"lists": [each["list_id"] for each in lists if rng.random() < 0.25]}


def mailed(rng: random.Random, document: Document, since: datetime) -> Document:
    """The fields that change when a contact is sent an email within 12 hours of `since`."""
    at = epoch(since) + rng.randrange(43_200_000)
    message = f"batchdelivery_{uuid(rng)}_{at}-{uuid(rng).lower()}"
    fields = {}
    for name, chance in (("mail_received", 1.0), ("mail_opened", 0.6), ("mail_clicked", 0.3)):
        if rng.random() > chance:
            break
        fields[name] = (document.get(name) or {}) | {message: at}
        at += rng.randrange(1_000_000)
    return fields


def _title(titles: tuple[str, ...], n: int) -> str:
    return titles[n] if n < len(titles) else f"{titles[n % len(titles)]} {n // len(titles) + 1}"


def _insert(ids: list[str], contact_id: str) -> bool:
    place = bisect.bisect_left(ids, contact_id)
    if place < len(ids) and ids[place] == contact_id:
        return False
    ids.insert(place, contact_id)
    return True


def _remove(ids: list[str], contact_id: str) -> bool:
    place = bisect.bisect_left(ids, contact_id)
    if place == len(ids) or ids[place] != contact_id:
        return False
    del ids[place]
    return True
