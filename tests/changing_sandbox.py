"""A small account that changes between responses exactly as scripted by a test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from tap_autopilot.sandbox.account import CONTACTS, Account
from tap_autopilot.sandbox.documents import iso
from tap_autopilot.sandbox.paging import listing_of
from tests.lying_pager import Options
from tests.recording import Sandbox

LONG_AGO = "2016-01-01T00:00:00.000Z"


class ChangingSandbox(Sandbox):
    """Contacts a to f, two per page, and a script of changes between responses:

        ChangingSandbox("abcdef", style="next", changes={3: [("delete", "a"), ("create", "c1")]})

    `3` means before the third response about all contacts, `("/smart_segments/s/contacts", 2)`
    before the second about the members of s. A change is the name of an Account method and its
    arguments, or a function of the ChangingSandbox. `create` and `change` take only the fields that matter,
    and add the API's time.
    """

    def __init__(
        self,
        contacts: Iterable[str] = "abcdef",
        *,
        page_size: int = 2,
        style: str = "last",
        stale: str = "on",
        changes: Mapping[Any, Iterable[Any]] | None = None,
        segments: Mapping[str, Iterable[str]] | None = None,
        lists: Mapping[str, Iterable[str]] | None = None,
        **options: Any,
    ) -> None:
        chosen = {"page": page_size, "bookmarks": style, "stale": stale}
        account = Account(contacts=0, lists=0, segments=0)
        super().__init__(account, Options(**{**chosen, **options}))
        self._changes = dict(changes or {})
        self._answers: Counter[str] = Counter()
        of_list = {one: set(members) for one, members in (lists or {}).items()}
        for list_id in of_list:
            account.create_list(list_id, list_id.title())
        for one in contacts:
            on = [list_id for list_id, members in of_list.items() if one in members]
            self.create(one, {"created_at": LONG_AGO, "updated_at": LONG_AGO, "lists": on})
        for segment_id, members in (segments or {}).items():
            account.create_segment(segment_id, segment_id.title(), members)

    def create(self, contact_id: str, fields: Mapping[str, Any] | None = None) -> None:
        """Add a contact, with these fields besides those that every contact has."""
        bare = {"contact_id": contact_id, "created_at": iso(self.now())}
        self.account.create({**bare, **(fields or {})})

    def change(self, contact_id: str, fields: Mapping[str, Any] | None = None) -> None:
        """Change a contact."""
        self.account.change(contact_id, {"updated_at": iso(self.now()), **(fields or {})})

    def live(self, target: str) -> None:
        super().live(target)
        asked = listing_of(target)
        if asked is None:
            return
        listing = asked[0]
        self._answers[listing] += 1
        number = self._answers[listing]
        steps = list(self._changes.get((listing, number), ()))
        if listing == CONTACTS:
            steps += self._changes.get(number, ())
        for step in steps:
            if callable(step):
                step(self)
            elif step[0] in ("create", "change"):
                getattr(self, step[0])(*step[1:])
            else:
                getattr(self.account, step[0])(*step[1:])
