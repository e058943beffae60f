"""The account's smart segments, and who is in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from tap_autopilot.shape import Row
from tap_autopilot.streams.base import Stream


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

    @staticmethod
    def rows(documents: list[Any], shape: Callable[[Any], Row | None]) -> list[Row]:
        """The rows of a page. Almost all documents are rows already."""
        made: list[Row] = []
        for document in documents:
            contact_id = document["contact_id"]
            if type(contact_id) is str and contact_id:
                made.append(document)
            elif row := shape(document):
                made.append(row)
        return made
