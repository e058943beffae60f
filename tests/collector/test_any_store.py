"""What holds for every store, in a file as in PostgreSQL, where tests/targets runs these again."""

from __future__ import annotations

import json
import sqlite3
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from tap_autopilot.collector.database import open_reader, open_store
from tap_autopilot.collector.errands import alone, go_through
from tap_autopilot.collector.prune import prune_range
from tap_autopilot.collector.reader import Cursor, Event
from tap_autopilot.collector.received import REPEAT_WINDOW, Received
from tap_autopilot.collector.remnant import NOTHING, Remnant
from tap_autopilot.collector.shared_sql import WIPE_SLICE
from tap_autopilot.collector.store import SWEEP_SLICE, Loaded, Store
from tap_autopilot.collector.summary import SAVE_SLICE, Summary
from tap_autopilot.exceptions import UserError
from tests.collector.conftest import NOW, event


def test_events_are_read_unchanged_and_in_order(database: str, store: Store) -> None:
    assert store.append([event(b'{"n": "\\ud800"}'), event(b"\x00text"), event(b"x" * 9_000)]) == 3
    with open_reader(database) as reader:
        first, second, third = reader.read(0, 10)
        assert first == Event(
            1, NOW, "segment", "track", "Email Opened", b'{"n": "\\ud800"}', False
        )
        assert [second.body, third.body] == [b"\x00text", b"x" * 9_000]
        assert reader.read(1, 10) == [second, third]
        assert reader.read(1, 1) == [second]
        assert reader.last_seq == 3
        store.append([event()])  # a reader does not hold up the writer, and sees what it wrote
        assert reader.last_seq == 4
        assert reader.store_id == store.store_id


def test_large_events_are_read_a_few_at_a_time(database: str, store: Store) -> None:
    for _ in range(6):
        store.append([event(b'"%s"' % (b"x" * 7_000_000))])
    with open_reader(database) as reader:
        after, reads = 0, []
        while found := reader.read(after, 1000):
            reads.append(len(found))
            after = found[-1].seq
    assert reads == [3, 3]


def test_a_restart_forgets_nothing(database: str) -> None:
    with pytest.raises(UserError, match="There is no store"):
        open_reader(database)
    store = open_store(database)
    assert store.append([event(key=b"a"), event(key=b"a"), event(key=b"b"), event()]) == 3
    store.save_cursor("warehouse", Cursor(5, 4, 1))
    store.close()
    again = open_store(database)
    assert again.store_id == store.store_id
    assert again.append([event(key=b"a", at=NOW + 10 * REPEAT_WINDOW), event(key=b"c")]) == 1
    assert again.cursors() == {"warehouse": Cursor(5, 4, 1)}
    again.close()


@pytest.mark.parametrize("repeated", [None, 0, 57, 122])
def test_a_large_commit_keeps_its_order_and_drops_only_what_was_stored(
    database: str, store: Store, repeated: int | None
) -> None:
    kept = list(range(123))  # a file gets 1 statement for 100, 2 for 10 each and 3 for one each
    if repeated is not None:
        kept.remove(repeated)
        assert store.append([event(b"first", b"%d" % repeated)]) == 1
    events = [event(b"%d" % number, b"%d" % number) for number in range(123)]
    delivery = event(b"delivery", b"d", for_good=False)
    assert store.append([*events, delivery, events[1]]) == len(kept) + 1
    assert store.append([delivery, *events]) == 0
    with open_reader(database) as reader:
        bodies = [one.body for one in reader.read(0, 1000) if one.body != b"first"]
        assert bodies == [*(b"%d" % number for number in kept), b"delivery"]
        assert reader.stats()["events"] == 124


@pytest.mark.parametrize(
    "moments",
    [
        [(0, 1), (REPEAT_WINDOW - 1, 0), (REPEAT_WINDOW, 1), (REPEAT_WINDOW + 1, 0)],
        [(0, 1), (-1, 0), (-REPEAT_WINDOW, 0)],  # a clock that steps back a little
        [(100 * REPEAT_WINDOW, 1), (REPEAT_WINDOW, 1)],  # one that was ahead
    ],
)
def test_a_delivery_without_an_id_is_stored_again_after_an_hour(
    store: Store, moments: list[tuple[int, int]]
) -> None:
    for later, stored in moments:
        assert store.append([event(key=b"d", for_good=False, at=NOW + later)]) == stored


def test_deliveries_are_forgotten_a_slice_at_a_time(store: Store) -> None:
    # One request may have 25,000, all of which have had their hour at the same time.
    sent = [event(key=b"%d" % n, for_good=False) for n in range(SWEEP_SLICE + 1)]
    assert store.append([*sent, event(key=b"for good")]) == SWEEP_SLICE + 2
    for later, more in ((-1, False), (0, True), (0, False)):
        assert store.sweep(NOW + REPEAT_WINDOW + later) == more
    assert store.append([*sent, event(key=b"for good")]) == SWEEP_SLICE + 1


def test_another_delivery_about_the_same_thing_makes_the_first_one_new_again(store: Store) -> None:
    added, removed, other = (
        event(key=bytes([n]) * 16, for_good=False)._replace(about=about)
        for n, about in enumerate((b"ada", b"ada", b"bob"))
    )
    assert store.append([added, added, other, added]) == 2
    for again, stored in ((removed, 1), (removed, 0), (added, 1), (added, 0), (other, 0)):
        assert store.append([again]) == stored
    twins = [added._replace(digest=b"d" * 12 + bytes([n]) * 4) for n in range(2)]
    assert [store.append(twins), store.append(twins)] == [2, 0]  # of one delivery


def test_cursors_never_move_back(database: str, store: Store) -> None:
    assert store.cursors() == {}
    for cursor in (Cursor(5, 4, 1), Cursor(6, 5, 1), Cursor(5, 9, 9)):
        store.save_cursor("warehouse", cursor)
    with open_reader(database) as reader:
        assert reader.cursors() == store.cursors() == {"warehouse": Cursor(6, 5, 1)}
    store.forget_cursor("warehouse")
    assert store.cursors() == {}


def test_a_slice_of_pruning_is_bounded(database: str, store: Store) -> None:
    last = store.prune_slice + 1
    store.append([event()] * last)
    assert [one.seq for one in store.prunable(0, 10**9)] == list(range(1, last))
    assert [one.seq for one in store.prunable(0, 2)] == [1, 2]
    assert prune_range(alone(store), store.prune_slice, 10**9, lambda *_: NOTHING)[0] == 1
    assert store.prunable(store.prune_slice, 10**9) == []
    assert prune_range(alone(store), 0, 10**9, lambda *_: NOTHING)[0] == store.prune_slice
    with open_reader(database) as reader:
        assert [one.seq for one in reader.read(1, 9)] == list(range(2, 11))


def test_choosing_what_to_prune_is_no_part_of_a_step(store: Store) -> None:
    """Requests wait for a step, and an event may take seconds to look through."""
    store.append([event(b'{"email":"ada@example.com"}')] * (store.prune_slice + 1))
    steps = []

    def do(step: Callable[[Store], Any]) -> Any:
        steps.append("begins")
        result = step(store)
        steps.append("ends")
        return result

    def choose(*_: Any) -> Remnant:
        assert steps[-1] == "ends"
        return NOTHING

    assert prune_range(do, 0, 10**9, choose)[0] == store.prune_slice + 1
    assert len(steps) == 2 * 3


def test_looking_through_a_slice_for_long_gives_signs_of_life(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What remains of 500 events may be 40 MB, and a command waits for a minute only."""
    monkeypatch.setattr("tap_autopilot.collector.errands.TELL_EVERY", -1.0)
    store.append([event()] * 9)
    prune_range(alone(store), 0, 9, lambda _: NOTHING)
    steps = [0]

    def do(step: Callable[[Store], Any]) -> Any:
        steps.append(0)
        return step(store)

    def choose(_: Any) -> None:
        steps[-1] += 1

    assert go_through(do, Store.remnants, choose, lambda *_: None) == 0
    assert max(steps) == 1


def test_a_pruned_event_keeps_what_identifies_it(database: str, store: Store) -> None:
    store.append([event(b"x"), event(b"y"), event(b"z")])
    left = Remnant("ada", 5, b'{"email_id":"m"}', b'{"userId":"u"}')
    with open_reader(database) as reader:
        marks = [reader.fingerprint(seq) for seq in (1, 2, 3)]
        assert len({*marks}) == 3
        assert reader.fingerprint(10**9) is None
        assert prune_range(alone(store), 0, 2, lambda *_: left)[0] == 2
        assert [reader.fingerprint(seq) for seq in (1, 2, 3)] == marks
        whole = (
            b'{"userId":"u","timestamp":"1970-01-01T00:00:00.005Z",'
            b'"context":{"traits":{"contact_id":"ada"}},"properties":{"email_id":"m"}}'
        )
        assert [(one.body, one.pruned) for one in reader.read(0, 3)] == [
            (whole, True), (whole, True), (b"z", False),
        ]  # fmt: skip
    store.save_pruned_up_to({"a": Loaded(1), "b": Loaded(2, "x")})
    store.save_pruned_up_to({"a": Loaded(3)})
    assert store.pruned_up_to() == {"a": Loaded(3), "b": Loaded(2, "x")}


def test_statistics_come_from_kept_counts(database: str, store: Store) -> None:
    store.append([event(key=b"a"), event(key=b"a"), event(at=NOW + 5)])
    store.append([Received(NOW, "hook", "hooks", "contact_added", b"{}", None, True)])
    prune_range(alone(store), 0, 1, lambda *_: NOTHING)
    assert store.probe() + 1 == store.probe()
    with open_reader(database) as reader:
        found = reader.stats()
        assert found.pop("bytes") > 0
        assert found.pop("last_seq") == reader.last_seq
        assert found == {
            "store_id": store.store_id, "events": 3, "pruned": 1, "first_seq": 1,
            "by_source": {"segment": 2, "hook": 1},
            "by_event": {"Email Opened": 2, "contact_added": 1},
            "last_received_at": {
                "segment": "2023-11-14T22:13:20.005Z", "hook": "2023-11-14T22:13:20.000Z",
            },
        }  # fmt: skip
        assert reader.probed == store.probe() - 1


def test_statistics_list_the_most_frequent_events(database: str, store: Store) -> None:
    """Listing two million, of 80 requests, took 680 MB."""
    names = [*map(str, range(1500)), "1499"]
    store.append([event(name=name) for name in names])
    with open_reader(database) as reader:
        listed = reader.stats()["by_event"]
    assert (next(iter(listed.items())), len(listed)) == (("1499", 2), 1000)


def test_a_summary_has_the_first_the_last_and_the_undated_event_of_a_message(
    database: str, store: Store
) -> None:
    said = {"properties": {"email_id": "m"}}
    times = [{"timestamp": f"1970-01-01T00:00:0{n}Z"} for n in (5, 1, 3)]
    store.append([event({**said, **one}) for one in (*times, {})])
    with open_reader(database) as reader:
        for number, one in enumerate(reader.read(0, 4)):
            summary = Summary(number)
            summary.add(one)
            summary.save(store)
        assert reader.summarized_up_to == store.summarized_up_to == 4
        first, last, undated = reader.summary()
        assert [b"00:00:01" in first.body, b"00:00:05" in last.body] == [True, True]
        assert (undated.seq, json.loads(undated.body)) == (4, said)
        summary.undated, summary.after, summary.up_to = [5], 4, 5
        store.append([event(b'{"x":"%s","properties":{"email_id":"n"}}' % (b"x" * 10**6))])
        summary.save(store)
        assert [*reader.summary()][-1].body == b'{"properties":{"email_id":"n"}}'
        earlier = [0, 5]
        for _ in range(2):
            store.forget_summary()  # as --erase does
            for summary.after in earlier:  # it follows what was forgotten
                summary.save(store)
            earlier.append(reader.summarized_up_to)
            assert ([*reader.summary()], earlier[-1] < 0) == ([], True)
            summary.after = earlier[-1]
            summary.save(store)
            assert reader.summarized_up_to == 5


def test_a_summary_is_saved_in_slices(database: str, store: Store) -> None:
    """Requests wait for a slice; in a large store, 50,000 descriptions take seconds."""
    body = b'{"timestamp":"1970-01-01T00:00:00Z","properties":{"email_id":"%d"}}'
    store.append([event(body % number) for number in range(SAVE_SLICE + 1)])

    def summary() -> Summary:
        found = Summary(store.summarized_up_to)
        for one in reader.read(0, SAVE_SLICE + 1):
            found.add(one)
        return found

    with open_reader(database) as reader:
        interrupted = summary()
        assert interrupted.save(store)
        assert (reader.summarized_up_to, len([*reader.summary()])) == (0, 2 * SAVE_SLICE)
        store.forget_summary()
        assert not interrupted.save(store)
        while store.forget_summary():
            pass
        whole = summary()
        assert [whole.save(store), whole.save(store)] == [True, False]
        assert reader.summarized_up_to == SAVE_SLICE + 1
        assert len([*reader.summary()]) == 2 * (SAVE_SLICE + 1)


def test_reading_many_undated_events_takes_little_memory(database: str, store: Store) -> None:
    count = 20_000
    store.append([event()])
    store.save_summary(0, count, [], range(1, count + 1))
    with open_reader(database) as reader:
        tracemalloc.start()
        assert next(reader.summary()).seq == 1
        assert tracemalloc.get_traced_memory()[1] < 50 * count
        tracemalloc.stop()


def test_a_summary_is_forgotten_in_slices(database: str, store: Store) -> None:
    """It may be as large as the store, and requests wait for a slice."""
    count = WIPE_SLICE + 1
    said = [(number.to_bytes(16, "big"), b"{}", 0, 0) for number in range(count)]
    store.save_summary(0, count, said, range(1, count + 1))
    assert store.forget_summary()
    with open_reader(database) as reader:
        assert reader.summarized_up_to < 0  # so nobody relies on the rest of it
    assert not store.forget_summary()


OF_FORMAT_1 = """
PRAGMA auto_vacuum = INCREMENTAL;
CREATE TABLE store (id TEXT NOT NULL, probed INTEGER NOT NULL DEFAULT 0);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, received_at INTEGER NOT NULL, source TEXT NOT NULL,
    route TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL, pruned INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE seen (key BLOB PRIMARY KEY, until INTEGER) WITHOUT ROWID;
CREATE INDEX seen_until ON seen (until) WHERE until IS NOT NULL;
CREATE TABLE cursors (
    destination TEXT PRIMARY KEY, seq INTEGER NOT NULL, sent INTEGER NOT NULL,
    refused INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO store (id) VALUES ('one');
INSERT INTO events (received_at, source, route, name, body, pruned) VALUES
    (1, 'segment', 'track', 'Email Opened', x'7B2261223A317D', 1),
    (2, 'segment', 'track', 'Email Opened', x'7B2261223A327D', 0),
    (3, 'hook', 'hooks', 'contact_added', x'7B7D', 1);
INSERT INTO cursors VALUES ('x', 2, 1, 0);
INSERT INTO seen VALUES
    (x'6B202020202020202020202020202020', NULL), (x'68202020202020202020202020202020', 5);
PRAGMA application_id = 1095779670;
PRAGMA user_version = 1;
"""


def in_sqlite(database: str, script: str) -> str:
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(script)
    return database


@pytest.fixture
def older(database: str) -> str:
    """A store of format 1."""
    return in_sqlite(database, OF_FORMAT_1)


@pytest.fixture
def newer(database: str) -> str:
    """A store of a format that does not exist yet."""
    open_store(database).close()
    return in_sqlite(database, "PRAGMA user_version = 3")


def test_a_newer_store_is_refused(newer: str) -> None:
    for opened in (open_reader, open_store):
        with pytest.raises(UserError, match="newer version"):
            opened(newer)


def test_a_store_of_an_older_version_is_upgraded(older: str) -> None:
    with pytest.raises(UserError, match="older version"):
        open_reader(older)
    for _ in range(2):
        store = open_store(older)
        assert store.append([event(key=b"k")]) == 0
        assert store.append([event(key=b"h", at=4, for_good=False)]) == 0
        assert store.cursors() == {"x": Cursor(2, 1, 0)}
        store.close()
    with open_reader(older) as reader:
        assert reader.store_id == "one"
        assert [(one.seq, one.body, one.pruned) for one in reader.read(0, 9)] == [
            (1, b'{"a":1}', True), (2, b'{"a":2}', False), (3, b"{}", True),
        ]  # fmt: skip
        assert reader.stats()["by_source"] == {"segment": 2, "hook": 1}
        assert reader.stats()["pruned"] == 2
        assert len({reader.fingerprint(seq) for seq in (1, 2, 3)}) == 3
    store = open_store(older)
    assert store.append([event(key=b"new")]) == 1
    assert prune_range(alone(store), 0, 9, lambda *_: NOTHING)[0] == 2
    store.close()
    with open_reader(older) as reader:
        assert all(one.pruned for one in reader.read(0, 9))
