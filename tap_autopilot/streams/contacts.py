"""The account's contacts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tap_autopilot.rows.changed import ChangedSince
from tap_autopilot.rows.custom_columns import fields_of
from tap_autopilot.rows.names import compile_pick
from tap_autopilot.rows.shape import compile_changed, compile_shape
from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.values import ADDITIONAL, Row, as_key, converter, shallow
from tap_autopilot.streams.base import MakeRows, Schema, Stream

MAPS = (
    "anywhere_page_visits", "anywhere_utm", "anywhere_form_submits", "mail_received",
    "mail_opened", "mail_clicked", "mail_bounced", "mail_hardbounced", "mail_complained",
    "mail_unsubscribed", "mail_replied",
)  # fmt: skip
MANY_VALUES = 100_000  # in memory at a time, since custom fields may be any number of columns


class Contacts(Stream):
    """Every contact, with all of its fields."""

    name = "contacts"
    sources = ("contacts",)
    key_properties = ("contact_id",)
    replication_key = "updated_at"

    @classmethod
    def compile(cls, schema: Schema, selected: Schema, tally: Tally) -> MakeRows:
        """A contact that never changed counts as changed when it was created."""
        custom = fields_of(schema)
        shape = compile_shape(
            _without(schema, custom),
            _without(selected, custom),
            cls.key_properties,
            tally,
            maps=MAPS,
        )
        changed = compile_changed(("updated_at", "created_at"))
        fill = _compile_fill(selected, custom, tally) if custom else None
        many = MANY_VALUES // max(1, len(selected["properties"]))

        def make(
            documents: list[Any], window: ChangedSince | None, *_: object
        ) -> Iterator[list[Row]]:
            rows = []
            for document in documents:
                if window is not None:
                    when = changed(document)
                    window.note(when)
                    if not window.admits(when):
                        continue
                row = shape(document)
                if row is not None:
                    if fill is not None:
                        fill(document, row)
                    rows.append(row)
                    if len(rows) == many:
                        yield rows
                        rows = []
            yield rows

        return make


def _without(schema: Schema, names: Mapping[str, str]) -> Schema:
    kept = {name: part for name, part in schema["properties"].items() if name not in names}
    return {**schema, "properties": kept}


def _compile_fill(
    selected: Schema, custom: Mapping[str, str], tally: Tally
) -> Callable[[Any, Row], None]:
    """A function that adds the columns of custom fields to a document's row.

    A value that does not fit stays in `custom_fields` or, if that is deselected, in
    `additional_fields` under the column's name.
    """
    properties = selected["properties"]
    chosen = {column: field for column, field in custom.items() if column in properties}
    blank = dict.fromkeys(chosen)
    columns = {
        field: (column, converter(properties[column], properties[column]))
        for column, field in chosen.items()
    }
    keeps = "custom_fields" not in properties and ADDITIONAL in properties
    kept_in = ADDITIONAL if keeps else "custom_fields"
    pick = compile_pick(("custom_fields",))

    def fill(document: Any, row: Row) -> None:
        row |= blank
        left: Row = {}
        entries = pick(document).get("custom_fields")
        for entry in entries if entries.__class__ is list else ():
            field = entry if entry.__class__ is dict else {}
            kind, value = as_key(field.get("kind")), field.get("value")
            if kind in columns and value is not None and field.get("deleted") is not True:
                column, convert = columns[kind]
                try:
                    row[column] = convert(value)
                except ValueError:
                    tally.note_misfit(column, row, kept_in)
                    if keeps and value != "":
                        left[column] = shallow(value)
        if left:
            row[ADDITIONAL] = {**(row[ADDITIONAL] or {}), **left}

    return fill
