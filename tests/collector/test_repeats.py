"""Events and deliveries that come again: recognized, or stored once more."""

from __future__ import annotations

import json
import random

import pytest

from tap_autopilot.collector import sqlite_seen
from tap_autopilot.collector.events import MAX_ABOUT, from_hook
from tap_autopilot.collector.sqlite import SqliteStore
from tap_autopilot.collector.store import Unavailable
from tests.collector.conftest import NOW, Collector, Start, event
from tests.collector.test_endpoints import track


@pytest.mark.parametrize("seed", range(8))
def test_ids_are_recognized_wherever_they_are_kept(
    database: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(sqlite_seen, "KEYS_IN_LOG", 20)
    monkeypatch.setattr(sqlite_seen, "STEP", 7)
    choose = random.Random(seed)
    store = SqliteStore(database)
    seen: set[bytes] = set()
    for _ in range(150):
        keys = [b"%d" % choose.randrange(3000) for _ in range(choose.randrange(12))]
        new = len({*keys} - seen)
        match choose.randrange(12):
            case 0:  # a power cut
                store.close()
                store = SqliteStore(database)
            case 1:  # a full disk
                pages = store._query("PRAGMA page_count")[0][0]
                store._query(f"PRAGMA max_page_count = {pages}")
                with pytest.raises(Unavailable):
                    store.append(
                        [event(b"x" * 20_000, key) for key in keys] or [event(bytes(9999))]
                    )
                store._query("PRAGMA max_page_count = 1000000")
        assert store.append([event(key=key) for key in keys]) == new
        seen.update(keys)
    assert store.append([event(key=key) for key in seen]) == 0
    kept = {key for (keys,) in store._query("SELECT keys FROM seen_log") for key in _split(keys)}
    ((indexed,),) = store._query("SELECT count(*) FROM seen")
    assert len(kept) < 60
    assert len(seen) - len(kept) <= indexed < len(seen)
    store.close()


def _split(keys: bytes) -> list[bytes]:
    return [keys[at : at + 16] for at in range(0, len(keys), 16)]


@pytest.mark.parametrize("later", range(5))
def test_ids_outlive_a_failed_commit_and_a_restart(
    database: str, monkeypatch: pytest.MonkeyPatch, later: int
) -> None:
    monkeypatch.setattr(sqlite_seen, "KEYS_IN_LOG", 8)
    monkeypatch.setattr(sqlite_seen, "STEP", 4)
    store = SqliteStore(database)

    def append(*names: str, body: bytes = b"{}") -> int:
        return store.append([event(body, name.encode()) for name in names])

    append(*(f"a{number}" for number in range(8)))  # begins to move
    append(*(f"b{number}" for number in range(8)))
    pages = store._query("PRAGMA page_count")[0][0]
    store._query(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Unavailable):
        append("not", "stored", body=bytes(20_000))
    store._query("PRAGMA max_page_count = 1000000")
    assert append("a0") == 0  # moves the rest
    append("c0", "c1", "c2")
    for number in range(later):
        append(f"d{number}", f"e{number}")
    store.close()
    store = SqliteStore(database)
    assert append("c0", "c1", "c2") == 0
    store.close()


def test_ids_that_the_index_could_confuse_are_told_apart(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_seen, "KEYS_IN_LOG", 1)
    monkeypatch.setattr(sqlite_seen, "STEP", 1)
    for end in (b"abcd", b"abce", b"\xff\xff\xff\xff"):
        assert store.append([event(key=b"12345678" + end)]) == 1
        for number in range(9):  # moves it
            store.append([event(key=end + b"%d" % number)])
    assert store.append([event(key=b"12345678abcd")]) == 0


def test_a_repeated_id_is_acknowledged_but_not_stored(start: Start) -> None:
    """By whatever route it comes again, however it is spelled, and after a restart."""
    collector = start()
    body = json.dumps(track(messageId="the same \u00e9")).encode()
    other = json.dumps(track(messageId="another"), ensure_ascii=False).encode()
    again = json.dumps(track(messageId="the same \u00e9"), ensure_ascii=False).encode()
    assert collector.post("/v1/track", body).status_code == 200
    for call in ("batch", "import"):
        batch = b'{"batch":[%s,%s]}' % (again, other)
        assert collector.post(f"/v1/{call}", batch).status_code == 200
    collector.restart()
    for call in ("track", "identify", "import"):
        batch = b'{"batch":[%s]}' % again if call == "import" else again
        assert collector.post(f"/v1/{call}", batch).status_code == 200
    assert collector.webhook(again) == 200
    assert collector.bodies() == [body, other]


@pytest.mark.parametrize(
    ("ids", "stored"),
    [
        ((b'"one"', b'"two"', b'"one"'), 2),  # even if all else is equal
        *(((none, none), 2) for none in (b"null", b'""', b'"\\u0000"', b"{}", b"[1]")),
    ],
)
def test_only_the_same_id_is_a_repeat(
    shared: Collector, ids: tuple[bytes, ...], stored: int
) -> None:
    for one in ids:
        assert shared.post("/v1/track", b'{"messageId":%s}' % one).status_code == 200
    assert len(shared.events()) == stored


def test_many_hooks_about_one_contact_take_little_time(store: SqliteStore) -> None:
    work = 0

    def count() -> None:
        nonlocal work
        work += 1

    store._connection.set_progress_handler(count, 1000)
    for body in (b"[%s]" % b",".join([b'{"contact_id":"p"}'] * 2000) + b" " * n for n in range(3)):
        assert store.append(from_hook("contact_added", body, NOW).events) == 2000
    assert work < 2000, "thousands of instructions; it would be 60,000 if each looked at all others"


def test_hooks_of_a_huge_delivery_are_not_noted_by_contact() -> None:
    """Autopilot sends one at a time, and noting 100,000 takes a commit seconds."""
    for count, noted in ((MAX_ABOUT, MAX_ABOUT), (MAX_ABOUT + 1, 0)):
        body = b"[%s]" % b",".join(b'{"contact_id":%d}' % number for number in range(count))
        found = from_hook("contact_added", body, NOW).events
        assert (len(found), sum(one.about is not None for one in found)) == (count, noted)
        assert len({one.digest for one in found}) == count


@pytest.mark.parametrize("form", [b"%s", b"[%s]", b"[%s, %s]"])
def test_a_webhook_without_an_id_is_stored_once(start: Start, form: bytes) -> None:
    collector = start()
    calls = [b'{"n":1}', b'{"messageId":null,"n":2}', b'{"messageId":"x","n":3}', b'{"n":4}']
    for _ in range(3):  # sent again by Segment, or by someone who has seen it
        for call in calls:
            assert collector.webhook(form.replace(b"%s", call), signed=call) == 200
    copies = form.count(b"%s")  # within a delivery, equal events without ids are several
    assert collector.bodies() == [
        call for call in calls for _ in range(1 if b'"x"' in call else copies)
    ]
