"""The pool: walks on a few threads, their pages on one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tap_autopilot.api.client import Request
from tap_autopilot.exceptions import RunError, Stopped, TapError, Unreachable, UserError
from tap_autopilot.sources.completeness import Doubt
from tap_autopilot.sources.listings import CONTACTS, Failure, Page, Position, Walk, members_of
from tap_autopilot.sources.pool import NotTried, Pool
from tests.conftest import PATIENCE, wait_until
from tests.scripted import page
from tests.test_walks import Script

TOTAL = 9
AHEAD = 2  # pages that a thread may have requested before the first is processed


class Scripts(Script):
    """A client of any listing; all clients of a pool share their answers."""

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__(answers, Walk("", "", "", ""))
        self.forgotten = 0

    def forget(self) -> None:
        self.forgotten += 1


Start = Callable[..., tuple[Pool, list[Scripts]]]


@pytest.fixture
def pool() -> Iterator[Start]:
    """Make a pool and the list of its clients, one for each thread that has begun.

    A pool that hangs is stopped.
    """
    with ExitStack() as stack:

        def start(
            answers: dict[str, Any],
            concurrency: int = 1,
            *,
            check_totals: bool = True,
            kind: type[Scripts] = Scripts,
        ) -> tuple[Pool, list[Scripts]]:
            clients: list[Scripts] = []

            def client() -> Scripts:
                clients.append(kind(answers))
                return clients[-1]

            found = Pool(concurrency, client, check_totals=check_totals)
            timer = threading.Timer(PATIENCE, found.stop, [Stopped(14)])
            timer.start()
            stack.callback(timer.cancel)
            return found, clients

        yield start


def long(walk: Walk, pages: int) -> dict[str, Any]:
    """The answers of a walk of many pages."""
    path = walk.path.removeprefix("/")
    answers: dict[str, Any] = {
        f"{path}/{number}": page(f"{number:03}", bookmark=str(number + 1), total=pages)
        for number in range(1, pages - 1)
    }
    answers[path] = page("000", bookmark="1", total=pages)
    answers[f"{path}/{pages - 1}"] = page(f"{pages - 1:03}", total=pages)
    return answers


def ids(results: list[Page | Failure], walk: Walk) -> list[str]:
    pages = [one for one in results if isinstance(one, Page) and one.walk == walk]
    return [document["contact_id"] for one in pages for document in one.documents]


SEGMENTS = [members_of(f"s{number}") for number in range(5)]


@pytest.mark.parametrize("concurrency", [1, 2, 8])
def test_every_page_of_every_walk_in_order(pool: Start, concurrency: int) -> None:
    answers: dict[str, Any] = {}
    for walk in SEGMENTS:
        answers |= long(walk, TOTAL)
    found, clients = pool(answers, concurrency)
    for walk in SEGMENTS:
        found.add(walk, Position())
    results = list(found.results())
    for walk in SEGMENTS:
        assert ids(results, walk) == [f"{number:03}" for number in range(TOTAL)]
    assert 1 <= len(clients) <= min(concurrency, len(SEGMENTS))
    assert list(found.results()) == []


def test_threads_end_with_the_program(pool: Start) -> None:
    before = set(threading.enumerate())
    found, _ = pool(long(CONTACTS, 3), 2)
    for _ in range(3):
        found.add(CONTACTS, Position())
    threads = {one for one in threading.enumerate() if one.name.startswith("walk")} - before
    assert {(one.name, one.daemon) for one in threads} == {("walk-1", True), ("walk-2", True)}
    list(found.results())


@pytest.mark.parametrize("failed", [0, 3])
def test_few_pages_are_requested_ahead(pool: Start, failed: int) -> None:
    found, clients = pool({**long(CONTACTS, TOTAL), "smart_segments/s/contacts": 405})
    for _ in range(failed):
        found.add(members_of("s"), Position())
        assert len(list(found.results())) == 1
    found.add(CONTACTS, Position())
    results = found.results()
    for number in range(TOTAL - AHEAD):
        wait_until(lambda: len(clients[0].asked) >= failed + AHEAD + max(0, number - 1))  # noqa: B023
        time.sleep(0.005)
        assert len(clients[0].asked) == failed + AHEAD + max(0, number - 1)
        next(results)
    assert len(list(results)) == AHEAD


def test_a_walk_that_fails_leaves_the_others(pool: Start) -> None:
    error = RunError("GET /smart_segments/s0/contacts: status 500.")
    found, clients = pool({**long(CONTACTS, 3), "smart_segments/s0/contacts": error})
    for walk in [*[SEGMENTS[0]] * 4, CONTACTS]:
        found.add(walk, Position())
    results = list(found.results())
    assert results[:4] == [Failure(SEGMENTS[0], error)] * 4
    assert clients[0].forgotten >= 4, "each walk forgets its last response"
    assert ids(results, CONTACTS) == ["000", "001", "002"]


@pytest.mark.parametrize("error", [UserError("the key"), Unreachable("nobody")])
def test_an_error_of_all_walks_ends_them(pool: Start, error: TapError) -> None:
    found, _ = pool({**long(CONTACTS, 3), "smart_segments/s0/contacts": error})
    for walk in (SEGMENTS[0], CONTACTS):
        found.add(walk, Position())
    with pytest.raises(type(error)) as raised:
        list(found.results())
    assert raised.value is error


def test_a_bug_in_a_thread_is_raised(pool: Start) -> None:
    found, _ = pool({})
    found.add(CONTACTS, Position())
    with pytest.raises(KeyError):
        list(found.results())


def test_walks_that_are_cancelled_fail_untried(pool: Start) -> None:
    found, clients = pool(long(CONTACTS, 3))
    found.cancel("smart_segments_contacts")
    for walk in (SEGMENTS[0], SEGMENTS[1], CONTACTS):
        found.add(walk, Position())
    first, second, *rest = found.results()
    assert isinstance(first, Failure)
    assert isinstance(second, Failure)
    assert [(one.walk, type(one.error), str(one.error)) for one in (first, second)] == [
        (walk, NotTried, f"GET {walk.path}: not tried.") for walk in SEGMENTS[:2]
    ]
    assert len(rest) == 3
    assert clients[0].asked == ["contacts", "contacts/1", "contacts/2"]


def test_a_stop_comes_before_the_pages(pool: Start) -> None:
    found, clients = pool(long(CONTACTS, 9))
    found.check()
    found.add(CONTACTS, Position())
    wait_until(lambda: bool(clients) and len(clients[0].asked) == AHEAD)
    stopped = Stopped(15)
    found.stop(stopped)
    for end in (found.check, lambda: next(found.results())):
        with pytest.raises(Stopped) as raised:
            end()
        assert raised.value is stopped


def test_a_stop_wakes_who_waits_for_a_page(pool: Start) -> None:
    blocked = threading.Event()

    class Hanging(Scripts):
        def get(self, request: Request, decode: Callable[[bytes], Any]) -> Any:
            blocked.wait(10)
            return super().get(request, decode)

    found, _ = pool(long(CONTACTS, 3), kind=Hanging)
    found.add(CONTACTS, Position())
    timer = threading.Timer(0.01, found.stop, [Stopped(15)])
    timer.start()
    with pytest.raises(Stopped):
        next(found.results())
    blocked.set()


@pytest.mark.parametrize("check_totals", [True, False])
def test_totals_are_checked_unless_they_are_not_to_be(pool: Start, check_totals: bool) -> None:
    found, _ = pool(
        {"contacts": page(*(f"{number:03}" for number in range(98)), total=99)},
        check_totals=check_totals,
    )
    found.add(CONTACTS, Position())
    *_, last = found.results()
    assert isinstance(last, Page)
    assert last.doubt is (Doubt.SHORT if check_totals else None)
