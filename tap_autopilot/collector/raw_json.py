"""Splits JSON into the bytes of its members, unchanged.

msgspec does this quickly, but rejects some valid JSON: lone surrogates, and nesting beyond Python's
recursion limit. A non-recursive scanner handles those, and raises TooLarge if there is too much.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from tap_autopilot.collector.compression import TooLarge

MAX_ITEMS = 100_000  # of an array; Segment allows 2,500 and sends 4,000
MAX_VALUES = 1_000_000  # roughly, in all items together
MAX_TOKENS = 2_000_000  # for the scanner, which is slow; 8 MB of ordinary events have 1,400,000

_TOKEN = re.compile(
    rb"[ \t\n\r]*"
    rb"(?:(?P<mark>[\[\]{},:])"
    rb'|(?P<string>"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*")'
    rb"|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null)"
)
_WHITE = b" \t\n\r"
_BOM = b"\xef\xbb\xbf"
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_ANYTHING = msgspec.json.Decoder(msgspec.Raw)

S = TypeVar("S", bound=msgspec.Struct)


class NotJson(ValueError):
    """These bytes are not JSON."""


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
    check_utf8(body)
    return body


def is_object(data: bytes) -> bool:
    """Whether these bytes, if they are JSON, are an object."""
    return data[:1] == b"{"


def is_array(data: bytes) -> bool:
    """Whether these bytes, if they are JSON, are an array."""
    return data[:1] == b"["


def check(data: bytes) -> None:
    """Raise NotJson unless these bytes are one JSON value."""
    try:
        _ANYTHING.decode(data)
    except (msgspec.DecodeError, RecursionError):
        for _ in _scan(data):
            pass


def items(data: bytes) -> list[bytes]:
    """The elements of an array. Raises NotJson, and TooLarge if there are too many."""
    if data.count(b",") > MAX_VALUES:
        raise TooLarge
    try:
        found = [bytes(item) for item in _ARRAY.decode(data)]
    except (msgspec.DecodeError, RecursionError):
        found = [value for _, value in _scan(data)]
    if len(found) > MAX_ITEMS:
        raise TooLarge
    return found


def members(data: bytes) -> dict[str, bytes]:
    """The members of an object; if a name occurs twice, the last. Raises NotJson."""
    try:
        return {name: bytes(value) for name, value in _OBJECT.decode(data).items()}
    except (msgspec.DecodeError, RecursionError):
        return {json.loads(name): value for name, value in _scan(data)}


def pick(decoder: msgspec.json.Decoder[S], data: bytes) -> S:
    """Those members of an object that are fields of the decoder's struct. Raises NotJson."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, RecursionError):
        found = members(data)
        kind: Any = decoder.type
        names = kind.__struct_fields__
        return decoder.type(**{n: msgspec.Raw(found[n]) for n in names if n in found})


def build(found: dict[str, bytes]) -> bytes:
    """An object of these members."""
    return b"{%s}" % b",".join(
        b"%s:%s" % (json.dumps(name).encode(), value) for name, value in found.items()
    )


def string(data: bytes) -> str | None:
    """The text of a JSON string; None for any other value. It may have lone surrogates."""
    if data[:1] != b'"':
        return None
    return json.loads(data) if b"\\" in data else data[1:-1].decode()


def _scan(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Check one JSON value, and yield the members of the outermost object or array.

    An element of an array has an empty name. Raises NotJson and TooLarge, perhaps after some
    members.
    """
    stack: list[bytes] = []
    expected = "value"
    name, start, at = b"", 0, 0
    end = len(data)
    for _ in range(MAX_TOKENS):
        match = _TOKEN.match(data, at)
        if match is None:
            break
        at = match.end()
        mark, is_string = match["mark"], match["string"] is not None
        token_start = match.start(match.lastgroup) if match.lastgroup else _first(match)
        if expected in ("value", "value or end") and (mark is None or mark in b"[{"):
            if len(stack) == 1:
                start = token_start
            if mark is None:
                expected = "comma or end"
            else:
                stack.append(mark)
                expected = "value or end" if mark == b"[" else "name or end"
                continue
        elif expected in ("name", "name or end") and is_string:
            if len(stack) == 1:
                name = match["string"]
            expected = "colon"
            continue
        elif expected == "colon" and mark == b":":
            expected = "value"
            continue
        elif expected == "comma or end" and mark == b",":
            expected = "value" if stack[-1] == b"[" else "name"
            continue
        elif "end" in expected and mark in (b"]", b"}") and (stack[-1] + mark) in (b"[]", b"{}"):
            stack.pop()
            expected = "comma or end"
        else:
            break
        if len(stack) == 1:  # an outermost member ends here
            yield name, data[start:at]
        if not stack:
            if data[at:end].strip(_WHITE):
                break
            return
    else:
        raise TooLarge
    raise NotJson(f"the body is not JSON (byte {at})")


def _first(match: re.Match[bytes]) -> int:
    """Where a number or word starts, after any whitespace."""
    token = match[0]
    return match.start() + len(token) - len(token.lstrip(_WHITE))
