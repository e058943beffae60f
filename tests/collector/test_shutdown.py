"""The end: what was accepted gets a response, and nothing delays the exit for long."""

from __future__ import annotations

import contextlib
import signal
import threading
from pathlib import Path

import pytest
import requests

from tap_autopilot.collector import server
from tests.collector.conftest import Start, sending
from tests.conftest import PATIENCE, wait_until

HALF_A_REQUEST = b"POST /v1/track HTTP/1.1\r\nContent-Length: 10\r\n\r\n{"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_shuts_it_down_gracefully(start: Start, number: int) -> None:
    assert server.LAST_RESPONSES + server.LAST_COMMIT < 5
    collector = start(constants={"server.LAST_RESPONSES": 0.2, "http.LINGER": PATIENCE})
    with collector.connect() as idle, collector.connect() as slow:
        slow.sendall(HALF_A_REQUEST)
        assert collector.post("/v1/track", b"{}").status_code == 200
        assert collector.stop(number) == 0
        assert slow.recv(4096).startswith(b"HTTP/1.1 503")
        assert idle.recv(4096) == b""
    assert "CRITICAL" not in collector.log.read_text()
    assert not Path(f"{collector.database}-wal").exists()
    assert collector.bodies() == [b"{}"]


def test_a_socket_that_cannot_be_deleted_delays_nothing(start: Start) -> None:
    collector = start()
    path = Path(f"{collector.database}.sock")
    path.unlink()
    path.mkdir()
    assert collector.stop() == 0


def test_requests_accepted_before_a_signal_get_a_response(start: Start) -> None:
    collector = start()
    acknowledged: list[int] = []

    def send(worker: int, _: threading.Event) -> None:
        with contextlib.suppress(requests.ConnectionError):
            for number in range(10_000):
                answer = collector.post("/v1/track", {"messageId": f"{worker}-{number}"})
                if answer.status_code == 200:
                    acknowledged.append(number)

    with sending(send, 4):
        wait_until(lambda: len(acknowledged) >= 20)
        assert collector.stop() == 0
    assert len(acknowledged) == len(collector.events())


def stuck(*_: object, **__: object) -> None:
    """Parsing that never ends."""
    threading.Event().wait()


def test_requests_that_wait_for_a_thread_get_a_503_at_the_end(start: Start) -> None:
    collector = start(constants={"events.from_batch": stuck, "server.LAST_RESPONSES": 0.2})
    body = b'{"batch":[]}'.ljust(200_000)
    answers: list[int] = []

    def send(*_: object) -> None:
        try:
            answers.append(collector.post("/v1/batch", body).status_code)
        except requests.ConnectionError:  # those that have a thread
            answers.append(0)

    with sending(send, 6):
        wait_until(lambda: collector.metric("pending_bytes") == 6 * len(body))
        assert collector.stop() == 0
    assert sorted(answers) == [0, 0, 503, 503, 503, 503]
    assert "ERROR" not in collector.log.read_text()


def test_a_second_signal_ends_it_immediately(start: Start) -> None:
    collector = start(constants={"http.LINGER": PATIENCE})
    with collector.connect() as slow:  # would hold it up
        slow.sendall(HALF_A_REQUEST)
        assert collector.post("/v1/track", b"{}").status_code == 200
        collector.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "Shutting down." in collector.log.read_text())
        assert collector.stop() == 128 + signal.SIGTERM
    assert "Z CRITICAL " in collector.log.read_text().splitlines()[-1]
