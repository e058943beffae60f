"""Erases a person: every event about them, body and all. Repeats are still recognized."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Generator, Iterator
from typing import Any

from tap_autopilot.collector.errands import Errand, Step
from tap_autopilot.collector.prune import prune_slice
from tap_autopilot.collector.remnant import NOTHING, Remnant
from tap_autopilot.collector.store import Pruner

_CONTACT = frozenset({"contactid", "personid"})
_NAMES = _CONTACT | {"email", "emailaddress", "anonymousid", "userid", "previousid"}

Matches = Callable[[bytes], bool]


def erasing(who: str) -> Errand:
    """Erase the events of an email address or contact id.

    An event that names one contact and one address shows that they are the same person, and the
    events of the other are erased as well.
    """
    ids = {who.strip().casefold()}
    person = set(ids)  # and whatever else names them
    last: int = yield lambda store: store.last_seq
    yield from _all_events(last, _noting(ids, person))
    yield from _all_pruned(lambda body: _note(body, ids, person))
    matches = _matching(person)
    yield lambda store: store.wipe(begins=True)
    erased = yield from _all_events(last, lambda *event: NOTHING if matches(event[-1]) else None)
    erased += yield from _all_pruned(matches)
    yield lambda store: store.forget_summary()
    while (yield lambda store: store.release()):
        pass
    yield lambda store: store.wipe(begins=False)
    return {"erased": erased, "others": len(person) - 1}


def _all_events(last: int, choose: Pruner) -> Generator[Step, Any, int]:
    """Replace the bodies of chosen events; returns how many."""
    after = count = 0
    while after < last:
        after, done, _ = yield prune_slice(after, last, choose)
        count += done
    return count


def _all_pruned(matches: Matches) -> Generator[Step, Any, int]:
    """Wipe what remains of those pruned events that match; returns how many."""
    after: int | None = 0
    count = 0
    while after is not None:
        after, done = yield _wiping(after, matches)
        count += done
    return count


def _wiping(after: int, matches: Matches) -> Step:
    def is_about(remnant: Remnant) -> bool:
        contact = json.dumps({"contact_id": remnant.contact}).encode()
        return matches(contact) or (remnant.rest is not None and matches(remnant.rest))

    return lambda store: store.wipe_pruned(after, is_about)


def _noting(ids: Collection[str], person: set[str]) -> Pruner:
    """Chooses nothing, and notes who else the person is."""

    def note(*event: Any) -> None:
        _note(event[-1], ids, person)

    return note


def _note(body: bytes, ids: Collection[str], person: set[str]) -> bool:
    if _may_match(body, ids):
        named = list(_named(_decoded(body)))
        contacts = {value for name, value in named if name in _CONTACT}
        addresses = {value for _, value in named if "@" in value}
        if len(contacts) <= 1 and len(addresses) <= 1 and (contacts | addresses) & set(ids):
            person |= contacts | addresses
    return False


def _matching(ids: Collection[str]) -> Matches:
    """Whether a body is about one of these."""

    def matches(body: bytes) -> bool:
        if not _may_match(body, ids):
            return False
        value = _decoded(body)
        if value is None:  # no JSON
            text = body.decode("utf-8", "replace").casefold()
            return any(name in text for name in ids)
        return any(named in ids for _, named in _named(value))

    return matches


def _may_match(body: bytes, ids: Collection[str]) -> bool:
    """Whether to look closer; most bodies need not be decoded."""
    lower = body.lower()
    return b"\\" in body or any(not name.isascii() or name.encode() in lower for name in ids)


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _named(value: Any) -> Iterator[tuple[str, str]]:
    """The ids and addresses of people in a body, at any depth, with the names of their fields."""
    rest = [value]
    while rest:
        value = rest.pop()
        if isinstance(value, list):
            rest += value
        elif isinstance(value, dict):
            for name, inner in value.items():
                if isinstance(inner, (dict, list)):
                    rest.append(inner)
                else:
                    name = name.replace("_", "").lower()
                    if name in _NAMES and inner not in (None, ""):
                        yield name, str(inner).strip().casefold()
