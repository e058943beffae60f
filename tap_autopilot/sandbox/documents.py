"""The sample account's contacts: people in many scripts, with every oddity the API is known for.

The seed determines everything. Each contact is built from a numbered model. The models repeat after
4,040 contacts, so an account of a million contacts takes little more memory than its ids.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any

from tap_autopilot.sandbox import people

Document = dict[str, Any]

MODELS = 40 * 101  # one in 40 contacts is bare, and oddities repeat every 101: whole cycles of both
BORN = datetime(2015, 3, 1, tzinfo=timezone.utc)  # when the account was opened
NOW = datetime(2017, 2, 1, tzinfo=timezone.utc)  # the account's present, before any changes
HUGE = "1e400"  # served without quotes: a number that no double and no Python float can hold

_EMPTY_MAPS = ("mail_clicked", "mail_bounced", "mail_hardbounced", "mail_complained",
               "mail_unsubscribed", "anywhere_utm")  # fmt: skip


class Documents:
    """Builds contacts, each on some of the lists `list_ids` and sent some of the campaigns."""

    def __init__(
        self,
        seed: int,
        rng: random.Random,
        list_ids: Iterable[str],
        *,
        odd: bool,
        strict: bool,
    ) -> None:
        self._seed = seed
        self._odd = _ODDITIES.keys() - (_REFUSED if strict else ()) if odd else frozenset()
        self._list_ids = tuple(list_ids)
        self._campaigns = [
            (uuid(rng), epoch(BORN + (NOW - BORN) * rng.random()), uuid(rng).lower())
            for _ in range(24)
        ]

    def model(self, number: int) -> Document:
        """The document of a model; its `contact_id` is empty."""
        rng = random.Random(f"{self._seed} {number}")
        document = self._bare(number, rng) if number % 40 == 7 else self._full(number, rng)
        oddity = _ODDITIES[number % 101] if number % 101 in self._odd else None
        if isinstance(oddity, dict):
            document |= copy.deepcopy(oddity)
        elif oddity is not None:
            oddity(document)
        return document

    def new(self, number: int, rng: random.Random) -> Document:
        """The document of a contact who just joined: never changed, never sent an email."""
        no_mail: Document = {name: {} for name in ("mail_received", "mail_opened", *_EMPTY_MAPS)}
        document = self._full(number, rng) | no_mail
        for name in ("updated_at", "mail_replied"):
            document.pop(name, None)
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
        created = BORN + (NOW - BORN) * rng.random()
        return {
            "Email": f"someone.{index}@example.com",
            "created_at": iso(created),
            "api_originated": True,
            "contact_id": "",
        }

    def _full(self, index: int, rng: random.Random) -> Document:
        place = people.PLACES[min(int(rng.expovariate(0.35)), len(people.PLACES) - 1)]
        first, last = rng.choice(place.first_names), rng.choice(place.last_names)
        city, state = rng.choice(place.cities)
        owner = rng.choice(("James Example", "Noor Example", "Žofie Example"))
        created = BORN + (NOW - BORN) * rng.random()
        updated = created + (NOW - created) * rng.random()
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
            "Phone": f"{place.dialing_code} {rng.randrange(10**7, 10**8)}",
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
            "created_at": iso(created),
            "updated_at": iso(updated),
            "first_visit_at": iso(created - timedelta(minutes=rng.randrange(9000))),
            "first_conversion_at": iso(created),
            "lists": [each for each in self._list_ids if rng.random() < 0.25],
            "anywhere_page_visits": {page: True for page in people.PAGES if rng.random() < 0.4},
            "anywhere_form_submits": {"//site/form": True} if rng.random() < 0.3 else {},
            "custom_fields": self._values(rng, updated),
        }
        document.update(dict.fromkeys(_EMPTY_MAPS, [] if rng.random() < 0.1 else {}))
        document.update(self._mail(rng, updated))
        if rng.random() < 0.1:
            del document["updated_at"]
        return document

    def _values(self, rng: random.Random, updated: datetime) -> list[Document]:
        values = {
            "NPS Rating": rng.randrange(11),
            "NPS Date": iso(updated),
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
        last = epoch(updated)
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
            document[name] = epoch(datetime.fromisoformat(document[name].replace("Z", "+00:00")))


def _whole_seconds(document: Document) -> None:
    for name in ("created_at", "updated_at"):
        if name in document:
            document[name] = document[name][:19] + "Z"


# The odd contacts among every 101, by number: what happens to them, or the fields they get.
_ODDITIES: dict[int, Callable[[Document], None] | Document] = {
    3: _respelled,
    5: {"Score": HUGE, "limits": {"upper": [HUGE, 1.5]}},
    11: _epoch_times,
    13: {
        "created_at": "Fri, 02 Dec 2016 15:18:58 GMT",
        "updated_at": "2016-12-02 15:18:58 +0000",
        "first_visit_at": "2016-12-02 15:18:58 UTC",
        "first_conversion_at": " 2016-12-02T15:18:58.000Z ",
    },
    19: _whole_seconds,
    23: {
        "created_at": "2016-02-29T23:59:59.500+10:00",
        "first_visit_at": "2016-02-29T13:59:59",
    },
    31: {
        "lead_score": 12345678901234567890,
        "FavouriteColour": "Blau",
        "geo": {"lat": -33.8688197, "lng": 151.2092955, "tags": ["home", None]},
        "balance": 10.50,
    },
    42: {
        "company_priority": "high",
        "updated_at": "last Tuesday",
        "employeesRange": {"min": "ten"},
        "mail_opened": {"batchdelivery_x": "yes"},
    },
    53: dict.fromkeys(
        ("updated_at", "unsubscribed", "lists", "employeesRange", "MailingCountry"), ""
    ),
    61: dict.fromkeys(
        ("Name", "updated_at", "unsubscribed", "lists", "mail_opened", "custom_fields")
    ),
    71: {"Company": "nul\x00in the middle", "Title": "half an emoji \ud83d"},
    83: {"Industry": "very " * 4000 + "long"},
    91: {
        "created_at": "0001-01-01T00:00:00Z",
        "updated_at": "9999-12-31T23:59:59.999Z",
        "first_visit_at": "10000-01-01T00:00:00Z",
        "first_conversion_at": 253402300800000,
    },
    97: {
        "custom_fields": [
            {"kind": "Tags", "value": ["a", "b"], "fieldType": "list", "deleted": False, "order": 3}
        ]
    },
}
_REFUSED = {5, 71}  # by strict parsers of JSON


def uuid(rng: random.Random) -> str:
    """A random UUID in upper case, as Autopilot writes them."""
    digits = f"{rng.getrandbits(128):032X}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def iso(moment: datetime) -> str:
    """A moment as most of the API's documents write it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def epoch(moment: datetime) -> int:
    """A moment as epoch milliseconds."""
    return int(moment.timestamp() * 1000)


def as_json(value: Any) -> bytes:
    """A value as the API would write it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        body = text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can carry
        body = json.dumps(value, separators=(",", ":")).encode()
    return body.replace(f'"{HUGE}"'.encode(), HUGE.encode())
