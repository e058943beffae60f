"""Mail: what really happened to every email, and the calls that report it to Segment.

A contact's maps hold one time per message and kind. In truth people open a message more than once
and click several links. The seed and the account determine everything.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any, NamedTuple

from tap_autopilot.sandbox import people
from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.documents import Document, iso, uuid

# The kind of event in each of a contact's maps, and the names of each kind in pushes.
MAPS = {
    "mail_received": "delivered",
    "mail_opened": "opened",
    "mail_clicked": "clicked",
    "mail_bounced": "bounced",
    "mail_hardbounced": "bounced",
    "mail_complained": "complained",
    "mail_unsubscribed": "unsubscribed",
    "mail_replied": "replied",
}
NAMES = {
    "delivered": ("Email Delivered",),
    "opened": ("Email Opened",),
    "clicked": ("Email Clicked", "Email Clicked", "Email Link Clicked"),
    "bounced": ("Email Bounced",),
    "complained": ("Email Marked as Spam",),
    "unsubscribed": ("Email Unsubscribed", "Unsubscribed"),
    "replied": ("Email Replied",),
}
AGAIN = {"opened": 0.4, "clicked": 0.4}  # the chance of a repeat, after each time
DAY = 86_400_000  # milliseconds
MINUTE = 60_000


class Occurrence(NamedTuple):
    """Something that happened to one message of one contact. Times are epoch milliseconds.

    `message` is the email's id in the contact's map, and `key` the end of that id,
    `<13 digits>-<uuid>`; `message_id` is the push's `messageId`. `in_map` is True for the
    occurrence that the contact's map has, with a time within a minute of `at`.
    """

    contact_id: str
    email: str
    kind: str
    message: str
    key: str
    at: int
    in_map: bool
    link: str | None
    message_id: str


def occurrences_of(account: Account, contact_id: str) -> Iterator[Occurrence]:
    """Everything that happened to a contact's messages, including what its maps leave out."""
    document = account.contact(contact_id)
    email = str(document.get("Email") or contact_id)
    seen: set[tuple[str, str]] = set()
    for name, kind in MAPS.items():
        events = document.get(name)
        for message, when in events.items() if isinstance(events, dict) else ():
            if isinstance(when, int) and (kind, message) not in seen:
                seen.add((kind, message))
                yield from _occurrences(account.seed, contact_id, email, kind, message, when)


def _occurrences(
    seed: int, contact_id: str, email: str, kind: str, message: str, when: int
) -> Iterator[Occurrence]:
    name = f"{seed} {contact_id} {kind} {message}"
    rng = random.Random(name)
    links = [link for _, link in _describe(seed, message)["links"]]
    at, in_map, number = when, True, 0
    if rng.random() < 0.2:  # different clocks stamped the map and the push
        at += rng.randrange(-MINUTE, MINUTE)
    while True:
        link = rng.choice(links) if kind == "clicked" else None
        digest = hashlib.sha256(f"{name} {number}".encode()).hexdigest()
        message_id = f"autopilot-{kind}-{digest[:32]}"
        key = key_of(message)
        yield Occurrence(contact_id, email, kind, message, key, at, in_map, link, message_id)
        if rng.random() >= AGAIN.get(kind, 0):
            return
        at, in_map, number = at + rng.randrange(MINUTE, DAY), False, number + 1


def key_of(message: str) -> str:
    """The part of a message's id that maps and pushes have in common."""
    return message.rpartition("_")[2].lower()


def all_occurrences(account: Account) -> list[Occurrence]:
    """Everything that happened to the account's emails, in order."""
    occurrences = [
        occurrence
        for contact_id in account.contact_ids
        for occurrence in occurrences_of(account, contact_id)
    ]
    return sorted(occurrences, key=lambda each: (each.at, each.message_id))


def _describe(seed: int, message: str) -> dict[str, Any]:
    """A message's journey, name, subject and links, the same for every recipient."""
    rng = random.Random(f"{seed} {key_of(message)}")
    journey = rng.choice(people.JOURNEYS)
    name, subject = rng.choice(people.EMAILS)
    return {
        "campaign_id": f"campaign_{uuid(random.Random(f'{seed} {journey}'))}",
        "campaign_name": journey,
        "email_name": name,
        "email_subject": subject,
        "transactional": rng.random() < 0.2,
        "links": [(uuid(rng).lower(), link) for link in rng.sample(people.LINKS, 3)],
    }


def track_call(seed: int, occurrence: Occurrence, *, other_keys: bool = False) -> Document:
    """The `track` call that reports an occurrence, the same each time.

    `seed` is the account's. With `other_keys`, the email's id is unrelated to the one in the
    contact's map.
    """
    rng = random.Random(occurrence.message_id)
    who = random.Random(f"{seed} {occurrence.contact_id}")
    through_segment, user_id = who.random() < 0.2, str(who.randrange(10**5))
    traits = {"email": occurrence.email.upper() if rng.random() < 0.05 else occurrence.email}
    if rng.random() > 0.1:
        traits["contact_id"] = occurrence.contact_id
    known = _describe(seed, occurrence.message)
    link_ids = {link: link_id for link_id, link in known.pop("links")}
    key = _other_key(seed, occurrence.key) if other_keys else occurrence.key
    properties = {"event": occurrence.kind, "email_id": f"batchcampaign_{key.upper()}", **known}
    if occurrence.link is not None:
        properties |= {"link_id": link_ids[occurrence.link], "link_url": occurrence.link}
    return {
        "type": "track",
        "event": rng.choice(NAMES[occurrence.kind]),
        "messageId": occurrence.message_id,
        "timestamp": iso(datetime.fromtimestamp(occurrence.at / 1000, timezone.utc)),
        **({"userId": user_id} if through_segment else {"anonymousId": occurrence.email}),
        "context": {"traits": traits, "integration": {"name": "Autopilot"}},
        "properties": properties,
    }


def _other_key(seed: int, key: str) -> str:
    rng = random.Random(f"{seed} other {key}")
    return f"{rng.randrange(10**12, 10**13)}-{uuid(rng)}"
