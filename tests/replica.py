"""An in-memory target, and the keys by which it stores rows."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from tap_autopilot.sandbox.account import Account
from tap_autopilot.streams import STREAMS
from tap_autopilot.streams.emails import EmailEvent
from tests.invariants import Message

DELETED_AT = "_sdc_deleted_at"
KEYS = {name: stream.key_properties for name, stream in STREAMS.items()}
TABLES = [name for name, stream in STREAMS.items() if stream.setting is None]
EVENT_TABLES = {
    "delivered": "email_delivered",
    "opened": "email_opened",
    "clicked": "email_clicked",
    "bounced": "email_bounced",
    "complained": "email_marked_as_spam",
    "unsubscribed": "email_unsubscribed",
    "replied": "email_replied",
}  # by the kind of an occurrence
_MAPS = {name: stream.maps for name, stream in STREAMS.items() if issubclass(stream, EmailEvent)}

Key = tuple[str, ...]


def keys(messages: Iterable[Message]) -> list[Key]:
    """The keys of the rows in some messages, after the names of their tables."""
    return [
        (message["stream"], *(message["record"][name] for name in KEYS[message["stream"]]))
        for message in messages
        if message["type"] == "RECORD"
    ]


class Replica:
    """A target that upserts by key, deletes on tombstones and obeys ACTIVATE_VERSION.

    It may have stored more than its last `state` covers. A `strict` one lets ACTIVATE_VERSION delete
    rows of all other versions, others only those of an older version and those without one.
    """

    def __init__(self, *, strict: bool = True) -> None:
        self._strict = strict
        self.rows: dict[str, dict[Key, dict[str, Any]]] = {name: {} for name in KEYS}
        self.versions: dict[str, dict[Key, Any]] = {name: {} for name in KEYS}
        self.state: Any = None

    def copy(self) -> Replica:
        return copy.deepcopy(self)

    def take(self, messages: list[Message], *, also: int = 0) -> None:
        """Store everything up to the last STATE, and the next `also` messages."""
        states = [number for number, one in enumerate(messages) if one["type"] == "STATE"]
        stop = states[-1] + 1 if states else 0
        for message in messages[: stop + also]:
            self.store(message)
        if states:
            self.state = messages[states[-1]]["value"]

    def store(self, message: Message) -> None:
        """Store one message."""
        kind, stream = message["type"], message.get("stream", "")
        if kind == "RECORD":
            row = dict(message["record"])
            key = tuple(row[name] for name in KEYS[stream])
            if row.pop(DELETED_AT, None) is not None:
                self.rows[stream].pop(key, None)
                self.versions[stream].pop(key, None)
            else:
                self.rows[stream][key] = row
                self.versions[stream][key] = message.get("version")
        elif kind == "ACTIVATE_VERSION":
            for key, version in list(self.versions[stream].items()):
                newest = message["version"]
                if version != newest if self._strict else version is None or version < newest:
                    del self.rows[stream][key], self.versions[stream][key]

    def keys(self) -> set[Key]:
        """The keys of all rows, after the names of their tables."""
        return {(name, *key) for name, rows in self.rows.items() for key in rows}


def merge_states(old: Any, new: Any) -> Any:
    """A state merged into an older one key by key, as Meltano does."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: merge_states(old.get(key), value) for key, value in new.items()}}
    return new


def difference(one: Replica, other: Replica) -> dict[str, list[Any]]:
    """The differences between two targets, by table."""
    found = {}
    for name in TABLES:
        mine, others = one.rows[name], other.rows[name]
        if mine != others:
            keys = {key for key in mine.keys() | others.keys() if mine.get(key) != others.get(key)}
            found[name] = [(key, mine.get(key), others.get(key)) for key in sorted(keys)[:3]]
    return found


def everything(account: Account) -> set[Key]:
    """The keys of all rows of an account."""
    return {
        *(("contacts", one) for one in account.contact_ids),
        *(("lists", one["list_id"]) for one in account.lists),
        *(("smart_segments", one["segment_id"]) for one in account.segments),
        *(("custom_fields", one["name"]) for one in account.custom_fields),
        *(
            ("smart_segments_contacts", one["segment_id"], contact_id)
            for one in account.segments
            for contact_id in account.segment_members(one["segment_id"]) or ()
        ),
        *(
            ("lists_contacts", one["list_id"], contact_id)
            for one in account.lists
            for contact_id in account.list_members(one["list_id"]) or ()
        ),
        *(
            (stream, f"{stream}:{contact_id}:{message}")
            for contact_id in account.contact_ids
            for stream, maps in _MAPS.items()
            for name in maps
            for message in account.contact(contact_id).get(name) or ()
        ),
    }
