"""The account's smart segments, and who is in them."""

from __future__ import annotations

from typing import Any

from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.values import Row
from tap_autopilot.streams.base import MakeRows, Schema, Stream


class SmartSegments(Stream):
    """Every smart segment."""

    name = "smart_segments"
    sources = ("smart_segments",)
    key_properties = ("segment_id",)


class SmartSegmentsContacts(Stream):
    """Which contacts are in which smart segment, one row per membership."""

    name = "smart_segments_contacts"
    sources = ("smart_segments_contacts",)
    key_properties = ("segment_id", "contact_id")

    @classmethod
    def compile(cls, schema: Schema, selected: Schema, tally: Tally) -> MakeRows:
        """Almost every document is already a row."""
        shaped = super().compile(schema, selected, tally)

        def make(documents: list[Any], *_: object) -> list[Row]:
            rows: list[Row] = []
            for document in documents:
                contact_id = document["contact_id"]
                if contact_id.__class__ is str and contact_id:
                    rows.append(document)
                else:
                    rows += shaped([document], None, None)
            return rows

        return make
