"""What destinations answer: what is tried again, what is given up, and what the log says."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from tap_autopilot.collector.client import Client, NoResponse
from tests.collector import destination as servers
from tests.collector.conftest import Start
from tests.collector.destination import Destination
from tests.collector.test_destinations import progress, send
from tests.conftest import PATIENCE, wait_until
from tests.soak.destination import cut_off, dripping, endless, silent


def test_of_a_body_that_nobody_needs_little_is_read(destination: Destination) -> None:
    sent: list[int] = []
    over = threading.Event()

    def count(response: BaseHTTPRequestHandler) -> None:
        response.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        with contextlib.suppress(OSError):
            for megabyte in range(1000):
                response.wfile.write(b"x" * 1_000_000)
                sent.append(megabyte)
        over.set()

    destination.behave = count
    response = Client(destination.setting()["url"]).send("POST", "/batch", b'{"batch":[]}')
    assert (response.status, response.body) == (200, None)
    assert over.wait(PATIENCE)
    assert len(sent) < 50  # what the system's buffers hold


def malformed(response: BaseHTTPRequestHandler) -> None:
    """Headers that are none."""
    response.wfile.write(b"HTTP/1.1 200 OK\r\n%s\r\n\r\n" % (b"no colon " * 5000))


def interim(statuses: Iterator[bytes], response: BaseHTTPRequestHandler) -> None:
    """Statuses that are no response, one for each request, before a proper one."""
    status = next(statuses, b"200 OK")
    response.wfile.write(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status)


INTERIM = [b"103 Early Hints", b"101 Switching Protocols", b"102 Processing"]


@pytest.mark.parametrize(
    ("behave", "tries"),
    [(endless, 1), (dripping, 1), (cut_off, 1), (malformed, 1), (partial(interim, iter(INTERIM)), 4)],
)  # fmt: skip
def test_the_status_decides_whatever_comes_with_it(
    start: Start, destination: Destination, behave: Any, tries: int
) -> None:
    destination.behave = behave
    collector = start(destinations=[destination.setting()])
    send(collector, "a")
    wait_until(lambda: collector.metric('destination_sent_events{destination="one"}') >= 1)
    assert len(destination.tries) == tries
    collector.stop()
    assert "no colon" not in collector.log.read_text()


def never_beginning(response: BaseHTTPRequestHandler) -> None:
    while True:
        response.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")


@pytest.mark.parametrize(
    ("behave", "limit", "value", "said"),
    [
        (silent, "collector.client.DEADLINE", 0.5, r"timed out after 0\.5 s"),
        (never_beginning, "collector.client.DEADLINE", 0.5, r"timed out after 0\.5 s"),
        (never_beginning, "api.watchdog.MAX_CPU", math.inf, "takes too much CPU"),
    ],
)
def test_an_exchange_ends_at_its_deadline_or_if_it_costs_more_than_the_taps_may(
    destination: Destination,
    monkeypatch: pytest.MonkeyPatch,
    behave: Any,
    limit: str,
    value: float,
    said: str,
) -> None:
    destination.behave = behave
    client = Client(destination.setting()["url"])
    with monkeypatch.context() as patch:
        patch.setattr(f"tap_autopilot.{limit}", value)
        with pytest.raises(NoResponse, match=said):
            client.send("POST", "/batch", b'{"batch":[]}')
    destination.behave = None
    assert client.send("POST", "/batch", b'{"batch":[]}').status == 200


def test_a_destination_that_hangs_does_not_delay_the_end(
    start: Start, destination: Destination
) -> None:
    destination.behave = lambda _: threading.Event().wait()
    collector = start(constants={"client.DEADLINE": 9999}, destinations=[destination.setting()])
    send(collector, "a")
    wait_until(lambda: bool(destination.tries))
    assert collector.stop() == 0


@pytest.mark.parametrize(
    ("asked", "waits"), [("0", (0.07, 0.14)), ("soon", (0.07, 0.14)), ("1", (1, 1))]
)
def test_the_wait_is_the_longer_of_a_growing_one_and_the_one_asked_for(
    start: Start, destination: Destination, asked: str, waits: tuple[float, float]
) -> None:
    destination.answer = lambda _: 503
    destination.headers = {"Retry-After": asked}
    growing = {"destinations.FIRST_WAIT": 0.1, "destinations.MAX_WAIT": 60}
    collector = start(constants=growing, destinations=[destination.setting()])
    send(collector, "a")
    wait_until(lambda: len(destination.tries) >= 3)
    first, second, third = destination.tries[:3]
    assert second - first >= waits[0]
    assert third - second >= waits[1]


# What a mended setting or time cures: the key, the path or the moment is wrong, and no event.
CURABLE = [301, 401, 403, 404, 405, 407, 408, 425, 429, 500, 502, 503]


def test_what_a_mended_setting_or_time_cures_skips_nothing(
    start: Start, destination: Destination
) -> None:
    statuses = [*CURABLE]
    destination.answer = lambda _: statuses.pop(0) if statuses else 200
    collector = start(destinations=[destination.setting()])
    send(collector, "a", "b")
    destination.wait_for(2)
    assert destination.ids == ["a", "b"]
    wait_until(lambda: "Destination one: works again" in collector.log.read_text())
    log = collector.log.read_text()
    told = re.findall(r"Destination one: HTTP (\d+)(?:, so check its \w+)?; retrying", log)
    assert told == [str(status) for status in CURABLE]
    assert "HTTP 401, so check its write_key; retrying." in log
    assert "HTTP 404, so check its url; retrying." in log
    wait_until(lambda: progress(collector) == {"lag": 0, "sent": 2, "refused": 0})


def test_a_destination_that_refuses_every_event_loses_none(
    start: Start, destination: Destination
) -> None:
    statuses = itertools.cycle([400, 402, 406, 409, 410, 413, 415, 422, 451])
    batches = iter(range(5))

    def answer(ids: list[str]) -> int:
        if len(ids) == 3 and next(batches) == 4:  # 20 requests later: those three, two, and one
            destination.answer = lambda _: 200
            return 200
        return next(statuses)

    destination.answer = answer
    collector = start(destinations=[destination.setting()])
    send(collector, "a", "b", "c")
    destination.wait_for(3)
    assert destination.ids == ["a", "b", "c"]
    assert len(destination.tries) == 21
    wait_until(lambda: progress(collector) == {"lag": 0, "sent": 3, "refused": 0})
    log = collector.log.read_text()
    assert log.count("rejects every event, such as a; retrying") == 1
    assert "HTTP" not in log


def test_rejected_events_are_isolated_and_skipped_and_each_trouble_is_told(
    start: Start, destination: Destination
) -> None:
    statuses = [503, 429]
    bad = {"n3", "n7", "m1"}

    def answer(ids: list[str]) -> int:
        if statuses:
            return statuses.pop()
        return 200 if bad.isdisjoint(ids) else 400

    destination.answer = answer
    collector = start(destinations=[destination.setting()])
    good = [f"n{n}" for n in range(10) if n not in (3, 7)]
    # Even if only the slow scanner can read them, which the event loop's thread must not use.
    send(collector, *(f"n{n}" for n in range(10)), type=None, text="\ud800")
    destination.wait_for(8)
    assert destination.ids == good
    send(collector, "m0", "m1")
    wait_until(lambda: progress(collector) == {"lag": 0, "sent": 9, "refused": 3})
    assert destination.ids == [*good, "m0"]
    log = collector.log.read_text()
    for said in (
        "HTTP 503; retrying",
        "HTTP 429; retrying",
        "skipped 2 of 10 events, which it rejected (HTTP 400); the first one's messageId is n3",
        "skipped 1 of 2 events",  # within the same minute
    ):
        assert log.count(said) == 1
    assert servers.KEY not in log


FEW = {"destinations.MAX_EVENTS": 2, "destinations.FIRST_WAIT": 0.01}


def test_whole_batches_at_fault_are_skipped_once_an_event_behind_is_accepted(
    start: Start, destination: Destination
) -> None:
    destination.answer = lambda ids: 400 if any("bad" in one for one in ids) else 200
    collector = start(constants=FEW, destinations=[destination.setting()])
    bad = [f"bad{number}" for number in range(7)]
    send(collector, "a", "b", *bad)
    wait_until(lambda: len(destination.tries) >= 20)
    assert progress(collector)["refused"] == 0  # so far, it may be the destination
    send(collector, "c", "d", "e")
    send(collector, *(f"x{one}" for one in bad), "f")
    wait_until(lambda: progress(collector) == {"lag": 0, "sent": 6, "refused": 14})
    assert list(dict.fromkeys(destination.ids)) == ["a", "b", "c", "d", "e", "f"]


@pytest.mark.parametrize("mended_by", [["n0"], ["n8", "n9"]])
def test_a_destination_that_is_mended_while_later_events_are_tried_loses_none(
    start: Start, destination: Destination, mended_by: list[str]
) -> None:
    tried: list[list[str]] = []

    def answer(ids: list[str]) -> int:
        tried.append(ids)
        if ids == mended_by and ["n2", "n3"] in tried:
            destination.answer = lambda _: 200
            return 200
        return 400

    destination.answer = answer
    collector = start(constants=FEW, destinations=[destination.setting()])
    names = [f"n{number}" for number in range(10)]
    send(collector, *names)
    wait_until(lambda: progress(collector) == {"lag": 0, "sent": 10, "refused": 0})
    assert list(dict.fromkeys(destination.ids[-10:])) == names
    assert destination.ids[:-10] == mended_by


def test_a_destination_that_is_mended_while_a_batch_is_split_up_loses_none(
    start: Start, destination: Destination
) -> None:
    def answer(ids: list[str]) -> int:
        if ids == ["n2"]:
            destination.answer = lambda ids: 200 if "n3" not in ids else 400
        return 400

    destination.answer = answer
    collector = start(destinations=[destination.setting()])
    names = [f"n{number}" for number in range(5)]
    send(collector, *names)
    wait_until(lambda: progress(collector) == {"lag": 0, "sent": 4, "refused": 1})
    names.remove("n3")
    assert destination.ids[-4:] == names


def test_an_event_that_is_larger_than_a_batch_and_too_large_is_skipped_at_once(
    start: Start, destination: Destination
) -> None:
    destination.answer = lambda ids: 413 if ids == ["large"] else 200
    collector = start(destinations=[destination.setting("100% mail")])
    send(collector, "large", text="x" * 480_000)
    wait_until(lambda: progress(collector, "100% mail") == {"lag": 0, "sent": 0, "refused": 1})
    send(collector, "a")
    destination.wait_for(1)
    assert len(destination.tries) == 2
    told = "100% mail: skipped 1 of 1 events, which it rejected (HTTP 413)"
    assert told in collector.log.read_text()
