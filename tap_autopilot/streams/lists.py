"""The account's lists."""

from __future__ import annotations

from typing import ClassVar

from tap_autopilot.streams.base import Stream


class Lists(Stream):
    """Every list, by name."""

    name: ClassVar[str] = "lists"
    walk: ClassVar[str] = "lists"
    key_properties: ClassVar[tuple[str, ...]] = ("list_id",)
