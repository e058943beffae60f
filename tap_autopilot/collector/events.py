"""Splits a request's body into its events, each with its own bytes."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import NamedTuple

import msgspec

from tap_autopilot.collector import raw_json
from tap_autopilot.collector.compression import TooLarge
from tap_autopilot.collector.raw_json import NotJson
from tap_autopilot.collector.writing import Received

CALLS = ("track", "identify", "page", "screen", "group", "alias")
MAX_KNOWN = 100  # bytes of a name to cache
_ABSENT = msgspec.Raw(b"")
_SHARED = ("context", "integrations", "sentAt")  # fields of a batch that apply to all its events


class _Call(msgspec.Struct):
    messageId: msgspec.Raw = _ABSENT  # noqa: N815
    writeKey: msgspec.Raw = _ABSENT  # noqa: N815
    type: msgspec.Raw = _ABSENT
    event: msgspec.Raw = _ABSENT
    context: msgspec.Raw = _ABSENT
    integrations: msgspec.Raw = _ABSENT
    sentAt: msgspec.Raw = _ABSENT  # noqa: N815


class _Batch(msgspec.Struct):
    batch: msgspec.Raw = _ABSENT
    writeKey: msgspec.Raw = _ABSENT  # noqa: N815
    context: msgspec.Raw = _ABSENT
    integrations: msgspec.Raw = _ABSENT
    sentAt: msgspec.Raw = _ABSENT  # noqa: N815


class _Named(msgspec.Struct):
    event: msgspec.Raw = _ABSENT
    type: msgspec.Raw = _ABSENT


_CALL = msgspec.json.Decoder(_Call)
_BATCH = msgspec.json.Decoder(_Batch)
_NAMED = msgspec.json.Decoder(_Named)


class Found(NamedTuple):
    """The events of a request, the write key in its body, and the number of non-JSON lines."""

    events: list[Received]
    write_key: str | None = None
    malformed: int = 0


def from_call(body: bytes, route: str, now: int) -> Found:
    """The event of a single call of Segment's tracking API. Raises NotJson."""
    _must_be_object(body)
    call = raw_json.pick(_CALL, body)
    return Found([_segment(body, call, route, now)], raw_json.string(bytes(call.writeKey)))


def from_batch(body: bytes, now: int, most_bytes: int) -> Found:
    """The events of a batch. Raises NotJson, and TooLarge if the copies would take too much memory.

    Each event gets a copy of the batch's fields that apply to all events.
    """
    _must_be_object(body)
    batch = raw_json.pick(_BATCH, body)
    listed = bytes(batch.batch)
    if not raw_json.is_array(listed):
        raise NotJson('the body has no "batch" array')
    items = raw_json.items(listed)
    shared = _Shared(batch)
    if shared.size * len(items) > most_bytes:
        raise TooLarge
    events = [_segment_item(item, "batch", now, shared) for item in items]
    return Found(events, raw_json.string(bytes(batch.writeKey)))


def from_webhook(body: bytes, now: int) -> tuple[Found, bytes | None]:
    """What Segment's Webhooks destination sent, and the first event of an array, the signed one."""
    if raw_json.is_array(body):
        listed = raw_json.items(body)
        found = Found([_segment_item(item, "segment", now) for item in listed])
        return found, listed[0] if listed else None
    return from_call(body, "segment", now), None


def from_hook(body: bytes, event: str, now: int) -> Found:
    """The delivery of a REST hook. Raises NotJson."""
    if raw_json.is_array(body):
        bodies = raw_json.items(body)
    else:
        _must_be_object(body)
        raw_json.check(body)
        bodies = [body]
    event = _clean(event)
    route = f"hooks/{event}" if event else "hooks"
    return Found(_unnumbered(body, bodies, "hook", route, event, now))


def from_activity(body: bytes, now: int) -> Found:
    """The events of an Activity Stream: lines, an array, or one object. Raises NotJson.

    The body need not be UTF-8, because some of its lines may be.
    """
    try:
        raw_json.check_utf8(body)
        if raw_json.is_array(body):
            bodies = raw_json.items(body)
        else:
            _must_be_object(body)
            raw_json.check(body)
            bodies = [body]
    except NotJson:
        return _from_lines(body, now)
    return Found(_unnumbered(body, bodies, "activity", "activity", "", now))


def _from_lines(body: bytes, now: int) -> Found:
    if body.count(b"\n") > raw_json.MAX_ITEMS:
        raise TooLarge
    lines = [line for line in map(bytes.strip, body.split(b"\n")) if line]
    malformed = 0
    holds_events = False
    for line in lines:
        try:
            raw_json.check_utf8(line)
            raw_json.check(line)
            holds_events |= raw_json.is_object(line) or raw_json.is_array(line)
        except NotJson:
            malformed += 1
    if not holds_events:
        raise NotJson("the body is neither JSON nor lines of JSON")
    events = _unnumbered(body, lines, "activity", "activity", "", now)
    return Found(events, malformed=malformed)


def _must_be_object(body: bytes) -> None:
    if not raw_json.is_object(body):
        raise NotJson("the body is not a JSON object")


def _segment_item(item: bytes, route: str, now: int, shared: _Shared | None = None) -> Received:
    """An event of a batch, with the fields that apply to all events."""
    if not raw_json.is_object(item):  # kept, because it may still be useful
        return Received(now, "segment", route, "", item, None, for_good=True)
    call = raw_json.pick(_CALL, item)
    return _segment(shared.given_to(item, call) if shared else item, call, route, now)


class _Shared:
    """The fields of a batch that apply to all its events."""

    def __init__(self, batch: _Batch) -> None:
        values = {name: bytes(getattr(batch, name)) for name in _SHARED}
        self._values = {name: one for name, one in values.items() if one not in (b"", b"null")}
        self._tail = _members(self._values)
        self.size = len(self._tail)

    def given_to(self, item: bytes, call: _Call) -> bytes:
        """The event with these fields added. The event's own values win."""
        tail = self._tail
        own = [name for name in self._values if getattr(call, name) is not _ABSENT]
        if own:
            rest = {name: value for name, value in self._values.items() if name not in own}
            tail = _members(rest)
            for name in own:
                item = self._merged(item, name, bytes(getattr(call, name)))
        if not tail:
            return item
        head = item[:-1].rstrip()
        return b"%s%s%s}" % (head, b"" if head == b"{" else b",", tail)

    def _merged(self, item: bytes, name: str, own: bytes) -> bytes:
        ours = self._values[name]
        if not (raw_json.is_object(own) and raw_json.is_object(ours)):
            return item
        theirs, ours_by_name = raw_json.members(own), raw_json.members(ours)
        if ours_by_name.keys() <= theirs.keys():
            return item
        whole = raw_json.members(item)
        whole[name] = raw_json.build({**ours_by_name, **theirs})
        return raw_json.build(whole)


def _members(values: dict[str, bytes]) -> bytes:
    return b",".join(b'"%s":%s' % (name.encode(), value) for name, value in values.items())


def _segment(body: bytes, call: _Call, route: str, now: int) -> Received:
    if call.writeKey is not _ABSENT:
        found = raw_json.members(body)
        del found["writeKey"]
        body = raw_json.build(found)
    kind = (_text(call.type) or (route if route in CALLS else "")).lower()
    name = _text(call.event) if kind in ("track", "") else None
    name = name or (kind if kind in CALLS else "")
    return Received(now, "segment", route, name, body, _key_of_id(bytes(call.messageId)), True)


def _unnumbered(
    delivery: bytes, bodies: list[bytes], source: str, route: str, name: str, now: int
) -> list[Received]:
    """Events without ids, identified by the delivery's bytes and their position in it."""
    digest = _digest(b"body", route.encode("utf-8", "surrogatepass"), delivery)
    return [
        Received(
            now, source, route, name or _name_in(body), body,
            _digest(b"place", digest, b"%d" % place), for_good=False,
        )
        for place, body in enumerate(bodies)
    ]  # fmt: skip


def _name_in(body: bytes) -> str:
    try:
        named = raw_json.pick(_NAMED, body) if raw_json.is_object(body) else _Named()
        return _text(named.event) or _text(named.type) or ""
    except ValueError:  # a line that is kept as text
        return ""


def _text(value: msgspec.Raw) -> str | None:
    """A string that is safe to store and print."""
    raw = bytes(value)
    return _short_text(raw) if len(raw) <= MAX_KNOWN else _read_text(raw)


def _read_text(raw: bytes) -> str | None:
    found = raw_json.string(raw)
    if found and b"\\" in raw:
        found = found.encode("utf-8", "replace").decode()
    return found and _clean(found)


def _clean(name: str) -> str:
    return name.replace("\0", "\ufffd")[:200]


_short_text = functools.lru_cache(maxsize=1000)(_read_text)  # a sender uses few event names


def _key_of_id(raw: bytes) -> bytes | None:
    """The digest of a messageId, the same for every JSON spelling; None if it is empty."""
    if raw in (b"", b"null", b'""') or raw[:1] in b"[{":
        return None
    if b"\\" in raw:
        raw = json.dumps(json.loads(raw), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return _digest(b"id", raw)


def _digest(kind: bytes, *parts: bytes) -> bytes:
    return hashlib.blake2b(b"\0".join(parts), digest_size=16, person=kind).digest()
