"""Compiles a schema into a function from a document to a row.

Nothing is lost: fields without a column, and values that do not fit their column, are kept
unchanged in `additional_fields`. Deselected fields are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from tap_autopilot.rows.names import Names, compile_pick
from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.times import as_datetime
from tap_autopilot.rows.values import (
    ADDITIONAL,
    MAX_KEY,
    Convert,
    Partial,
    Row,
    Schema,
    as_text,
    converter,
    shallow,
    without_deselected,
)

Document = Any


def compile_shape(
    schema: Schema,
    selected: Schema,
    keys: Iterable[str],
    tally: Tally,
    *,
    maps: Collection[str] = (),
) -> Callable[[Document], Row | None]:
    """A function from a document to a row of the `selected` part of `schema`.

    `maps` are the columns that hold the pairs of a map. A row has every selected column, in the
    order of the schema. The function returns None, and counts a skipped document, if the document
    is not an object or lacks one of the `keys`.
    """
    keys = tuple(keys)
    parts, kept = schema["properties"], selected["properties"]
    converters = {
        name: converter(parts[name], part, is_map=name in maps)
        for name, part in kept.items()
        if name != ADDITIONAL
    }
    names = Names(converters, parts.keys() - kept.keys())
    blank = dict.fromkeys(kept)
    keeps_additional = ADDITIONAL in kept

    def keep(additional: Row, column: str, name: str, value: Any) -> None:
        value = without_deselected(value, parts[column], kept[column], is_map=column in maps)
        if value is not None:
            additional[name] = value

    def shape(document: Document) -> Row | None:
        if document.__class__ is not dict:
            tally.skip("it is not an object")
            return None
        row = blank.copy()
        additional: Row = {}
        for name, value in document.items():
            column, convert = names[name]
            if convert is as_text and value.__class__ is str:
                row[column] = value
            elif convert is None:
                if column is not None:
                    additional[name] = value
                    tally.count_unknown(name)
            elif value is not None:
                try:
                    row[column] = convert(value)
                except ValueError:
                    if value != "":
                        tally.note_misfit(column, row)
                        keep(additional, column, name, value)
                except Partial as partial:
                    row[column] = partial.args[0]
                    keep(additional, column, name, value)
        for column, spellings in names.contested(document) if names.shared else ():
            row[column] = None
            for name in spellings:
                if not _fills(row, column, converters[column], document[name]):
                    keep(additional, column, name, document[name])
        if additional and keeps_additional:
            row[ADDITIONAL] = shallow(additional)
        for key in keys:
            value = row[key]
            if not value:
                tally.skip(f"it has no {key}")
                return None
            if len(value) > MAX_KEY:
                tally.skip(f"its {key} is too long")
                return None
        return row

    return shape


def _fills(row: Row, column: str, convert: Convert, value: Any) -> bool:
    """Fill a column from one of several fields; False if the value is left over."""
    if row[column] is None:
        try:
            row[column] = convert(value)
            return True
        except ValueError:
            pass
        except Partial as partial:
            row[column] = partial.args[0]
    return bool(value == "")


def compile_changed(columns: Iterable[str]) -> Callable[[Document], Any]:
    """A function from a document to when it last changed, None if unknown.

    That is the time in the first of `columns` that the document fills.
    """
    columns = tuple(columns)
    pick = compile_pick(columns)

    def changed(document: Document) -> Any:
        picked = pick(document)
        for column in columns:
            if column in picked:
                return as_datetime(picked[column])
        return None

    return changed
