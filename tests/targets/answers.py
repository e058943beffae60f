"""Every number of the dbt package, computed from what the sandbox served and what was pushed.

Nothing here is SQL, and nothing reads the loaded tables.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.mail import MAPS, key_of

KINDS = ("delivered", "opened", "clicked", "bounced", "marked_as_spam", "unsubscribed", "replied")
DESCRIPTION = ("email_name", "email_subject", "campaign_id", "campaign_name")
NAMES = {
    "Email Delivered": "delivered",
    "Email Opened": "opened",
    "Email Clicked": "clicked",
    "Email Link Clicked": "clicked",
    "Email Bounced": "bounced",
    "Email Marked as Spam": "marked_as_spam",
    "Email Unsubscribed": "unsubscribed",
    "Unsubscribed": "unsubscribed",
    "Email Replied": "replied",
}

Row = dict[str, Any]
Group = tuple[str, str]


class Event(NamedTuple):
    """An event, pushed or in a contact's map. `at` is in UTC; `said` describes the message."""

    id: str
    kind: str
    at: datetime | None
    contact_id: str | None
    email: str | None
    message: str | None
    is_pushed: bool
    said: Mapping[str, Any]

    @property
    def key(self) -> str | None:
        """What all ids of the message have in common."""
        return key_of(self.message) if self.message else None


@dataclass
class Night:
    """What the sandbox served on one night."""

    contacts: dict[str, Row]
    titles: dict[Group, str]
    members: set[tuple[str, str, str]]

    @classmethod
    def of(cls, account: Account) -> Night:
        """The account as it is now."""
        titles = {("list", one["list_id"]): one["title"] for one in account.lists}
        titles |= {("segment", one["segment_id"]): one["title"] for one in account.segments}
        members = {
            (kind, one, contact_id)
            for kind, one in titles
            for contact_id in (
                account.list_members(one) if kind == "list" else account.segment_members(one)
            )
            or ()
        }
        return cls({one: account.contact(one) for one in account.contact_ids}, titles, members)

    def by_email(self) -> dict[str, str]:
        """The contact with each email; the lowest id, if several have it."""
        found: dict[str, str] = {}
        for contact_id in sorted(self.contacts, reverse=True):
            if email := plain(email_of(self.contacts[contact_id])):
                found[email] = contact_id
        return found


@dataclass
class Answers:
    """What the models should say after these nights, given the calls in the collector's store.

    Without a collector `calls` is None. `left_out` are the email events whose table is not loaded.
    """

    nights: list[Night]
    calls: Collection[Row] | None
    has_changes: bool = True
    left_out: Collection[str] = ()
    now: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    def __post_init__(self) -> None:
        self.last = self.nights[-1]
        self.by_email = self.last.by_email()
        self.events = [one for one in self._events() if one.kind not in self.left_out]
        self.ids = {
            one.key: one.message for one in sorted(self.events, key=lambda one: one.is_pushed)
        }
        self.deliveries: dict[tuple[str, str], list[Event]] = defaultdict(list)
        for one in self.events:
            self.deliveries[self.person(one) or one.id, one.key or one.id].append(one)

    def _events(self) -> Iterable[Event]:
        pushed = [event_of(call) for call in self.calls or ()]
        yield from pushed
        # Who had the email when the push was read, even if that contact has been deleted since.
        had = {email: one for night in self.nights for email, one in night.by_email().items()}
        told = {(one.contact_id or had.get(plain(one.email)), one.kind, one.key) for one in pushed}
        # With a collector the tables are logs; else a contact's events leave with it.
        nights = self.nights if self.calls is not None else self.nights[-1:]
        for contact_id, contact in {
            one: doc for night in nights for one, doc in night.contacts.items()
        }.items():
            seen = set()
            for name, kind in MAPS.items():
                kind = "marked_as_spam" if kind == "complained" else kind
                events = contact.get(name)
                for message, at in events.items() if isinstance(events, dict) else ():
                    if (contact_id, kind, key_of(message)) in told or (kind, message) in seen:
                        continue
                    seen.add((kind, message))
                    moment = (
                        datetime.fromtimestamp(at / 1000, timezone.utc)
                        if isinstance(at, int)
                        else None
                    )
                    yield Event(f"{kind} {contact_id} {message}", kind, moment, contact_id,
                                email_of(contact), message, False, {})  # fmt: skip

    def person(self, one: Event) -> str | None:
        """Whom an event is about."""
        if one.contact_id:
            return one.contact_id
        email = plain(one.email)
        return self.by_email.get(email) or email or None

    # ---- the models

    def tables(self) -> dict[str, list[Row]]:
        """The rows of every model but stg_autopilot__contacts, in no order."""
        contacts = self.contacts()
        messages = self.messages()
        return {
            "stg_autopilot__memberships": [
                {"kind": kind, "group_id": one, "contact_id": contact_id,
                 "title": self.last.titles[kind, one]}
                for kind, one, contact_id in self.last.members
            ],
            "autopilot__contacts": contacts,
            "autopilot__messages": messages,
            "autopilot__journeys": self.journeys(messages),
            "autopilot__groups": self.groups({one["contact_id"]: one for one in contacts}),
            "autopilot__days": self.days(),
            "autopilot__domains": self.domains(),
        }  # fmt: skip

    def contacts(self) -> list[Row]:
        recently = self.now - timedelta(days=90)
        mail: dict[str, list[list[Event]]] = defaultdict(list)
        for (person, _), events in self.deliveries.items():
            mail[person].append(events)
        counts = Counter((contact_id, kind) for kind, _, contact_id in self.last.members)
        rows = []
        for contact_id, contact in self.last.contacts.items():
            events = [one for some in mail[contact_id] for one in some]
            opens = [one for one in events if one.kind == "opened"]
            clicks = [one for one in events if one.kind == "clicked"]
            opened_at, clicked_at = (
                sorted(one.at for one in some if one.at) for some in (opens, clicks)
            )
            last = max(opened_at[-1:] + clicked_at[-1:], default=None)
            unsubscribed = contact.get("unsubscribed", contact.get("Unsubscribed")) is True
            bounced = bool(contact.get("mail_hardbounced"))
            email = email_of(contact)
            rows.append({
                "contact_id": contact_id,
                "email": email,
                **{kind: self.count(mail[contact_id], kind) for kind in KINDS[:4]},
                "first_opened_at": opened_at[0] if opened_at else None,
                "last_opened_at": opened_at[-1] if opened_at else None,
                "last_clicked_at": clicked_at[-1] if clicked_at else None,
                "engagement": "active" if last and last >= recently
                else "lapsed" if opens or clicks else "never",
                "is_unsubscribed": unsubscribed,
                "has_hard_bounced": bounced,
                "is_reachable": bool(plain(email)) and not unsubscribed and not bounced,
                "list_count": counts[contact_id, "list"],
                "segment_count": counts[contact_id, "segment"],
            })  # fmt: skip
        return rows

    def messages(self) -> list[Row]:
        rows = []
        by_message: dict[str, list[list[Event]]] = defaultdict(list)
        for (_, message), events in self.deliveries.items():
            if events[0].key:
                by_message[message].append(events)
        for key, deliveries in by_message.items():
            events = [one for some in deliveries for one in some]
            pushes = [one for one in events if one.is_pushed]
            said = {name: {one.said[name] for one in pushes} for name in DESCRIPTION}
            assert all(len(values) <= 1 for values in said.values())
            delivered_at = [one.at for one in events if one.kind == "delivered" and one.at]
            kinds = Counter(one.kind for one in events)
            rows.append({
                "email_id": self.ids[key],
                **{name: next(iter(values), None) for name, values in said.items()},
                "first_delivered_at": min(delivered_at, default=None),
                **self.counts(deliveries),
                "opens": kinds["opened"],
                "clicks": kinds["clicked"],
                **self.rates(deliveries),
            })  # fmt: skip
        return rows

    def journeys(self, messages: list[Row]) -> list[Row]:
        rows = []
        campaigns = {
            one["campaign_id"]: one["campaign_name"] for one in messages if one["campaign_id"]
        }
        for campaign_id, name in campaigns.items():
            sent = {one["email_id"] for one in messages if one["campaign_id"] == campaign_id}
            keys = {key_of(one) for one in sent}
            deliveries = [some for (_, message), some in self.deliveries.items() if message in keys]
            rows.append({
                "campaign_id": campaign_id, "campaign_name": name, "messages": len(sent),
                **self.counts(deliveries), **self.rates(deliveries),
            })  # fmt: skip
        return rows

    def groups(self, contacts: Mapping[str, Row]) -> list[Row]:
        rows = []
        for (kind, one), title in self.last.titles.items():
            members = [contacts[who] for a, b, who in self.last.members if (a, b) == (kind, one)]
            engaged = Counter(member["engagement"] for member in members)
            joined = left = 0
            for before, after in zip(self.nights, self.nights[1:], strict=False):
                was, now = (
                    {m for m in night.members if m[:2] == (kind, one)} for night in (before, after)
                )
                joined, left = joined + len(now - was), left + len(was - now)
            rows.append({
                "kind": kind, "group_id": one, "title": title, "members": len(members),
                "reachable": sum(member["is_reachable"] for member in members),
                "active": engaged["active"], "lapsed": engaged["lapsed"], "never": engaged["never"],
                "joined_last_30_days": joined if self.has_changes else None,
                "left_last_30_days": left if self.has_changes else None,
            })  # fmt: skip
        return rows

    def days(self) -> list[Row]:
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for events in self.deliveries.values():
            for kind in KINDS:
                if times := [one.at for one in events if one.kind == kind and one.at]:
                    found[min(times).date().isoformat()][kind] += 1
        return [
            {
                "day": day,
                **{kind: None if kind in self.left_out else counts[kind] for kind in KINDS},
            }
            for day, counts in found.items()
        ]

    def domains(self) -> list[Row]:
        found: dict[str, dict[tuple[str, str], list[Event]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for (person, message), events in self.deliveries.items():
            for one in events:
                if one.email and "@" in one.email:
                    domain = plain(one.email).rpartition("@")[2]
                    found[domain][person, message].append(one)
        return [
            {
                "domain": domain,
                **{kind: self.count(some.values(), kind) for kind in ("delivered", "bounced", "marked_as_spam")},
                **{name: self.rates(some.values())[name] for name in ("bounce_rate", "complaint_rate")},
            }
            for domain, some in found.items()
        ]  # fmt: skip

    # ---- counting

    def count(self, deliveries: Iterable[list[Event]], kind: str) -> int | None:
        """How many of these deliveries have such an event."""
        if kind in self.left_out:
            return None
        return sum(any(one.kind == kind for one in some) for some in deliveries)

    def counts(self, deliveries: Collection[list[Event]]) -> Row:
        return {kind: self.count(deliveries, kind) for kind in KINDS}

    def rates(self, deliveries: Iterable[list[Event]]) -> Row:
        kinds = [{one.kind for one in some} for some in deliveries]

        def share(part: set[str], whole: set[str]) -> float | None:
            if (part | whole) & set(self.left_out):
                return None
            of = [some for some in kinds if whole & some]
            return sum(part <= some for some in of) / len(of) if of else None

        return {
            "open_rate": share({"opened"}, {"delivered"}),
            "click_rate": share({"clicked"}, {"delivered"}),
            "click_to_open_rate": share({"clicked"}, {"opened"}),
            "bounce_rate": share({"bounced"}, {"delivered", "bounced"}),
            "complaint_rate": share({"marked_as_spam"}, {"delivered"}),
        }


def event_of(call: Row) -> Event:
    """The event in a pushed call."""
    traits, properties = call["context"].get("traits", {}), call["properties"]
    anonymous = call.get("anonymousId")
    email = traits.get("email") or (anonymous if "@" in (anonymous or "") else None)
    at = datetime.fromisoformat(call["timestamp"].replace("Z", "+00:00"))
    return Event(call["messageId"], NAMES[call["event"]], at, traits.get("contact_id"), email,
                 properties.get("email_id"), True,
                 {name: properties.get(name) for name in DESCRIPTION})  # fmt: skip


def email_of(contact: Row) -> str | None:
    email: str | None = contact.get("Email")
    return email


def plain(email: str | None) -> str:
    return (email or "").strip().lower()
