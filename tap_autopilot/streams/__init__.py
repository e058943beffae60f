"""The registry of streams, in the order in which they are listed everywhere."""

from __future__ import annotations

from tap_autopilot.streams.base import Made, Rows, Stream
from tap_autopilot.streams.contacts import Contacts
from tap_autopilot.streams.emails import (
    EmailBounced,
    EmailClicked,
    EmailDelivered,
    EmailMarkedAsSpam,
    EmailOpened,
    EmailReplied,
    EmailUnsubscribed,
)
from tap_autopilot.streams.lists import Lists, ListsContacts
from tap_autopilot.streams.smart_segments import SmartSegments, SmartSegmentsContacts

STREAMS: dict[str, type[Stream]] = {
    stream.name: stream
    for stream in (
        Contacts,
        Lists,
        SmartSegments,
        SmartSegmentsContacts,
        ListsContacts,
        EmailDelivered,
        EmailOpened,
        EmailClicked,
        EmailBounced,
        EmailMarkedAsSpam,
        EmailUnsubscribed,
        EmailReplied,
    )
}

__all__ = ["STREAMS", "Made", "Rows", "Stream"]
