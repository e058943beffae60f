"""What a response may cost: at most 400 MB of memory and 15 s of CPU, whatever is in it."""

from __future__ import annotations

import gzip
import itertools
import math
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from tap_autopilot.protocol.catalog import discover
from tests.conftest import Tap
from tests.costs import sync
from tests.pushed_store import MESSAGE, PushedStore, call

MB = 2**20
PACKED = {"Content-Encoding": "gzip"}


def contacts(*documents: bytes, more: bytes = b"") -> bytes:
    return b'{"contacts":[%b]%b}' % (b",".join(documents), more)


def person(number: int, fields: bytes = b"") -> bytes:
    return b'{"contact_id":"person_%d"%b}' % (number, fields)


def people(count: int, fields: bytes) -> bytes:
    return contacts(*(person(number, fields) for number in range(count)))


def bomb(unpacked: int, start: bytes = b"[", middle: bytes = b" ") -> bytes:
    """Gzip of a few hundred bytes that unpacks to more than this many bytes."""
    pack = zlib.compressobj(9, wbits=31)
    pieces = [pack.compress(start)]
    piece = middle * (MB // len(middle))
    pieces += [pack.compress(piece) for _ in range(unpacked // MB)]
    return b"".join([*pieces, pack.flush()])


def spellings(word: bytes, count: int, value: bytes = b'{"x":1}', start: int = 0) -> bytes:
    """Fields whose names differ only in underscores."""
    letters = [(letter, letter + b"_", letter + b"__") for letter in map(bytes, zip(word))]
    names = itertools.islice(itertools.product(*letters), start, start + count)
    return b"".join(b',"%b":%b' % (b"".join(name), value) for name in names)


DEEP = b"[" * 100_000 + b"]" * 100_000
NUMBER = b"9" * (7 * MB)
SMALLEST = b"2.2250738585072011360574097967091319759348195463516e-308"  # of doubles
EMOJI = "\U0001f600".encode()

MAPS = (b"mailreceived", b"mailopened", b"mailclicked", b"mailbounced", b"mailhardbounced",
        b"mailcomplained", b"mailunsubscribed", b"mailreplied")  # fmt: skip

# Processed. The tap must send all of it.
GOOD: dict[str, Callable[[], Any]] = {
    "a huge string with wide characters": lambda: people(
        1, b',"Notes":"%b%b"' % (b"x" * (7 * MB), EMOJI)
    ),
    "127 MB of contacts with NULs and lone surrogates": lambda: people(
        127, rb',"Notes":"%b%b\u0000\ud800"' % (b"x" * (MB - 100), EMOJI)
    ),
    "75,000 contacts with values": lambda: people(75_000, b',"a":1.5,"b":"\\n","c":[],"d":{}'),
    "many keys": lambda: people(
        1, b"".join(b',"k%d":%d.5' % (number, number) for number in range(170_000))
    ),
    "many spellings of a column": lambda: people(1, spellings(b"mailingpostalcode", 60_000)),
    "many spellings of a map": lambda: people(1, spellings(b"mailopened", 50_000)),
    "many spellings of all maps": lambda: contacts(
        person(0, b"".join(spellings(word, 20, b"0", 1) for word in (*MAPS, b"lists", b"email"))),
        *(
            person(1 + part, b"".join(spellings(word, 20_000, b"0", 100 + 20_000 * part) for word in MAPS))
            for part in range(5)
        ),
    ),
    "many contacts after many spellings": lambda: contacts(
        person(0, b"".join(spellings(word, 100) for word in (b"mailopened", b"lastname", b"company"))),
        *(person(number, b',"mail_opened":{"%d":1}' % number) for number in range(1, 90_000)),
    ),
    "a long email of many events": lambda: people(
        1, b',"email":"%b","mail_opened":{%b}' % (
            b"e" * 4_000_000, b",".join(b'"%d":1' % number for number in range(5000))
        ),
    ),
    "many lists": lambda: people(1, b',"a":[%b]' % b",".join([b"[]"] * 150_000)),
    "many objects": lambda: people(1, b',"a":[%b]' % b",".join([b'{"b":1.5}'] * 120_000)),
    "ids that are lists of texts": lambda: contacts(
        *[b'{"contact_id":[%b]}' % b",".join([b'"%b%b"' % (EMOJI, b"a" * 120)] * 30_000)] * 26
    ),
    "deep nesting": lambda: people(1, b',"a":%b' % DEEP),
    "deep nesting beside a long text": lambda: people(1, b',"a":%b,"b":"%b"' % (DEEP, b"x" * MB)),
    "deep nesting beside many escapes": lambda: people(
        1, b',"a":%b,"b":"%b"' % (b"[" * 3000 + b"]" * 3000, rb"\"[" * 100_000)
    ),
    "repeated names": lambda: people(1, b',"a\\u0000":1,"a":2' * 50_000),
    "long repeated names": lambda: people(1, b',"%b\\u0000":1' % (b"n" * 100_000) * 60),
    "a number of a million digits": lambda: people(1, b',"a":%b,"b":1.%b' % (NUMBER[:MB], NUMBER[:MB])),
    "many long numbers": lambda: people(1, (b',"a":%b' % NUMBER[:4300]) * 1500),
    "odd exponents": lambda: people(1, b',"a":[%b]' % b",".join([b"1e999999999"] * 150_000)),
    "the smallest numbers, in documents that are odd": lambda: contacts(
        *(
            b'{"ContactId":"%d","a":[%b],"b":%b}' % (
                number, b",".join([SMALLEST] * 15_000), NUMBER[:5000]
            )
            for number in range(53)
        )
    ),
    "gzip of a large page": lambda: (
        200, gzip.compress(people(100, b',"Notes":"%b"' % (b"x" * MB)), 1), PACKED
    ),
}  # fmt: skip

# A few documents with any number of rows, so with `digests` too.
MANY_ROWS: dict[str, Callable[[], dict[str, Any]]] = {
    "events of a contact with long ids": lambda: {
        "/contacts": contacts(
            b'{"contact_id":"%b","email":"%b","mail_opened":{%b}}'
            % (b"i" * 400, b"e" * 400, b",".join(b'"%x":1' % number for number in range(120_000)))
        )
    },
    "events without a time": lambda: {
        "/contacts": people(
            1, b',"mail_clicked":{%b}' % b",".join(b'"%x":[]' % number for number in range(150_000))
        )
    },
    "lists of a contact with a long id": lambda: {
        "/contacts": contacts(
            b'{"contact_id":"%b","lists":[%b]}'
            % (b"i" * 400, b",".join(b'"%x"' % number for number in range(150_000)))
        )
    },
    "members with long ids": lambda: {
        "/smart_segments": b'{"segments":[{"segment_id":"%b"}]}' % (b"s" * 400),
        f"/smart_segments/{'s' * 400}/contacts": contacts(
            *(b'{"contact_id":"%b%06d"}' % (EMOJI * 250, number) for number in range(40_000))
        ),
    },
}

# Refused, with what the last line says.
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "a gzip bomb": (lambda: (200, bomb(400 * MB), PACKED), "exceeds the limit"),
    "a gzip bomb of brackets": (
        lambda: (200, bomb(120 * MB, b'{"contacts":[', b"[],"), PACKED),
        "more than 800,000 values",
    ),
    "a redirect with a gzip bomb": (
        lambda: (302, bomb(400 * MB), {**PACKED, "Location": "/v1/contacts"}),
        "redirect loop",
    ),
    "control characters": (
        lambda: people(1, b',"a":["%b%b"]' % (EMOJI, b"\1" * 7 * MB)),
        "too large to be repaired",
    ),
    "tabs in deep nesting, of which each level makes more": (
        lambda: people(1, b',"a":%b"%b"%b' % (b"[" * 940, b"\t" * 7 * MB, b"]" * 940)),
        "too large to be repaired",
    ),
    "128 MB of quotes": (lambda: b'{"contacts":["%b"]}' % (b'\\"' * (60 * MB)), "800,000 values"),
    "one string of 127 MB": (
        lambda: people(1, b',"a":"%b"' % (b"x" * 127 * MB)),
        "a document that is too large",
    ),
    "127 MB of text that is no JSON": (lambda: b"x" * (127 * MB), "too large to be repaired"),
    "a bookmark of 10 MB": (
        lambda: contacts(person(1), more=b',"bookmark":"%b%b"' % (b"x" * 10 * MB, EMOJI)),
        "a bookmark of more than",
    ),
    "a total of 10 million digits": (
        lambda: contacts(person(1), more=b',"total_contacts":%b' % (b"9" * 10 * MB)),
        "a total_contacts of more than",
    ),
    "ids of a megabyte": (
        lambda: contacts(*(b'{"contact_id":"%b%b"}' % (b"x" * MB, EMOJI) for _ in range(60))),
        "an id of more than 400 characters",
    ),
    "many numbers of 4,000 digits": (
        lambda: people(15_000, b',"a":%b,"b":%b' % ((b"9" * 4000,) * 2)),
        "too many long numbers",
    ),
    "ids that are lists": (
        lambda: contacts(*[b'{"contact_id":[%b]}' % b",".join([b"1.5"] * 99_000)] * 21),
        "more than 800,000 values",
    ),
    "200,000 documents": (lambda: contacts(*[b"0"] * 200_000), "more than 100,000 documents"),
    "deep nesting in an error": (lambda: (400, b"[" * 60_000), "status 400"),
    "a large error": (lambda: (400, b'{"message":"%b"}' % (b"x" * 10 * MB)), "status 400"),
}


@pytest.mark.parametrize("shape", GOOD)
def test_what_is_processed_costs_little(tap: Tap, shape: str) -> None:
    sync(tap, {"/contacts": GOOD[shape]()})


@pytest.mark.parametrize("shape", MANY_ROWS)
def test_documents_of_many_rows_cost_little(tap: Tap, shape: str) -> None:
    sync(tap, MANY_ROWS[shape](), digests=str(tap.folder / "digests.db"))


def test_long_names_in_odd_documents_cost_little(tap: Tap) -> None:
    """Their memory is used again for texts of other sizes."""
    name = b"n" * MB + EMOJI
    fields = b",".join(b'"%b%d\\u0000":1' % (name, number) for number in range(7))
    documents = (b'{"ContactId":%d,"a":{%b}}' % (number, fields) for number in range(14))
    digests = str(tap.folder / "digests.db")
    sync(tap, {"/contacts": contacts(*documents)}, digests=digests, nested_as_text=True)


def test_more_members_than_fit_are_refused(tap: Tap) -> None:
    members = contacts(
        *(b'{"contact_id":"%b%06d"}' % (rb"\ud83d\ude00" * 300, n) for n in range(20_000))
    )
    answers = {"/smart_segments": {"segments": [{"segment_id": "s"}]}}
    run = sync(tap, {**answers, "/smart_segments/s/contacts": members}, code=1)
    assert "more than 67,108,864 bytes of ids" in run.last_words


@pytest.mark.parametrize("text", [rb'{"contacts":[{"contact_id":5,"x":"', b""])
def test_escapes_instead_of_members_are_refused(tap: Tap, text: bytes) -> None:
    """Whether the response is a listing or not."""
    escapes = (200, bomb(120 * MB if not text else 60 * MB, text, rb"\n"), PACKED)
    answers = {"/smart_segments": {"segments": [{"segment_id": "s"}]}}
    run = sync(tap, {**answers, "/smart_segments/s/contacts": escapes}, code=1, cpu=5)
    assert "more than 800,000 values" in run.last_words


def test_a_contact_that_is_repeated_beside_its_pushes_costs_little(
    tap: Tap, store: PushedStore
) -> None:
    store.track(*(call(f"{number}", event="Email Opened") for number in range(3000)))
    answer = contacts(*[person(1, b',"mail_opened":{"q":1420074000000}')] * 20_000)
    select = ("--select", "email_opened")
    sync(tap, {"/contacts": answer}, *select, cpu=5, collector_database=store.path)


def test_contacts_beside_messages_from_a_store_cost_little(tap: Tap, store: PushedStore) -> None:
    """Without a table of email events, for which contacts are compared with the store."""
    store.track(*(call(f"{number}") for number in range(10_000)))
    arguments = ("--select", "lists_contacts,email_messages")
    sync(tap, {"/contacts": people(60_000, b"")}, *arguments, cpu=5, collector_database=store.path)


def test_long_texts_of_a_push_cost_little(tap: Tap, store: PushedStore) -> None:
    texts = ("email_name", "email_subject", "campaign_id", "campaign_name")
    for message, length in ((MESSAGE, 500), ("m", 1_000_000)):
        properties = {"email_id": message, **dict.fromkeys(texts, "\1" * length)}
        store.track(call(message, properties=properties))
    spellings = b",".join(b'"%x-%b":1' % (number, MESSAGE.encode()) for number in range(20_000))
    others = (person(number, b',"mail_clicked":{"m":1}') for number in range(1, 1000))
    answer = contacts(person(0, b',"mail_clicked":{%b}' % spellings), *others)
    digests = str(tap.folder / "digests.db")
    sync(tap, {"/contacts": answer}, collector_database=store.path, digests=digests)


@pytest.mark.parametrize(("size", "code"), [(60, 0), (120, 1)], ids=["read", "refused"])
def test_large_responses_at_the_same_time_cost_little(tap: Tap, size: int, code: int) -> None:
    large = (200, gzip.compress(people(size, b',"Notes":"%b"' % (b"x" * (MB - 100))), 1), PACKED)
    segments = b",".join(b'{"segment_id":"%d"}' % number for number in range(20))
    answers: dict[str, Any] = {"/smart_segments": b'{"segments":[%b]}' % segments}
    for number in range(20):
        answers[f"/smart_segments/{number}/contacts"] = large
    sync(tap, answers, code=code, cpu=math.inf, concurrency=16)


def test_many_custom_fields_as_columns_cost_little(tap: Tap) -> None:
    fields = [b'{"name":"f%d"}' % number for number in range(1601)]
    answers = {
        "/contacts": people(3000, b""),
        "/contacts/custom_fields": b"[%b]" % b",".join(fields),
    }
    run = sync(tap, answers, code=2, custom_fields_as_columns=True)
    assert "room for 1,600 columns" in run.stderr
    answers["/contacts/custom_fields"] = b"[%b]" % b",".join(fields[1:])
    sync(tap, answers, custom_fields_as_columns=True)


def test_long_names_of_fields_cost_little(tap: Tap) -> None:
    """Those of custom fields as columns, and of fields without a column."""
    wide = [b'{"name":"F%d %b","type":"string"}' % (n, b"x" * 50) for n in range(1500)]
    long = (b',"%b%s%d":1' % (b"n" * MB, "\U0001f600".encode(), number) for number in range(60))
    sync(
        tap,
        {
            "/contacts": contacts(*map(person, range(8000)), *map(person, range(60), long)),
            "/contacts/custom_fields": b"[%b]" % b",".join(wide),
        },
        custom_fields_as_columns=True,
        digests=str(tap.folder / "digests.db"),
    )


def test_a_page_of_too_many_rows_for_so_many_columns_is_refused(tap: Tap) -> None:
    fields = b",".join(b'{"name":"f%d"}' % number for number in range(1500))
    answers = {"/contacts": people(100_000, b""), "/contacts/custom_fields": b"[%b]" % fields}
    run = sync(tap, answers, code=1, custom_fields_as_columns=True)
    assert "a page of 100,000 contacts is too large for a table of 1,5" in run.last_words


def test_values_of_custom_fields_that_do_not_fit_cost_little(tap: Tap) -> None:
    """Beside many other fields, to which they are added."""
    catalog = discover([{"name": "A", "type": "integer"}])
    for entry in catalog["streams"][0]["metadata"]:
        if entry["breadcrumb"] == ("properties", "custom_fields"):
            entry["metadata"]["selected"] = False
    fields = b"".join(b',"a%d":1' % number for number in range(90_000))
    values = b",".join([b'{"kind":"A","value":"x"}'] * 45_000)
    sync(
        tap,
        {
            "/contacts": people(3, b'%b,"custom_fields":[%b]' % (fields, values)),
            "/contacts/custom_fields": b'[{"name":"A","type":"integer"}]',
        },
        "--catalog", tap.file("catalog.json", catalog),
        custom_fields_as_columns=True,
    )  # fmt: skip


def test_pages_without_end_cost_little(tap: Tap) -> None:
    """Pages of repeated segments, and of large contacts without an id, of which nothing is sent."""
    pages = 8
    repeated = [b'{"segment_id":"%b%b%05d"}' % (EMOJI, b"s" * 390, n) for n in range(19_900)]
    answers: dict[str, Any] = {}
    for number in range(pages + 1):
        end = f"/b{number}" if number else ""
        more = b',"bookmark":"b%d"' % (number + 1) if number < pages else b""
        segments = b",".join([b'{"segment_id":"n%d"}' % number, *repeated])
        answers[f"/smart_segments{end}"] = b'{"segments":[%b]%b}' % (segments, more)
        odd = b'{"updated_at":"?","Name":"%b%b"}' % (EMOJI, b"n" * MB)
        answers[f"/contacts{end}"] = contacts(*[odd] * 7, more=more)
    answers[f"/smart_segments/b{pages}"] = 500, {}
    digests = str(tap.folder / "digests.db")
    run = sync(tap, answers, code=1, cpu=math.inf, digests=digests, check_totals=False)
    assert "GET /smart_segments/…: status 500" in run.stderr


def test_large_pages_of_several_listings_cost_little_together(tap: Tap) -> None:
    members = b",".join(
        b'{"contact_id":"%b%b%05d"}' % (EMOJI, b"m" * 47, number) for number in range(99_000)
    )
    answers = {"/smart_segments": b'{"segments":[%b]}' % b",".join(
        b'{"segment_id":"%d"}' % number for number in range(8)
    )}  # fmt: skip
    answers |= {f"/smart_segments/{n}/contacts": b'{"contacts":[%b]}' % members for n in range(8)}
    sync(tap, answers, "--select", "smart_segments_contacts", cpu=math.inf)


def test_ids_of_segments_that_cannot_be_ids_cost_a_test_little(tap: Tap) -> None:
    segments = b'{"segments":[{"segment_id":["%b"]}]}' % (b"\x7f" * 4_000_000)
    sync(tap, {"/smart_segments": segments}, "--test")


def test_more_segments_than_fit_are_refused(tap: Tap) -> None:
    pages = [
        b",".join(b'{"segment_id":"%b%d%05d"}' % (EMOJI * 390, page, n) for n in range(15_000))
        for page in (1, 2)
    ]
    answers = {
        "/smart_segments": b'{"segments":[%b],"bookmark":"b"}' % pages[0],
        "/smart_segments/b": b'{"segments":[%b]}' % pages[1],
    }
    assert "more than 20,000 smart segments" in sync(tap, answers, code=1).last_words


def test_long_ids_and_many_values_of_pushed_events_cost_little(
    tap: Tap, store: PushedStore
) -> None:
    ids = (f"{number}{'e' * MB}\U0001f600" for number in range(60))
    store.track(*(call(f"m{n}", properties={"email_id": one}) for n, one in enumerate(ids)))
    many = b'{"event":"Email Opened","messageId":"n%d","x":[%b]}'
    store.track(*(many % (n, b",".join([b"[]"] * 2_600_000)) for n in range(3)))
    sync(tap, {"/contacts": people(3, b"")}, collector_database=store.path)


@pytest.mark.parametrize("shape", BAD)
def test_what_is_refused_costs_little(tap: Tap, shape: str) -> None:
    response, said = BAD[shape]
    run = sync(tap, {"/contacts": response()}, code=1)
    assert said in run.last_words
