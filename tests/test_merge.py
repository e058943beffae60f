"""Which of a contact's polled events were also pushed."""

from __future__ import annotations

import collections
import random
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from tap_autopilot.rows.changed import ChangedSince
from tap_autopilot.rows.matching import (
    DESCRIPTION,
    NO_KEY,
    NO_TIME,
    WITHIN,
    Occurrence,
    Pushes,
    _many_pairs,
    hash_of,
    key_of,
    matched,
)
from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.times import as_time, epoch_of, from_epoch, to_epoch
from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.mail import Occurrence as Happened
from tap_autopilot.sandbox.mail import all_occurrences, track_call
from tests.conftest import Serve, Tap
from tests.pushed_store import CALL, MESSAGE, PushedStore, call, read
from tests.replica import EVENT_TABLES
from tests.test_log_based import catalog_of
from tests.test_selection import choose

KEY = "1482219072777-48a06f90-c686-11e6-94c6-07e94ae2263b"
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


@pytest.mark.parametrize(
    ("message", "key"),
    [
        (f"batchdelivery_C6590C90-C68A-11E6-94C6-07E94AE2263B_{KEY}", KEY),
        (f"batchcampaign_{KEY.upper()}", KEY),
        (KEY, KEY),
        (f"x9{KEY}", f"x9{KEY}"),  # 14 digits
        (f"{KEY} ", f"{KEY} "),
        ("Some_Other-ID", "Some_Other-ID"),
        ("", ""),
    ],
)
def test_the_key_of_a_message(message: str, key: str) -> None:
    assert key_of(message) == key


@pytest.mark.parametrize(
    ("polled", "pushed", "expected"),
    [
        # the same message, at any time
        ([(1, 0)], [(1, 10**12)], {0}),
        ([(1, None)], [(1, NO_TIME)], {0}),
        ([(1, 0), (1, None)], [(1, NO_TIME)], set()),
        ([(1, 0)], [], set()),
        ([(1, 0), (1, MINUTE)], [(1, 10**12)], {1}),
        # another message, at nearly the same time
        ([(1, 0)], [(2, 10 * MINUTE)], {0}),
        ([(1, 10 * MINUTE)], [(2, 0)], {0}),
        ([(1, 0)], [(2, 10 * MINUTE + 1)], set()),
        ([(1, None)], [(2, 0)], set()),
        ([(1, 0)], [(2, NO_TIME)], set()),
        ([(1, 0)], [(NO_KEY, 0)], {0}),
        # each push matches only one event
        ([(1, 0), (2, 0)], [(3, 0)], {0}),
        ([(1, 0), (1, MINUTE)], [(1, MINUTE)], {1}),
        ([(1, 0), (1, MINUTE)], [(1, MINUTE), (4, 2 * MINUTE)], {0, 1}),
        # the closest, if the number of pairs is the same
        ([(1, 0), (2, 9 * MINUTE)], [(3, 9 * MINUTE)], {1}),
        ([(1, 0), (2, 9 * MINUTE)], [(3, 9 * MINUTE), (4, 18 * MINUTE)], {0, 1}),
        ([(1, 0), (2, 5 * MINUTE), (3, 6 * MINUTE)], [(8, MINUTE), (9, 6 * MINUTE)], {0, 2}),
        # keys before times: the push of 2 matches 2, though 1 is just as close
        ([(1, 0), (2, 0)], [(2, 0)], {1}),
        ([(1, 0), (2, 0)], [(2, 0), (2, MINUTE)], {1}),
        # as many pairs as possible: events 9 minutes apart, with a push missing
        ([(n, 9 * n * MINUTE) for n in range(4)], [(n + 9, (9 * n + 5) * MINUTE) for n in range(3)],
         {1, 2, 3}),
        # never events too far apart, whatever lies between them
        ([(1, 0), (2, 8 * MINUTE)], [(8, 16 * MINUTE), (9, 17 * MINUTE)], {1}),
        ([(1, 17 * MINUTE), (2, 8 * MINUTE)], [(8, 0), (9, MINUTE)], {1}),
        ([(1, 8 * MINUTE), (2, 0)], [(8, 9 * MINUTE), (9, 10 * MINUTE)], {0, 1}),
    ],
)  # fmt: skip
def test_pairs(
    polled: list[tuple[int, int]], pushed: list[tuple[int, int]], expected: set[int]
) -> None:
    assert matched([Occurrence(*one) for one in polled], pushed) == expected


def pairings(left: list[int], right: list[int]) -> Iterator[tuple[int, int]]:
    """The number of pairs in every possible pairing, and their total distance, negated."""
    if not left:
        yield 0, 0
        return
    yield from pairings(left[1:], right)
    for place, other in enumerate(right):
        apart = abs(left[0] - other)
        if apart <= 10 * MINUTE:
            for count, total in pairings(left[1:], right[:place] + right[place + 1 :]):
                yield count + 1, total - apart


def test_no_pairing_has_more_pairs_or_closer_times() -> None:
    rng = random.Random(1)
    for _ in range(300):
        left, right = (
            [rng.randrange(40) * MINUTE for _ in range(rng.randint(0, most))] for most in (5, 3)
        )
        found = matched(
            [Occurrence(number, at) for number, at in enumerate(left)],
            [(NO_KEY, at) for at in right],
        )
        best = max(pairings(left, right))
        assert len(found) == best[0]
        assert max(pairings([left[number] for number in found], right)) == best
        events = sorted((at, number) for number, at in enumerate(left))
        quickly = _many_pairs(events, sorted(right), WITHIN)
        assert len(quickly) == best[0]
        assert max(pairings([left[number] for number in quickly], right))[0] == best[0]


def test_months_of_events_minutes_apart_are_matched_in_no_time() -> None:
    many = range(20_000)
    pushed = [(NO_KEY, 9 * MINUTE * number) for number in many]
    polled = [Occurrence(number, 9 * MINUTE * number + HOUR) for number in many]
    assert len(matched(polled, pushed)) == 19_994


NOW = 1_600_000_000_000


def store(receiving: int | None = NOW - 9 * DAY, **pushed: int) -> Pushes:
    """A store with these pushes of the contact's opens, and a description of the message "told"."""
    return Pushes(
        {
            ("email_opened", "c"): [
                part for one, at in pushed.items() for part in (hash_of(one), at)
            ]
        },
        {hash_of("told"): ("name", "subject", None, "campaign", False)}.get,
        {} if receiving is None else {"email_opened": receiving},
        NOW,
    )


@pytest.mark.parametrize(
    ("at", "receiving", "fate"),
    [
        (NOW, None, "left"),
        (NOW, NOW, "waiting"),
        (NOW - 6 * HOUR + 1, NOW, "waiting"),
        (NOW - 6 * HOUR, NOW - DAY, "missed"),
        (NOW - 6 * HOUR, NOW - 6 * HOUR, "missed"),
        (NOW - 6 * HOUR, NOW - 6 * HOUR + 1, "left"),
        (NOW + DAY - 1, NOW - DAY, "waiting"),
        (NOW + DAY, NOW - DAY, "left"),
        (None, NOW - DAY, "left"),
    ],
)
@pytest.mark.parametrize("counted", [True, False])
def test_the_fate_of_an_event_that_was_not_pushed(
    at: int | None, receiving: int | None, fate: str, counted: bool
) -> None:
    late = datetime(2100, 1, 1, tzinfo=timezone.utc)
    tally, window = Tally("email_opened"), None if counted else ChangedSince(late, late)
    events = {"m": at}
    left = store(receiving, other=0).unpushed("email_opened", "c", events, window, tally)
    assert left == ({} if fate == "waiting" else events)
    counts = {"pushed": tally.pushed, "waiting": tally.waiting, "missed": tally.missed}
    assert counts == {
        **dict.fromkeys(counts, 0),
        **({fate: 1} if fate != "left" and counted else {}),
    }


def test_events_that_were_pushed_are_skipped_and_the_others_described() -> None:
    tally = Tally("email_opened")
    pushes = store(a=9 * DAY, b=0)
    events = {"a": 5000, "told": from_epoch(5000 + DAY), "b": None, "other": 2 * DAY}
    left = pushes.unpushed("email_opened", "c", events, None, tally)
    assert left == {"told": events["told"], "other": 2 * DAY}
    assert (tally.pushed, tally.waiting, tally.missed) == (2, 0, 0)
    described = {"email_name": "name", "email_subject": "subject", "campaign_id": None,
                 "campaign_name": "campaign", "transactional": False}  # fmt: skip
    for message, filled in (("told", described), ("other", dict.fromkeys(DESCRIPTION))):
        row = {"email_id": message, "link_id": None, **dict.fromkeys(DESCRIPTION)}
        pushes.describe(row)
        assert row == {"email_id": message, "link_id": None, **filled}
    for kind, contact_id in (("email_clicked", "c"), ("email_opened", "d")):
        assert store(a=5000).unpushed(kind, contact_id, {"a": 5000}, None, Tally(kind))


def test_a_time_is_read_once() -> None:
    events: dict[str, Any] = {
        "a": "02 Jun 2017 15:18:58 +0130",
        "b": "soon",
        "c": [],
        "d": None,
        "e": 2 * DAY,
    }
    left = store(other=0).unpushed("email_opened", "c", events, None, Tally("email_opened"))
    assert left == events | {"a": "2017-06-02T13:48:58Z"}


@pytest.mark.parametrize(
    ("time", "at"),
    [
        (None, None),
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.0019Z", 1001),
        ("1969-12-31T23:59:59.999Z", -1),
        ("9999-12-31T23:59:59.999Z", 253402300799999),
        ("0001-01-01T00:00:00.000Z", -62135596800000),
    ],
)
def test_times_in_milliseconds(time: str | None, at: int | None) -> None:
    assert to_epoch(time) == at
    assert epoch_of(time) == at
    if at is not None:
        assert epoch_of(at) == to_epoch(as_time(at)) == at


@pytest.mark.parametrize("value", [253402300800000, -62135596800001, "", "soon", True, [], {}])
def test_what_is_no_time_has_no_milliseconds(value: Any) -> None:
    assert epoch_of(value) is None


# With a store


@pytest.mark.parametrize("ids", ["equal", "their endings equal", "unrelated"])
def test_pushed_and_polled_events_together_match_the_account(
    tap: Tap, serve: Serve, store: PushedStore, ids: str
) -> None:
    other_keys = ids == "unrelated"
    account = Account(contacts=400, segments=1, odd=False)
    occurrences = all_occurrences(account)
    withheld = {one.message_id for n, one in enumerate(occurrences) if n % 7 == 3}
    sent = [one for one in occurrences if one.message_id not in withheld]
    calls = [track_call(account.seed, one, other_keys=other_keys) for one in sent]
    for one, pushed_call in zip(sent, calls, strict=True):
        if ids == "equal":
            pushed_call["properties"]["email_id"] = one.message
    store.webhook([*calls[::-1], *calls[:50]], at=0)
    run = tap.sync(serve(account), collector_database=store.path)
    assert run.code == 0
    for kind, table in EVENT_TABLES.items():
        pushed = {one.message_id for one in sent if one.kind == kind}
        rows = run.rows(table)
        assert len({row["id"] for row in rows}) == len(rows)
        assert pushed <= {row["id"] for row in rows}
        polled = [row for row in rows if row["id"] not in pushed]
        expected = expected_polled(occurrences, withheld, kind, by_key=not other_keys)
        found = collections.Counter(row["context_traits_contact_id"] for row in polled)
        if other_keys:  # of two at nearly the same time, either may be the pushed one
            assert not found - collections.Counter(one.contact_id for one in expected)
        else:
            assert {(row["context_traits_contact_id"], row["email_id"]) for row in polled} == {
                (one.contact_id, one.message) for one in expected
            }
    described = [row for row in run.rows("email_opened") if row["id"].startswith("email_opened:")]
    assert described
    assert all((row["campaign_name"] is not None) != other_keys for row in described)
    assert not run.of("ACTIVATE_VERSION", "email_opened")
    assert run.of("ACTIVATE_VERSION", "contacts")


def expected_polled(
    occurrences: list[Happened], withheld: set[str], kind: str, *, by_key: bool
) -> list[Happened]:
    """The events in maps whose push was withheld; by key, only if no repetition was pushed."""
    pushed = {
        (one.contact_id, one.message)
        for one in occurrences
        if one.kind == kind and one.message_id not in withheld
    }
    return [
        one
        for one in occurrences
        if one.kind == kind
        and one.in_map
        and one.message_id in withheld
        and not (by_key and (one.contact_id, one.message) in pushed)
    ]


def test_a_long_text_stays_with_its_own_push(store: PushedStore) -> None:
    long, limit = "x" * 501, "y" * 500
    store.track(call("m", properties={"email_subject": long, "email_name": limit}))
    contact = {"contact_id": "c", "mail_clicked": {MESSAGE: 1000}}
    run = read(store, contact)
    for table, expected in (("email_opened", (long, limit)), ("email_clicked", (None, limit))):
        (row,) = run.rows(table)
        assert (row["email_subject"], row["email_name"]) == expected


@pytest.mark.parametrize(
    "names",
    [
        {"context": {"traits": {"email": "ADA@example.com"}}},
        {"userId": " Ada@Example.com"},
        {"anonymousId": "ada@example.com"},
        {"userId": "ada@example.com", "anonymousId": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"},
        {"traits": {"email": "ADA@example.com "}, "anonymousId": "bob@example.com"},
        {"properties": {"Email": "ada@example.com"}},
    ],
)
def test_a_push_without_contact_id_belongs_to_the_contact_with_its_email(
    store: PushedStore, names: dict[str, Any]
) -> None:
    contact = {"contact_id": "c", "email": "Ada@example.com ", "mail_opened": {MESSAGE: 1000}}
    other = {"contact_id": "d", "email": "bob@example.com", "mail_opened": {MESSAGE: 1000}}
    nameless: dict[str, Any] = {"userId": None, "anonymousId": None, "context": {}}
    store.track(call("m", **{**nameless, **names}))
    rows = read(store, contact, other).rows("email_opened")
    assert [row["id"] for row in rows] == ["m", f"email_opened:d:{MESSAGE}"]
    assert rows[1]["email_subject"] == "Welcome"  # one push describes the message for everyone


def test_kinds_are_kept_apart(store: PushedStore) -> None:
    contact = {"contact_id": "person_1", "mail_opened": {MESSAGE: 0}, "mail_clicked": {MESSAGE: 0}}
    store.track(call("m"))
    run = read(store, contact)
    assert [row["id"] for row in run.rows("email_opened")] == ["m"]
    assert [row["id"] for row in run.rows("email_clicked")] == [f"email_clicked:person_1:{MESSAGE}"]


def test_contacts_with_the_same_email_do_not_share_a_push(store: PushedStore) -> None:
    first = {"contact_id": "c", "email": "ada@example.com", "mail_opened": {"x": 1000, "y": 2000}}
    second = {"contact_id": "d", "email": "ADA@example.com", "mail_opened": {"z": 1000}}
    store.track(call("m", context={}, timestamp="1970-01-01T00:00:01Z"))
    rows = read(store, first, second, first).rows("email_opened")
    assert {row["id"] for row in rows} == {"m", "email_opened:c:y", "email_opened:d:z"}


def test_only_selected_streams_and_columns_are_written(store: PushedStore) -> None:
    store.track(CALL, call("m", properties={"email_id": "other"}))
    catalog = catalog_of({"email_opened": "FULL_TABLE"})
    choose(catalog, "email_opened", "properties", "email_id", selected=False)
    choose(catalog, "email_opened", "properties", "timestamp", selected=False)
    contact = {"contact_id": "person_1", "mail_opened": {MESSAGE: 1000}}
    run = read(store, contact, catalog=catalog)
    assert {one["stream"] for one in run.of("RECORD")} == {"email_opened"}
    pushed, polled = run.rows("email_opened")
    assert "email_id" not in pushed
    assert polled["email_name"] == "First", "from the click of the same message"
