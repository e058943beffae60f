"""Parses response bodies into documents: exact numbers, clean text, no guessing.

Numbers keep every digit: integers of any size are `int`, all others `Decimal`. What Python's own
parsers refuse (an integer of 5,000 digits, an exponent of 20) stays text, as do numbers that would
end the load of a whole table, `NaN`, `Infinity` and anything nested too deeply. Only a truncated
response, or one that is not a listing at all, is retried.

A page is first split into its parts, which is a quick way to its bookmark and document ids.
Documents are parsed one by one, on demand, so an odd document does not slow down the others.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from tap_autopilot.exceptions import Refused, Retryable

REPLACEMENT = "\ufffd"
MAX_TOTAL = 2**53  # documents of one listing; no larger total is plausible
MAX_INTEGER = 4300  # digits; Python's own parsers refuse more
MAX_FRACTION = 16_383  # digits behind the point; PostgreSQL's numeric holds no more
USUAL_EXPONENT, USUAL_LENGTH = 300, 1000  # numbers within both fit anything
MAX_NESTED = 100  # levels
MAX_ALIKE = 10  # names of an object that cleaning makes equal

_NUL = b"\\u0000"
_REPLACED = b"\\ufffd"
_REFUSED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair of surrogates
    rb"|(u0000)|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


class Listing:
    """One response of a paged listing.

    `documents` are slices of the response that `read` parses into objects; odd documents are
    already parsed. `bookmark` leads to the next page and is None on the last page; `total` is the
    size of the whole listing, if the API reports it. `cleaned` counts characters removed or
    replaced so far.
    """

    def __init__(self, documents: list[Any], bookmark: Any, total: Any, cleaned: int) -> None:
        self.documents = documents
        self.bookmark: str | None = bookmark or None if isinstance(bookmark, str) else bookmark
        known = type(total) is int and 0 <= total <= MAX_TOTAL
        self.total: int | None = total if known else None
        self.cleaned = cleaned


def _decimal(text: str) -> Decimal | str:
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
    double = float(text)
    is_lost = math.isinf(double) or (double == 0) is not (number == 0)
    exponent = number.as_tuple().exponent
    is_long = not isinstance(exponent, int) or exponent < -MAX_FRACTION
    return text if is_lost or is_long else number


def _integer(text: str) -> int | str:
    return int(text) if len(text) <= MAX_INTEGER else text


_everything = msgspec.json.Decoder(float_hook=_decimal)


@functools.cache
def _page(name: str, key: str | None = None) -> msgspec.json.Decoder[Any]:
    """A decoder for responses with the listing `name`; of documents it parses at most `key`."""
    fields: list[Any] = [
        ("documents", list[msgspec.Raw if key is None else _with_field(key)]),  # type: ignore[misc]
        ("bookmark", Any, None),
        ("total_contacts", Any, None),
    ]
    page = msgspec.defstruct("Page", fields, rename={"documents": name})
    return msgspec.json.Decoder(page, float_hook=_decimal)


@functools.cache
def _field(name: str) -> msgspec.json.Decoder[Any]:
    """A decoder for documents that skips all fields but `name`."""
    return msgspec.json.Decoder(_with_field(name), float_hook=_decimal)


def _with_field(name: str) -> type:
    return msgspec.defstruct("Document", [("value", Any, None)], rename={"value": name}, gc=False)


def decode(body: bytes, name: str) -> Listing:
    """The listing called `name` in a response. Raises Retryable if there is none."""
    page, cleaned = _decoded(body, _page(name))
    if page is None:
        return _decode_leniently(body, name)
    documents = page.documents
    if cleaned or body.rfind(_NUL) >= 0:  # searching from the end takes half as long
        for number, document in enumerate(map(bytes, documents)):
            if any(
                escape[1] or document.startswith(_REPLACED, escape.start())
                for escape in _escapes(document)
            ):
                documents[number], removed = _read_odd(document)
                cleaned += removed
    return Listing(documents, page.bookmark, page.total_contacts, cleaned)


def decode_keys(body: bytes, name: str, key: str) -> Listing:
    """A listing that keeps only the key of each document; fast unless a key is odd.

    Raises Retryable if there is no such listing.
    """
    page, cleaned = _decoded(body, _page(name, key))
    if page is None:
        return decode(body, name)
    keys = [document.value for document in page.documents]
    try:
        text = "".join(keys)
    except TypeError:
        return decode(body, name)
    if not all(keys) or "\0" in text or REPLACEMENT in text:
        return decode(body, name)
    documents = [{key: value} for value in keys]
    return Listing(documents, page.bookmark, page.total_contacts, cleaned)


def read(documents: list[Any]) -> tuple[list[Any], int]:
    """The documents of a listing, parsed, and how many characters were replaced in them."""
    found, cleaned = [], 0
    for document in documents:
        if document.__class__ is msgspec.Raw:
            try:
                document = _everything.decode(document)
            except _REFUSED:
                document, replaced = _read_odd(bytes(document))
                cleaned += replaced
        found.append(document)
    return found, cleaned


def values(documents: list[Any], name: str) -> list[Any]:
    """One field of each document of a listing, at a fraction of the cost of parsing them.

    A value is None if it is missing, or if the document is not an object or too odd.
    """
    decode_field = _field(name).decode
    found = []
    for document in documents:
        if document.__class__ is msgspec.Raw:
            try:
                value = decode_field(document).value
            except _REFUSED:
                value = None
        else:
            value = document.get(name) if document.__class__ is dict else None
        found.append(value)
    return found


def keys_of(documents: list[Any], key: str) -> list[Any]:
    """The key of each document, in any spelling; None if it has none."""
    keys = values(documents, key)
    for number, value in enumerate(keys):
        if value is None or value == "":
            (document,), _ = read(documents[number : number + 1])
            keys[number] = _spelled_otherwise(document, key)
    return keys


def _spelled_otherwise(document: Any, key: str) -> Any:
    names = document if document.__class__ is dict else ()
    plain = key.replace("_", "")
    spelled = (one for one in names if one.replace("_", "").lower() == plain)
    return next((document[one] for one in spelled if document[one]), None)


def decode_document(body: bytes) -> tuple[Any, int]:
    """One JSON value, and how many characters were replaced. Raises Retryable if it is not JSON."""
    if _NUL not in body:
        try:
            return _everything.decode(body), 0
        except _REFUSED:
            pass
    return _read_odd(body)


def decode_array(body: bytes, name: str) -> Listing:
    """A whole listing in one response: an array, or an object that contains one.

    In an object, it is called `name`, or it is the only array with an object that has a name or
    kind, or there is only an empty array.
    Raises Retryable if there is no such array, and Refused for a page of contacts: an API without
    this listing may take the end of its path for a bookmark.
    """
    response, cleaned = _read_odd(body)
    if isinstance(response, dict):
        if name not in response and "contacts" in response:
            raise Refused(404, f"the response has contacts instead of {name!r}.")
        members = list(response.values())
        listed = members if members == [[]] else [one for one in members if _is_listing(one)]
        response = response.get(name, listed[0] if len(listed) == 1 else None)
    if not isinstance(response, list):
        raise Retryable(f"the response has no listing {name!r}")
    return Listing(response, None, None, cleaned)


def _is_listing(value: Any) -> bool:
    """Whether a value is an array with an object that has a name or kind."""
    objects = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
    return any(name.lower() in ("name", "kind") for one in objects for name in one)


def _decoded(body: bytes, decoder: msgspec.json.Decoder[Any]) -> tuple[Any, int]:
    """A response, and how many lone surrogates were replaced; None if it is malformed otherwise."""
    try:
        return decoder.decode(body), 0
    except _REFUSED:
        mended, cleaned = _without_lone_surrogates(body)
    try:
        return decoder.decode(mended), cleaned
    except _REFUSED:
        return None, 0


def _decode_leniently(body: bytes, name: str) -> Listing:
    response, cleaned = _read_odd(body)
    documents = response.get(name) if isinstance(response, dict) else None
    if not isinstance(documents, list):
        raise Retryable(f"the response has no listing {name!r}")
    return Listing(documents, response.get("bookmark"), response.get("total_contacts"), cleaned)


def _read_odd(body: bytes) -> tuple[Any, int]:
    """JSON, even if malformed, parsed; also returns how many characters were replaced."""
    text = body.decode("utf-8-sig", "replace")
    replaced = text.count(REPLACEMENT) - body.count(REPLACEMENT.encode()) + text.count("\0")
    body, repaired = _repaired(text.replace("\0", "").encode())
    return _loads(body.decode()), replaced + repaired


def _without_lone_surrogates(body: bytes) -> tuple[bytearray, int]:
    """JSON of the same length with lone surrogates replaced, and how many there were."""
    mended, cleaned = bytearray(body), 0
    for escape in _escapes(body):
        if escape[2]:
            mended[escape.start() : escape.end()] = _REPLACED
            cleaned += 1
    return mended, cleaned


def _repaired(body: bytes) -> tuple[bytes, int]:
    """JSON with lone surrogates replaced and U+0000 removed, and how many there were."""
    pieces, cleaned, done = [], 0, 0
    for escape in _escapes(body):
        if escape[1] or escape[2]:
            pieces += [body[done : escape.start()], b"" if escape[1] else _REPLACED]
            done = escape.end()
            cleaned += 1
    return b"".join([*pieces, body[done:]]), cleaned


def _escapes(body: bytes) -> Iterator[re.Match[bytes]]:
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
        parse_float=_decimal,
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
    found: dict[str, Any] = {}
    for name, value in pairs:
        for _ in range(MAX_ALIKE):
            if name not in found:
                break
            name += REPLACEMENT
        found[name] = value
    return found


def _flattened(text: str) -> str:
    """JSON with everything nested too deeply turned into text."""
    parts: list[str] = []
    depth = start = done = 0
    for match in _TOKEN.finditer(text):
        bracket = match[0]
        if bracket in "[{":
            depth += 1
            if depth == MAX_NESTED + 1:
                start = match.start()
        elif bracket in "]}":
            if depth == MAX_NESTED + 1:
                parts += text[done:start], json.dumps(text[start : match.end()], ensure_ascii=False)
                done = match.end()
            depth -= 1
    return "".join(parts) + text[done:]
