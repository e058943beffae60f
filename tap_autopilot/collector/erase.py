"""Erases a person: every event about them, body and all. Repeats are still recognized."""

from __future__ import annotations

import html
import json
import re
import time
import unicodedata
import urllib.parse
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from tap_autopilot.collector.errands import Do, all_rows, go_through
from tap_autopilot.collector.events import subject
from tap_autopilot.collector.names import plain
from tap_autopilot.collector.reader import Event
from tap_autopilot.collector.received import row_of
from tap_autopilot.collector.remnant import NOTHING, Remnant, fingerprint
from tap_autopilot.collector.shared_sql import WIPE_SLICE
from tap_autopilot.collector.store import Reduced, Store

WAIT_FOR_READERS = 60.0  # seconds, with those who are reading the store
LOOK_EVERY = 0.2  # seconds
_CONTACT = frozenset({"contactid", "personid"})
_NAMES = _CONTACT | {"email", "emailaddress", "anonymousid", "userid", "previousid"}
_AUTOPILOTS = "person_"  # how Autopilot's contact ids begin
MAX_IDS = 100  # that also name a person; each makes it slower to look through the store
MAX_LINK = 100_000  # bytes of an event that connects ids; hundreds of them are erased at once
MAX_LENGTH = 400  # characters of an id or address, or that count of a field's name
MAX_MESSAGES = 100_000  # in memory
MAX_VALUES = 100_000  # of an event that is decoded; in others, any id is found as text
MAX_DECODED = 4  # an address in a URL in a URL in a URL, or in JSON in JSON
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")  # two escapes of one character
# Parts of a text, because unquote takes 180 bytes for each character of "%%%…".
_QUOTED = re.compile(r"%[0-9a-fA-F]{2}(?:%[0-9a-fA-F]{2}){0,999}(?:%[89abAB][0-9a-fA-F]){0,3}")
_REFERENCE = re.compile(r"&#?[0-9a-zA-Z]{1,9};")  # html would take one of any length
_SHORT = dict.fromkeys("bfnrt", " ")
_LATIN = r"[^\W\u0370-\u1dff\u1f00-\U0010ffff]"  # a letter or digit, or "_"

Matches = Callable[[bytes], bool]


def erase_person(do: Do, who: str) -> dict[str, Any]:
    """Erase the events of an email address or contact id.

    An address, or an id in Autopilot's form, counts wherever it is in an event, also inside a text
    or URL; another id, which may be as short as "7", only in a field for ids. An event that names
    one contact and one address shows that they are the same person, and the events of the other are
    erased as well, unless these are more than MAX_IDS. One that other events name with someone else
    is left, and so is an event of the other that names someone else, because a single sender may
    claim anything.

    If it is interrupted, the next one of the same person finds the rest: the events that show this
    are erased last, and all at once.
    """
    given = _lowered(who)  # which may be in neither form
    ids = {given, *(unicodedata.normalize(form, given) for form in ("NFC", "NFD"))}
    last = do(lambda store: store.last_seq)
    evidence: set[int] = set()  # for each of the others, events that show what it is
    others: set[str] = set()  # what else names this person
    for seq, link in _links(do, last, ids):
        if not link <= others | ids:
            others |= link - ids
            evidence.add(seq)
        if len(others) > MAX_IDS:
            break
    if is_many := len(others) > MAX_IDS:
        others.clear()
    shared: set[str] = set()  # those of them that name someone else, too
    for seq, link in _links(do, last, others) if others else ():
        if link - others - ids and not link & others <= shared:
            shared |= link & others
            evidence.add(seq)
    do(lambda store: store.begin_wipe())
    try:
        erased = _erase(do, last, _matching(ids, others - shared), evidence)
        _delete_unused_messages(do)
        while do(lambda store: store.forget_summary()):
            pass
        while do(lambda store: store.release()):
            pass
    finally:
        is_gone = do(lambda store: store.end_wipe())
    deadline = time.monotonic() + WAIT_FOR_READERS
    while not is_gone and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY)
        is_gone = do(lambda store: store.end_wipe())
    return {
        "erased": erased,
        "others": len(others - shared),
        "shared": len(shared),
        "is_many": is_many,
        "is_gone": is_gone,
    }


def _erase(do: Do, last: int, matches: Matches, evidence: Collection[int]) -> int:
    """Erase the events up to `last` that match, the evidence at the end; returns how many."""
    subjects: set[bytes] = set()
    events: list[Reduced] = []  # of the evidence
    remnants: list[int] = []

    def choose(event: Event) -> Reduced | None:
        if not matches(event.body):
            return None
        if event.source == "hook" and (about := subject(event.body)) is not None:
            subjects.add(about)
        erased = (event._replace(body=b""), NOTHING, fingerprint(*row_of(event)))
        if event.seq not in evidence:
            return erased
        events.append(erased)
        return None

    def choose_remnant(row: tuple[int, Remnant, int | None]) -> int | None:
        seq, remnant, _ = row
        if not matches(_as_body(remnant)):
            return None
        if seq not in evidence:
            return seq
        remnants.append(seq)
        return None

    def slice_after(store: Store, after: int) -> list[Event]:
        return store.prunable(after, last)

    def erase(store: Store, events: Sequence[Reduced], wiped: Sequence[int] = ()) -> None:
        if subjects:
            store.forget_subjects(subjects)
            subjects.clear()
        store.reduce(events, wiped)

    count = go_through(do, slice_after, choose, erase)
    count += go_through(do, Store.remnants, choose_remnant, lambda store, n: erase(store, (), n))
    do(lambda store: erase(store, events, remnants))
    return count + len(events) + len(remnants)


def _delete_unused_messages(do: Do) -> None:
    """Delete the messages that no event is about anymore, maybe since an earlier erasure."""
    messages = all_rows(do, Store.messages)
    while unused := {number for (number,) in islice(messages, MAX_MESSAGES)}:
        for _, _, message in all_rows(do, Store.remnants):
            unused.discard(message)
        while part := list(islice(unused, WIPE_SLICE)):
            do(partial(Store.wipe_messages, numbers=part))
            unused.difference_update(part)


def _as_body(remnant: Remnant) -> bytes:
    contact = json.dumps({"contact_id": remnant.contact}).encode()
    return b"[%s]" % b",".join(filter(None, (contact, remnant.message, remnant.rest)))


def _links(do: Do, last: int, names: Collection[str]) -> Iterator[tuple[int, set[str]]]:
    """The contact and address of events that name only these, and one of the `names`."""
    for seq, body in _bodies(do, last):
        if len(body) <= MAX_LINK and _may_match(body, names):
            contacts, addresses = _people(list(_named(_decoded(body))))
            link = contacts | addresses
            if len(contacts) <= 1 and len(addresses) <= 1 and not link.isdisjoint(names):
                yield seq, link


def _bodies(do: Do, last: int) -> Iterator[tuple[int, bytes]]:
    """The bodies of the events up to `last`, and what remains of them."""
    for event in all_rows(do, lambda store, after: store.prunable(after, last)):
        yield event.seq, event.body
    for seq, remnant, _ in all_rows(do, Store.remnants):
        yield seq, _as_body(remnant)


def _matching(ids: set[str], others: set[str]) -> Matches:
    """Whether a body is about one of these ids, or about one of the others and nobody else."""
    known = ids | others
    texts = {name: _whole(name) for name in known}
    anywhere = {name for name in known if "@" in name or name.startswith(_AUTOPILOTS)}

    def matches(body: bytes) -> bool:
        if not _may_match(body, known):
            return False
        value = _decoded(body)
        named = list(_named(value))
        about = {name for _, name in named}
        if about & ids or (about & others and set().union(*_people(named)) <= known):
            return True
        mentions = ids if value is None else ids & anywhere
        # Others may be in everyone's texts, such as a sender's address, whoever linked it to them.
        if not about and (value is not None or not body.startswith((b"{", b"["))):
            mentions = mentions | others & anywhere
        patterns = [texts[name] for name in mentions]
        return any(pattern.search(text) for text in _readings(body) for pattern in patterns)

    return matches


def _whole(name: str) -> re.Pattern[str]:
    """Finds an address or id in a text, but not as a part of a longer one.

    It ends where another script begins: Korean, Hebrew, and others put words right beside it. What
    precedes it is checked last, since a pattern that begins with a plain text is fast.
    """
    text = re.escape(name)
    before, after = (_LATIN if re.match(_LATIN, end) else r"\w" for end in (name[0], name[-1]))
    if "@" in name:
        after = f"(?!_){after}"  # which is in no domain
    return re.compile(rf"{text}(?!{after}|[.-]{after})(?<!{before}{text})(?<!{before}[.+-]{text})")


def _may_match(body: bytes, ids: Collection[str]) -> bool:
    """Whether to look closer; most bodies need not be decoded."""
    if b"\\" in body or b"%" in body or b"&" in body:
        return True
    lower = body.lower()
    return any(not name.isascii() or name.encode() in lower for name in ids)


def _readings(body: bytes) -> Iterator[str]:
    """A body as a text without the escapes of JSON, URLs and HTML, even within each other."""
    text = body.decode("utf-8", "replace")
    for _ in range(MAX_DECODED):
        before, text = text, _PAIR.sub(_joined, _ESCAPE.sub(_unescaped, text))
        yield text.lower()
        text = _QUOTED.sub(lambda part: urllib.parse.unquote(part[0]), text)
        text = _REFERENCE.sub(lambda one: html.unescape(one[0]), text)
        if before == text:
            return


def _unescaped(escape: re.Match[str]) -> str:
    letter = escape[1]
    return chr(int(letter[1:], 16)) if len(letter) > 1 else _SHORT.get(letter, letter)


def _joined(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16", "surrogatepass").decode("utf-16")


def _lowered(text: str) -> str:
    return text.strip().lower()  # as the tap does; casefold would take "ß" for "ss"


def _decoded(body: bytes) -> Any:
    """The JSON in a body, with objects as tuples of their members.

    None if there is none, or if it has so many values that decoding would hold up the senders.
    """
    if len(body) > MAX_VALUES and sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        return None
    try:
        return json.loads(body, object_pairs_hook=tuple, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None


def _named(value: Any) -> Iterator[tuple[str, str]]:
    """The ids and addresses of people in a body, at any depth, with the names of their fields."""
    rest = [("", value)]
    while rest:
        name, value = rest.pop()
        if isinstance(value, list):
            rest += [(name, inner) for inner in value]
        elif isinstance(value, tuple):
            rest += [(plain(name[:MAX_LENGTH]), inner) for name, inner in value]
        elif (
            name in _NAMES and value is not None and len(str(value)) <= MAX_LENGTH
            and (who := _lowered(str(value)))
        ):  # fmt: skip
            yield name, who


def _people(named: Sequence[tuple[str, str]]) -> tuple[set[str], set[str]]:
    """The contacts and addresses among what a body names."""
    contacts = {value for name, value in named if name in _CONTACT}
    return contacts, {value for _, value in named if "@" in value}
