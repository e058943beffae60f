"""The tables that come only from a collector's store."""

from __future__ import annotations

from typing import Any

from tap_autopilot.streams.base import COLLECTED, Stream

COLLECTOR_DATABASE = "collector_database"  # names the store


def log_of(stream: type[Stream]) -> type[Stream]:
    """The same table, fed by a collector's store alone."""
    fields: dict[str, Any] = {"sources": (COLLECTED,), "__doc__": stream.__doc__}
    return type(stream.__name__, (stream,), fields)


class _Pushed(Stream):
    sources = (COLLECTED,)
    setting = COLLECTOR_DATABASE


class EmailMessages(_Pushed):
    """Name, subject and journey of every message mentioned in pushed events."""

    name = "email_messages"
    key_properties = ("email_id",)


class ContactEvents(_Pushed):
    """Events from Autopilot's REST hooks, one row per delivery."""

    name = "contact_events"
    key_properties = ("id",)
    replication_key = "received_at"


class Activities(_Pushed):
    """Events from Autopilot's Activity Streams, one row per event."""

    name = "activities"
    key_properties = ("id",)
    replication_key = "received_at"
