"""The account's smart segments, and who is in them."""

from __future__ import annotations

from typing import Any, ClassVar

from tap_autopilot.rows.changed import Window
from tap_autopilot.rows.shape import Row
from tap_autopilot.rows.tally import Tally
from tap_autopilot.streams.base import Rows, Schema, Stream


class SmartSegments(Stream):
    """Every smart segment, by name."""

    name: ClassVar[str] = "smart_segments"
    walk: ClassVar[str] = "smart_segments"
    key_properties: ClassVar[tuple[str, ...]] = ("segment_id",)


class SmartSegmentsContacts(Stream):
    """Which contacts are in which smart segment: one row for each membership."""

    name: ClassVar[str] = "smart_segments_contacts"
    walk: ClassVar[str] = "smart_segments_contacts"
    key_properties: ClassVar[tuple[str, ...]] = ("segment_id", "contact_id")

    @classmethod
    def compile(cls, schema: Schema, selected: Schema, tally: Tally, window: Window | None) -> Rows:
        """Almost all documents are rows already."""
        shaped = super().compile(schema, selected, tally, window)

        def rows(documents: list[Any]) -> list[Row]:
            made: list[Row] = []
            for document in documents:
                contact_id = document["contact_id"]
                if type(contact_id) is str and contact_id:
                    made.append(document)
                else:
                    made += shaped([document])
            return made

        return rows
