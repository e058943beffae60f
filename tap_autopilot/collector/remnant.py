"""What remains of a pruned event: just enough to recognize the same event in a contact.

For an email event, that is its contact, one time and its message. The message's own properties are
the same in all its events, so a store keeps them once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

import ciso8601

from tap_autopilot.collector import raw_json
from tap_autopilot.collector.raw_json import NotJson, TooLarge
from tap_autopilot.rfc3339 import rfc3339

MAX_VALUE = 6_000  # bytes; a real value, even one of 500 escaped characters, has fewer
MAX_LEFT = 40_000  # bytes of a message's properties, or of the rest
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)
_PLAIN = re.compile(rb'"([!#-\[\]-~]{1,200})"')  # a JSON string that reads as it is written

_PERSON = ("anonymousId", "userId")
_CONTACT = frozenset({"contactid"})
_WHO = _CONTACT | {"email"}
_TIMES = ("timestamp", "sentAt", "originalTimestamp", "receivedAt")
_MESSAGE = frozenset(
    {"emailid", "emailname", "emailsubject", "campaignid", "campaignname", "transactional"}
)


class Remnant(NamedTuple):
    """The contact's id, the time in epoch milliseconds, and the message's properties, as JSON.

    `rest` is a JSON object of whatever does not fit: the person's email if the contact's id is
    unknown, or the event's times as they came.
    """

    contact: str | None = None
    at: int | None = None
    message: bytes | None = None
    rest: bytes | None = None


NOTHING = Remnant()


def fingerprint(received_at: int, source: str, route: str, name: str, body: bytes) -> bytes:
    """What distinguishes this event from one with the same number in a copy of the store."""
    head = "\0".join((str(received_at), source, route, name)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(head + b"\0" + body, digest_size=8).digest()


def remains(source: str, body: bytes) -> Remnant:
    """What to keep of an event."""
    if source != "segment" or not raw_json.is_object(body):
        return NOTHING
    try:
        call = raw_json.members(body)
        context = _inner(call, "context")
        inner, outer = _inner(context, "traits"), _inner(call, "traits")
        properties = _inner(call, "properties")
    except (NotJson, TooLarge):  # as part of a batch it was not too large
        return NOTHING
    rest: dict[str, bytes] = {}
    at = _milliseconds(call.get("timestamp", b""))
    if at is None:
        rest |= _short(call, _TIMES)
    contact = _plain_text([*_only(inner, _CONTACT).values(), *_only(properties, _CONTACT).values()])
    if contact is None:
        rest |= _short(call, _PERSON)
        traits = _only(inner, _WHO)
        if traits:
            rest["context"] = raw_json.build({"traits": raw_json.build(traits)})
        for name, members in (("traits", outer), ("properties", properties)):
            if who := _only(members, _WHO):
                rest[name] = raw_json.build(who)
    message = _only(properties, _MESSAGE)
    return Remnant(contact, at, _built(message), _built(rest))


def body_of(remnant: Remnant) -> bytes:
    """A pruned event's body: JSON with what remains in its usual places."""
    contact, at, message, rest = remnant
    body = raw_json.members(rest) if rest else {}
    if at is not None:
        body["timestamp"] = b'"%s"' % _text(at).encode()
    if contact is not None:
        body["context"] = b'{"traits":{"contact_id":"%s"}}' % contact.encode()
    if message is not None:
        if "properties" in body:
            message = raw_json.build(
                {**raw_json.members(body["properties"]), **raw_json.members(message)}
            )
        body["properties"] = message
    return raw_json.build(body)


def _milliseconds(raw: bytes) -> int | None:
    """The time in a JSON string, in epoch milliseconds."""
    try:
        moment = ciso8601.parse_rfc3339(raw_json.string(raw) or "")
        # In UTC the year may be 0 or 10000.
        return (moment.astimezone(timezone.utc) - _EPOCH) // _MILLISECOND
    except (ValueError, OverflowError):
        return None


def _text(at: int) -> str:
    return rfc3339(_EPOCH + at * _MILLISECOND)


def _plain_text(values: Sequence[bytes]) -> str | None:
    """The first of these JSON values that is not empty, if it is a plain string."""
    for value in values:
        if value not in (b"null", b'""'):
            match = _PLAIN.fullmatch(value)
            return match[1].decode() if match else None
    return None


def _only(members: dict[str, bytes], names: frozenset[str]) -> dict[str, bytes]:
    """The members with these names, in any spelling, that are not too long."""
    return _short(members, [n for n in members if n.replace("_", "").lower() in names])


def _short(members: dict[str, bytes], names: Iterable[str]) -> dict[str, bytes]:
    return {n: members[n] for n in names if n in members and len(members[n]) <= MAX_VALUE}


def _built(members: dict[str, bytes]) -> bytes | None:
    """An object of these members; None if there are none, or a sender made far too many."""
    built = raw_json.build(members) if members else b""
    return built if 0 < len(built) <= MAX_LEFT else None


def _inner(members: dict[str, bytes], name: str) -> dict[str, bytes]:
    value = members.get(name, b"")
    return raw_json.members(value) if raw_json.is_object(value) else {}
