"""Email events: one table per kind, read from the contacts and from what Autopilot pushed.

The columns are those of the warehouse tables that Segment creates for its Autopilot source. A
contact gives only an event's message and time, so all other columns are null; a push fills them.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tap_autopilot.rows.changed import ChangedSince
from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.times import as_datetime, as_time
from tap_autopilot.rows.values import ADDITIONAL, MAX_KEY, Row, as_repeated, shallow
from tap_autopilot.streams.base import COLLECTED, MANY, MakeRows, Schema, Stream

if TYPE_CHECKING:
    from tap_autopilot.rows.matching import Pushes  # only imported with a store


class EmailEvent(Stream):
    """One kind of event: one row per contact and message, or per push."""

    sources = ("contacts", COLLECTED)
    key_properties = ("id",)
    replication_key = "timestamp"
    look_back = timedelta(days=1)  # events may be imported and synced late
    event_text: str
    maps: tuple[str, ...]  # a contact's fields that map messages to times

    def __init_subclass__(cls) -> None:
        cls.reads = ("contact_id", "email", *cls.maps)

    @classmethod
    def compile(cls, schema: Schema, selected: Schema, tally: Tally) -> MakeRows:
        """A contact has at most one event of a kind for each message."""
        blank = dict.fromkeys(schema["properties"])
        blank |= {"event": cls.name, "event_text": cls.event_text}
        dropped = blank.keys() - selected["properties"].keys()

        def make(
            contacts: list[Any], window: ChangedSince | None, pushes: Pushes | None
        ) -> Iterator[list[Row]]:
            rows: list[Row] = []
            if pushes is not None:  # a contact may have many pushes to compare with
                contacts = _last_of_each(contacts)
            for contact in contacts:
                if not contact:
                    tally.skip("it is not a contact")
                if contact.keys().isdisjoint(cls.maps):
                    continue
                contact_id = as_repeated(contact.get("contact_id"))
                email = as_repeated(contact.get("email"))
                if contact_id is None:
                    tally.skip("it has no contact_id, or one that is too long")
                    continue
                head = blank.copy()
                head["context_traits_contact_id"] = contact_id
                head["context_traits_email"] = head["anonymous_id"] = email
                prefix = f"{cls.name}:{_escaped(contact_id)}:"
                events = cls._events(contact, tally)
                if pushes is not None and events:
                    events = pushes.unpushed(cls.name, contact_id, events, window, tally)
                for message, when in events.items():
                    if len(rows) == MANY:
                        yield rows
                        rows = []
                    if len(message) > MAX_KEY:
                        tally.skip("a message's id is too long")
                        continue
                    row = head.copy()
                    row["id"] = prefix + message
                    row["email_id"] = message
                    if when is not None and when != "":
                        try:
                            row["timestamp"] = as_time(when)
                        except ValueError:
                            row[ADDITIONAL] = {"timestamp": shallow(when)}
                            tally.note_misfit("timestamp", row)
                    if window is not None:
                        at = as_datetime(row["timestamp"])
                        window.note(at)
                        if not window.admits(at):
                            continue
                    if pushes is not None:
                        pushes.describe(row)
                    if dropped:
                        for column in dropped:
                            del row[column]
                    rows.append(row)
            yield rows

        return make

    @classmethod
    def _events(cls, contact: Row, tally: Tally) -> dict[str, Any]:
        """The time of the event by message id; a message in two maps counts once."""
        times: dict[str, Any] = {}
        for name in cls.maps:
            events = contact.get(name)
            if events.__class__ is dict:
                times = _merged(times, events) if times else events
            elif events:
                tally.skip(f"its {name} is not a map")
        return times


def _last_of_each(contacts: list[Any]) -> list[Any]:
    """The last document of each contact; the API itself repeats none on a page."""
    ids = (as_repeated(contact.get("contact_id")) for contact in contacts)
    return [*{one or at: contacts[at] for at, one in enumerate(ids)}.values()]


def _escaped(contact_id: str) -> str:
    """A contact's id, with the separator used in event ids escaped."""
    return contact_id.replace("%", "%25").replace(":", "%3A")


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Both maps; for a message that is in both, the time in the first, if it has one."""
    return {**first, **second, **{message: when for message, when in first.items() if when}}


class EmailDelivered(EmailEvent):
    """Emails that were delivered."""

    name = "email_delivered"
    event_text = "Email Delivered"
    maps = ("mail_received",)


class EmailOpened(EmailEvent):
    """Emails that were opened."""

    name = "email_opened"
    event_text = "Email Opened"
    maps = ("mail_opened",)


class EmailClicked(EmailEvent):
    """Emails in which a link was clicked."""

    name = "email_clicked"
    event_text = "Email Clicked"
    maps = ("mail_clicked",)


class EmailBounced(EmailEvent):
    """Emails that bounced, temporarily or permanently."""

    name = "email_bounced"
    event_text = "Email Bounced"
    maps = ("mail_bounced", "mail_hardbounced")


class EmailMarkedAsSpam(EmailEvent):
    """Emails that were reported as spam."""

    name = "email_marked_as_spam"
    event_text = "Email Marked as Spam"
    maps = ("mail_complained",)


class EmailUnsubscribed(EmailEvent):
    """Emails through which a contact unsubscribed."""

    name = "email_unsubscribed"
    event_text = "Email Unsubscribed"
    maps = ("mail_unsubscribed",)


class EmailReplied(EmailEvent):
    """Emails that were replied to."""

    name = "email_replied"
    event_text = "Email Replied"
    maps = ("mail_replied",)
