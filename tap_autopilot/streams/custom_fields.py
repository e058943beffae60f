"""The definitions of the account's custom fields, not their values in contacts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tap_autopilot.rows.changed import ChangedSince
from tap_autopilot.rows.names import compile_pick
from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.values import Row
from tap_autopilot.streams.base import MakeRows, Schema, Stream

if TYPE_CHECKING:
    from tap_autopilot.rows.matching import Pushes  # only imported with a store

ALIASES = {"kind": "name", "type": "field_type"}  # other names that the API may use for columns


class CustomFields(Stream):
    """Every custom field of the account."""

    name = "custom_fields"
    sources = ("custom_fields",)
    key_properties = ("name",)

    @classmethod
    def compile(cls, schema: Schema, selected: Schema, tally: Tally) -> MakeRows:
        """A definition may use the field names of contacts, `kind` and `type`.

        If several have the same name, a live one wins over deleted ones.
        """
        shaped = super().compile(schema, selected, tally)
        pick = compile_pick((*ALIASES.values(), "deleted"))

        def renamed(definition: Any) -> Any:
            if definition.__class__ is not dict:
                return definition
            missing = ALIASES.values() - pick(definition).keys()
            return {
                ALIASES[name] if ALIASES.get(name) in missing else name: value
                for name, value in definition.items()
            }

        def make(
            definitions: list[Any], window: ChangedSince | None, pushes: Pushes | None
        ) -> Iterator[list[Row]]:
            live_last = sorted(
                definitions, key=lambda definition: pick(definition).get("deleted") is not True
            )
            yield from shaped([renamed(definition) for definition in live_last], window, pushes)

        return make
