"""Any request body is either refused or becomes events with the same content."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tap_autopilot.api.parsing import decode_document
from tap_autopilot.collector import compression, events, raw_json
from tap_autopilot.collector.compression import Damaged, UnknownEncoding
from tap_autopilot.collector.events import Contents
from tap_autopilot.collector.ids import as_id
from tap_autopilot.collector.raw_json import NotJson, TooLarge
from tap_autopilot.collector.received import Received
from tap_autopilot.rows.values import as_key
from tests import json_strategies

NOW = 1_700_000_000_000
LIMIT = 8 << 20
SHARED = ("context", "integrations", "sentAt")
NAMES = st.one_of(
    st.sampled_from(
        [b'"messageId"', b'"writeKey"', b'"write\\u004bey"', b'"type"', b'"event"', b'"batch"',
         b'"context"', b'"integrations"', b'"sentAt"', b'"a"']
    ),
    json_strategies.strings(),
)  # fmt: skip
VALUES = st.one_of(
    json_strategies.values(names=NAMES),
    json_strategies.objects(NAMES, json_strategies.values(most=3)),
    st.sampled_from([b'"track"', b'"page"', b'""', b'"\\ud800"', b'"a\\u0000b"']),
)
CALLS = json_strategies.objects(NAMES, VALUES, most=6)
USUAL = json_strategies.objects(NAMES, json_strategies.strings(), most=6)
BATCHES = st.builds(
    lambda shared, items: (
        b'{%s"batch":%s}' % (shared[1:-1] + b"," if shared != b"{}" else b"", items)
    ),
    st.lists(st.tuples(NAMES, VALUES), max_size=4).map(
        lambda found: b"{%s}" % b",".join(b"%s:%s" % pair for pair in found)
    ),
    json_strategies.arrays(st.one_of(CALLS, USUAL, VALUES)),
)
BODIES = st.one_of(
    CALLS,
    BATCHES,
    json_strategies.arrays(CALLS),
    VALUES,
    st.lists(st.one_of(CALLS, VALUES, json_strategies.damaged(CALLS)), max_size=5).map(b"\n".join),
)
ANYTHING = st.one_of(
    BODIES,
    json_strategies.damaged(BODIES),
    st.binary(max_size=40),
    st.builds(lambda depth, end: b"[" * depth + end, st.integers(1, 3000), st.binary(max_size=3)),
)
READERS: dict[str, Callable[[bytes], Contents]] = {
    "call": lambda body: events.from_call("track", raw_json.text_of(body), NOW),
    "batch": lambda body: events.from_batch(LIMIT, raw_json.text_of(body), NOW),
    "webhook": lambda body: events.from_webhook(raw_json.text_of(body), NOW)[0],
    "hook": lambda body: events.from_hook("contact_added", raw_json.text_of(body), NOW),
    "activity": lambda body: events.from_activity(raw_json.trim(body), NOW),
}


def unpack(body: bytes, encoding: str, limit: int) -> bytes:
    return b"".join(compression.unpacked(body, encoding, limit))


def parsed(text: bytes) -> Any:
    """Parse JSON, keeping every digit; the last of several members with the same name wins."""
    return json.loads(text.decode(), parse_int=str, parse_float=str, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def is_json(text: bytes) -> bool:
    try:
        parsed(text)
    except ValueError:
        return False
    return True


def check_can_be_stored(event: Received) -> None:
    assert event.name.encode() is not None
    assert "\0" not in event.name
    assert len(event.name) <= 200
    assert event.digest is None or len(event.digest) == 16


def read(reader: str, body: bytes) -> Contents | None:
    """The events of a request body; None if it is refused."""
    try:
        found = READERS[reader](body)
    except (NotJson, TooLarge):
        return None
    for event in found.events:
        check_can_be_stored(event)
    return found


def whole(item: Any, batch: Any) -> Any:
    """An event of a batch, with the batch's shared fields, which its own fields override."""
    if not isinstance(item, dict):
        return item
    found = dict(item)
    for name in SHARED:
        ours = batch.get(name)
        if ours is not None:
            own = found.setdefault(name, ours)
            if isinstance(own, dict) and isinstance(ours, dict):
                found[name] = {**ours, **own}
    found.pop("writeKey", None)
    return found


@given(ANYTHING, st.sampled_from(sorted(READERS)))
def test_any_body_is_read_or_refused(body: bytes, reader: str) -> None:
    found = read(reader, body)
    if found is not None:
        assert found == read(reader, body), "reading it again gave other events"


@given(CALLS)
def test_a_call_is_stored_unchanged_except_for_its_write_key(body: bytes) -> None:
    found = read("call", body)
    assert found is not None
    (event,) = found.events
    said = parsed(body)
    key = said.pop("writeKey", None)
    # `parsed` turns numbers into text as well
    is_text = isinstance(json.loads(body, parse_int=float).get("writeKey"), str)
    assert parsed(event.body) == said
    assert found.write_key == (key if b"writeKey" in body and is_text else found.write_key)
    if key is None and b"\\u004b" not in body and b"writeKey" not in body:
        assert event.body == body.strip()


@given(st.one_of(USUAL, BODIES), st.sampled_from(["call", "batch", "webhook"]))
@example(b'{"messageId":"a\\u0000b","type":"TRACK","event":"\\u0000"}', "call")
@example(b'{"messageId":"","type":"","event":""}', "webhook")
@example(b'{"messageId":"\xc3\xa9","messageId":"\\u00e9"}', "call")
@example(b'{"messageId":"a","type":"page"}', "call")
@example(b'{"sentAt":1,"batch":[{"messageId":"a","sentAt":null}]}', "batch")
def test_usual_calls_are_read_like_all_others(body: bytes, reader: str) -> None:
    found = read(reader, body)
    no = msgspec.json.Decoder(None)
    with mock.patch.multiple(events, _USUAL_CALL=no, _USUAL_CALLS=no):
        assert read(reader, body) == found


@given(st.one_of(json_strategies.strings(), json_strategies.NUMBERS, VALUES))
@example(b"-0")
@example(b"1.50")
@example(b"1e2")
@example(b"true")
@example(b'"\\u0061"')
@example(b'"\\ud83d\\ude00"')
@example(b"1e400")
@example(b"1E-99999999999999999999")
@example(b"9" * 5000)
@example(b'"\\u0000\\ud800"')
def test_ids_are_what_the_tap_makes_of_them(raw: bytes) -> None:
    value, _ = decode_document(raw)
    expected = (as_key(value) or "", raw.decode() if is_extreme(value) else None)
    assert as_id(msgspec.Raw(raw)) in expected


def is_extreme(value: Any) -> bool:
    """Whether the tap writes this number in one way or another, depending on its digits."""
    try:
        return value != 0 and not 1e-280 < abs(float(value)) < 1e280
    except (TypeError, ValueError, OverflowError):
        return True


@given(BATCHES)
def test_events_of_a_batch_include_its_shared_fields(body: bytes) -> None:
    found = read("batch", body)
    said = parsed(body)
    assert found is not None
    expected = [whole(item, said) for item in said["batch"]]
    assert [parsed(event.body) for event in found.events] == expected


@given(st.one_of(json_strategies.arrays(VALUES), CALLS), st.sampled_from(["hook", "activity"]))
def test_events_of_a_delivery_are_unchanged(body: bytes, reader: str) -> None:
    found = read(reader, body)
    assert found is not None
    said = parsed(body)
    expected = said if isinstance(said, list) else [said]
    assert [parsed(event.body) for event in found.events] == expected
    assert all(event.body in body for event in found.events)
    assert len({event.digest for event in found.events}) == len(found.events)


@given(json_strategies.arrays(st.one_of(CALLS, VALUES)))
def test_events_of_a_webhook_are_unchanged(body: bytes) -> None:
    found, signed = events.from_webhook(body, NOW)
    expected = parsed(body)
    for one in expected:
        if isinstance(one, dict):
            one.pop("writeKey", None)
    assert [parsed(event.body) for event in found.events] == expected
    assert signed is None if not expected else signed is not None and signed in body


@given(
    st.lists(
        st.one_of(CALLS, json_strategies.damaged(CALLS), json_strategies.NUMBERS),
        min_size=1,
        max_size=6,
    )
)
def test_lines_that_are_not_json_are_kept_as_text(found: list[bytes]) -> None:
    lines = [part for one in found for part in one.split(b"\n") if part.strip()]
    body = b"\n".join(lines)
    text = raw_json.trim(body)
    if is_json(text):
        return
    lines = [part.strip() for part in text.split(b"\n") if part.strip()]
    got = read("activity", body)
    malformed = sum(not is_json(line) for line in lines)
    if got is None:
        assert not any(is_json(line) and line[:1] in b"[{" for line in lines)
    else:
        assert [event.body for event in got.events] == lines
        assert got.malformed == malformed


@given(st.one_of(VALUES, json_strategies.damaged(VALUES)))
@example(b"[1e400]")
@example(b"5")
@example(b'"\\ud800"')
def test_only_standard_json_is_accepted(body: bytes) -> None:
    try:
        text = raw_json.text_of(body)
        raw_json.check(text)
    except NotJson:
        text = body.removeprefix(b"\xef\xbb\xbf")
        assert not is_json(text) or text.strip() != text.strip(b" \t\n\r")
    else:
        assert is_json(text)
        if raw_json.is_array(text):
            assert [parsed(one) for one in raw_json.items(text)] == parsed(text)
        if raw_json.is_object(text):
            assert {n: parsed(one) for n, one in raw_json.members(text).items()} == parsed(text)
            assert parsed(raw_json.build(raw_json.members(text))) == parsed(text)
        else:
            with pytest.raises(NotJson):
                raw_json.members(text)


@given(
    st.binary(max_size=300),
    st.sampled_from(["gzip", "deflate", "x-gzip", "identity", "", "br", "gzip, gzip", "GZIP"]),
    st.integers(0, 300),
)
def test_unpacking_returns_a_body_or_raises_one_of_three_errors(
    packed: bytes, encoding: str, limit: int
) -> None:
    try:
        body = unpack(packed, encoding, limit)
    except (TooLarge, UnknownEncoding, Damaged):
        return
    assert encoding in ("", "identity") or len(body) <= limit


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=3), st.integers(0, 400))
def test_packed_bodies_are_restored_up_to_the_limit(parts: list[bytes], limit: int) -> None:
    whole_body = b"".join(parts)
    packed = {
        "gzip": b"".join(gzip.compress(part, mtime=0) for part in parts),
        "deflate": zlib.compress(whole_body),
    }
    raw = zlib.compressobj(wbits=-15)
    packed["deflate "] = raw.compress(whole_body) + raw.flush()
    packed["GZIP"] = packed["gzip"]
    for encoding, body in packed.items():
        try:
            assert unpack(body, encoding, limit) == whole_body
            assert len(whole_body) <= limit
        except TooLarge:
            assert len(whole_body) > limit


def test_a_body_of_many_gzip_members_is_refused() -> None:
    member = gzip.compress(b"a", mtime=0)
    assert unpack(member * 100, "gzip", LIMIT) == b"a" * 100
    with pytest.raises(Damaged):
        unpack(member * 101, "gzip", LIMIT)
