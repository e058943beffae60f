"""From the body of an answer to documents: exact numbers, clean text, nothing guessed.

Numbers keep every digit: integers of any size are `int`, all others `Decimal`. What Python's own
parsers refuse (an integer of 5,000 digits, an exponent of 20) stays text, as do `NaN`, `Infinity`
and whatever is nested too deeply. Only an answer that is cut short, or that is not a listing at
all, is worth another try.

Pages are parsed strictly; where that fails, document by document; and what fails then is repaired.
"""

from __future__ import annotations

import functools
import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from tap_autopilot.exceptions import Refused, Retryable

REPLACEMENT = "\ufffd"
LARGEST_TOTAL = 2**53  # documents of one listing; anything above is not a number of documents
LONGEST_INTEGER = 4300  # digits; Python's own parsers refuse more
MOST_NESTED = 100  # levels

_NUL = b"\\u0000"
_REFUSED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair of surrogates
    r"|(u0000)|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


class Listing:
    """One answer of a paged listing.

    `bookmark` is that of the next page, None on the last one; `total` the size that the API reports
    for the whole listing, if it does. `cleaned` counts characters that were removed or replaced.
    """

    def __init__(self, documents: list[Any], bookmark: Any, total: Any, cleaned: int) -> None:
        self.documents = documents
        self.bookmark: str | None = bookmark or None if isinstance(bookmark, str) else bookmark
        known = type(total) is int and abs(total) <= LARGEST_TOTAL
        self.total: int | None = total if known else None
        self.cleaned = cleaned


class _Member(msgspec.Struct):
    contact_id: Any = None


class _Members(msgspec.Struct):
    contacts: list[_Member]
    bookmark: Any = None
    total_contacts: Any = None


def _decimal(text: str) -> Decimal | str:
    try:
        return Decimal(text)
    except InvalidOperation:
        return text


def _integer(text: str) -> int | str:
    return int(text) if len(text) <= LONGEST_INTEGER else text


_everything = msgspec.json.Decoder(float_hook=_decimal)
_members = msgspec.json.Decoder(_Members, float_hook=_decimal)


@functools.cache
def _page(name: str) -> msgspec.json.Decoder[Any]:
    """A decoder of answers with the listing `name`, that leaves its documents as they are."""
    fields: list[Any] = [
        (name, list[msgspec.Raw]),
        ("bookmark", Any, None),
        ("total_contacts", Any, None),
    ]
    return msgspec.json.Decoder(msgspec.defstruct("Page", fields), float_hook=_decimal)


def decode(body: bytes, name: str) -> Listing:
    """The listing called `name` in an answer. Raises Retryable if there is none."""
    if body.rfind(_NUL) < 0:  # from the end, which takes half as long
        try:
            return _listing(_everything.decode(body), name, 0)
        except _REFUSED:
            pass
    return _decode_one_by_one(body, name)


def _decode_one_by_one(body: bytes, name: str) -> Listing:
    """The same for a page that holds something odd: only the odd documents cost more."""
    page = _page(name)
    cleaned = 0
    try:
        try:
            answer = page.decode(body)
        except _REFUSED:
            text, cleaned = _repaired(body)
            answer = page.decode(text.encode())
    except _REFUSED:
        return _decode_leniently(body, name)
    documents = []
    for raw in getattr(answer, name):
        document, repaired = decode_document(bytes(raw))
        documents.append(document)
        cleaned += repaired
    return Listing(documents, answer.bookmark, answer.total_contacts, cleaned)


def decode_document(body: bytes) -> tuple[Any, int]:
    """One JSON value, and how many characters were cleaned. Raises Retryable if it is none."""
    if _NUL not in body:
        try:
            return _everything.decode(body), 0
        except _REFUSED:
            pass
    text, cleaned = _repaired(body)
    return _loads(text), cleaned


def decode_members(body: bytes, name: str) -> Listing:
    """The same, with each contact reduced to its `contact_id`; the rest is not even kept."""
    cleaned = 0
    try:
        try:
            answer = _members.decode(body)
        except _REFUSED:
            text, cleaned = _repaired(body)
            answer = _members.decode(text.encode())
    except _REFUSED:
        listing = _decode_leniently(body, name)
        listing.documents = [
            document.get("contact_id") if isinstance(document, dict) else None
            for document in listing.documents
        ]
        return listing
    ids = [member.contact_id for member in answer.contacts]
    if _NUL in body:
        cleaned += sum(one.count("\0") for one in ids if isinstance(one, str))
        ids = [one.replace("\0", "") if isinstance(one, str) else one for one in ids]
    return Listing(ids, answer.bookmark, answer.total_contacts, cleaned)


def decode_array(body: bytes, name: str) -> Listing:
    """A whole listing in one answer: an array, or an object that contains one.

    Raises Retryable if there is none, and Refused for a page of contacts: an API that lacks such a
    listing may take the end of its path for a bookmark.
    """
    text, cleaned = _repaired(body)
    answer = _loads(text)
    if isinstance(answer, dict):
        if name not in answer and "contacts" in answer:
            raise Refused(404, f"the answer has contacts instead of {name!r}.")
        listed = [value for value in answer.values() if isinstance(value, list)]
        answer = answer.get(name, listed[0] if listed else None)
    if not isinstance(answer, list):
        raise Retryable(f"the answer has no listing {name!r}")
    return Listing(answer, None, None, cleaned)


def _decode_leniently(body: bytes, name: str) -> Listing:
    text, cleaned = _repaired(body)
    return _listing(_loads(text), name, cleaned)


def _listing(answer: Any, name: str, cleaned: int) -> Listing:
    documents = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(documents, list):
        raise Retryable(f"the answer has no listing {name!r}")
    return Listing(documents, answer.get("bookmark"), answer.get("total_contacts"), cleaned)


def _repaired(body: bytes) -> tuple[str, int]:
    """JSON text without U+0000, lone surrogates or invalid UTF-8, and how many there were."""
    text = body.decode("utf-8-sig", "replace")
    cleaned = text.count(REPLACEMENT) - body.count(REPLACEMENT.encode()) + text.count("\0")

    def repair(match: re.Match[str]) -> str:
        nonlocal cleaned
        nul, surrogate = match.groups()
        if not (nul or surrogate):
            return match[0]
        cleaned += 1
        return REPLACEMENT if surrogate else ""

    text = _ESCAPE.sub(repair, text.replace("\0", ""))
    return text, cleaned


def _loads(text: str) -> Any:
    """JSON that may hold what strict parsers refuse. Raises Retryable for anything else."""
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
        raise Retryable(f"the answer is {what}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, in which names that differ in nothing but what was cleaned both stay."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        while name in found:
            name += REPLACEMENT
        found[name] = value
    return found


def _flattened(text: str) -> str:
    """JSON with everything that is nested too deeply as text."""
    parts: list[str] = []
    depth = start = done = 0
    for match in _TOKEN.finditer(text):
        bracket = match[0]
        if bracket in "[{":
            depth += 1
            if depth == MOST_NESTED + 1:
                start = match.start()
        elif bracket in "]}":
            if depth == MOST_NESTED + 1:
                parts += text[done:start], json.dumps(text[start : match.end()], ensure_ascii=False)
                done = match.end()
            depth -= 1
    return "".join(parts) + text[done:]
