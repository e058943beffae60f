"""One occurrence, one row: which events of a contact's maps have been pushed as well.

A contact's map holds one time for each message, a push is one occurrence with all its properties.
A polled event is left out where a pushed event of its kind and contact stands for it: one about the
same message, or failing that one at nearly the same time. Each pushed event stands for one polled
event at most.

Autopilot spells the ids of messages in its maps and in its pushes differently, but for their ending
`<13 digits>-<uuid>`: that is the *key* by which they are compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import ciso8601

from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.values import Row

WITHIN = 10 * 60_000  # ms between the two times of one occurrence
SENDERS_RETRY = 6 * 3_600_000  # ms in which a push may still come
DESCRIPTION = ("email_name", "email_subject", "campaign_id", "campaign_name", "transactional")

KEY_LENGTH = 50

_KEY = re.compile(r"\d{13}-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


class Push(NamedTuple):
    """An event of some kind and contact: the hash of its message's key, and when, in epoch ms."""

    key: int | None
    at: int | None


@dataclass(frozen=True)
class Pushes:
    """What the store holds about the contacts of a page.

    `by_contact` has the pushes by kind and contact id, `by_email` those that name no contact, by
    kind and email in lower case. `describe` gives the columns DESCRIPTION of a message by the hash
    of its key. `receiving` says for each kind since when, in epoch milliseconds, pushes have been
    received; `now` is the moment to compare with.
    """

    by_contact: Mapping[tuple[str, str], Sequence[Push]]
    by_email: Mapping[tuple[str, str], Sequence[Push]]
    describe: Callable[[int], Sequence[Any] | None]
    receiving: Mapping[str, int]
    now: int

    def merge(self, kind: str, rows: list[Row], tally: Tally) -> list[Row]:
        """The rows of a contact's polled events of a kind for which no pushed event stands.

        Rows that are left have what pushes said about their messages. Those so young that their
        push may still come are left to the next run.
        """
        contact, email = rows[0]["context_traits_contact_id"], rows[0]["context_traits_email"]
        pushes = [
            *self.by_contact.get((kind, contact), ()),
            *self.by_email.get((kind, (email or "").lower()), ()),
        ]
        polled = [Push(hash_of(row["email_id"]), milliseconds(row["timestamp"])) for row in rows]
        told = stood_for(polled, pushes) if pushes else ()
        since = self.receiving.get(kind)
        left = []
        for number, (row, (key, at)) in enumerate(zip(rows, polled, strict=True)):
            if number in told:
                tally.pushed += 1
            elif since is not None and at is not None and at > self.now - SENDERS_RETRY:
                tally.waiting += 1
            else:
                if since is not None and at is not None and at >= since:
                    tally.missed += 1
                assert key is not None
                described = self.describe(key)
                if described is not None:
                    row.update(zip(DESCRIPTION, described, strict=True))
                left.append(row)
        return left


def key_of(message: str) -> str:
    """What the spellings of a message's id have in common."""
    ending, before = message[-KEY_LENGTH:], message[-KEY_LENGTH - 1 : -KEY_LENGTH]
    return ending.lower() if _KEY.fullmatch(ending) and not before.isdigit() else message


def hash_of(message: str) -> int:
    """The hash of a message's key, within this process."""
    return hash(key_of(message))


def milliseconds(time: str | None) -> int | None:
    """A row's time in epoch milliseconds."""
    return None if time is None else round(ciso8601.parse_datetime(time).timestamp() * 1000)


def stood_for(polled: Sequence[Push], pushed: Sequence[Push]) -> Collection[int]:
    """The numbers of the polled events of a contact and kind for which a pushed event stands."""
    by_key: dict[int | None, list[Push]] = {}
    for push in pushed:
        by_key.setdefault(push.key, []).append(push)
    told = set()
    for number, one in enumerate(polled):
        same = by_key.get(one.key)
        if same:
            same.remove(min(same, key=lambda push: _apart(one, push)))
            told.add(number)
    # A push about another message of this contact's is not about this one, however close in time.
    known = {one.key for one in polled}
    free = sorted(push.at for key, pushes in by_key.items() if key not in known
                  for push in pushes if push.at is not None)  # fmt: skip
    waiting = sorted(
        (one.at, number) for number, one in enumerate(polled)
        if number not in told and one.at is not None
    )  # fmt: skip
    place = 0
    for at, number in waiting:
        while place < len(free) and free[place] < at - WITHIN:
            place += 1
        if place < len(free) and free[place] <= at + WITHIN:
            told.add(number)
            place += 1
    return told


def _apart(one: Push, other: Push) -> float:
    """How far apart two events are, in milliseconds."""
    if one.at is None or other.at is None:
        return float("inf")
    return abs(one.at - other.at)
