"""The account's contacts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from tap_autopilot.rows.changed import Window
from tap_autopilot.rows.shape import (
    Row,
    as_key,
    compile_changed,
    compile_pick,
    compile_shape,
    compile_value,
)
from tap_autopilot.rows.tally import Tally
from tap_autopilot.streams.base import Rows, Schema, Stream


class Contacts(Stream):
    """Every contact, with all that the account knows of it."""

    name: ClassVar[str] = "contacts"
    walk: ClassVar[str] = "contacts"
    key_properties: ClassVar[tuple[str, ...]] = ("contact_id",)
    replication_key: ClassVar[str | None] = "updated_at"

    @classmethod
    def compile(cls, schema: Schema, selected: Schema, tally: Tally, window: Window | None) -> Rows:
        """A contact that was never changed counts as changed when it was made.

        A column with a `title` is filled by the custom field of that name.
        """
        custom = {name for name, part in schema["properties"].items() if "title" in part}
        shape = compile_shape(
            _without(schema, custom), _without(selected, custom), cls.key_properties, tally
        )
        changed = compile_changed(("updated_at", "created_at"))
        fill = _compile_fill(selected, tally) if custom else None

        def rows(documents: list[Any]) -> list[Row]:
            made = []
            for document in documents:
                if window is None or window.admits(changed(document)):
                    row = shape(document)
                    if row is not None:
                        if fill is not None:
                            fill(document, row)
                        made.append(row)
            return made

        return rows


def _without(schema: Schema, names: set[str]) -> Schema:
    kept = {name: part for name, part in schema["properties"].items() if name not in names}
    return {**schema, "properties": kept}


def _compile_fill(selected: Schema, tally: Tally) -> Callable[[Any, Row], None]:
    """A function that adds the columns of custom fields to a document's row."""
    titled = {name: part for name, part in selected["properties"].items() if "title" in part}
    blank = dict.fromkeys(titled)
    columns = {part["title"]: (name, compile_value(part)) for name, part in titled.items()}
    pick = compile_pick(("custom_fields",))

    def fill(document: Any, row: Row) -> None:
        row |= blank
        entries = pick(document).get("custom_fields")
        for entry in entries if entries.__class__ is list else ():
            said = entry if entry.__class__ is dict else {}
            kind, value = as_key(said.get("kind")), said.get("value")
            if kind in columns and value is not None and said.get("deleted") is not True:
                column, convert = columns[kind]
                try:
                    row[column] = convert(value)
                except ValueError:
                    tally.no_fit(column)

    return fill
