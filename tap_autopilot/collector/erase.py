"""Erases a person: every event about them, body and all. Repeats are still recognized."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

from tap_autopilot.collector.errands import Do
from tap_autopilot.collector.prune import prune_range
from tap_autopilot.collector.remnant import NOTHING, Remnant
from tap_autopilot.collector.store import Store

PATIENCE = 60.0  # seconds, with those who are reading the store
LOOK_EVERY = 0.2  # seconds
_CONTACT = frozenset({"contactid", "personid"})
_NAMES = _CONTACT | {"email", "emailaddress", "anonymousid", "userid", "previousid"}

Matches = Callable[[bytes], bool]


def erase_person(do: Do, who: str) -> dict[str, Any]:
    """Erase the events of an email address or contact id.

    An event that names one contact and one address shows that they are the same person, and the
    events of the other are erased as well.
    """
    ids = {who.strip().casefold()}
    person = set(ids)  # and whatever else names them
    last = do(lambda store: store.last_seq)
    _erase(do, last, lambda body: _note(body, ids, person))  # erases nothing yet
    do(lambda store: store.begin_wipe())
    erased = _erase(do, last, _matching(person))
    do(lambda store: store.forget_summary())
    while do(lambda store: store.release()):
        pass
    deadline = time.monotonic() + PATIENCE
    while not (is_gone := do(lambda store: store.end_wipe())) and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY)
    return {"erased": erased, "others": len(person) - 1, "is_gone": is_gone}


def _erase(do: Do, last: int, matches: Matches) -> int:
    """Erase the events up to `last` that match; returns how many."""

    def choose(*event: Any) -> Remnant | None:
        return NOTHING if matches(event[-1]) else None

    def is_about(remnant: Remnant) -> bool:
        contact = json.dumps({"contact_id": remnant.contact}).encode()
        return matches(contact) or (remnant.rest is not None and matches(remnant.rest))

    def wipe_slice(store: Store) -> tuple[int, int]:
        return store.wipe_pruned(after, is_about)

    count, _ = prune_range(do, 0, last, choose)
    after = 0
    while True:
        after, wiped = do(wipe_slice)
        if not after:
            return count
        count += wiped


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
