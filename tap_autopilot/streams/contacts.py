"""The account's contacts."""

from __future__ import annotations

from typing import ClassVar

from tap_autopilot.streams.base import Stream


class Contacts(Stream):
    """Every contact, with all that the account knows of it."""

    name: ClassVar[str] = "contacts"
    walk: ClassVar[str] = "contacts"
    key_properties: ClassVar[tuple[str, ...]] = ("contact_id",)
    changed: ClassVar[tuple[str, ...]] = ("updated_at", "created_at")
