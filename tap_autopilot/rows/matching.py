"""One event, one row: which events in a contact's maps were also pushed.

A contact's map has one time per message; a push is one event with all its properties. A *polled*
event, from a map, is skipped if it matches a pushed event of the same kind and contact: about the
same message or, failing that, at nearly the same time. Each pushed event matches at most one polled
event.

Autopilot spells message ids differently in maps and in pushes, except for their ending, `<13
digits>-<uuid>`. That ending is the *key* by which messages are compared.
"""

from __future__ import annotations

import functools
import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tap_autopilot.rows.changed import ChangedSince
from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.times import as_datetime, epoch_of, time_in, to_epoch
from tap_autopilot.rows.values import Row

WITHIN = 10 * 60_000  # ms that the two times of one event may be apart
SENDERS_RETRY = 6 * 3_600_000  # ms during which a push may still arrive
DAY = 24 * 3_600_000  # ms; a clock further ahead must be wrong
DESCRIPTION = ("email_name", "email_subject", "campaign_id", "campaign_name", "transactional")
KEY_LENGTH = 50
MAX_KNOWN = 400  # characters of an id that is remembered
MAX_WORK = 2500  # events times pushes; a contact seldom has ten of a kind in an hour
MAX_NEAR = 100_000  # pushes at nearly the times of a contact's events
NO_KEY, NO_TIME = -1, -(2**62)  # in place of those of a push; no hash is -1

_KEY = re.compile(r"\d{13}-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


class Occurrence(NamedTuple):
    """A polled event of a contact: its message's hashed key, and its time in epoch ms."""

    key: int
    at: int | None


@dataclass(frozen=True)
class Pushes:
    """What the store knows about the contacts of a page.

    `by_contact` has the pushed events by kind and contact id: the hashed key of each and its time,
    one after the other, because there may be millions. `description` returns the DESCRIPTION
    columns of a message by the hash of its key. `receiving` has, for each kind, when the first push
    arrived, in epoch milliseconds; `now` is when the store was read.
    """

    by_contact: Mapping[tuple[str, str], Sequence[int]]
    description: Callable[[int], Sequence[Any] | None]
    receiving: Mapping[str, int]
    now: int

    def unpushed(
        self,
        kind: str,
        contact_id: str,
        events: dict[str, Any],
        window: ChangedSince | None,
        tally: Tally,
    ) -> dict[str, Any]:
        """A contact's polled events of a kind that were not also pushed: each message's time.

        Events so recent that a push of them may still arrive are left for the next run. The tally
        counts only events that `window`, if there is one, admits.
        """
        times: dict[str, Any] = {}  # other spellings are slow to parse, so parse each once
        polled = []
        for message, when in events.items():
            time: Any = when if when.__class__ is int else time_in(when)
            times[message] = time
            at = epoch_of(time) if time.__class__ is int else to_epoch(time)
            polled.append(Occurrence(hash_of(message), at))
        pushed = self.by_contact.get((kind, contact_id), ())
        pushes = iter(pushed)
        also_pushed = matched(polled, zip(pushes, pushes, strict=True)) if pushed else ()
        since = self.receiving.get(kind)
        sent = {}
        for number, (message, (_, at)) in enumerate(zip(times, polled, strict=True)):
            counts = window is None or at is None or window.admits(as_datetime(at))
            if number in also_pushed:
                tally.pushed += counts
            elif since is not None and at is not None and self._is_young(at):
                tally.waiting += counts
            else:
                if since is not None and at is not None and since <= at <= self.now:
                    tally.missed += counts
                time = times[message]
                sent[message] = events[message] if time is None else time
        return sent

    def describe(self, row: Row) -> None:
        """Fill the columns of an event that pushes give for its message."""
        described = self.description(hash_of(row["email_id"]))
        if described is not None:
            row.update(zip(DESCRIPTION, described, strict=True))

    def _is_young(self, at: int) -> bool:
        """Whether a push of an event at this time may still arrive."""
        return self.now - SENDERS_RETRY < at < self.now + DAY


def key_of(message: str) -> str:
    """What all spellings of a message's id have in common."""
    ending, before = message[-KEY_LENGTH:], message[-KEY_LENGTH - 1 : -KEY_LENGTH]
    return ending.lower() if _KEY.fullmatch(ending) and not before.isdigit() else message


def hash_of(message: str) -> int:
    """The hash of a message's key, within this process."""
    return _known_hash(message) if len(message) <= MAX_KNOWN else hash(key_of(message))


@functools.lru_cache(maxsize=10_000)  # many events are about one message
def _known_hash(message: str) -> int:
    return hash(key_of(message))


def matched(polled: Sequence[Occurrence], pushed: Iterable[tuple[int, int]]) -> set[int]:
    """The indexes of the polled events of a contact and kind that match a pushed event.

    Keys take precedence over times. A push about another of the contact's messages never matches,
    however close in time. Of the pushes, only those that may matter are kept in memory.
    """
    groups: dict[int, tuple[list[int], list[int]]] = {}
    for number, event in enumerate(polled):
        groups.setdefault(event.key, ([], []))[0].append(number)
    known = sorted(event.at for event in polled if event.at is not None)
    others = array("q")
    for key, at in pushed:
        if key in groups:
            numbers, times = groups[key]
            if len(times) < len(numbers):
                times.append(at)
        elif len(others) < MAX_NEAR:
            place = bisect_left(known, at - WITHIN)
            if place < len(known) and known[place] <= at + WITHIN:
                others.append(at)
    matches: set[int] = set()
    for numbers, times in groups.values():
        if len(numbers) <= len(times):
            matches.update(numbers)
        elif times:
            matches.update(_nearest(polled, numbers, times, DAY * 365 * 10_000))
    rest = [number for number in range(len(polled)) if number not in matches]
    return matches | _nearest(polled, rest, others, WITHIN)


def _nearest(
    polled: Sequence[Occurrence], numbers: Sequence[int], times: Sequence[int], within: int
) -> set[int]:
    """The polled events in the best pairing: the most pairs, then the closest times."""
    events = sorted((at, number) for number in numbers if (at := polled[number].at) is not None)
    matches: set[int] = set()
    for cluster in _clusters(events, times, within):
        matches.update(_pairs(*cluster, within))
    return matches


def _clusters(
    events: list[tuple[int, int]], times: Sequence[int], within: int
) -> list[tuple[list[tuple[int, int]], list[int]]]:
    """Polled events and times of pushes, split wherever there is a gap longer than `within`."""
    clusters: list[tuple[list[tuple[int, int]], list[int]]] = []
    last: int | None = None
    for at, number in sorted([*events, *((at, -1) for at in times)]):
        if last is None or at - last > within:
            clusters.append(([], []))
        last = at
        if number >= 0:
            clusters[-1][0].append((at, number))
        else:
            clusters[-1][1].append(at)
    return [cluster for cluster in clusters if all(cluster)]


def _pairs(events: list[tuple[int, int]], times: list[int], within: int) -> list[int]:
    """The indexes in the best pairing of two sorted sequences; none needs crossing pairs.

    If finding it takes too long, only the number of pairs is the best.
    """
    if len(events) * len(times) > MAX_WORK:
        return _many_pairs(events, times, within)
    # The best pairing of the events so far with each prefix of `times`: the number of pairs, their
    # total distance (negative), and the indexes as a linked list.
    best: list[tuple[int, int, Any]] = [(0, 0, None)] * (len(times) + 1)
    for at, number in events:
        row = [best[0]]
        for place, other in enumerate(times):
            choice = max(best[place + 1], row[place], key=_rank)
            if abs(at - other) <= within:
                count, apart, numbers = best[place]
                pair = (count + 1, apart - abs(at - other), (number, numbers))
                choice = max(choice, pair, key=_rank)
            row.append(choice)
        best = row
    matches, numbers = [], best[-1][2]
    while numbers is not None:
        number, numbers = numbers
        matches.append(number)
    return matches


def _many_pairs(events: list[tuple[int, int]], times: list[int], within: int) -> list[int]:
    """The indexes in a pairing of two sorted sequences with the most pairs: each with the first."""
    matches, place = [], 0
    for at, number in events:
        while place < len(times) and times[place] < at - within:
            place += 1
        if place < len(times) and times[place] <= at + within:
            matches.append(number)
            place += 1
    return matches


def _rank(pairing: tuple[int, int, Any]) -> tuple[int, int]:
    return pairing[:2]
