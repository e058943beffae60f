"""The tables that come only from a collector's store."""

from __future__ import annotations

from typing import ClassVar

from tap_autopilot.streams.base import COLLECTED, Stream


class _Pushed(Stream):
    sources: ClassVar[tuple[str, ...]] = (COLLECTED,)
    setting: ClassVar[str | None] = "collector_database"


class EmailMessages(_Pushed):
    """Name, subject and journey of every message mentioned in pushed events."""

    name: ClassVar[str] = "email_messages"
    key_properties: ClassVar[tuple[str, ...]] = ("email_id",)


class ContactEvents(_Pushed):
    """Events from Autopilot's REST hooks, one row per delivery."""

    name: ClassVar[str] = "contact_events"
    key_properties: ClassVar[tuple[str, ...]] = ("id",)
    replication_key: ClassVar[str | None] = "received_at"


class Activities(_Pushed):
    """Events from Autopilot's Activity Streams, one row per event."""

    name: ClassVar[str] = "activities"
    key_properties: ClassVar[tuple[str, ...]] = ("id",)
    replication_key: ClassVar[str | None] = "received_at"
