"""Responses read from their bytes: exactly, leniently where they are odd, and cleaned."""

from __future__ import annotations

import tracemalloc
from decimal import Decimal
from typing import Any

import pytest

from tap_autopilot.api.lenient import SMALL
from tap_autopilot.api.parsing import decode, decode_keys, read, values
from tap_autopilot.exceptions import Retryable
from tap_autopilot.sources.listings import CONTACTS, keys_of
from tests.test_shape import shaped


def body(text: str) -> bytes:
    return f'{{"contacts": [{{"contact_id": "a", "v": {text}}}], "total_contacts": 1}}'.encode()


@pytest.mark.parametrize(
    ("text", "value", "cleaned"),
    [
        ('"a\\u0000b"', "ab", 1),
        ('"\\ud83d!"', "\ufffd!", 1),
        ('"\\udc00\\ud800"', "\ufffd\ufffd", 2),
        ('"\\\\u0000"', "\\u0000", 0),
        ('"a\tb\nc\x01"', "a\tb\nc\x01", 0),
        ('"a\x00b"', "ab", 1),
        ("NaN", "NaN", 0),
        ("[-Infinity]", ["-Infinity"], 0),
        ("9" * 4300, int("9" * 4300), 0),
        ("9" * 5000, "9" * 5000, 0),
        ("1e1000000000000000000", "1e1000000000000000000", 0),
        ('["\\u0000", ' + "[" * 400 + "]" * 400 + "]", None, 1),
        ('{"k": ' * 600 + "7" + "}" * 600, None, 0),
        ("[" * 5000 + "]" * 5000, None, 0),
        ('"\\ud83d\\ude00"', "😀", 0),
        ('["\\ud83d", NaN]', ["\ufffd", "NaN"], 1),
        ('["\\ud83d", "\\ud83c\\udf89"]', ["\ufffd", "🎉"], 1),
        ('"\\ud83d \\ud83d\\ude00 \\\\ud83d \\\\\\ud83d \\\\u0000 \\\\\\u0000"',
         "\ufffd 😀 \\ud83d \\\ufffd \\u0000 \\", 3),
        ('{"\\u0000k": ["\\ud83d"]}', {"k": ["\ufffd"]}, 2),
        ('{"k": 1, "k\\u0000": 2}', {"k": 1, "k\ufffd": 2}, 1),
        ("10.50", Decimal("10.50"), 0),
        ('{"a": [{"b": [1e400]}]}', {"a": [{"b": ["1e400"]}]}, 0),
        ('[1e309, -1E+309, 1e308, "1e309"]', ["1e309", "-1E+309", Decimal("1e308"), "1e309"], 0),
        ("[1e-20000, 1e-320, 0e9]", ["1e-20000", Decimal("1e-320"), Decimal("0e9")], 0),
        ("[0e-20000, 0.0, 0e9999999999]", ["0e-20000", Decimal("0.0"), "0e9999999999"], 0),
        ("[4.9e-324, -2e-324, 0e-400, 1.7976931348623158e308, -1.7976931348623159e308]",
         [Decimal("4.9e-324"), "-2e-324", Decimal("0e-400"),
          Decimal("1.7976931348623158e308"), "-1.7976931348623159e308"], 0),
        (f"[1.{'5' * 16_383}, 1.{'5' * 16_384}]",
         [Decimal(f"1.{'5' * 16_383}"), f"1.{'5' * 16_384}"], 0),
        ("7" * 309 + ".5", "7" * 309 + ".5", 0),
        ('["\\ud83d", 1e400]', ["\ufffd", "1e400"], 1),
        ("0.10000000000000000555", Decimal("0.10000000000000000555"), 0),
        ("123456789012345678901234567890", 123456789012345678901234567890, 0),
        ('["\\ud83d", 123456789012345678901234567890.5]',
         ["\ufffd", Decimal("123456789012345678901234567890.5")], 1),
    ],
)  # fmt: skip
def test_responses_are_read_exactly_and_cleaned(text: str, value: Any, cleaned: int) -> None:
    listing = decode(body(text), "contacts")
    documents, replaced = read(listing.documents)
    if value is not None:
        assert documents == [{"contact_id": "a", "v": value}]
    assert documents[0]["contact_id"] == "a"
    assert listing.cleaned + replaced == cleaned
    assert list(values(listing.documents, "contact_id")) == ["a"]


@pytest.mark.parametrize(
    "answer",
    [b"", b"null", b'"contacts"', b"[]", b"{}", b'{"contacts": null}', b'{"contacts": {}}',
     b'{"contacts": [', b'{"contacts": [{"a": "b', b"<html>", b'{"contacts": []} x', b'{"error": "e", "message": "m"}',
     b"[" * 100_000],
)  # fmt: skip
def test_a_response_without_its_listing_is_retried(answer: bytes) -> None:
    with pytest.raises(Retryable):
        decode(answer, "contacts")


def test_text_that_is_replaced_is_counted_though_only_keys_are_read() -> None:
    page = (
        b'{"contacts": [{"contact_id": "a", "v": "\\ud83d \\ud83c\\udf89"}, {"contact_id": "b"}]}'
    )
    listing = decode_keys(page, "contacts", "contact_id", 400)
    assert [*values(listing.documents, "contact_id")] == ["a", "b"]
    assert listing.cleaned == 1


@pytest.mark.parametrize("digits", range(26, 34))
def test_numbers_of_any_length_are_times_and_integers_or_none(digits: int) -> None:
    for text in (f"1e{digits}", "7" * digits + ".5", f"1.5e{digits}", f"-1e{digits}"):
        value = Decimal(text)
        for field in ("updated_at", "mail_opened", "employeesRange"):
            odd = {"m": value} if field == "mail_opened" else value
            odd = {"min": value} if field == "employeesRange" else odd
            assert shaped({field: odd})["additional_fields"] == {field: odd}


def test_one_odd_document_leaves_the_others_alone() -> None:
    good = b'{"contact_id": "b", "n": 10.50}'
    for odd in (
        b'{"contact_id": "a", "v": "M\xfcller"}',
        b'{"contact_id": "a", "v": "tab\there"}',
        b'{"contact_id": "a", "v": NaN}',
        b'{"contact_id": "a", "v": "half \\ud83d"}',
        b'{"contact_id": "a", "v": "nul \\u0000"}',
        b'{"contact_id": "a", "v": ' + b"7" * 5000 + b"}",
        b'{"contact_id": "a", "v": ' + b'{"k":' * 5000 + b"1" + b"}" * 5001,
        b'{"contact_id": "a", "v": 1e1000000000000000000}',
    ):
        page = b'{"contacts": [%b, %b, %b], "bookmark": "x", "total_contacts": 3}' % (
            good,
            odd,
            good,
        )
        listing = decode(page, "contacts")
        documents, _ = read(listing.documents)
        assert [one["contact_id"] for one in documents] == ["b", "a", "b"]
        assert documents[2]["n"] == Decimal("10.50")
        assert (listing.bookmark, listing.total) == ("x", 3)
        assert keys_of(listing.documents, CONTACTS) == ["b", "a", "b"]
    assert read(decode(b'{"contacts": ["M\xfcller"]}', "contacts").documents)[1] == 1


def test_large_and_odd_pages_stay_unparsed() -> None:
    """So they take little memory until each of their documents is needed."""
    for value in ("1", '"nul \\u0000"', '"half \\ud83d"', f'"{"x" * SMALL}"'):
        (document,) = decode(body(value), "contacts").documents
        assert (document.__class__ is dict) is (value == "1")


def test_a_byte_order_mark_does_not_matter() -> None:
    listing = decode(b"\xef\xbb\xbf" + body("1"), "contacts")
    assert read(listing.documents)[0] == [{"contact_id": "a", "v": 1}]


def test_an_odd_document_of_wide_characters_takes_little_memory() -> None:
    odd = b'{"contact_id":"a","v":"%b\\u0000"}' % ("\U0001f600".encode() + b"v" * 4_000_000)
    tracemalloc.start()
    try:
        listing = decode(b'{"contacts":[%b]}' % odd, "contacts")
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        assert keys_of(listing.documents, CONTACTS) == ["a"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 11 * len(odd)
