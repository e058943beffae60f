"""Parses response bodies into documents: exact numbers, clean text, no guessing.

Numbers keep every digit: integers of any size are `int`, all others `Decimal`. What Python's own
parsers refuse (an integer of 5,000 digits, an exponent of 20) stays text, as do numbers that would
end the load of a whole table, `NaN`, `Infinity` and anything nested too deeply. Only a truncated
response, or one that is not a listing at all, is retried.

A usual page is parsed at once. A large or odd one is first split into its documents. Those are
parsed one by one, on demand, so they take little memory, and odd ones do not slow down the others.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import msgspec

from tap_autopilot.api.lenient import (
    MAX_WEIGHT,
    REPLACED,
    REPLACEMENT,
    SMALL,
    escapes,
    exact_number,
    parse_leniently,
    replace_lone_surrogates,
    values_in,
    weight_of,
)
from tap_autopilot.exceptions import Gone, Oversized, Retryable

MAX_TOTAL = 2**53  # documents of one listing; no larger total is plausible

# What any response may cost. A page of 100 contacts has about 200 kB and 10,000 values.
MAX_DOCUMENTS = 100_000  # on a page
MAX_VALUES = 800_000  # on a page, escapes included
ROW_WEIGHT = 4000  # of a document, however small, because its row has up to 1,600 columns
MAX_KEYS = 2**26  # bytes of a page that is all ids
MAX_BOOKMARK = 4000  # bytes of JSON, and characters once it is parsed
MANY = 1000  # ids to look at together
PIECE = 2**20  # bytes to search together for long numbers

_LONG = b"0" * 400  # a number whose parsing and writing takes time quadratic in its digits
_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)

_NULL = msgspec.Raw(b"null")
_NUL = b"\\u0000"
_REFUSED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Content:
    """What one response of a paged listing contains.

    `documents` are objects, or slices of the response that `read` parses into objects, odd ones in
    an `_Odd`, or, if only their keys are needed, `_Keyed`. `bookmark` leads to the next page and is
    None on the last page; `total` is the size of the whole listing, if the API reports it.
    `cleaned` counts characters removed or replaced so far. `size` is the response's size in bytes.
    """

    def __init__(
        self, documents: list[Any], bookmark: Any, total: Any, cleaned: int, size: int = 0
    ) -> None:
        if len(documents) > MAX_DOCUMENTS:
            raise Oversized(f"the response has more than {MAX_DOCUMENTS:,} documents")
        self.documents = documents
        self.size = size
        self.bookmark: str | None = bookmark or None if isinstance(bookmark, str) else bookmark
        if isinstance(bookmark, str) and len(bookmark) > MAX_BOOKMARK:
            raise Oversized(f"the response has a bookmark of more than {MAX_BOOKMARK:,} characters")
        known = type(total) is int and 0 <= total <= MAX_TOTAL
        self.total: int | None = total if known else None
        self.cleaned = cleaned


class _Odd(NamedTuple):
    """A document that only lenient parsing gets right."""

    text: msgspec.Raw


class _Keyed(msgspec.Struct, gc=False):
    """A document's key alone, which takes less memory than an object."""

    key: str


_everything = msgspec.json.Decoder(float_hook=exact_number)


@functools.cache
def _page(name: str, document: Any) -> msgspec.json.Decoder[Any]:
    """A decoder for responses with the listing `name` of documents of this type."""
    fields: list[Any] = [
        ("documents", list[document]),
        ("bookmark", msgspec.Raw, _NULL),
        ("total_contacts", msgspec.Raw, _NULL),
    ]
    page = msgspec.defstruct("Page", fields, rename={"documents": name})
    return msgspec.json.Decoder(page, float_hook=exact_number)


@functools.cache
def _keyed(name: str, longest: int) -> Any:
    """The type of documents of which only the key is parsed, the field `name`."""
    text = Annotated[str, msgspec.Meta(min_length=1, max_length=longest)]
    return msgspec.defstruct("Document", [("key", text)], bases=(_Keyed,), rename={"key": name})


@functools.cache
def _field(name: str) -> msgspec.json.Decoder[Any]:
    """A decoder for documents that skips all fields but `name`."""
    field = msgspec.defstruct("Document", [("value", Any, None)], rename={"value": name}, gc=False)
    return msgspec.json.Decoder(field, float_hook=exact_number)


def decode(body: bytes, name: str) -> Content:
    """The listing called `name` in a response.

    Raises Retryable if there is none, and Oversized if there is too much in it.
    """
    if len(body) <= SMALL and body.rfind(_NUL) < 0:  # from the end, which takes half as long
        with contextlib.suppress(*_REFUSED):
            page = _with_ends(_page(name, Any).decode(body))
            return Content(page.documents, page.bookmark, page.total_contacts, 0, len(body))
    return _split(body, name)


def _split(body: bytes, name: str) -> Content:
    """A listing whose documents are not parsed yet."""
    if len(body) > MAX_VALUES and values_in(body) > MAX_VALUES:
        raise Oversized(f"the response has more than {MAX_VALUES:,} values")
    page, cleaned = _decoded(body, _page(name, msgspec.Raw))
    if page is None:
        return _decode_leniently(body, name)
    if len(body) > MAX_WEIGHT and _long_numbers(body) > MAX_WEIGHT:
        raise Oversized("the response has too many long numbers")
    documents = page.documents
    if len(body) > SMALL and any(weight_of(bytes(text)) > MAX_WEIGHT for text in documents):
        raise Oversized("the response has a document that is too large")
    if cleaned or body.rfind(_NUL) >= 0:
        for number, document in enumerate(map(bytes, documents)):
            if b"\\" in document and any(
                escape[1] or document.startswith(REPLACED, escape.start())
                for escape in escapes(document)
            ):
                documents[number] = _Odd(documents[number])
    return Content(documents, page.bookmark, page.total_contacts, cleaned, len(body))


def _long_numbers(body: bytes) -> int:
    """About how many digits of a body are in long numbers."""
    pieces = (body[start : start + PIECE] for start in range(0, len(body), PIECE))
    return len(_LONG) * sum(piece.translate(_AS_ZEROS).count(_LONG) for piece in pieces)


def decode_keys(body: bytes, name: str, key: str, longest: int) -> Content:
    """A listing that keeps only the key of each document; fast unless a key is odd or too long.

    Raises what `decode` raises.
    """
    if len(body) > MAX_KEYS and b"{" in body:  # else it is no listing, and worth another try
        raise Oversized(f"the response has more than {MAX_KEYS:,} bytes of ids")
    page = None
    if body.count(b"{") <= MAX_DOCUMENTS and body.count(b"\\") <= MAX_VALUES:
        page, cleaned = _decoded(body, _page(name, _keyed(key, longest)))
    if page is None:
        return _split(body, name)
    keys = [document.key for document in page.documents]
    for start in range(0, len(keys), MANY):
        text = "".join(keys[start : start + MANY])
        if "\0" in text or REPLACEMENT in text:
            return _split(body, name)
    return Content(page.documents, page.bookmark, page.total_contacts, cleaned, len(body))


def parts(documents: list[Any]) -> Iterator[list[Any]]:
    """The documents of a large response, in parts that are small enough to be parsed at one time.

    Takes them out of the list, since each of them keeps the whole response in memory.
    """
    documents.reverse()
    part: list[Any] = []
    total = 0
    while documents:
        document: Any = documents.pop()
        weight = ROW_WEIGHT
        if isinstance(document, (msgspec.Raw, _Odd)):
            is_odd = isinstance(document, _Odd)
            text = bytes(document.text if isinstance(document, _Odd) else document)
            weight += weight_of(text)
            document = _Odd(msgspec.Raw(text)) if is_odd else msgspec.Raw(text)
        if part and total + weight > MAX_WEIGHT:
            yield part
            part, total = [], 0
        total += weight
        part.append(document)
    yield part


def read(documents: list[Any]) -> tuple[list[Any], int]:
    """The documents of a listing, parsed, and how many characters were replaced in them."""
    parsed, cleaned = [], 0
    for document in documents:
        if document.__class__ is msgspec.Raw:
            try:
                document = _everything.decode(document)
            except _REFUSED:
                document = _Odd(document)
        if document.__class__ is _Odd:
            document, replaced = parse_leniently(bytes(document.text))
            cleaned += replaced
        parsed.append(document)
    return parsed, cleaned


def values(documents: list[Any], name: str) -> Iterator[Any]:
    """One field of each document of a listing, at a fraction of the cost of parsing them.

    A value is None if it is missing, or if the document is not an object or too odd.
    """
    decode_field = _field(name).decode
    for document in documents:
        if isinstance(document, _Keyed):
            value = document.key
        elif document.__class__ is msgspec.Raw:
            try:
                value = decode_field(document).value
            except _REFUSED:
                value = None
        else:
            if document.__class__ is _Odd:
                (document,), _ = read([document])
            value = document.get(name) if document.__class__ is dict else None
        yield value


def decode_document(body: bytes) -> tuple[Any, int]:
    """One JSON value, and how many characters were replaced.

    Raises ValueError if it is not JSON, or there is too much in it.
    """
    if _NUL not in body and (len(body) <= SMALL or weight_of(body) <= MAX_WEIGHT):
        try:
            return _everything.decode(body), 0
        except _REFUSED:
            pass
    try:
        return parse_leniently(body)
    except Retryable as problem:
        raise ValueError(str(problem)) from None


def decode_array(body: bytes, name: str) -> Content:
    """A whole listing in one response: an array, or an object that contains one.

    In an object, it is called `name`, or it is the only array with an object that has a name or
    kind, or there is only an empty array, of fields by its name.

    Raises Retryable if there is no such array, and Gone for an empty array of other things, or for
    a page of contacts: an API without this listing may take the end of its path for a bookmark.
    """
    response, cleaned = parse_leniently(body)
    if isinstance(response, dict):
        fields = list(response.values())
        is_empty = fields == [[]]
        is_other = is_empty and "field" not in next(iter(response)).lower()
        if name not in response and ("contacts" in response or is_other):
            raise Gone(404, f"the response has something else instead of {name!r}.")
        listings = fields if is_empty else list(filter(_is_listing, fields))
        response = response.get(name, listings[0] if len(listings) == 1 else None)
    if not isinstance(response, list):
        raise Retryable(f"the response has no listing {name!r}")
    return Content(response, None, None, cleaned)


def _is_listing(value: Any) -> bool:
    """Whether a value is an array with an object that has a name or kind."""
    items = value if isinstance(value, list) else ()
    names = [name for item in items if isinstance(item, dict) for name in item]
    return any(name.lower() in ("name", "kind") for name in names)


def _decoded(body: bytes, decoder: msgspec.json.Decoder[Any]) -> tuple[Any, int]:
    """A page, and how many lone surrogates were replaced; None if it is malformed otherwise."""
    try:
        return _with_ends(decoder.decode(body)), 0
    except _REFUSED:
        mended, cleaned = replace_lone_surrogates(body)
    with contextlib.suppress(*_REFUSED):
        if cleaned:
            return _with_ends(decoder.decode(mended)), cleaned
    return None, 0


def _with_ends(page: Any) -> Any:
    """A page with its bookmark and total parsed, which are short."""
    for name in ("bookmark", "total_contacts"):
        raw = getattr(page, name)
        if memoryview(raw).nbytes > MAX_BOOKMARK:
            raise Oversized(f"the response has a {name} of more than {MAX_BOOKMARK:,} bytes")
        setattr(page, name, _everything.decode(raw))
    return page


def _decode_leniently(body: bytes, name: str) -> Content:
    response, cleaned = parse_leniently(body)
    documents = response.get(name) if isinstance(response, dict) else None
    if not isinstance(documents, list):
        raise Retryable(f"the response has no listing {name!r}")
    return Content(documents, response.get("bookmark"), response.get("total_contacts"), cleaned)
