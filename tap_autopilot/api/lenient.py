"""Parses JSON that strict parsers reject, without losing a digit, up to a limit."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

from tap_autopilot.exceptions import Retryable

REPLACEMENT = "\ufffd"
MAX_INTEGER = 4300  # digits; Python's own parsers refuse more
MAX_FRACTION = 16_383  # digits behind the point; PostgreSQL's numeric holds no more
TO_ZERO, TO_INFINITY = Decimal(math.ulp(0.0)) / 2, Decimal(2**1024 - 2**970)  # where doubles round
USUAL_EXPONENT, USUAL_LENGTH = 300, 1000  # numbers within both fit anything
MAX_NESTED = 100  # levels
MAX_ALIKE = 10  # names of an object that cleaning makes equal
MAX_WEIGHT = 2**23  # of what is parsed into objects at one time, and so of a document
VALUE_WEIGHT = 20  # in bytes of text: a value takes up to 260 bytes of memory, text up to 8 a byte
SMALL = MAX_WEIGHT // (VALUE_WEIGHT + 1)  # bytes that never have more than MAX_WEIGHT

REPLACED = b"\\ufffd"
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair of surrogates
    rb"|(u0000)|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_CONTROLS = [bytes([code]) for code in range(32)]  # weigh as much as the escapes that rows have
_TOKEN = re.compile(r'\\.|["\[\]{}]', re.DOTALL)


def exact_number(text: str) -> Decimal | str:
    """A number with a fraction or exponent, as text if a target could not store it.

    Columns of JSON are numeric in PostgreSQL and double elsewhere. Where a number becomes infinite
    or zero, or has too many digits, the whole table fails to load.
    """
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    if abs(number.adjusted()) < USUAL_EXPONENT and len(text) < USUAL_LENGTH:
        return number
    # Making a double, or a tuple of the digits, would take up to ten times as long.
    if number and not TO_ZERO < number.copy_abs() < TO_INFINITY:
        return text
    if number.adjusted() > MAX_FRACTION:  # of a zero; PostgreSQL refuses large exponents even there
        return text
    if number.adjusted() - len(text) < -MAX_FRACTION:
        exponent = number.as_tuple().exponent
        if not isinstance(exponent, int) or exponent < -MAX_FRACTION:
            return text
    return number


def _integer(text: str) -> int | str:
    return int(text) if len(text) <= MAX_INTEGER else text


def weight_of(text: bytes) -> int:
    """How much it costs to parse this JSON."""
    return len(text) + VALUE_WEIGHT * values_in(text)


def values_in(text: bytes) -> int:
    """The most values and escapes that this JSON may contain."""
    return sum(map(text.count, (b",", b"[", b"{", b"\\")))


def parse_leniently(body: bytes) -> tuple[Any, int]:
    """Parse JSON, even if malformed; also returns how many characters were replaced."""
    if len(body) > SMALL:
        controls = sum(map(body.count, _CONTROLS))
        if weight_of(body) + VALUE_WEIGHT * controls > MAX_WEIGHT:
            raise Retryable("the response is malformed, and too large to be repaired")
    text = body.decode("utf-8-sig", "replace")
    replaced = text.count(REPLACEMENT) - body.count(REPLACEMENT.encode()) + text.count("\0")
    body, repaired = _repaired(text.replace("\0", "").encode())
    del text  # of up to four times the size of the body
    return _loads(body.decode()), replaced + repaired


def replace_lone_surrogates(body: bytes) -> tuple[bytearray, int]:
    """JSON of the same length with lone surrogates replaced, and how many there were."""
    mended, cleaned = bytearray(), 0
    for escape in escapes(body):
        if escape[2]:
            mended = mended or bytearray(body)
            mended[escape.start() : escape.end()] = REPLACED
            cleaned += 1
    return mended, cleaned


def _repaired(body: bytes) -> tuple[bytes, int]:
    """JSON with lone surrogates replaced and U+0000 removed, and how many there were."""
    pieces, cleaned, done = [], 0, 0
    for escape in escapes(body):
        if escape[1] or escape[2]:
            pieces += [body[done : escape.start()], b"" if escape[1] else REPLACED]
            done = escape.end()
            cleaned += 1
    return b"".join([*pieces, body[done:]]), cleaned


def escapes(body: bytes) -> Iterator[re.Match[bytes]]:
    """The escapes in JSON. Most of a page has none, and `find` skips ahead faster than `re`."""
    at = body.find(b"\\")
    while at >= 0 and (escape := _ESCAPE.match(body, at)):
        yield escape
        at = body.find(b"\\", escape.end())


def _loads(text: str) -> Any:
    """JSON, including what strict parsers refuse. Raises Retryable for anything else."""
    loads = functools.partial(
        json.loads,
        strict=False,
        parse_float=exact_number,
        parse_int=_integer,
        parse_constant=str,
        object_pairs_hook=_object,
    )
    try:
        try:
            return loads(text)
        except RecursionError:
            return loads(_flattened(text))
    except (ValueError, RecursionError):
        start = text.lstrip()[:1]
        what = "a page of HTML" if start == "<" else "not JSON" if text else "empty"
        raise Retryable(f"the response is {what}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; if cleaning makes a few names equal, it keeps them all."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        for _ in range(MAX_ALIKE):
            if name not in fields:
                break
            name += REPLACEMENT
        fields[name] = value
    return fields


def _flattened(text: str) -> str:
    """JSON with everything nested too deeply turned into text."""
    pieces: list[str] = []
    depth = start = done = 0
    quoted = False
    for match in _TOKEN.finditer(text):
        mark = match[0]
        if mark == '"':
            quoted = not quoted
        elif quoted or mark[0] == "\\":
            continue
        elif mark in "[{":
            depth += 1
            if depth == MAX_NESTED + 1:
                start = match.start()
        else:
            if depth == MAX_NESTED + 1:
                nested = json.dumps(text[start : match.end()], ensure_ascii=False)
                pieces += text[done:start], nested
                done = match.end()
            depth -= 1
    return "".join(pieces) + text[done:]
