"""A schema compiled once into a function from a document to a row.

Nothing is lost on the way: what has no column, and what does not fit its column, is kept as it
came in `additional_fields`. What is deselected is dropped for good.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import ciso8601
import msgspec

from tap_autopilot.rows.tally import Tally

Document = Any
Row = dict[str, Any]
Schema = Mapping[str, Any]
Convert = Callable[[Any], Any]

ADDITIONAL = "additional_fields"
LARGEST_INTEGER = 2**63 - 1  # what an SQL bigint holds
MOST_NAMES = 10_000  # that are remembered; documents may be keyed by anything

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_SECONDS = tuple(f"{minute:02d}:{second:02d}." for minute in range(60) for second in range(60))
_THOUSANDTHS = tuple(f"{thousandth:03d}Z" for thousandth in range(1000))
_JSON = msgspec.json.Encoder(decimal_format="number")


class _Unfit(ValueError):
    """A value does not fit its column."""


class _Partial(Exception):
    """A value fits its column, which gets `args[0]`, but holds more than the column can."""


def compile_shape(
    schema: Schema, selected: Schema, keys: Iterable[str], tally: Tally
) -> Callable[[Document], Row | None]:
    """A function from a document to a row of the `selected` part of `schema`.

    A row has every selected column, in the order of the schema. It is None, and counted, where
    the document is not an object or lacks one of the `keys`.
    """
    keys = tuple(keys)
    names = _Names(schema, selected)
    blank = dict.fromkeys(selected["properties"])
    keeps_additional = ADDITIONAL in blank
    whole = {name for name in blank if selected["properties"][name] == schema["properties"][name]}

    def shape(document: Document) -> Row | None:
        if document.__class__ is not dict:
            tally.skip("it is not an object")
            return None
        row = blank.copy()
        additional: Row = {}
        for name, value in document.items():
            column, convert = names[name]
            if convert is _text and value.__class__ is str:
                row[column] = value
            elif convert is None:
                if column is not None:
                    additional[name] = value
                    tally.no_column(name)
            elif value is not None:
                try:
                    row[column] = convert(value)
                except _Unfit:
                    if value != "":
                        tally.no_fit(column)
                        if column in whole:
                            additional[name] = value
                except _Partial as partial:
                    row[column] = partial.args[0]
                    if column in whole:
                        additional[name] = value
        for column, spellings in names.contested(document) if names.shared else ():
            row[column] = None
            for name in filter(document.__contains__, spellings):
                _settle(row, column, names[name][1], name, document[name], additional)
                if column not in whole:
                    additional.pop(name, None)
        if additional and keeps_additional:
            row[ADDITIONAL] = additional
        for key in keys:
            if not row[key]:
                tally.skip(f"it has no {key}")
                return None
        return row

    return shape


def _settle(
    row: Row, column: str, convert: Convert, name: str, value: Any, additional: Row
) -> None:
    """Of several fields for one column, let the first that fits fill it and keep the others."""
    additional.pop(name, None)
    if value is None:
        return
    if row[column] is None:
        with contextlib.suppress(_Unfit, _Partial):
            row[column] = convert(value)
            return
    additional[name] = value


def compile_pick(columns: Iterable[str]) -> Callable[[Document], Row]:
    """A function from a document to those of its fields that are `columns` in any spelling.

    What says nothing, such as null, "" or {}, is not among them. Where a field comes in several
    spellings, maps and arrays are put together; else the column's own counts.
    """
    wanted = {_plain(column): column for column in columns}
    known: set[str] = set()
    spellings: list[tuple[str, str]] = []

    def learn(names: Iterable[str]) -> None:
        for name in names:
            column = wanted.get(_plain(name))
            if column is not None and (name, column) not in spellings:
                spellings.append((name, column))
                spellings.sort(key=lambda one: (one[0] != one[1], one))
            if len(known) < MOST_NAMES:
                known.add(name)

    def pick(document: Document) -> Row:
        picked: Row = {}
        if document.__class__ is dict:
            if not document.keys() <= known:
                learn(document)
            for name, column in spellings:
                if name in document:
                    value = document[name]
                    if column in picked:
                        picked[column] = _joined(picked[column], value)
                    elif value or value == 0:
                        picked[column] = value
        return picked

    return pick


def _joined(first: Any, second: Any) -> Any:
    if first.__class__ is dict and second.__class__ is dict:
        return {**second, **first}
    if first.__class__ is list and second.__class__ is list:
        return [*first, *second]
    return first


def compile_changed(columns: Iterable[str]) -> Callable[[Document], datetime | None]:
    """A function from a document to when it last changed; None where it does not tell.

    Of the columns the first that a document fills decides.
    """
    columns = tuple(columns)
    pick = compile_pick(columns)

    def changed(document: Document) -> datetime | None:
        picked = pick(document)
        for column in columns:
            if column in picked:
                return as_datetime(picked[column])
        return None

    return changed


class _Names(dict[str, Any]):
    """From a field's name, in any spelling, to its column and conversion; resolved once a name.

    (column, None) stands for a field without a column, (None, None) for a deselected one.
    `shared` has the spellings of each column that came in more than one.
    """

    def __init__(self, schema: Schema, selected: Schema) -> None:
        super().__init__()
        kept = selected["properties"]
        self.shared: dict[str, list[str]] = {}
        self._columns: dict[str, tuple[Any, Any]] = {}
        for column, part in schema["properties"].items():
            if column not in kept:
                self._columns[_plain(column)] = (None, None)
            elif column != ADDITIONAL:
                self._columns[_plain(column)] = (column, _converter(part, kept[column]))

    def contested(self, document: Row) -> list[tuple[str, list[str]]]:
        """The columns for which a document has more than one field, with all their spellings."""
        return [
            (column, spellings)
            for column, spellings in self.shared.items()
            if sum(map(document.__contains__, spellings)) > 1
        ]

    def __missing__(self, name: str) -> tuple[Any, Any]:
        column, convert = found = self._columns.get(_plain(name), (name, None))
        if len(self) < MOST_NAMES:
            self[name] = found
            if convert is not None:
                spellings = [known for known in self if self[known][0] == column]
                if len(spellings) > 1:
                    self.shared[column] = sorted(spellings, key=lambda one: (one != column, one))
        return found


def _plain(name: str) -> str:
    """What all spellings of a name have in common: FirstName, first_name, firstName."""
    return name.replace("_", "").lower()


def _converter(schema: Schema, selected: Schema) -> Convert:
    kind = _type(schema)
    if kind == "string":
        return moment if schema.get("format") == "date-time" else _text
    if kind == "object":
        return _object(schema, selected)
    if kind == "array":
        if _type(schema["items"]) == "string":
            return _texts
        pairs = len(schema["items"]["properties"]) == 2
        return (_pairs if pairs else _objects)(schema["items"], selected["items"])
    return {"boolean": _boolean, "integer": _integer, "number": _number}[kind]


def _type(schema: Schema) -> str:
    types = schema["type"]
    return types if isinstance(types, str) else next(one for one in types if one != "null")


def as_key(value: Any) -> str | None:
    """The text of a key; None for what cannot be one."""
    if value.__class__ is str:
        return value or None
    try:
        return _text(value)
    except _Unfit:
        return None


def as_datetime(value: Any) -> datetime | None:
    """The moment that a value tells, as text or epoch milliseconds; None if it tells none."""
    try:
        return ciso8601.parse_datetime(moment(value))
    except ValueError:
        return None


def _text(value: Any) -> str:
    if value.__class__ is str:
        return value
    if value.__class__ in (int, Decimal, bool):
        return _spelled(value)
    raise _Unfit


def _spelled(value: Any) -> str:
    return _JSON.encode(value).decode()


def _boolean(value: Any) -> bool:
    if value is True or value is False:
        return value
    raise _Unfit


def _integer(value: Any) -> int:
    if value.__class__ is int and abs(value) <= LARGEST_INTEGER:
        return value
    raise _Unfit


def _number(value: Any) -> int | Decimal:
    if value.__class__ is int or value.__class__ is Decimal:
        return value
    raise _Unfit


def _texts(value: Any) -> list[str]:
    if value.__class__ is list:
        return [_text(item) for item in value]
    if value == {}:
        return []
    raise _Unfit


def compile_value(schema: Schema) -> Convert:
    """A function from a value to what a column with this schema holds. Raises ValueError."""
    return _converter(schema, schema)


def _object(schema: Schema, selected: Schema) -> Convert:
    """Conversion of an object, by its fields' names in any spelling."""
    names = _Names(schema, selected)
    blank = dict.fromkeys(selected["properties"])

    def convert(value: Any) -> Row:
        if value.__class__ is not dict:
            if value != []:
                raise _Unfit
            value = {}
        row = blank.copy()
        more = False
        for name, item in value.items():
            column, change = names[name]
            if change is _text:
                row[column] = item if item.__class__ is str or item is None else _spelled(item)
            elif change is None:
                more = more or column is not None
            elif item is not None and item != "":
                row[column] = change(item)
        if more or (names.shared and names.contested(value)):
            raise _Partial(row)
        return row

    return convert


def _objects(schema: Schema, selected: Schema) -> Convert:
    """Conversion of an array of objects."""
    convert_one = _object(schema, selected)

    def convert(value: Any) -> list[Row]:
        if value.__class__ is not list:
            if value == {}:
                return []
            raise _Unfit
        try:
            return [convert_one(one) for one in value]
        except _Partial:
            raise _Partial([_most_of(convert_one, one) for one in value]) from None

    return convert


def _most_of(convert: Convert, value: Any) -> Any:
    """What a value is converted to, also where that does not hold all of it."""
    try:
        return convert(value)
    except _Partial as partial:
        return partial.args[0]


def _pairs(schema: Schema, selected: Schema) -> Callable[[Any], list[Row]]:
    """Conversion of a map to an array of objects with two fields: its keys, and their values."""
    first, second = fields = tuple(schema["properties"])
    convert = _converter(schema["properties"][second], schema["properties"][second])
    kept = [field for field in fields if field in selected["properties"]]

    def pairs(value: Any) -> list[Row]:
        if value.__class__ is not dict:
            if value == []:
                return []
            raise _Unfit
        if not value:
            return []
        return [
            {first: key, second: item if item is None else convert(item)}
            for key, item in value.items()
        ]

    def moments(value: Any) -> list[Row]:
        if not value or value.__class__ is not dict:
            return pairs(value)
        return [
            {first: key, second: _from_epoch(item)}
            if item.__class__ is int
            else {first: key, second: item if item is None else moment(item)}
            for key, item in value.items()
        ]

    def some(value: Any) -> list[Row]:
        return [{field: row[field] for field in kept} for row in pairs(value)]

    if len(kept) < len(fields):
        return some
    return moments if convert is moment else pairs


def moment(value: Any) -> str:
    """A time as RFC 3339 in UTC, from ISO 8601 text or epoch milliseconds. Raises ValueError.

    Text that is in that form already stays as it is, with all its digits.
    """
    if value.__class__ is str:
        try:
            ciso8601.parse_rfc3339(value)
            if value[-1] == "Z" and value[10] == "T":
                return value
        except ValueError:
            pass
        return _in_utc(value)
    if value.__class__ is int:
        return _from_epoch(value)
    raise _Unfit


def _in_utc(text: str) -> str:
    try:
        parsed = ciso8601.parse_datetime(text)
        zone = parsed.tzinfo
        utc = parsed.astimezone(timezone.utc) if zone else parsed.replace(tzinfo=timezone.utc)
        return utc.isoformat()[:-6] + "Z"
    except (ValueError, OverflowError):
        raise _Unfit from None


def _from_epoch(value: int) -> str:
    hour = value // 3_600_000
    rest = value - hour * 3_600_000
    second = rest // 1_000
    return _hour(hour) + _SECONDS[second] + _THOUSANDTHS[rest - second * 1_000]


@functools.lru_cache(maxsize=10_000)
def _hour(number: int) -> str:
    """The text of an hour since the epoch, up to its minutes. Most events share theirs."""
    try:
        return (_EPOCH + timedelta(hours=number)).isoformat()[:14]
    except OverflowError:
        raise _Unfit from None
