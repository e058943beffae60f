"""The names of events: which of them mean the same, and which table they feed."""

from __future__ import annotations

import functools
import re

MAX_NAME = 200  # characters of an event's name that the store keeps
_EMAIL_TABLES = {
    "emaildelivered": "email_delivered",
    "emailopened": "email_opened",
    "emailclicked": "email_clicked",
    "emaillinkclicked": "email_clicked",
    "emailbounced": "email_bounced",
    "emailmarkedasspam": "email_marked_as_spam",
    "emailunsubscribed": "email_unsubscribed",
    "unsubscribed": "email_unsubscribed",
    "emailreplied": "email_replied",
}
EMAIL_TABLES = frozenset(_EMAIL_TABLES.values())
_TABLES = {"hook": "contact_events", "activity": "activities"}


def kind_of(name: str) -> str:
    """What all names of the same Segment event have in common, in any case and spelling.

    Only as much of a name counts as the store keeps.
    """
    return _kind_of(name[:MAX_NAME])


@functools.lru_cache(maxsize=1000)  # called for each event, and most share their names
def _kind_of(name: str) -> str:
    spelled = plain(name)
    return _EMAIL_TABLES.get(spelled, spelled or name)


@functools.lru_cache(maxsize=1000)
def table_of(source: str, name: str) -> str | None:
    """The table for events of this source and name; None if there is none.

    Segment calls are email events if their name, in any case and spelling, is what Segment or
    Autopilot calls such an event.
    """
    if source == "segment":
        return _EMAIL_TABLES.get(plain(name))
    return _TABLES.get(source)


def plain(name: str) -> str:
    """A name without what its spellings differ in."""
    return re.sub(r"[\W_]", "", name).lower()
