"""Who joined and left lists and smart segments, according to the digests of the memberships."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from tap_autopilot.rows.values import Row
from tap_autopilot.streams.base import DIGESTS, Stream
from tap_autopilot.streams.lists import ListsContacts
from tap_autopilot.streams.smart_segments import SmartSegmentsContacts

JOINED, LEFT = "joined", "left"
MEMBERSHIPS = (SmartSegmentsContacts.name, ListsContacts.name)


class MembershipChanges(Stream):
    """Contacts that joined or left a list or smart segment, and when the tap noticed."""

    name = "membership_changes"
    sources = (DIGESTS,)
    key_properties = ("id",)
    setting = "digests"


def membership_change(
    table: str, key: Mapping[str, str], change: str, seen_at: str, seen_in: str
) -> Row:
    """The row for a membership that a pass found to be new or gone.

    `seen_in` identifies the pass, even if it starts over.
    """
    named = "\0".join((table, *key.values(), change, seen_in)).encode()
    return {
        "id": hashlib.blake2b(named, digest_size=16).hexdigest(),
        "table": table,
        "list_id": key.get("list_id"),
        "segment_id": key.get("segment_id"),
        "contact_id": key["contact_id"],
        "change": change,
        "seen_at": seen_at,
    }
