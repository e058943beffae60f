"""The sample account: invented people in many scripts, with every oddity the API is known for.

Everything follows from the seed and the sizes: the same account on every run, on every machine.
A contact is made when it is asked for, so that an account of a million costs only its ids. From
the 4,041st on, contacts repeat the earlier ones in all but their id.
"""

from __future__ import annotations

import bisect
import random
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any

from tap_autopilot.sandbox import people

Document = dict[str, Any]

MODELS = 40 * 101  # distinct contacts: whole cycles of the bare ones and of the odd ones

_BORN = datetime(2015, 3, 1, tzinfo=timezone.utc)
_NOW = datetime(2017, 2, 1, tzinfo=timezone.utc)
_EMPTY_MAPS = ("mail_clicked", "mail_bounced", "mail_hardbounced", "mail_complained",
               "mail_unsubscribed", "anywhere_utm")  # fmt: skip


class Account:
    """What an Autopilot account holds: contacts in the order of their ids, lists, smart segments.

    `members` is the number of contacts in each smart segment; at least one segment is empty when
    there are three or more, because real accounts have such. `odd` adds the values that clients
    trip over.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        contacts: int = 432,
        lists: int = 8,
        segments: int = 6,
        members: int = 120,
        odd: bool = True,
    ) -> None:
        self.seed = seed
        self.odd = odd
        self.changes = 0  # goes up with every change, so that nobody keeps what is outdated
        self.changed: dict[str, Document] = {}  # contacts that are no longer as they were made
        rng = random.Random(seed)
        self.contact_ids = sorted(f"person_{_uuid(rng)}" for _ in range(contacts))
        self._index = {contact_id: n for n, contact_id in enumerate(self.contact_ids)}
        self.lists = [
            {"list_id": f"contactlist_{_uuid(rng)}", "title": _title(people.LIST_TITLES, n)}
            for n in range(lists)
        ]
        self.segments = [
            {
                "segment_id": f"contactlist_sseg{1456891025207 + n * 168423677}",
                "title": _title(people.SEGMENT_TITLES, n),
            }
            for n in range(segments)
        ]
        rng.shuffle(self.segments)
        self._campaigns = [
            (_uuid(rng), _epoch(_BORN + (_NOW - _BORN) * rng.random()), _uuid(rng).lower())
            for _ in range(24)
        ]
        self._members = min(members, contacts)
        self._segment_members: dict[str, list[str]] = {}
        self._day = _NOW
        self._made = contacts  # how many there ever were

    def __contains__(self, contact_id: str) -> bool:
        return contact_id in self._index

    def contact(self, contact_id: str) -> Document:
        """The document of one contact, as the API would answer it."""
        if contact_id in self.changed:
            return self.changed[contact_id]
        return self.model(self.model_of(contact_id)) | {"contact_id": contact_id}

    def model_of(self, contact_id: str) -> int:
        """The number of the model that a contact is made from."""
        return self._index[contact_id] % MODELS

    def model(self, number: int) -> Document:
        """The document of a model; its `contact_id` is empty."""
        rng = random.Random(f"{self.seed} {number}")
        document = self._bare(number, rng) if number % 40 == 7 else self._full(number, rng)
        oddity = _ODDITIES.get(number % 101)
        if oddity and self.odd:
            oddity(document)
        return document

    def segment_members(self, segment_id: str) -> list[str] | None:
        """The ids of a segment's members, in order; None if there is no such segment."""
        numbers = sorted(segment["segment_id"] for segment in self.segments)
        if segment_id not in numbers:
            return None
        if len(numbers) >= 3 and segment_id == numbers[1]:
            return []
        if segment_id not in self._segment_members:
            rng = random.Random(f"{self.seed} {segment_id}")
            self._segment_members[segment_id] = rng.sample(self.contact_ids, self._members)
        return sorted(self._segment_members[segment_id])

    def list_members(self, list_id: str) -> list[str] | None:
        """The ids of a list's members, in order; None if there is no such list."""
        if all(list_id != one["list_id"] for one in self.lists):
            return None
        return self._list_members.get(list_id, [])

    @cached_property
    def _list_members(self) -> dict[str, list[str]]:
        lists_of = [
            self.model(number).get("lists") or [] for number in range(min(MODELS, self._made))
        ]
        members: dict[str, list[str]] = {}
        for contact_id in self.contact_ids:
            changed = self.changed.get(contact_id)
            lists = changed.get("lists") or [] if changed else lists_of[self.model_of(contact_id)]
            for list_id in lists:
                members.setdefault(list_id, []).append(contact_id)
        return members

    def move_on(self, seed: int) -> None:
        """Let a day go by: the same changes for the same seed and the same account before.

        Some contacts are new, some are gone, some are changed; some joined or left a list or a
        segment; some got, opened or clicked an email. Every contact that is not as it was has an
        `updated_at` of that day.
        """
        for one in self.segments:
            self.segment_members(one["segment_id"])  # settled before the contacts are others
        rng = random.Random(f"{self.seed} moved on by {seed}")
        self._day += timedelta(days=1)
        few = max(1, len(self.contact_ids) // 25)
        for contact_id in rng.sample(self.contact_ids, max(0, min(few, len(self.contact_ids) - 1))):
            self._delete(contact_id)
        for change in (self._renamed, self._relisted, self._mailed):
            for contact_id in rng.sample(self.contact_ids, min(few, len(self.contact_ids))):
                document = change(dict(self.contact(contact_id)), rng)
                self.changed[contact_id] = document | {"updated_at": self._today(rng)}
        for _ in range(few):
            self._create(rng)
        for members in self._segment_members.values():
            others = sorted(set(self.contact_ids) - set(members))
            for contact_id in rng.sample(members, len(members) // 25):
                members.remove(contact_id)
            members += rng.sample(others, min(len(others), len(members) // 25))
        self.__dict__.pop("_list_members", None)
        self.changes += 1

    def _today(self, rng: random.Random) -> str:
        return _iso(self._day + timedelta(seconds=rng.randrange(86_400)))

    def _delete(self, contact_id: str) -> None:
        self.contact_ids.remove(contact_id)
        del self._index[contact_id]
        self.changed.pop(contact_id, None)
        for members in self._segment_members.values():
            if contact_id in members:
                members.remove(contact_id)

    def _create(self, rng: random.Random) -> None:
        contact_id = f"person_{_uuid(rng)}"
        self._index[contact_id] = self._made
        bisect.insort(self.contact_ids, contact_id)
        created = {"contact_id": contact_id, "created_at": self._today(rng)}
        no_mail: Document = {name: {} for name in ("mail_received", "mail_opened", *_EMPTY_MAPS)}
        document = self._full(self._made, rng) | no_mail | created
        self._made += 1
        for name in ("updated_at", "mail_replied"):
            document.pop(name, None)
        self.changed[contact_id] = document

    def _renamed(self, document: Document, rng: random.Random) -> Document:
        return document | {
            "Company": rng.choice(people.COMPANIES),
            "Title": rng.choice(people.JOBS),
        }

    def _relisted(self, document: Document, rng: random.Random) -> Document:
        lists = [one["list_id"] for one in self.lists if rng.random() < 0.25]
        return document | {"lists": lists}

    def _mailed(self, document: Document, rng: random.Random) -> Document:
        message = f"batchdelivery_{_uuid(rng)}"
        at = _epoch(self._day) + rng.randrange(43_200_000)
        events = [("mail_received", 1.0), ("mail_opened", 0.6), ("mail_clicked", 0.3)]
        for name, chance in events:
            if rng.random() > chance:
                break
            document[name] = (document.get(name) or {}) | {message: at}
            at += rng.randrange(1_000_000)
        return document

    @cached_property
    def custom_fields(self) -> list[Document]:
        """The definitions of the account's custom fields."""
        return [
            {"name": "NPS Rating", "fieldType": "integer"},
            {"name": "NPS Date", "fieldType": "date"},
            {"name": "Has Reviewed", "fieldType": "boolean"},
            {"name": "Order Value", "fieldType": "float"},
            {"name": "Lieblingsgericht", "fieldType": "string"},
        ]

    def _bare(self, index: int, rng: random.Random) -> Document:
        created = _BORN + (_NOW - _BORN) * rng.random()
        return {
            "Email": f"someone.{index}@example.com",
            "created_at": _iso(created),
            "api_originated": True,
            "contact_id": "",
        }

    def _full(self, index: int, rng: random.Random) -> Document:
        place = people.PLACES[min(int(rng.expovariate(0.35)), len(people.PLACES) - 1)]
        first, last = rng.choice(place.first_names), rng.choice(place.last_names)
        city, state = rng.choice(place.cities)
        owner = rng.choice(("James Example", "Noor Example", "Žofie Example"))
        created = _BORN + (_NOW - _BORN) * rng.random()
        updated = created + (_NOW - created) * rng.random()
        employees = rng.choice((1, 11, 51, 201, 1001, 10001))
        document: Document = {
            "contact_id": "",
            "type": "Contact",
            "Name": f"{first} {last}",
            "FirstName": first,
            "LastName": last,
            "Salutation": rng.choice(people.SALUTATIONS),
            "Title": rng.choice(people.JOBS),
            "Email": f"contact.{index}@{rng.choice(('example.com', 'example.org', 'example.net'))}",
            "Phone": f"{place.dialling_code} {rng.randrange(10**7, 10**8)}",
            "MobilePhone": "" if rng.random() < 0.5 else f"0{rng.randrange(10**8, 10**9)}",
            "Fax": str(rng.randrange(10**9, 10**10)),
            "Company": rng.choice(people.COMPANIES),
            "company_priority": rng.random() < 0.2,
            "Industry": rng.choice(people.INDUSTRIES),
            "NumberOfEmployees": employees if rng.random() < 0.2 else str(employees),
            "employeesRange": {"min": employees, "max": employees * 5 - 5}
            if employees < 10001
            else {"min": employees},
            "Website": "example.com",
            "Twitter": f"user{index}",
            "LinkedIn": f"https://www.linkedin.com/in/user{index}",
            "MailingStreet": rng.choice(place.streets),
            "MailingCity": city,
            "MailingState": state,
            "MailingPostalCode": f"{rng.randrange(100000):05d}",
            "MailingCountry": place.country,
            "owner_name": owner,
            "owner_first_name": owner.split()[0],
            "Status": rng.choice(people.STATUSES),
            "LeadSource": rng.choice(people.LEAD_SOURCES),
            "unsubscribed": rng.random() < 0.05,
            "api_originated": rng.random() < 0.3,
            "created_at": _iso(created),
            "updated_at": _iso(updated),
            "first_visit_at": _iso(created - timedelta(minutes=rng.randrange(9000))),
            "first_conversion_at": _iso(created),
            "lists": [one["list_id"] for one in self.lists if rng.random() < 0.25],
            "anywhere_page_visits": {page: True for page in people.PAGES if rng.random() < 0.4},
            "anywhere_form_submits": {"//site/form": True} if rng.random() < 0.3 else {},
            "custom_fields": self._custom_fields(rng, updated),
        }
        document.update(dict.fromkeys(_EMPTY_MAPS, [] if rng.random() < 0.1 else {}))
        document.update(self._mail(rng, updated))
        if rng.random() < 0.1:
            del document["updated_at"]
        return document

    def _custom_fields(self, rng: random.Random, updated: datetime) -> list[Document]:
        values = {
            "NPS Rating": rng.randrange(11),
            "NPS Date": _iso(updated),
            "Has Reviewed": rng.random() < 0.5,
            "Order Value": rng.randrange(100000) / 100,
            "Lieblingsgericht": rng.choice(("Spätzle", "", "寿司", None)),
        }
        return [
            {
                "kind": field["name"],
                "value": values[field["name"]],
                "fieldType": field["fieldType"],
                "deleted": rng.random() < 0.02,
            }
            for field in self.custom_fields
            if rng.random() < 0.6
        ]

    def _mail(self, rng: random.Random, updated: datetime) -> Document:
        received, opened, clicked = {}, {}, {}
        last = _epoch(updated)
        for batch, start, run in rng.sample(self._campaigns, rng.randrange(5)):
            message = f"batchdelivery_{batch}_{start}-{run}"
            received[message] = start + rng.randrange(3_600_000)
            if rng.random() < 0.5:
                opened[message] = received[message] + rng.randrange(86_400_000)
                if rng.random() < 0.4:
                    clicked[message] = opened[message] + rng.randrange(60_000)
        mail: Document = {"mail_received": received, "mail_opened": opened}
        if clicked:
            mail["mail_clicked"] = clicked
        if received and rng.random() < 0.05:
            message = rng.choice(list(received))
            mail[rng.choice(("mail_bounced", "mail_hardbounced"))] = {message: last}
            if rng.random() < 0.3:
                mail["mail_bounced"] = mail["mail_hardbounced"] = {message: last}
        if opened and rng.random() < 0.05:
            mail["mail_unsubscribed"] = {rng.choice(list(opened)): last}
        if opened and rng.random() < 0.03:
            mail["mail_replied"] = {rng.choice(list(opened)): last}
        if opened and rng.random() < 0.02:
            mail["mail_complained"] = {rng.choice(list(opened)): last}
        return mail


def _respelled(document: Document) -> None:
    if "unsubscribed" in document:
        document["Unsubscribed"] = document.pop("unsubscribed")


def _epoch_times(document: Document) -> None:
    for name in ("created_at", "updated_at", "first_visit_at"):
        if name in document:
            document[name] = _epoch(datetime.fromisoformat(document[name].replace("Z", "+00:00")))


def _whole_seconds(document: Document) -> None:
    for name in ("created_at", "updated_at"):
        if name in document:
            document[name] = document[name][:19] + "Z"


def _other_zone(document: Document) -> None:
    document["created_at"] = "2016-02-29T23:59:59.500+10:00"
    document["first_visit_at"] = "2016-02-29T13:59:59"


def _unknown_fields(document: Document) -> None:
    document["lead_score"] = 12345678901234567890
    document["FavouriteColour"] = "Blau"
    document["geo"] = {"lat": -33.8688197, "lng": 151.2092955, "tags": ["home", None]}
    document["balance"] = 10.50


def _ill_fitting(document: Document) -> None:
    document["company_priority"] = "high"
    document["updated_at"] = "last Tuesday"
    document["employeesRange"] = {"min": "ten"}
    document["mail_opened"] = {"batchdelivery_x": "yes"}


def _empty_strings(document: Document) -> None:
    for name in ("updated_at", "unsubscribed", "lists", "employeesRange", "MailingCountry"):
        document[name] = ""


def _nulls(document: Document) -> None:
    for name in ("Name", "updated_at", "unsubscribed", "lists", "mail_opened", "custom_fields"):
        document[name] = None


def _bad_text(document: Document) -> None:
    document["Company"] = "nul\x00in the middle"
    document["Title"] = "half an emoji \ud83d"


def _long_text(document: Document) -> None:
    document["Industry"] = "very " * 4000 + "long"


def _extreme_times(document: Document) -> None:
    document["created_at"] = "0001-01-01T00:00:00Z"
    document["updated_at"] = "9999-12-31T23:59:59.999Z"
    document["first_visit_at"] = "10000-01-01T00:00:00Z"
    document["first_conversion_at"] = 253402300800000


def _nested_extras(document: Document) -> None:
    document["custom_fields"] = [
        {"kind": "Tags", "value": ["a", "b"], "fieldType": "list", "deleted": False, "order": 3}
    ]


# Of every 101 contacts, which one is odd, and how.
_ODDITIES = {
    3: _respelled,
    11: _epoch_times,
    19: _whole_seconds,
    23: _other_zone,
    31: _unknown_fields,
    42: _ill_fitting,
    53: _empty_strings,
    61: _nulls,
    71: _bad_text,
    83: _long_text,
    91: _extreme_times,
    97: _nested_extras,
}


def _uuid(rng: random.Random) -> str:
    digits = f"{rng.getrandbits(128):032X}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _title(titles: tuple[str, ...], n: int) -> str:
    return titles[n] if n < len(titles) else f"{titles[n % len(titles)]} {n // len(titles) + 1}"


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _epoch(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
