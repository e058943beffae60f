"""Splits JSON into the bytes of its members, unchanged.

msgspec does this quickly, but rejects some valid JSON: lone surrogates, and nesting beyond Python's
recursion limit. A non-recursive scanner handles those, and raises TooLarge if there is too much. It
reads a body once.

Which thread asks makes a difference: in an event loop's, TooSlow is raised before anything slow.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
from typing import Any, TypeVar

import msgspec

MAX_ITEMS = 25_000  # of an array; Segment allows 2,500 and sends 4,000. All are in one commit
MAX_VALUES = 1_000_000  # roughly, in all items together
MAX_COLONS = 50_000  # of an object to split; each member takes 400 bytes
MAX_QUICK = 250  # items or members to handle in an event loop's thread; each takes some 5 µs
MAX_KNOWN = 100  # characters of a name to cache
DEPTH = 4  # levels that the scanner splits: a batch, its events, their contexts, and their members
MAX_TOKENS = 2_000_000  # for the scanner, which is slow; 8 MB of ordinary events have 1,400,000

# A part of a string: `re` keeps a way back for each escape, in 230 bytes, and lets no thread go on.
_PART = rb'[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*){0,1000}'
_MORE = re.compile(_PART)
_token_at = re.compile(
    rb"[ \t\n\r]*"
    rb'(?P<token>[\[\]{},:]|"%s(?P<closed>"?)'
    rb"|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null)" % _PART
).match
_QUOTE, _COMMA, _COLON, _ARRAY_BEGINS, _ARRAY_ENDS, _OBJECT_BEGINS, _OBJECT_ENDS = b'",:[]{}'
# What the scanner expects: the first bytes of the tokens that may follow.
_VALUE = {*b'[{"-0123456789tfn'}
_VALUE_OR_END = {*_VALUE, _ARRAY_ENDS}
_NAME = {_QUOTE}
_NAME_OR_END = {_QUOTE, _OBJECT_ENDS}
_AFTER_NAME = {_COLON}
_AFTER_VALUE = {
    _ARRAY_ENDS: {_COMMA, _ARRAY_ENDS},
    _OBJECT_ENDS: {_COMMA, _OBJECT_ENDS},
}
# By the opening bracket: the closing one, and what to expect in between.
_INSIDE = {
    _ARRAY_BEGINS: (_ARRAY_ENDS, _VALUE_OR_END),
    _OBJECT_BEGINS: (_OBJECT_ENDS, _NAME_OR_END),
}
_WHITE = b" \t\n\r"
_BOM = b"\xef\xbb\xbf"
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_ANYTHING = msgspec.json.Decoder(msgspec.Raw)

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")


class NotJson(ValueError):
    """These bytes are not JSON."""


class TooLarge(ValueError):
    """These bytes, or what they stand for, are more than allowed."""


class TooSlow(Exception):
    """Reading these bytes takes long, so a thread must do it."""


class _Split(bytes):
    """An object or array that the scanner has read, with its members.

    Names are JSON strings, or empty in an array.
    """

    members: list[tuple[bytes, bytes]]


def trim(body: bytes) -> bytes:
    """The body without byte order mark and outer whitespace."""
    return body.removeprefix(_BOM).strip(_WHITE)


def check_utf8(data: bytes) -> None:
    """Raise NotJson unless these bytes are UTF-8, which the other functions take for granted."""
    try:
        data.decode()
    except UnicodeDecodeError:
        raise NotJson("the body is not UTF-8") from None


def text_of(body: bytes) -> bytes:
    """The trimmed body. Raises NotJson unless it is UTF-8."""
    body = trim(body)
    if not body.isascii():
        check_utf8(body)
    return body


def is_object(data: bytes) -> bool:
    """Whether these bytes, if they are JSON, are an object."""
    return data[:1] == b"{"


def is_array(data: bytes) -> bool:
    """Whether these bytes, if they are JSON, are an array."""
    return data[:1] == b"["


def check(data: bytes) -> bytes:
    """These bytes, if they are one JSON value. Raises NotJson.

    The other functions read what this returns without another scan.
    """
    return data if decode(_ANYTHING, data) is not None else _scan(data)


def items(data: bytes) -> list[bytes]:
    """The elements of an array. Raises NotJson, and TooLarge if there are too many."""
    if len(data) > MAX_VALUES and data.count(b",") > MAX_VALUES:
        raise TooLarge("too many events or values")
    if isinstance(data, _Split):
        return [value for _, value in data.members]
    try:
        values = [bytes(item) for item in _ARRAY.decode(data)]
    except (msgspec.DecodeError, RecursionError):
        return items(_scan(data))
    if len(values) > MAX_ITEMS:
        raise TooLarge("too many events or values")
    check_quick(len(values))
    return values


def members(data: bytes) -> dict[str, bytes]:
    """The members of an object; if a name occurs twice, the last. Raises NotJson and TooLarge."""
    if isinstance(data, _Split):
        return {json.loads(name): value for name, value in data.members}
    if len(data) > MAX_COLONS and data.count(b":") > MAX_COLONS:
        raise TooLarge("too many members in an event")
    try:
        return {name: bytes(value) for name, value in _OBJECT.decode(data).items()}
    except (msgspec.DecodeError, RecursionError):
        if not is_object(data):
            raise NotJson("the body is not a JSON object") from None
        return members(_scan(data))


def pick(decoder: msgspec.json.Decoder[S], data: bytes) -> tuple[S, bytes]:
    """Those members of an object that are fields of the decoder's struct. Raises NotJson.

    Also returns the object, which the other functions then read without another scan.
    """
    if not isinstance(data, _Split):
        try:
            return decoder.decode(data), data
        except (msgspec.DecodeError, RecursionError):
            data = _scan(data)
    by_name = members(data)
    struct: Any = decoder.type
    return struct(**{n: by_name[n] for n in struct.__struct_fields__ if n in by_name}), data


def decode(decoder: msgspec.json.Decoder[T], data: bytes) -> T | None:
    """What the decoder makes of this JSON; None if it is of another form, or for the scanner."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return None


def raw(value: msgspec.Raw) -> bytes:
    """The bytes of a field that `pick` returned."""
    return value if isinstance(value, bytes) else bytes(value)


def build(by_name: dict[str, bytes]) -> bytes:
    """An object of these members."""
    return joined(pairs(by_name))


def pairs(by_name: dict[str, bytes]) -> dict[str, bytes]:
    """By name, what `joined` makes an object of: names with their values."""
    check_quick(len(by_name))
    return {name: b"%s:%s" % (_quoted(name), value) for name, value in by_name.items()}


def joined(pairs: dict[str, bytes]) -> bytes:
    """An object of what `pairs` returned."""
    return b"{%s}" % b",".join(pairs.values())


def _quoted(name: str) -> bytes:
    return _quoted_before(name) if len(name) <= MAX_KNOWN else json.dumps(name).encode()


@functools.lru_cache(maxsize=1000)
def _quoted_before(name: str) -> bytes:
    return json.dumps(name).encode()


def string(data: bytes) -> str | None:
    """The text of a JSON string; None for any other value. It may have lone surrogates."""
    if data[:1] != b'"':
        return None
    return json.loads(data) if b"\\" in data else data[1:-1].decode()


def _scan(data: bytes) -> bytes:
    """Check one JSON value, and split its outer levels. Raises NotJson, TooLarge and TooSlow."""
    if _in_event_loop():
        raise TooSlow
    stack: list[int] = []  # the brackets to close
    opened: list[tuple[bytes, int, list[tuple[bytes, bytes]]]] = []  # name, start and members
    expected = _VALUE
    name, at = b"", 0
    for _ in range(MAX_TOKENS):
        match = _token_at(data, at)
        if match is None:
            raise _not_json(at)
        start, at = match.span(1)
        if match[2] == b"":  # a string that is longer than a part
            at = _end_of_string(data, at)
        first = data[start]
        if first not in expected:
            raise _not_json(at)
        if first == _COMMA:
            expected = _VALUE if stack[-1] == _ARRAY_ENDS else _NAME
        elif first == _COLON:
            expected = _VALUE
        elif first == _QUOTE and (expected is _NAME or expected is _NAME_OR_END):
            expected = _AFTER_NAME
            if len(stack) <= DEPTH:
                name = data[start:at]
        elif first in _INSIDE:
            if len(stack) <= DEPTH:
                opened.append((name, start, []))
                name = b""
            closing, expected = _INSIDE[first]
            stack.append(closing)
        else:  # a value ends
            inner = None
            if first in _AFTER_VALUE:
                stack.pop()
                if len(stack) <= DEPTH:
                    name, start, inner = opened.pop()
            if len(stack) <= DEPTH:
                value = data[start:at]
                if inner is not None and len(stack) < DEPTH:
                    value = _Split(value)
                    value.members = inner
                if not stack:
                    if data[at:].strip(_WHITE):
                        raise _not_json(at)
                    return value
                parent = opened[-1][2]
                parent.append((name, value))
                name = b""
                if len(parent) > (MAX_ITEMS if stack[-1] == _ARRAY_ENDS else MAX_COLONS):
                    raise TooLarge("too many events or values")
            expected = _AFTER_VALUE[stack[-1]]
    raise TooLarge("too many events or values")


def check_quick(number: int) -> None:
    """Raise TooSlow if an event loop's thread is about to handle so many items or members."""
    if number > MAX_QUICK and _in_event_loop():
        raise TooSlow


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _end_of_string(data: bytes, at: int) -> int:
    """Where a string ends, of which a part ends here. Raises NotJson if it does not end."""
    while data[at : at + 1] != b'"':
        match = _MORE.match(data, at)
        if match is None or match.end() == at:
            raise _not_json(at)
        at = match.end()
    return at + 1


def _not_json(at: int) -> NotJson:
    return NotJson(f"the body is not JSON (byte {at})")
