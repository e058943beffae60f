"""The registry of streams, in the order used everywhere."""

from __future__ import annotations

from tap_autopilot.streams.base import COLLECTED, DIGESTS, MakeRows, Stream
from tap_autopilot.streams.contacts import Contacts
from tap_autopilot.streams.custom_fields import CustomFields
from tap_autopilot.streams.emails import (
    EmailBounced,
    EmailClicked,
    EmailDelivered,
    EmailEvent,
    EmailMarkedAsSpam,
    EmailOpened,
    EmailReplied,
    EmailUnsubscribed,
)
from tap_autopilot.streams.lists import Lists, ListsContacts
from tap_autopilot.streams.membership_changes import MembershipChanges
from tap_autopilot.streams.pushed import Activities, ContactEvents, EmailMessages
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
        CustomFields,
        EmailMessages,
        ContactEvents,
        Activities,
        MembershipChanges,
    )
}
EMAILS = {name: stream for name, stream in STREAMS.items() if issubclass(stream, EmailEvent)}

__all__ = ["COLLECTED", "DIGESTS", "EMAILS", "STREAMS", "MakeRows", "Stream"]
