"""The account's smart segments, and who is in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tap_autopilot.rows.shape import compile_shape
from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.values import Row
from tap_autopilot.streams.base import MANY, MakeRows, Schema, Stream


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
        shape = compile_shape(schema, selected, cls.key_properties, tally)

        def make(documents: list[Any], *_: object) -> Iterator[list[Row]]:
            for start in range(0, len(documents) or 1, MANY):
                rows: list[Row] = []
                for document in documents[start : start + MANY]:
                    contact_id = document["contact_id"]
                    if contact_id.__class__ is str and contact_id:
                        rows.append(document)
                    elif (row := shape(document)) is not None:
                        rows.append(row)
                yield rows

        return make
