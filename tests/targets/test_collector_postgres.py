"""The collector's store in a real PostgreSQL, shared by several collectors."""

from __future__ import annotations

import itertools
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests

from tap_autopilot.collector.database import open_reader
from tap_autopilot.collector.events import from_call
from tap_autopilot.collector.postgres import LOCK, PostgresReader, PostgresStore
from tap_autopilot.collector.postgres_sql import TAKE_LOCK
from tap_autopilot.collector.reader import Event
from tap_autopilot.collector.remnant import NOTHING, Remnant
from tap_autopilot.collector.store import REPEAT_WINDOW, Cursor, Loaded, Received, Unavailable
from tap_autopilot.collector.summary import Summary
from tap_autopilot.exceptions import UserError
from tests.collector.conftest import TOKEN, Collector
from tests.collector.destination import Destination, serving
from tests.collector.test_destinations import send
from tests.collector.test_store import assert_upgraded
from tests.conftest import Tap, wait_until
from tests.scripted import Scripted
from tests.targets.conftest import postgres_server

pytestmark = pytest.mark.targets


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server's address."""
    with postgres_server() as (address, _):
        yield address


NUMBERS = itertools.count()


@pytest.fixture
def database(server: str) -> str:
    """A new database for each test."""
    name = f"events{next(NUMBERS)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.replace("/postgres?", f"/{name}?")


def event(body: bytes, key: bytes | None = None, *, at: int = 0, for_good: bool = True) -> Received:
    return Received(at, "segment", "track", "E", body, key, for_good)


def test_it_behaves_like_a_store_in_a_file(database: str) -> None:
    with pytest.raises(UserError, match="There is no store"):
        open_reader(database)
    store = PostgresStore(database)
    assert store.append([event(b'{"n":"\\ud800"}', b"a"), event(b"\x00text", b"b")]) == 2
    assert store.append([event(b"x", b"a"), event(b"y", b"c"), event(b"z", b"c"), event(b"w")]) == 2
    with open_reader(database) as reader:
        assert reader.store_id == store.store_id == PostgresStore(database).store_id
        events = reader.read(0, 10)
        assert [one.body for one in events] == [b'{"n":"\\ud800"}', b"\x00text", b"y", b"w"]
        assert events == sorted(events)
        assert events[0].pruned is False
        assert reader.last_seq == events[-1].seq
        assert reader.read(events[1].seq, 1) == [events[2]]
        store.append([event(b"x" * 9_000_000) for _ in range(3)])
        assert [len(one.body) for one in reader.read(events[-1].seq, 9)] == [9_000_000] * 2
        with psycopg.connect(database) as connection:
            connection.execute("DELETE FROM autopilot_collector.events WHERE length(body) > 9999")
        assert reader.stats()["by_event"] == {"E": 7}
    hour = REPEAT_WINDOW
    for at, new in ((0, 1), (hour - 1, 0), (hour, 1), (hour - 1, 0), (100 * hour, 1), (0, 1)):
        assert store.append([event(b"h", b"h", at=at, for_good=False)]) == new
    for cursor in (Cursor(1, 2, 3), Cursor(2, 2, 3), Cursor(1, 9, 9)):  # it never moves back
        store.save_cursor("x", cursor)
    assert store.cursors() == {"x": Cursor(2, 2, 3)}
    with open_reader(database) as reader:
        assert reader.forwarded() == {"x": 2}
    other = PostgresStore(database)
    assert store.owns("x")
    assert not other.owns("x")
    store.close()
    assert other.owns("x")
    with open_reader(database) as reader:
        marks = [reader.fingerprint(one.seq) for one in events]
        assert len(set(marks)) == len(events)
        assert reader.fingerprint(10**9) is None
        left = Remnant("ada", 5, b'{"email_id":"m"}', b'{"userId":"u"}')
        assert other.prune(0, events[1].seq, lambda *_: left)[:2] == (events[1].seq, 2)
        assert other.prune(10**6, 10**9, lambda *_: left)[:2] == (10**9, 0)
        assert [reader.fingerprint(one.seq) for one in events] == marks
        whole = (
            b'{"userId":"u","timestamp":"1970-01-01T00:00:00.005Z",'
            b'"context":{"traits":{"contact_id":"ada"}},"properties":{"email_id":"m"}}'
        )
        assert [(one.body, one.pruned) for one in reader.read(0, 3)] == [
            (whole, True), (whole, True), (b"y", False),
        ]  # fmt: skip
        assert reader.stats()["pruned"] == 2
    other.save_pruned_up_to({"a": Loaded(1), "b": Loaded(2, "x")})
    other.save_pruned_up_to({"a": Loaded(3)})
    assert other.pruned_up_to() == {"a": Loaded(3), "b": Loaded(2, "x")}
    one, two = (event(b"", bytes([n]) * 16, for_good=False)._replace(about=b"a") for n in (1, 2))
    assert other.append([one, one, two, two, one, one]) == 3
    assert [other.append([one]), other.append([two])] == [0, 1]
    assert other.probe() == PostgresReader(database).probed == 1
    other.forget_cursor("x")
    assert other.cursors() == {}
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE autopilot_collector.store SET format = 3")
    for opened in (PostgresReader, PostgresStore):
        with pytest.raises(UserError, match="newer version"):
            opened(database)


OF_FORMAT_1 = """
CREATE SCHEMA autopilot_collector;
SET search_path = autopilot_collector;
CREATE TABLE store (id text NOT NULL, format integer NOT NULL, probed bigint NOT NULL DEFAULT 0);
CREATE TABLE events (
    seq bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, received_at bigint NOT NULL,
    source text NOT NULL, route text NOT NULL, name text NOT NULL, body bytea NOT NULL,
    pruned boolean NOT NULL DEFAULT false
);
CREATE TABLE seen (key bytea PRIMARY KEY, until bigint);
CREATE INDEX seen_until ON seen (until) WHERE until IS NOT NULL;
CREATE TABLE cursors (
    destination text PRIMARY KEY, seq bigint NOT NULL, sent bigint NOT NULL, refused bigint NOT NULL
);
INSERT INTO store VALUES ('one', 1);
INSERT INTO events (received_at, source, route, name, body, pruned) VALUES
    (1, 'segment', 'track', 'Email Opened', '{"a":1}', true),
    (2, 'segment', 'track', 'Email Opened', '{"a":2}', false),
    (3, 'hook', 'hooks', 'contact_added', '{}', true);
INSERT INTO seen VALUES ('k', NULL), ('h', 5);
INSERT INTO cursors VALUES ('x', 2, 1, 0);
"""


def test_a_store_of_an_older_version_is_upgraded(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(OF_FORMAT_1)
    with pytest.raises(UserError, match="older version"):
        open_reader(database)
    for _ in range(2):
        store = PostgresStore(database)
        assert store.append([event(b"again", b"k")]) == 0
        assert store.cursors() == {"x": Cursor(2, 1, 0)}
        store.close()
    assert_upgraded(database)
    store = PostgresStore(database)
    assert store.append([event(b"new", b"n")]) == 1
    assert store.prune(0, 9, lambda *_: NOTHING).pruned == 2
    store.close()
    with open_reader(database) as reader:
        assert all(one.pruned for one in reader.read(0, 9))


def test_it_keeps_a_summary_of_messages(database: str) -> None:
    store = PostgresStore(database)
    bodies = [
        b'{"timestamp":"1970-01-01T00:00:0%dZ","properties":{"email_id":"m"}}' % n
        for n in (5, 1, 3)
    ]
    store.append([event(body) for body in [*bodies, b'{"properties":{"email_id":"m"}}']])
    for body in bodies:
        summary = Summary(3)
        summary.add(Event(4, 0, "segment", "track", "Email Opened", body, False))
        store.save_summary(summary)
    summary = Summary(0)
    summary.undated.append(4)
    store.save_summary(summary)
    store.save_summary(summary)
    with open_reader(database) as reader:
        assert reader.summarized_up_to == store.summarized_up_to == 4
        first, last, undated = reader.summary()
        assert [b"00:00:01" in first.body, b"00:00:05" in last.body] == [True, True]
        assert (undated.seq, undated.body) == (4, b'{"properties":{"email_id":"m"}}')
        store.forget_summary()
        assert (reader.summary(), reader.summarized_up_to) == ([], 0)


def test_seq_is_the_order_in_which_events_become_visible(database: str) -> None:
    over = threading.Event()

    def write(worker: int) -> None:
        store = PostgresStore(database)
        for number in range(150):
            store.append([event(b"%d.%d.%d" % (worker, number, part)) for part in range(5)])
        store.close()

    PostgresStore(database).close()
    seen: list[bytes] = []

    def follow() -> None:
        after = 0
        with open_reader(database) as reader:
            while True:
                last = over.is_set()
                found = reader.read(after, 7)
                seen.extend(one.body for one in found)
                after = found[-1].seq if found else after
                if last and not found:
                    return

    follower = threading.Thread(target=follow)
    follower.start()
    writers = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    over.set()
    follower.join()
    assert len(seen) == len(set(seen)) == 4 * 150 * 5


def test_collectors_share_a_store_and_survive_kills(database: str, tmp_path: Path) -> None:
    collectors = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        collectors.append(Collector(folder, database=database).start())
    acknowledged: set[str] = set()
    over = threading.Event()

    def send(worker: int) -> None:
        for number in itertools.count():
            if over.is_set():
                return
            name = f"{worker}.{number}"
            for collector in collectors:  # the same event to both
                try:
                    answer = collector.post("/v1/track", {"messageId": name, "n": name})
                    if answer.status_code == 200:
                        acknowledged.add(name)
                except requests.RequestException:
                    continue

    threads = [threading.Thread(target=send, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(0.5)
        collectors[0].stop(signal.SIGKILL)
        collectors[0].start()
    over.set()
    for thread in threads:
        thread.join()
    stored = Counter(json.loads(one.body)["n"] for one in collectors[0].events())
    assert acknowledged <= stored.keys()
    assert set(stored.values()) == {1}
    assert len(acknowledged) > 50
    for collector in collectors:
        assert collector.stop() == 0


def test_one_collector_forwards_and_another_takes_over(database: str, tmp_path: Path) -> None:
    with serving(Destination()) as destination:
        collectors = []
        for number in range(2):
            folder = tmp_path / str(number)
            folder.mkdir()
            settings: dict[str, Any] = {"destinations": [destination.setting()]}
            collectors.append(Collector(folder, database=database, **settings).start())
        first, second = collectors
        send(first, "a", "b")
        send(second, "c")
        destination.wait_for(3)
        sent, lag = (f'destination_{name}_events{{destination="one"}}' for name in ("sent", "lag"))
        for collector in collectors:  # the one that does not forward shows the store's cursor
            wait_until(lambda one=collector: (one.metric(sent), one.metric(lag)) == (3, 0))  # type: ignore[misc]
        first.stop(signal.SIGKILL)
        send(second, "d")
        destination.wait_for(4)
        first.start()
        send(first, "e")
        destination.wait_for(5)
        assert destination.ids == ["a", "b", "c", "d", "e"]
        wait_until(lambda: (first.metric(sent), first.metric(lag)) == (5, 0))
        for collector in collectors:
            assert collector.stop() == 0


def test_a_database_that_goes_away_and_comes_back(
    server: str, database: str, tmp_path: Path
) -> None:
    name = database.partition("?")[0].rpartition("/")[2]
    collector = Collector(tmp_path, database=database).start()
    assert collector.post(f"/hooks/{TOKEN}", {"n": 1}).status_code == 200
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
        answer = collector.post(f"/hooks/{TOKEN}", {"n": 2})
        assert answer.status_code == 503
        assert "Retry-After" in answer.headers
        assert requests.get(collector.url + "/ready", timeout=9).status_code == 503
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
    deadline = time.monotonic() + 10
    while collector.post(f"/hooks/{TOKEN}", {"n": 2}).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert collector.bodies() == [b'{"n": 1}', b'{"n": 2}']
    assert collector.stop() == 0


def test_a_collector_that_freezes_holds_up_no_other_for_long(database: str) -> None:
    frozen, other = PostgresStore(database), PostgresStore(database)
    connection = frozen._connection
    assert connection is not None
    connection.execute(TAKE_LOCK, (LOCK,))
    started = time.monotonic()
    assert other.append([event(b"x")]) == 1
    assert 5 < time.monotonic() - started < 15
    with pytest.raises(Unavailable):
        frozen.append([event(b"y")])
    assert frozen.append([event(b"y")]) == 1


def test_a_reader_outlives_long_pauses(database: str) -> None:
    store = PostgresStore(database)
    store.append([event(b"x")])
    with open_reader(database) as reader:
        assert len(reader.read(0, 1)) == 1
        with psycopg.connect(database) as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
            assert connection.execute(query).fetchone() == (0,)


def test_a_missing_permission_is_not_a_missing_store(database: str) -> None:
    PostgresStore(database).close()
    role = f"reader{next(NUMBERS)}"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN".encode())
        as_role = database.replace("://postgres:", f"://{role}:")
        with pytest.raises(UserError, match="permission denied for schema"):
            open_reader(as_role)
        connection.execute(f"GRANT USAGE ON SCHEMA autopilot_collector TO {role}".encode())
        with pytest.raises(UserError, match="permission denied for table"):
            open_reader(as_role)
        connection.execute(f"GRANT SELECT ON autopilot_collector.store TO {role}".encode())
        open_reader(as_role).close()


def test_the_commands_work_on_it(database: str, tmp_path: Path) -> None:
    collector = Collector(tmp_path, database=f"{database}&password=s3cret")
    assert collector.run("--stats").returncode == 2
    done = collector.run("--check")
    assert done.returncode == 0
    assert "s3cret" not in done.stdout
    collector.start()
    collector.post("/v1/track", {"event": "Email Opened", "messageId": "1", "context": {"ip": "x"}})
    stats: dict[str, Any] = json.loads(collector.run("--stats").stdout)
    assert (stats["events"], stats["by_source"]) == (1, {"segment": 1})
    path = tmp_path / "state.json"
    position = [stats["store_id"], stats["last_seq"]]
    path.write_text(json.dumps({"bookmarks": {"email_opened": {"collected": position}}}))
    assert collector.run("--prune", "--state", str(path)).stdout.startswith("Pruned 1 ")
    assert b"ip" not in collector.bodies()[0]
    assert collector.stop() == 0


def test_the_tap_reads_it(database: str, tap: Tap) -> None:
    call = {"event": "Email Opened", "context": {"traits": {"contact_id": "c"}}}
    bodies = [json.dumps({**call, "messageId": str(number)}).encode() for number in range(2500)]
    store = PostgresStore(database)
    store.append([one for body in bodies for one in from_call(body, 1000, "track").events])
    contact = {"contact_id": "c", "mail_opened": {"unknown": 10**9}, "mail_clicked": {"m": 6}}
    with Scripted({"/contacts": {"contacts": [contact], "total_contacts": 1}}) as sandbox:
        first = tap.sync(sandbox, collector_database=database)
        assert [row["id"] for row in first.rows("email_opened")] == [
            *map(str, range(2500)), "email_opened:c:unknown",
        ]  # fmt: skip
        assert len(first.rows("email_clicked")) == 1
        position = first.state["bookmarks"]["email_opened"]["collected"]
        assert position[:2] == [store.store_id, 2500]
    store.close()


def test_an_unreachable_database(tmp_path: Path) -> None:
    collector = Collector(tmp_path, database="postgresql://me:s3cret@127.0.0.1:1/none")
    for options in ([], ["--check"], ["--stats"]):
        done = collector.run(*options)
        assert done.returncode == 2
        assert "s3cret" not in done.stderr
        last = done.stderr.splitlines()[-1]
        assert "CRITICAL Cannot open the store postgresql:" in last
        assert "Connection refused" in last  # libpq's first line
