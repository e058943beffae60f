"""Splits a request's body into its events, each with its own bytes."""

from __future__ import annotations

import functools
import hashlib
from typing import NamedTuple

import msgspec

from tap_autopilot.collector import raw_json
from tap_autopilot.collector.ids import as_id
from tap_autopilot.collector.names import MAX_NAME
from tap_autopilot.collector.raw_json import NotJson, TooLarge
from tap_autopilot.collector.received import DELIVERY, Received

CALLS = ("track", "identify", "page", "screen", "group", "alias")
# Segment's Swift, Kotlin and browser libraries post to these.
CALLS_BY_LETTER = {call[0]: call for call in CALLS}
BATCHES = ("batch", "import", "b")
MAX_KNOWN = 100  # bytes of a name to cache
MAX_ABOUT = 2000  # hooks of a delivery whose contacts are noted; Autopilot sends one
_ABSENT = msgspec.Raw(b"")
_IDS = hashlib.blake2b(digest_size=16, person=b"id")
_SHARED = ("context", "integrations", "sentAt")  # fields of a batch that apply to all its events


class _Body(msgspec.Struct):
    writeKey: msgspec.Raw = _ABSENT  # noqa: N815
    context: msgspec.Raw = _ABSENT
    integrations: msgspec.Raw = _ABSENT
    sentAt: msgspec.Raw = _ABSENT  # noqa: N815


class _Batch(_Body):
    batch: msgspec.Raw = _ABSENT


class Call(_Body):
    """The fields that matter of a call of Segment's tracking API."""

    messageId: msgspec.Raw = _ABSENT  # noqa: N815
    type: msgspec.Raw = _ABSENT
    event: msgspec.Raw = _ABSENT


class _UsualCall(_Body, kw_only=True):
    """The same for what senders' libraries send, which is quicker to read."""

    messageId: str  # noqa: N815
    type: str = ""
    event: str = ""


class _Subject(msgspec.Struct):
    contact_id: msgspec.Raw = _ABSENT
    email: msgspec.Raw = _ABSENT
    contact: msgspec.Raw = _ABSENT
    list_id: msgspec.Raw = _ABSENT
    segment_id: msgspec.Raw = _ABSENT


ANY_CALL = msgspec.json.Decoder(Call)
_USUAL_CALL = msgspec.json.Decoder(_UsualCall)
_USUAL_CALLS = msgspec.json.Decoder(list[_UsualCall])
_BATCH = msgspec.json.Decoder(_Batch)
_SUBJECT = msgspec.json.Decoder(_Subject)


class Contents(NamedTuple):
    """The events of a request, the write key in its body, and the number of non-JSON lines."""

    events: list[Received]
    write_key: str | None = None
    malformed: int = 0


def from_call(route: str, body: bytes, now: int) -> Contents:
    """The event of a single call of Segment's tracking API. Raises NotJson."""
    call: Call | _UsualCall | None = raw_json.decode(_USUAL_CALL, body)
    if call is None:
        _must_be_object(body)
        call, body = raw_json.pick(ANY_CALL, body)
    return Contents([_segment(body, call, route, now)], raw_json.string(bytes(call.writeKey)))


def from_batch(most_bytes: int, body: bytes, now: int) -> Contents:
    """The events of a batch. Raises NotJson, and TooLarge if the copies would take too much memory.

    Each event gets a copy of the batch's fields that apply to all events.
    """
    _must_be_object(body)
    batch, _ = raw_json.pick(_BATCH, body)
    listed = raw_json.raw(batch.batch)
    if not raw_json.is_array(listed):
        raise NotJson('the body has no "batch" array')
    items = raw_json.items(listed)
    shared = _Shared(batch)
    if shared.size * len(items) > most_bytes:
        raise TooLarge("too much context shared by too many events")
    raw_json.check_quick(sum(map(len, shared.objects.values())) * len(items) // 30)
    calls = raw_json.decode(_USUAL_CALLS, listed)
    if calls is None:
        events = [_segment_item(item, "batch", now, shared) for item in items]
    else:
        events = [
            _segment(item, call, "batch", now, shared)
            for item, call in zip(items, calls, strict=True)
        ]
    return Contents(events, raw_json.string(bytes(batch.writeKey)))


def from_webhook(body: bytes, now: int) -> tuple[Contents, bytes | None]:
    """What Segment's Webhooks destination sent, and the first event of an array, the signed one."""
    if raw_json.is_array(body):
        listed = raw_json.items(body)
        events = [_segment_item(item, "segment", now, _NOTHING) for item in listed]
        return Contents(_identified(events, body)), listed[0] if listed else None
    return Contents(_identified(from_call("segment", body, now).events, body)), None


def from_hook(event: str, body: bytes, now: int) -> Contents:
    """The delivery of a REST hook. Raises NotJson."""
    bodies = _items(body)
    event = _clean(event)
    route = f"hooks/{event}" if event else "hooks"
    named = [(body, event or _name_in(body)) for body in bodies]
    events = _delivered(body, named, "hook", route, now)
    if len(events) > MAX_ABOUT:
        return Contents(events)
    return Contents([event._replace(about=subject(event.body)) for event in events])


def subject(body: bytes) -> bytes | None:
    """The contact of a hook and its list or segment, as a digest; None if it names no contact.

    Of these, only the latest hook can be delivered again: added, removed, added are three events.
    """
    try:
        hook = _SUBJECT.decode(body)
        inner = bytes(hook.contact)
        contact = _SUBJECT.decode(inner) if raw_json.is_object(inner) else hook
    except (msgspec.DecodeError, RecursionError):  # not worth the slow way
        return None
    who = bytes(hook.contact_id) or bytes(contact.contact_id) or bytes(hook.email)
    return _digest(b"about", who, bytes(hook.list_id), bytes(hook.segment_id)) if who else None


def from_activity(body: bytes, now: int) -> Contents:
    """The events of an Activity Stream: lines, an array, or one object. Raises NotJson.

    The body need not be UTF-8, because some of its lines may be.
    """
    try:
        raw_json.check_utf8(body)
        bodies = _items(body)
    except NotJson:
        return _from_lines(body, now)
    named = [(body, _name_in(body)) for body in bodies]
    return Contents(_delivered(body, named, "activity", "activity", now))


def _from_lines(body: bytes, now: int) -> Contents:
    marks = sum(map(body.count, (b"[", b"]", b"{", b"}", b",", b":")))
    if body.count(b"\n") > raw_json.MAX_ITEMS or marks > raw_json.MAX_TOKENS:
        raise TooLarge("too many events or values")
    raw_json.check_quick(body.count(b"\n"))
    lines: list[tuple[bytes, str]] = []
    malformed = 0
    holds_events = False
    for line in filter(None, map(bytes.strip, body.split(b"\n"))):
        try:
            raw_json.check_utf8(line)
            value = raw_json.check(line)
            lines.append((value, _name_in(value)))
            holds_events |= raw_json.is_object(line) or raw_json.is_array(line)
        except NotJson:
            lines.append((line, ""))  # kept as text
            malformed += 1
    if not holds_events:
        raise NotJson("the body is neither JSON nor lines of JSON")
    return Contents(_delivered(body, lines, "activity", "activity", now), malformed=malformed)


def _items(body: bytes) -> list[bytes]:
    """The elements of an array, or the one object that there is. Raises NotJson."""
    if raw_json.is_array(body):
        return raw_json.items(body)
    _must_be_object(body)
    return [raw_json.check(body)]


def _must_be_object(body: bytes) -> None:
    if not raw_json.is_object(body):
        raise NotJson("the body is not a JSON object")


def _segment_item(item: bytes, route: str, now: int, shared: _Shared) -> Received:
    """An event of a batch or array, which may be anything."""
    if not raw_json.is_object(item):  # kept, because it may still be useful
        return Received(now, "segment", route, "", bytes(item), None, for_good=True)
    call, item = raw_json.pick(ANY_CALL, item)
    return _segment(item, call, route, now, shared)


def _members(values: dict[str, bytes]) -> bytes:
    return b",".join(b'"%s":%s' % (name.encode(), value) for name, value in values.items())


class _Shared:
    """The fields of a batch that apply to all its events. An event's own values win."""

    def __init__(self, batch: _Batch) -> None:
        values = {name: raw_json.raw(getattr(batch, name)) for name in _SHARED}
        self._values = {n: value for n, value in values.items() if value not in (b"", b"null")}
        self.objects = {
            name: raw_json.pairs(raw_json.members(value))
            for name, value in self._values.items()
            if raw_json.is_object(value)
        }
        self._tail = _members(self._values)
        self.size = len(self._tail)

    def missing_in(self, call: Call | _UsualCall) -> bytes:
        """The members to append to an event: those that it does not have."""
        for name in self._values:
            if getattr(call, name) is not _ABSENT:
                break
        else:
            return self._tail
        return _members({n: v for n, v in self._values.items() if getattr(call, n) is _ABSENT})

    def merged_with(self, call: Call | _UsualCall) -> dict[str, bytes]:
        """The members to replace in an event: objects that lack something of the batch's."""
        merged = {}
        for name, ours in self.objects.items():
            own = raw_json.raw(getattr(call, name))
            if raw_json.is_object(own):
                theirs = raw_json.members(own)
                if not ours.keys() <= theirs.keys():
                    merged[name] = raw_json.joined({**ours, **raw_json.pairs(theirs)})
        return merged


_NOTHING = _Shared(_Batch())


def _segment(
    body: bytes, call: Call | _UsualCall, route: str, now: int, shared: _Shared = _NOTHING
) -> Received:
    """An event with an id, without its write key, with what it lacks of the shared fields."""
    merged = shared.merged_with(call) if shared.objects else None
    if merged or call.writeKey is not _ABSENT:
        members = {**raw_json.members(body), **(merged or {})}
        members.pop("writeKey", None)
        body = raw_json.build(members)
    if tail := shared.missing_in(call):
        head = body[:-1].rstrip()
        body = b"".join((head, b"" if head == b"{" else b",", tail, b"}"))
    if isinstance(call, _UsualCall):
        type_, event = call.type, call.event
    else:
        type_, event = _text(bytes(call.type)), _text(bytes(call.event))
    is_short = len(type_) + len(event) <= MAX_KNOWN
    name = (_short_name if is_short else _name)(route, type_, event)
    digest = _digest_of_id(as_id(call.messageId))
    return Received(now, "segment", route, name, bytes(body), digest, True)


def _name(route: str, type_: str, event: str) -> str:
    """The name of an event, for statistics: what a `track` call is about, or the call's type."""
    type_ = type_of(route, type_)
    if event and type_ in ("track", ""):
        return _clean(event)
    return type_ if type_ in CALLS else ""


def type_of(route: str, type_: str) -> str:
    """The type of a call, which may have none of its own, in lower case."""
    return (type_ or (route if route in CALLS else "")).lower()


_short_name = functools.lru_cache(maxsize=1000)(_name)  # a sender uses few event names


def _delivered(
    delivery: bytes, bodies: list[tuple[bytes, str]], source: str, route: str, now: int
) -> list[Received]:
    """Events without ids, each with its name."""
    events = [
        Received(now, source, route, name, bytes(body), None, for_good=False)
        for body, name in bodies
    ]
    return _identified(events, delivery)


def _identified(events: list[Received], delivery: bytes) -> list[Received]:
    """Events that have no id get one for an hour: the delivery's digest and their place in it."""
    if all(event.digest for event in events):
        return events
    digest = _digest(b"body", events[0].route.encode("utf-8", "surrogatepass"), delivery)
    return [
        event._replace(digest=digest[:DELIVERY] + place.to_bytes(4, "big"), for_good=False)
        if event.digest is None
        else event
        for place, event in enumerate(events)
    ]


def _name_in(body: bytes) -> str:
    if not raw_json.is_object(body):
        return ""
    named, _ = raw_json.pick(ANY_CALL, body)
    return _text(bytes(named.event)) or _text(bytes(named.type))


def _text(raw: bytes) -> str:
    """A string that is safe to store and print; empty if it is another value."""
    text = raw_json.string(raw) or ""
    if b"\\" in raw:
        text = text.encode("utf-8", "replace").decode()
    return _clean(text)


def _clean(name: str) -> str:
    return name.replace("\0", "\ufffd")[:MAX_NAME]


def _digest_of_id(id_: str) -> bytes | None:
    """The digest of a messageId; None without a messageId."""
    if not id_:
        return None
    digest = _IDS.copy()  # takes half the time of a new one
    digest.update(id_.encode())
    return digest.digest()


def _digest(purpose: bytes, *parts: bytes) -> bytes:
    return hashlib.blake2b(b"\0".join(parts), digest_size=16, person=purpose).digest()
