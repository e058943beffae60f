"""Whom --erase finds in an event, and what it erases of what remains.

tests/targets runs these again, in PostgreSQL.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from tap_autopilot.collector.commands import erase
from tap_autopilot.collector.database import open_reader, open_store
from tap_autopilot.collector.erase import MAX_IDS, MAX_LINK, erase_person
from tap_autopilot.collector.errands import alone
from tap_autopilot.collector.events import from_hook
from tap_autopilot.collector.prune import prune_range
from tap_autopilot.collector.reader import Event
from tap_autopilot.collector.remnant import Remnant, remains
from tap_autopilot.collector.store import Store
from tests.collector.conftest import NOW, event

ANYWHERE = [
    b'{"email": ["ada@example.com"]}',
    b'{"email": "ada@example.com", "contact_id": " "}',
    b'{"key": "ada@example.com_1700000000"}',
    b'{"Email Address": "ADA@EXAMPLE.COM", "e-mail": 1}',
    b'{"to": {"email": null, "value": "Ada <ada@example.com>"}}',
    b'{"email": "ada@example.com", "email": "bob@example.com"}',
    b'{"a": "x\\nada\\u0040example.com."}',
    b'{"url": "https://x/?q=1&e=ada%40example.com&z"}',
    b'{"url": "https:\\/\\/x\\/?u=https%3A%2F%2Fy%2F%3Fe%3D%2561da%2540example.com"}',
    b'{"ada@example.com": true}',
    json.dumps({"a": json.dumps({"b": json.dumps({"c": "\xe9 ada@example.com\n"})})}).encode(),
    b'{"a": "\\\\u0061da@example.com"}',
    b'{"html": "<a href=\\"mailto:ada&#64;example.com\\">"}',
    b'{"email": "ada@example.com", "x": [%s]}' % b",".join([b"[]"] * 100_000),
    b'{"n": 1%s, "email": "\\u0061da@example.com"}' % (b"0" * 5000),
    b'{"n": %s1%s, "email": "\\u0061da@example.com"}' % (b"[" * 9000, b"]" * 9000),
    b"\xff mailto:ada@example.com?x",
    b'{"a": "&#%s; ada&commat;example.com"}' % (b"9" * 5000),
]
AUTOPILOTS = [b'{"contacts": ["Person_7-ada"]}', b'{"link": "/contacts/person_7-ada/edit"}']
SHORT = [b'{"contact_id": ["7"]}', b'{"Person ID": 7, "email": null}', b"not JSON, 7"]
OTHERS = [
    b'{"email": "not-ada@example.com", "to": "a.ada@example.com", "x": "ada@example.com.au"}',
    b'{"url": "https://x/?e=ada%2540example.com.au&f=lada%40example.com"}',
    b'{"url": "https://x/?e=x%2Bada%40example.com&f=x+ada%40example.com&g=x+ada%2540example.com"}',
    b'{"contacts": ["person_7-ada-2", "xperson_7-ada"], "n": 7, "contact_id": 77}',
    b"not JSON, 77",
]


@pytest.mark.parametrize(
    ("who", "bodies"),
    [("Ada@example.com ", ANYWHERE), ("person_7-Ada", AUTOPILOTS), ("7", SHORT)],
    ids=["address", "Autopilot's id", "short id"],
)
def test_a_person_is_found_wherever_an_event_names_them(
    database: str, store: Store, who: str, bodies: list[bytes]
) -> None:
    store.append([event(body) for body in [*bodies, *OTHERS]])
    done = erase_person(alone(store), who)
    with open_reader(database) as reader:
        assert [one.body for one in reader.read(0, 100) if not one.pruned] == OTHERS
    assert done["erased"] == len(bodies)


def test_an_accent_may_be_a_character_of_its_own(store: Store) -> None:
    """Erasing takes little time, however many accents an event has."""
    slow = "a" + "\u0301" * 200_000 + "\u0327" * 200_000
    texts = ["ren\u00e9@example.com", "Rene\u0301@example.com", f"% {slow}"]
    store.append([event(f'{{"email": "{text}"}}'.encode()) for text in texts])
    for who, count in (("rene\u0301@example.com", 2), ("Ren\u00e9@example.com", 0)):
        done = erase_person(alone(store), who)
        assert (done["erased"], done["others"]) == (count, 0)


def test_a_character_may_be_two_escapes(store: Store) -> None:
    """Even one of JSON in JSON, or one that an event has twice."""
    who = "ada\U0001f600@example.com"
    texts = [f"To {who}", json.dumps({"to": who}), f"{who[:4]}{who}, {who}"]
    others = [f"To {who[4:]}", f"To x{who}", "To ada\ud83d@example.com"]
    store.append([event({"text": text}) for text in [*texts, *others]])
    assert erase_person(alone(store), who)["erased"] == 3


def test_words_may_be_right_beside_an_address(store: Store) -> None:
    """As Korean, Japanese, Thai, and Hebrew have it; but it may be part of a longer one."""
    texts = [
        "%s\uc73c\ub85c",
        "\u5b9b\u5148\u306f%s\u3067\u3059",
        "\u0e16\u0e36\u0e07%s",
        "\u05dc-%s",
    ]
    others = ["\u00e9%s", "%s.\u1ebd", "\u1e25-%s", "%s\u00e9"]
    store.append([event({"text": text % "ada@example.com"}) for text in texts + others])
    assert erase_person(alone(store), "ada@example.com")["erased"] == len(texts)
    store.append([event({"text": "\u043e\u0430\u0434\u0430@example.com"})])
    assert erase_person(alone(store), "\u0430\u0434\u0430@example.com")["erased"] == 0


@pytest.mark.parametrize("sign", ["@", "%40", "%2540"])
def test_a_plus_may_be_part_of_an_address(store: Store, sign: str) -> None:
    """Even in a URL, where not everyone escapes it."""
    urls = [f"https://x/{start}ada+news{sign}example.com" for start in ("?e=", "off/", "?q=Ada+")]
    store.append([event({"url": url}) for url in urls])
    assert erase_person(alone(store), "ada+news@example.com")["erased"] == 2
    assert erase_person(alone(store), "news@example.com")["erased"] == 0


@pytest.mark.parametrize("name", ["\u1ec7", "\u0958", "\uf9e1", "\u00ea\u0323"])
def test_an_address_is_found_as_it_is_given(store: Store, name: str) -> None:
    """Some characters are in neither of the two normal forms."""
    who = f"{name}@example.com"
    store.append([event({"email": who}), event({"text": f"To {who}"})])
    assert erase_person(alone(store), who)["erased"] == 2


@pytest.mark.parametrize("who", ["Strasse@example.com", "Stra\u00dfe@example.com"])
def test_only_letter_case_makes_no_difference(database: str, store: Store, who: str) -> None:
    addresses = ["STRASSE@example.com", "STRA\u00dfE@example.com"]
    theirs = [one for one in addresses if one.lower() == who.lower()]
    store.append([event({name: one}) for one in addresses for name in ("email", "to")])
    assert erase_person(alone(store), who)["erased"] == 2
    with open_reader(database) as reader:
        left = [json.loads(one.body) for one in reader.read(0, 9) if not one.pruned]
    assert [value for one in left for value in one.values() if value in theirs] == []


def test_what_remains_of_pruned_events_is_erased_too(database: str, store: Store) -> None:
    bodies: list[Any] = [
        {"properties": {"contact_id": name, "email_subject": subject}}
        for subject in ("For ada@example.com", "For all") for name in ("p1", "p2")
    ]  # fmt: skip
    ada = "ada@example.com"
    bodies += [{"userId": ada}, {"anonymousId": ada}, {"traits": {"email": ada}}]
    store.append([event(body) for body in bodies])
    prune_range(alone(store), 0, 7, lambda one: remains(one.source, one.body))
    assert erase_person(alone(store), ada)["erased"] == 5
    assert len(store._query("SELECT body FROM messages")) == 1
    with open_reader(database) as reader:
        for left in (2, 1):
            found = [one.body for one in reader.read(0, 7) if one.body != b"{}"]
            assert [b"For all" in body for body in found] == [True] * left
            assert erase_person(alone(store), "p1")["erased"] == left - 1


def test_what_recognizes_repeated_hooks_no_longer_names_them(database: str, store: Store) -> None:
    hooks = [
        hook
        for who in ("person_ada", "person_bob")
        for hook in from_hook("contact_added", b'{"contact_id": "%s"}' % who.encode(), NOW).events
    ]
    assert store.append(hooks) == 2
    assert erase_person(alone(store), "person_ada")["erased"] == 1
    table = "seen" if database.startswith("postgres") else "deliveries"
    left = store._query(f"SELECT about FROM {table} WHERE about IS NOT NULL")
    assert left == [(hooks[1].about,)]
    assert store.append(hooks) == 0


def test_hooks_are_forgotten_slice_by_slice_as_they_are_erased(
    database: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender may have sent a million of them, and an erasure may be interrupted."""
    monkeypatch.setattr(type(store), "prune_slice", 2)
    body = b"[%s]" % b",".join(b'{"contact_id":"p","list_id":%d}' % n for n in range(5))
    store.append(from_hook("contact_added_to_list", body, NOW).events)
    table = "seen" if database.startswith("postgres") else "deliveries"
    query = f"SELECT (SELECT count(*) FROM events), count(about) FROM {table}"
    left: list[tuple[int, int]] = []

    def do(step: Callable[[Store], Any]) -> Any:
        result = step(store)
        left.extend(store._query(query))
        return result

    erase_person(do, "p")
    assert sorted(set(left)) == [(0, 0), (1, 1), (3, 3), (5, 5)]


def test_a_huge_event_connects_nothing(store: Store) -> None:
    """Those that do are erased at once, and requests wait for that."""
    link = {"contact_id": "person_x", "email": "ada@example.com", "text": ""}
    size = len(json.dumps(link))
    store.append(
        [event({**link, "text": "x" * (MAX_LINK - size)}), event({"contact_id": "person_x"})]
    )
    assert erase_person(alone(store), "ada@example.com")["others"] == 1
    store.append([event({**link, "text": "x" * (MAX_LINK - size + 1)})])
    found = erase_person(alone(store), "ada@example.com")
    assert (found["erased"], found["others"]) == (1, 0)


def test_what_only_they_were_told_is_erased_with_their_pruned_events(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tap_autopilot.collector.erase.MAX_MESSAGES", 1)
    told = [("person_ada", "Dear Ada"), ("person_ada", "News"), ("person_bob", "News")]
    for who, subject in told:
        store.append([event({"properties": {"contact_id": who, "email_subject": subject}})])
    prune_range(alone(store), 0, 3, lambda one: remains(one.source, one.body))
    erase_person(alone(store), "person_ada")
    assert store._query("SELECT body FROM messages") == [(b'{"email_subject":"News"}',)]


def test_what_they_were_told_is_erased_by_the_next_erasure_if_one_is_killed(store: Store) -> None:
    told = {"contact_id": "person_ada", "email_subject": "Dear Ada"}
    store.append([event({"properties": told})])
    prune_range(alone(store), 0, 1, lambda one: remains(one.source, one.body))
    store.reduce([], [1])
    assert store.messages(0)
    assert erase_person(alone(store), "person_ada")["erased"] == 0
    assert not store.messages(0)


def test_an_address_of_very_many_contacts_is_erased_alone(database: str) -> None:
    store = open_store(database)

    def named(who: int) -> bytes:
        return b'{"contact_id": "person_%d", "email": "info@example.com"}' % who

    others = [b'{"contact_id": "person_%d"}' % who for who in range(MAX_IDS + 1)]
    store.append([event(body) for body in [*map(named, range(MAX_IDS + 1)), *others]])
    store.close()
    assert erase(database, "info@example.com") == (
        "Erased 101 events of info@example.com"
        " (but not of the more than 100 ids named with it: too many for one)."
    )
    with open_reader(database) as reader:
        assert [one.body for one in reader.read(0, 1000) if not one.pruned] == others


BOB, BOBS = b'{"contact_id": "person_bob", "n": 1}', b'{"personId": "person_bob", "userId": "b@x"}'
EVE, EVES = b'{"id": "person_eve"}', b'{"contact_id": "person_eve", "email": "Eve@example.com"}'
PLANTED = b'{"contact_id": "person_bob", "email": "eve@example.com"}'


@pytest.mark.parametrize(
    ("who", "left", "others"),
    [
        ("eve@example.com", [BOB, BOBS], 1),
        ("person_bob", [EVE, EVES], 1),
        ("b@x", [BOB, EVE, EVES, PLANTED], 0),
    ],
)
def test_nobody_is_erased_because_a_sender_confuses_them_with_someone_else(
    database: str, store: Store, who: str, left: list[bytes], others: int
) -> None:
    store.append([event(body) for body in (BOB, BOBS, EVE, EVES, PLANTED)])
    done = erase_person(alone(store), who)
    assert (done["others"], done["shared"]) == (others, 1)
    with open_reader(database) as reader:
        assert [one.body for one in reader.read(0, 9) if not one.pruned] == left


def test_nobody_is_erased_because_a_sender_claims_an_address_in_everyones_events(
    database: str, store: Store
) -> None:
    others: list[Any] = [
        {"contact_id": "person_bob", "email": "bob@x", "from": "News <news@x>"},
        {"contact_id": "person_bob", "email": "bob@x", "emailAddress": "news@x"},
        {"userId": "77", "from": "news@x"},
        {"contact_id": "person_bob", "from": "news@x", "n": [[]] * 100_000},
    ]
    pruned = {"properties": {"contact_id": "person_bob", "email_subject": "From news@x"}}
    ada: list[Any] = [{"contact_id": "person_ada", "email": "news@x"}, {"from": "news@x"}]
    store.append([event(body) for body in [pruned, *others, *ada]])
    prune_range(alone(store), 0, 1, lambda one: remains(one.source, one.body))
    assert erase_person(alone(store), "person_ada")["erased"] == len(ada)
    with open_reader(database) as reader:
        left = [json.loads(one.body) for one in reader.read(0, 9)]
    assert left[0]["properties"] == {"email_subject": "From news@x"}
    assert left[1:5] == others


def test_whoever_changed_their_address_is_erased_by_their_id(database: str) -> None:
    addresses = [b"old@example.com", b"new@example.com"]
    with closing(open_store(database)) as store:
        for form in (b'{"contactId": "7", "email": "%s"}', b'{"email": "%s"}'):
            store.append([event(form % address) for address in addresses])
    assert erase(database, "new@example.com") == (
        "Erased 2 events of new@example.com (but not of 1 id also named with someone else)."
    )
    assert erase(database, "7") == "Erased 2 events of 7 (and of 1 other id of this person)."


ADA, LINK = {"contact_id": "person_ada"}, {"contact_id": "person_ada", "email": "ada@example.com"}
SHARED = {"contact_id": "person_ada", "email": "bob@x", "to": "ada@example.com"}
PRUNED = {"context": {"traits": {"contact_id": 7, "email": "ada@example.com"}}}
TOLD = {"properties": {"contact_id": "7", "email_subject": "Dear Ada"}}
OF_SOME = [{"contact_id": n} for n in range(2)]


@pytest.mark.parametrize(
    ("events", "left"),
    [
        ([LINK, LINK, ADA, {"userId": "ada@example.com"}], []),
        ([PRUNED, TOLD, {"contact_id": 7}], []),
        ([SHARED, LINK, ADA], [ADA]),
        ([{**one, "email": "ada@example.com"} for one in OF_SOME] + OF_SOME, OF_SOME),
    ],
    ids=["one other id", "pruned", "one also named with someone else", "too many"],
)
def test_an_interrupted_erasure_is_completed_by_the_next_one(
    database: str, store: Store, monkeypatch: pytest.MonkeyPatch, events: list[Any], left: list[Any]
) -> None:
    monkeypatch.setattr("tap_autopilot.collector.erase.MAX_IDS", 1)
    monkeypatch.setattr("tap_autopilot.collector.shared_sql.WIPE_SLICE", 1)
    monkeypatch.setattr(type(store), "prune_slice", 1)

    def prune_some(one: Event) -> Remnant | None:
        is_pruned = json.loads(one.body) in (PRUNED, TOLD)
        return remains(one.source, one.body) if is_pruned else None

    is_whole, steps = False, 0
    while not is_whole:
        before = store.last_seq
        store.append([event(one) for one in events])
        prune_range(alone(store), before, store.last_seq, prune_some)
        steps += 1
        some = iter(range(steps))

        def do(step: Callable[[Store], Any], some: Iterator[int] = some) -> Any:
            if next(some, None) is None:
                raise KeyboardInterrupt
            return step(store)

        try:
            erase_person(do, "ada@example.com")
            is_whole = True
        except KeyboardInterrupt:
            erase_person(alone(store), "ada@example.com")
        with open_reader(database) as reader:
            found = [json.loads(one.body) for one in reader.read(before, 9)]
        assert [one for one in found if one] == left
        assert not store.messages(0)
        store._execute(("DELETE FROM events", [()]), ("DELETE FROM pruned", [()]))
    assert steps > 10


@pytest.mark.parametrize("text", ["%", "%25", "%F0%9F%98%80"])
def test_looking_through_an_event_takes_little_memory(store: Store, text: str) -> None:
    """8 MB of "%", in 8 kB of gzip, took 1.4 GB in the collector."""
    size = 500_000
    store.append(
        [event(b'{"email": "ada@x", "a": "\xf0\x9f\x98\x80%s"}' % (text * size)[:size].encode())]
    )
    tracemalloc.start()
    assert erase_person(alone(store), "bob@x")["erased"] == 0
    assert tracemalloc.get_traced_memory()[1] < 50 * size
    tracemalloc.stop()


@pytest.mark.parametrize("before", range(3))
def test_an_address_is_found_in_however_long_a_quoted_text(store: Store, before: int) -> None:
    quoted = "".join(f"%{byte:02X}" for byte in ("é" * 2000 + " jürgen@example.com").encode())
    store.append([event({"url": "https://example.com?q=" + "%41" * before + quoted})])
    assert erase_person(alone(store), "jürgen@example.com")["erased"] == 1
