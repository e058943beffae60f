"""The account's lists, and who is on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.values import Row, as_key, as_repeated
from tap_autopilot.streams.base import MANY, MakeRows, Schema, Stream


class Lists(Stream):
    """Every list."""

    name = "lists"
    sources = ("lists",)
    key_properties = ("list_id",)


class ListsContacts(Stream):
    """Which contacts are on which list, one row per membership."""

    name = "lists_contacts"
    sources = ("contacts",)
    key_properties = ("list_id", "contact_id")
    sorted_by = ("contact_id", "list_id")
    reads = ("contact_id", "lists")

    @classmethod
    def compile(cls, schema: Schema, selected: Schema, tally: Tally) -> MakeRows:
        """A contact has an array of its lists."""

        def make(contacts: list[Any], *_: object) -> Iterator[list[Row]]:
            rows: list[Row] = []
            for contact in contacts:
                contact_id, lists = as_repeated(contact.get("contact_id")), contact.get("lists")
                if contact_id is None:
                    tally.skip("it has no contact_id, or one that is too long")
                elif lists.__class__ is list:
                    for list_id in dict.fromkeys(map(as_key, lists)):
                        if len(rows) == MANY:
                            yield rows
                            rows = []
                        if list_id is not None:
                            rows.append({"list_id": list_id, "contact_id": contact_id})
                        else:
                            tally.skip("an entry in its lists is not a list_id")
                elif lists:
                    tally.skip("its lists are not an array")
            yield rows

        return make
