"""Converts values to exactly what a column's type allows, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from tap_autopilot.rows.names import Names, plain
from tap_autopilot.rows.times import as_time, as_whole_number, from_epoch

Row = dict[str, Any]
Schema = Mapping[str, Any]
Convert = Callable[[Any], Any]

ADDITIONAL = "additional_fields"  # the column for everything that fits no other
MAX_INTEGER = 2**63 - 1  # what an SQL bigint holds
MAX_NUMBER = 10**308  # what a double holds; parsing turns larger Decimals into text
MAX_KEY = 400  # characters, as of the API's ids
MAX_REPEATED = 300  # bytes of JSON; an id that any number of rows contain has about 50
MAX_NESTED = 100  # levels of a value; targets fail at a few hundred
AT_ONCE = 300  # levels to turn into text together; Python's encoders fail at 1,000

_JSON = msgspec.json.Encoder(decimal_format="number")


class Partial(Exception):
    """A value contains more than its column can hold; the column gets `args[0]`."""


def converter(schema: Schema, selected: Schema, *, is_map: bool = False) -> Convert:
    """A function from a value to the `selected` part of a column with this schema.

    If `is_map`, the column is an array of objects with two fields, for a map's keys and values. The
    function raises ValueError for a value that does not fit, and Partial for one that has more.
    """
    kind = type_of(schema)
    if kind == "string":
        return as_time if schema.get("format") == "date-time" else as_text
    if kind == "object":
        return _object(schema, selected)
    if kind == "array":
        if type_of(schema["items"]) == "string":
            return _texts
        return (_map if is_map else _objects)(schema["items"], selected["items"])
    return {"boolean": _boolean, "integer": _integer, "number": _number}[kind]


def type_of(schema: Schema) -> str:
    """The type of a schema, ignoring null."""
    types = schema["type"]
    return types if isinstance(types, str) else next(one for one in types if one != "null")


def as_key(value: Any) -> str | None:
    """A key as text; None if the value cannot be a key."""
    if value.__class__ is int and value.bit_length() > 4 * MAX_KEY:  # slow to turn into text
        return None
    try:
        text = as_text(value)
    except ValueError:
        return None
    return text if 0 < len(text) <= MAX_KEY else None


def as_repeated(value: Any) -> str | None:
    """A key that any number of rows contain; None if it cannot be one, or is too long for that."""
    key = as_key(value)
    return key if key is not None and len(_JSON.encode(key)) <= MAX_REPEATED else None


def as_text(value: Any) -> str:
    """Text, or a number or boolean as JSON spells it. Raises ValueError for anything else."""
    if value.__class__ is str:
        return value
    if value.__class__ in (int, Decimal, bool):
        return as_json(value)
    raise ValueError


def _as_text(value: Any) -> str:
    """Any value as JSON text, however deep."""
    return as_json(shallow(value) if value.__class__ in (dict, list) else value)


def as_json(value: Any) -> str:
    """A value as JSON text."""
    if value.__class__ is int:
        return str(value)
    if value.__class__ is bool:
        return "true" if value else "false"
    return _JSON.encode(value).decode()


def _boolean(value: Any) -> bool:
    if value is True or value is False:
        return value
    raise ValueError


def _integer(value: Any) -> int:
    number = as_whole_number(value)
    if abs(number) <= MAX_INTEGER:
        return number
    raise ValueError


def _number(value: Any) -> int | Decimal:
    if value.__class__ is Decimal or (value.__class__ is int and abs(value) < MAX_NUMBER):
        return value
    raise ValueError


def _texts(value: Any) -> list[str]:
    if value.__class__ is list:
        return [as_text(item) for item in value]
    if value == {}:
        return []
    raise ValueError


def _object(schema: Schema, selected: Schema) -> Convert:
    """Converts an object whose fields' names may have any spelling."""
    parts, kept = schema["properties"], selected["properties"]
    names = Names(
        {name: converter(parts[name], kept[name]) for name in kept}, parts.keys() - kept.keys()
    )
    blank = dict.fromkeys(kept)

    def convert(value: Any) -> Row:
        if value.__class__ is not dict:
            if value != []:
                raise ValueError
            value = {}
        row = blank.copy()
        more = False
        for name, item in value.items():
            column, change = names[name]
            if change is as_text:
                row[column] = item if item.__class__ is str or item is None else _as_text(item)
            elif change is None:
                more = more or column is not None
            elif item is not None and item != "":
                row[column] = change(item)
        if more or (names.shared and names.contested(value)):
            raise Partial(row)
        return row

    return convert


def _objects(schema: Schema, selected: Schema) -> Convert:
    """Converts an array of objects."""
    convert_one = _object(schema, selected)

    def most_of(value: Any) -> Any:
        try:
            return convert_one(value)
        except Partial as partial:
            return partial.args[0]

    def convert(value: Any) -> list[Row]:
        if value.__class__ is not list:
            if value == {}:
                return []
            raise ValueError
        try:
            return [convert_one(one) for one in value]
        except Partial:
            raise Partial([most_of(one) for one in value]) from None

    return convert


def _map(schema: Schema, selected: Schema) -> Convert:
    """Converts a map to an array of objects with two fields: its keys and their values."""
    first, second = fields = tuple(schema["properties"])
    convert = converter(schema["properties"][second], schema["properties"][second])
    kept = [field for field in fields if field in selected["properties"]]

    def pairs(value: Any) -> list[Row]:
        if not value and value.__class__ in (dict, list):
            return []
        if value.__class__ is not dict:
            raise ValueError
        return [
            {first: key, second: item if item is None else convert(item)}
            for key, item in value.items()
        ]

    def moments(value: Any) -> list[Row]:
        if value.__class__ is not dict:
            return pairs(value)
        if not value:
            return []
        return [
            {first: key, second: from_epoch(item)}
            if item.__class__ is int
            else {first: key, second: item if item is None else as_time(item)}
            for key, item in value.items()
        ]

    def some(value: Any) -> list[Row]:
        return [{field: row[field] for field in kept} for row in pairs(value)]

    if len(kept) < len(fields):
        return some
    return moments if convert is as_time else pairs


def without_deselected(value: Any, schema: Schema, selected: Schema, *, is_map: bool) -> Any:
    """A value that does not fit its column, without the column's deselected fields."""
    if schema == selected:
        return value
    if is_map:
        keys, values = schema["items"]["properties"]
        kept = selected["items"]["properties"]
        if value.__class__ is not dict:
            return value
        if values in kept:
            return list(value.values())
        return dict.fromkeys(value) if keys in kept else None
    if value.__class__ is list and "items" in schema:
        part = schema["items"], selected["items"]
        return [without_deselected(one, *part, is_map=False) for one in value]
    if value.__class__ is dict and "properties" in schema:
        dropped = {
            plain(one) for one in schema["properties"].keys() - selected["properties"].keys()
        }
        return {name: item for name, item in value.items() if plain(name) not in dropped}
    return value


def shallow(value: Any) -> Any:
    """A value with everything nested too deeply turned into JSON text, in place."""
    box = [value]
    levels: list[list[tuple[Any, Any]]] = [[(box, 0)]]
    while levels[-1]:
        below: list[tuple[Any, Any]] = []
        for parent, key in levels[-1]:
            item = parent[key]
            if item.__class__ is dict:
                below += ((item, name) for name in item)
            elif item.__class__ is list:
                below += ((item, number) for number in range(len(item)))
        levels.append(below)
    deepest = len(levels) - 1
    for level in range(deepest - (deepest - MAX_NESTED) % AT_ONCE, MAX_NESTED - 1, -AT_ONCE):
        for parent, key in levels[level]:
            if parent[key].__class__ in (dict, list):
                text = _JSON.encode(parent[key])
                # Text within text would double its backslashes each time.
                parent[key] = text.decode() if level == MAX_NESTED else msgspec.Raw(text)
    return box[0]
