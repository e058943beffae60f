"""Any response becomes rows that fit their schema, and nothing in it is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tap_autopilot.api.parsing import decode, decode_array, decode_keys, read
from tap_autopilot.exceptions import Refused, Retryable
from tap_autopilot.protocol.catalog import discover
from tap_autopilot.protocol.messages import encoded, message, record_lines
from tap_autopilot.protocol.selection import Selected, select
from tap_autopilot.rows.changed import ChangedSince
from tap_autopilot.rows.names import compile_pick
from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.values import MAX_KEY
from tap_autopilot.sources.listings import CONTACTS, keys_of
from tap_autopilot.streams import STREAMS, Stream
from tests import json_strategies
from tests.invariants import Run, check_messages

NOW = datetime(2024, 2, 29, 12, tzinfo=timezone.utc)
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
FED = [one for one in STREAMS.values() if "contacts" in one.sources]
CONTACTS_PARTS = [
    tuple(one["breadcrumb"]) for one in discover()["streams"][0]["metadata"] if one["breadcrumb"]
]
SCHEMAS = {one["stream"]: one["schema"] for one in discover()["streams"]}
COLUMNS = [*SCHEMAS["contacts"]["properties"]]


# Responses: any bytes

FIELDS = st.sampled_from(
    [*COLUMNS, "FirstName", "Email", "ContactId", "Lists", "custom-fields", "kind", "min"]
).map(lambda name: json.dumps(name).encode())
FIELD_NAMES = st.one_of(FIELDS, json_strategies.strings(st.sampled_from([b"\xff", b"\x00", b"\n"])))
FIELD_VALUES = st.one_of(
    json_strategies.values(names=FIELD_NAMES, most=6),
    json_strategies.strings(st.sampled_from([b"\xff", b"\x00", b"\n"])),
    st.sampled_from([b"NaN", b"-Infinity", b"1482221012000", b'"2016-12-20T07:31:12Z"']),
)
DOCUMENTS = st.one_of(json_strategies.objects(FIELD_NAMES, FIELD_VALUES, most=8), FIELD_VALUES)
LISTINGS = st.builds(
    lambda documents, bookmark, total: (
        b'{"contacts":%s,"bookmark":%s,"total_contacts":%s}' % (documents, bookmark, total)
    ),
    json_strategies.arrays(DOCUMENTS),
    st.one_of(st.just(b"null"), json_strategies.values(most=2)),
    st.one_of(st.just(b"5"), json_strategies.values(most=2)),
)
ANSWERS = st.one_of(
    LISTINGS,
    json_strategies.damaged(LISTINGS),
    json_strategies.values(),
    st.binary(max_size=30),
    st.builds(
        lambda depth, end: b'{"contacts":[{"contact_id":"a","x":' + b"[" * depth + end,
        st.integers(1, 1200),
        st.binary(max_size=4),
    ),
    st.integers(1, 1500).map(
        lambda depth: b'{"contacts":[{"contact_id":"a","x":%s}]}' % (b"[" * depth + b"]" * depth)
    ),
)


def lines_of(
    stream: type[Stream],
    documents: list[Any],
    window: ChangedSince | None,
    chosen: Selected | None = None,
) -> bytes:
    """The SCHEMA and RECORD messages for documents, as a run would write them."""
    schema = SCHEMAS[stream.name]
    selected = schema if chosen is None else chosen.sent
    tally = Tally(stream.name)
    make = stream.compile(schema, selected, tally)
    if stream.reads:
        documents = list(map(compile_pick(stream.reads), documents))
    rows = [row for part in make(documents, window, None) for row in part]
    if stream.name == "contacts" and window is None:
        assert len(rows) + tally.skipped == len(documents)
    before = {"type": "SCHEMA", "stream": stream.name, "schema": selected,
              "key_properties": stream.key_properties}  # fmt: skip
    return message(before) + b"".join(record_lines(stream.name, encoded(rows), 1, NOW))


def rows_of(stream: type[Stream], documents: list[Any]) -> list[dict[str, Any]]:
    """The rows for documents, as a target receives them."""
    run = Run(0, lines_of(stream, documents, None), "", killed=True)
    check_messages(run)
    return run.rows(stream.name)


@given(ANSWERS, st.booleans())
def test_any_response_becomes_valid_rows_or_is_retried(body: bytes, windowed: bool) -> None:
    try:
        listing = decode(body, "contacts")
    except Retryable:
        return
    window = ChangedSince(NOW - timedelta(days=3000), NOW) if windowed else None
    for stream in FED:
        documents, _ = read(listing.documents)  # making rows may change documents
        check_messages(Run(0, lines_of(stream, documents, window), "", killed=True))
    documents, _ = read(listing.documents)
    for found, document in zip(keys_of(listing.documents, CONTACTS), documents, strict=True):
        own = document.get("contact_id") if isinstance(document, dict) else None
        if isinstance(own, str) and own:
            assert found == own


@given(ANSWERS)
def test_decoding_only_the_keys_finds_the_same_keys(body: bytes) -> None:
    try:
        whole = decode(body, "contacts")
    except Retryable:
        with pytest.raises(Retryable):
            decode_keys(body, "contacts", "contact_id", MAX_KEY)
        return
    found = decode_keys(body, "contacts", "contact_id", MAX_KEY)
    assert keys_of(found.documents, CONTACTS) == keys_of(whole.documents, CONTACTS)
    assert (found.bookmark, found.total) == (whole.bookmark, whole.total)


@given(ANSWERS)
def test_any_array_is_read_or_retried(body: bytes) -> None:
    try:
        listing = decode_array(body, "contacts")
    except (Retryable, Refused):
        return
    documents, _ = read(listing.documents)
    for entry in discover(documents)["streams"]:
        message({"type": "SCHEMA", **entry})


# Nothing is lost: documents in which every value is unique


def spelled(moment: int, form: int) -> str:
    """A moment, in epoch milliseconds, as text."""
    when = EPOCH + timedelta(milliseconds=moment)
    return [
        when.isoformat().replace("+00:00", "Z"),
        when.isoformat(),
        when.replace(tzinfo=None).isoformat(" "),
        when.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat(),
    ][form]


class Values:
    """Draws documents whose leaves are all different. `leaves` has those drawn so far."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw
        self._count = 0
        self.leaves: list[str] = []

    def document(self) -> dict[str, Any]:
        names = self._draw(st.lists(st.one_of(st.sampled_from(COLUMNS), st.just("?")), max_size=8))
        found: dict[str, Any] = {"contact_id": self._draw(st.sampled_from(["a", "b:c", "d%"]))}
        for name in names:
            if name == "?":
                name = f"field {self._next()}"
            elif name != "contact_id":
                name = self._spelling(name)
            else:
                name = "Contact_ID"
            if name not in found:
                found[name] = self._field(name.replace("_", "").lower())
        return found

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _spelling(self, name: str) -> str:
        camel = "".join(part.title() for part in name.split("_"))
        ways = [name, name, camel, name.upper(), name.replace("_", "")]
        return str(self._draw(st.sampled_from(ways)))

    def _field(self, plain: str) -> Any:
        """Something that fits a column of that name, or something else."""
        if self._draw(st.integers(0, 3)) == 0:
            return self._anything(2)
        if plain.startswith("mail"):
            return {f"m{self._next()}": self._moment() for _ in range(self._few())}
        if plain.startswith("anywhere"):
            keys = [self._text() for _ in range(self._few())]
            return dict.fromkeys(keys, self._draw(st.booleans()))
        if plain == "lists":
            return [self._scalar() for _ in range(self._few())]
        if plain == "employeesrange":
            return {
                one: self._number()
                for one in self._draw(st.sets(st.sampled_from(["min", "max", "mid"])))
            }
        if plain == "customfields":
            return [self._entry() for _ in range(self._few())]
        if plain.endswith("at"):
            return self._moment()
        return self._scalar()

    def _entry(self) -> Any:
        names = self._draw(
            st.sets(st.sampled_from(["kind", "fieldType", "value", "deleted", "order"]))
        )
        return {name: self._anything(1) for name in sorted(names)}

    def _few(self) -> int:
        return int(self._draw(st.integers(0, 3)))

    def _text(self) -> str:
        text: str = f"t{self._next()}." + self._draw(
            st.sampled_from(["", "é", " 😀", '"', "\\", "\n"])
        )
        self.leaves.append(text)
        return text

    def _number(self) -> int | float:
        number = 700_000_000_007 * self._next() + self._draw(st.integers(0, 9))
        found: int | float = self._draw(st.sampled_from([number, number / 8, -number]))
        self.leaves.append(str(Decimal(repr(found)).normalize()))
        return found

    def _moment(self) -> Any:
        moment = 86_400_000 * self._next() + self._draw(st.integers(0, 86_399_999))
        self.leaves.append(str(Decimal(moment).normalize()))
        form = self._draw(st.integers(0, 4))
        return moment if form == 4 else spelled(moment, form)

    def _scalar(self) -> Any:
        kind = self._draw(st.integers(0, 2))
        return self._text() if kind == 0 else self._number() if kind == 1 else self._moment()

    def _anything(self, depth: int) -> Any:
        kind = self._draw(st.integers(0, 5 if depth else 3))
        if kind < 3:
            return self._scalar()
        if kind == 3:
            return self._draw(st.sampled_from([None, True, False, "", [], {}]))
        if kind == 4:
            return [self._anything(depth - 1) for _ in range(self._few())]
        return {f"key {self._next()}": self._anything(depth - 1) for _ in range(self._few())}


@st.composite
def documents(draw: Any) -> tuple[dict[str, Any], list[str]]:
    """A document, and its leaves: texts, and numbers and moments as numbers."""
    values = Values(draw)
    return values.document(), values.leaves


TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?")


def atoms(value: Any) -> Iterator[str]:
    """Every text, number and member name in a value; times as numbers."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from atoms(name)
            yield from atoms(item)
    elif isinstance(value, list):
        for item in value:
            yield from atoms(item)
    elif isinstance(value, str):
        yield value
        if TIME.fullmatch(value):
            moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
            utc = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
            yield str(Decimal((utc - EPOCH) // timedelta(milliseconds=1)).normalize())
        elif re.fullmatch(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", value):
            yield str(Decimal(value).normalize())
        elif value[:1] in ("[", "{"):
            yield from atoms(json.loads(value))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield str(Decimal(repr(value)).normalize())


@given(documents())
def test_each_value_is_in_a_column_or_in_additional_fields(
    found: tuple[dict[str, Any], list[str]],
) -> None:
    document, leaves = found
    body = json.dumps({"contacts": [document]}).encode()
    (row,) = rows_of(STREAMS["contacts"], read(decode(body, "contacts").documents)[0])
    there = set(atoms(row))
    lost = [one for one in leaves if one not in there]
    assert not lost, (lost, document, row)
    unknown = [
        name for name in document if name.startswith("field ") and document[name] is not None
    ]
    assert all(name in row["additional_fields"] for name in unknown)


@given(documents())
def test_each_event_and_each_membership_is_a_row_or_counted(
    found: tuple[dict[str, Any], list[str]],
) -> None:
    document, _ = found
    body = json.dumps({"contacts": [document]}).encode()
    for stream in FED[1:]:
        tally = Tally(stream.name)
        schema = SCHEMAS[stream.name]
        parts = list(map(compile_pick(stream.reads), read(decode(body, "contacts").documents)[0]))
        made = stream.compile(schema, schema, tally)(parts, None, None)
        rows = json.loads(json.dumps(list(made), default=str))
        there = set(atoms(rows))
        names = {name.replace("_", "") for name in stream.reads if name != "contact_id"} - {"email"}
        container = list if stream.name == "lists_contacts" else dict
        fields = [
            value
            for name, value in document.items()
            if name.replace("_", "").lower() in names and value
        ]
        if all(isinstance(value, container) for value in fields):
            keys = [one for value in fields for one in value if isinstance(one, str) and one]
            missing = [one for one in keys if one not in there]
            assert not missing, (stream.name, missing, document, rows)


@given(documents(), st.sets(st.sampled_from(CONTACTS_PARTS)))
def test_a_selection_makes_valid_rows_without_what_is_deselected(
    found: tuple[dict[str, Any], list[str]], deselected: set[tuple[str, ...]]
) -> None:
    document, _ = found
    metadata = [{"breadcrumb": one, "metadata": {"selected": False}} for one in deselected]
    catalog = {"streams": [{"tap_stream_id": "contacts", "metadata": metadata}]}
    (chosen,) = select(catalog, discover())
    body = json.dumps({"contacts": [document]}).encode()
    lines = lines_of(STREAMS["contacts"], read(decode(body, "contacts").documents)[0], None, chosen)
    run = Run(0, lines, "", killed=True)
    check_messages(run)
    (row,) = run.rows("contacts")
    dropped = {one[1].replace("_", "") for one in deselected if len(one) == 2} - {"contactid"}
    kept = [*row, *(row.get("additional_fields") or ())]
    assert dropped.isdisjoint(name.replace("_", "").lower() for name in kept)
