"""From the body of an answer to documents: exact numbers, clean text, and nothing guessed.

Numbers keep every digit: integers of any size are `int`, all others `Decimal`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from tap_autopilot.exceptions import Retryable

NUL = b"\\u0000"  # sought from the end, which takes half as long
REPLACEMENT = "\ufffd"
LARGEST_TOTAL = 2**53  # documents of one listing; what is above is no number of them


@dataclass(frozen=True)
class Listing:
    """One answer of a paged listing.

    `bookmark` is that of the next page, None on the last one. `total` is the size that the API
    gives for the whole listing, if it does. `cleaned` counts texts that were not valid Unicode or
    held U+0000.
    """

    documents: list[Any]
    bookmark: str | None
    total: int | None
    cleaned: int


class _Member(msgspec.Struct):
    contact_id: Any = None


class _Members(msgspec.Struct):
    contacts: list[_Member]
    bookmark: Any = None
    total_contacts: Any = None


_everything = msgspec.json.Decoder(float_hook=Decimal)
_members = msgspec.json.Decoder(_Members, float_hook=Decimal)


def decode(body: bytes, name: str) -> Listing:
    """The listing called `name` in an answer. Raises Retryable if there is none in it."""
    try:
        answer = _everything.decode(body)
        dirty = body.rfind(NUL) >= 0
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        answer, dirty = _parse_leniently(body), True
    documents = _documents(answer, name)
    cleaned = 0
    if dirty:
        documents, cleaned = clean(documents)
    return Listing(
        documents, _bookmark(answer.get("bookmark")), _total(answer.get("total_contacts")), cleaned
    )


def decode_members(body: bytes, name: str) -> Listing:
    """The same, with each contact reduced to its `contact_id`: the rest is not even kept."""
    try:
        answer = _members.decode(body)
        ids = [member.contact_id for member in answer.contacts]
        bookmark, total = answer.bookmark, answer.total_contacts
        dirty = body.rfind(NUL) >= 0
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        lenient, dirty = _parse_leniently(body), True
        ids = [
            document.get("contact_id") if isinstance(document, dict) else None
            for document in _documents(lenient, name)
        ]
        bookmark, total = lenient.get("bookmark"), lenient.get("total_contacts")
    cleaned = 0
    if dirty:
        ids, cleaned = clean(ids)
    return Listing(ids, _bookmark(bookmark), _total(total), cleaned)


def decode_value(body: bytes) -> Any:
    """The JSON value that an answer is, with clean texts. Raises Retryable if it is none."""
    return clean(_parse_leniently(body))[0]


def _documents(answer: Any, name: str) -> list[Any]:
    if isinstance(answer, dict) and isinstance(answer.get(name), list):
        return answer[name]  # type: ignore[no-any-return]
    raise Retryable(f"the answer has no listing {name!r}")


def _parse_leniently(body: bytes) -> Any:
    """JSON with lone surrogates or a byte order mark, which strict parsers refuse."""
    try:
        return json.loads(body.decode("utf-8-sig"), parse_float=Decimal, parse_constant=_refuse)
    except (ValueError, RecursionError):
        start = body.lstrip()[:1]
        what = "a page of HTML" if start == b"<" else "not JSON" if body else "empty"
        raise Retryable(f"the answer is {what}") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def has_lone_surrogate(text: str) -> bool:
    """Whether a text cannot be written down as UTF-8."""
    return not text.isprintable() and any("\ud800" <= one <= "\udfff" for one in text)


def clean(value: Any) -> tuple[Any, int]:
    """A JSON value without U+0000 and lone surrogates, and how many texts that changed."""
    if isinstance(value, str):
        text = value.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return text, int(text != value)
    if isinstance(value, list):
        items = [clean(item) for item in value]
        return [item for item, _ in items], sum(count for _, count in items)
    if isinstance(value, dict):
        cleaned: dict[str, Any] = {}
        total = 0
        for name, item in value.items():
            (name, renamed), (item, count) = clean(name), clean(item)
            while name in cleaned:  # two names that differ in nothing else
                name += REPLACEMENT
            cleaned[name] = item
            total += renamed + count
        return cleaned, total
    return value, 0


def _bookmark(value: Any) -> Any:
    return value or None if isinstance(value, str) else value


def _total(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_TOTAL:
        return value
    return None
