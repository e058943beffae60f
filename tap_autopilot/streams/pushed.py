"""The tables that come only from a collector's store."""

from __future__ import annotations

from typing import Any, ClassVar

from tap_autopilot.streams.base import COLLECTED, Stream

COLLECTOR_DATABASE = "collector_database"  # names the store


def log_of(stream: type[Stream]) -> type[Stream]:
    """The same table, fed by a collector's store alone."""
    fields: dict[str, Any] = {"sources": (COLLECTED,), "__doc__": stream.__doc__}
    return type(stream.__name__, (stream,), fields)


class _Pushed(Stream):
    sources: ClassVar[tuple[str, ...]] = (COLLECTED,)
    setting: ClassVar[str | None] = COLLECTOR_DATABASE


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
