"""The client's connections: responses that are no HTTP, silent servers, and deadlines, with sockets."""

from __future__ import annotations

import contextlib
import socket
import time
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tap_autopilot.api import body
from tap_autopilot.api.client import Client, Request
from tap_autopilot.api.connection import open_session
from tap_autopilot.api.environment import read_environment
from tap_autopilot.api.watchdog import Watch
from tap_autopilot.exceptions import Retryable, Unreachable
from tests.conftest import Tap
from tests.lying_pager import KEY
from tests.scripted import Scripted
from tests.socket_server import Server, Trust
from tests.test_client import api, get, in_threads

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue"


def once(*answers: bytes) -> Server:
    """A server of one response per connection, in this order; the last repeats forever."""

    def handle(connected: socket.socket, number: int) -> None:
        server.read_request(connected)
        connected.sendall(answers[min(number, len(answers)) - 1])
        connected.shutdown(socket.SHUT_WR)
        server.read_request(connected)

    server = Server(handle)
    return server


def test_a_stale_connection_is_replaced_silently(
    caplog: pytest.LogCaptureFixture, waits: list[float]
) -> None:
    def handle(connected: socket.socket, _: int) -> None:
        server.read_request(connected)
        connected.sendall(GOOD)
        server.read_request(connected)  # and closes without responding

    with Server(handle) as server:
        shared = api(server.url)
        client = Client(shared)
        assert [get(client).value for _ in range(3)] == [True] * 3
    assert server.connections == 3
    assert len(server.asked) == 5 == shared.traffic["lists"].requests == len(shared.pacer._sent)
    assert shared.traffic["lists"].retries == 0
    assert waits == []
    assert caplog.text == ""


def test_a_request_is_sent_again_silently_only_once(
    caplog: pytest.LogCaptureFixture, waits: list[float]
) -> None:
    def handle(connected: socket.socket, number: int) -> None:
        server.read_request(connected)
        if number in (1, 3):
            connected.sendall(GOOD)
            server.read_request(connected)

    with Server(handle) as server:
        client = Client(api(server.url))
        assert [get(client).value for _ in range(2)] == [True] * 2
    assert len(server.asked) == 4
    assert len(waits) == 1
    assert f"127.0.0.1:{server.port} closed the connection without a response" in caplog.text


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + b"-4\r\ntrue\r\n0\r\n\r\n",
        CHUNKED + b"-1\r\ntrue\r\n0\r\n\r\n",
        CHUNKED + b"4\r\ntru",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nno colon here",
        b"HTTP/1.1 200 OK\r\n: \r\nContent-Length: 4\r\n\r\ntru",
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4, 5\r\n\r\ntrue",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"",
    ],
)
def test_a_response_that_is_not_http_is_retried(
    caplog: pytest.LogCaptureFixture, waits: list[float], answer: bytes
) -> None:
    with once(answer, GOOD) as server:
        assert get(Client(api(server.url))).value is True
    assert len(waits) == 1
    assert caplog.text.count("WARNING") == 1
    assert "Traceback" not in caplog.text


def test_bytes_after_an_informational_response_are_not_taken_for_the_next_one(
    waits: list[float],
) -> None:
    def handle(connected: socket.socket, number: int) -> None:
        server.read_request(connected)
        if number == 1:
            connected.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            time.sleep(0.2)
            connected.sendall(GOOD.replace(b"true", b"null"))
        else:
            connected.sendall(GOOD)

    with Server(handle) as server:
        assert get(Client(api(server.url))).value in (True, None)
    assert len(waits) == server.connections - 1


def test_a_host_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(Unreachable, match=r"GET /lists: could not resolve api\.example; gave up"):
        get(Client(api(retry_timeout=0)))


@pytest.fixture
def dead() -> Iterator[int]:
    """A port on 127.0.0.1 that neither accepts nor refuses connections."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        time.sleep(0.1)
        yield listener.getsockname()[1]


def test_an_address_that_does_not_respond_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch, dead: int, waits: list[float]
) -> None:
    with once(GOOD) as server:
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
            for port in (dead, dead, server.port)
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        started = time.monotonic()
        assert get(Client(api("http://localhost/v1", request_timeout=2))).value is True
    assert time.monotonic() - started > 0.9
    assert waits == []


def test_connecting_times_out(dead: int) -> None:
    url = f"http://127.0.0.1:{dead}/v1"
    with pytest.raises(Unreachable, match=rf"connecting to 127\.0\.0\.1:{dead} timed out"):
        get(Client(api(url, request_timeout=1, retry_timeout=0)))


def test_a_server_without_tls_is_not_said_to_take_the_whole_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(Unreachable, match=rf"connecting to 127\.0\.0\.1:{port} timed out"):
            get(Client(api(f"https://127.0.0.1:{port}/v1", request_timeout=2, retry_timeout=0)))


def drip(connected: socket.socket, data: bytes) -> None:
    for byte in data:
        connected.sendall(bytes([byte]))
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("start", "rest"),
    [
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
        (CHUNKED, b"1\r\n \r\n"),
        (CHUNKED.replace(b"\r\n", b"\r\nConnection: close\r\n", 1), b"1\r\n \r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\n\r\n[]", b" "),
        (b"HTTP/1.0 200 OK\r\n\r\n[]", b" "),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", b" "),
    ],
    ids=["headers", "chunks", "closing", "length", "unknown length", "1.0", "redirect"],
)
@pytest.mark.parametrize("tls", [False, True])
def test_a_dripping_response_times_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, start: bytes, rest: bytes, tls: bool
) -> None:
    trust = Trust(tmp_path)
    context = trust.server()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", trust.path)

    def handle(connected: socket.socket, _: int) -> None:
        secured = context.wrap_socket(connected, server_side=True) if tls else connected
        with secured:
            server.read_request(secured)
            secured.sendall(start)
            drip(secured, rest * (1000 // len(rest)))

    with Server(handle) as server:
        started = time.monotonic()
        url = server.url.replace("http:", "https:") if tls else server.url
        with pytest.raises(Unreachable, match=r"timed out after 0\.\d+ s; gave up after \d+ s"):
            get(Client(api(url, request_timeout=0.6, retry_timeout=0)))
    assert time.monotonic() - started < 30, "rather than 100"


@pytest.mark.parametrize("what", ["hang", "drip"])
def test_a_tls_handshake_times_out(what: str) -> None:
    def handle(connected: socket.socket, _: int) -> None:
        connected.recv(65536)
        if what == "drip":
            drip(connected, b"\x16\x03\x03\x40\x00" + b"\x02" * 1000)
        time.sleep(100)

    with Server(handle) as server:
        started = time.monotonic()
        url = server.url.replace("http:", "https:")
        with pytest.raises(Unreachable, match="timed out"):
            get(Client(api(url, request_timeout=0.6, retry_timeout=0)))
    assert time.monotonic() - started < 30, "rather than 100"


@pytest.mark.parametrize(
    ("start", "endless"),
    [
        (CHUNKED, b"1\r\n \r\n"),
        (CHUNKED + b"2\r\n[]\r\n0\r\n", b"A: b\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["chunks", "trailers", "continue"],
)
def test_a_response_that_keeps_the_cpu_busy_is_ended(
    monkeypatch: pytest.MonkeyPatch, start: bytes, endless: bytes
) -> None:
    def handle(connected: socket.socket, _: int) -> None:
        server.read_request(connected)
        connected.sendall(start)
        while True:
            connected.sendall(endless * 1000)

    monkeypatch.setattr("tap_autopilot.api.watchdog.MAX_CPU", 0.1)
    monkeypatch.setattr("tap_autopilot.api.watchdog.LOOK_EVERY", 0.05)
    with Server(handle) as server, pytest.raises(Unreachable, match="too much CPU"):
        get(Client(api(server.url, request_timeout=1000, retry_timeout=0)))


def test_all_threads_share_the_probes_of_a_hanging_api() -> None:
    def handle(connected: socket.socket, _: int) -> None:
        server.read_request(connected)
        time.sleep(100)

    with Server(handle) as server:
        started = time.monotonic()
        ended = in_threads([api(server.url, request_timeout=0.6, retry_timeout=0)] * 6)
        assert [type(error) for error in ended()] == [Unreachable] * 6
    assert time.monotonic() - started < 30, "rather than 100"
    probes = [one for one in server.asked if not one.startswith(b"GET /v1/contacts")]
    assert 1 <= len(probes) < 6, "the first probe used up the time for both"


def test_the_path_is_sent_unchanged(waits: list[float]) -> None:
    with once(GOOD) as server:
        get(Client(api(server.url)), "/contacts/%2E%2E%2F%7E%20?x")
    assert server.asked[0].startswith(b"GET /v1/contacts/%2E%2E%2F%7E%20?x HTTP/1.1\r\n")
    assert waits == []


def test_a_large_body_that_has_to_wait_too_long_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "LARGE", 3)
    with once(GOOD) as server:
        shared = api(server.url, request_timeout=0.6, retry_timeout=0)
        with shared.large_body, pytest.raises(Unreachable, match=r"timed out after 0\.\d+ s"):
            get(Client(shared))


def test_more_connections_make_smaller_bodies_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "ALL", 64)
    with once(GOOD) as server:
        for concurrency, waits in ((16, False), (17, True)):
            shared = api(server.url, concurrency=concurrency)
            get(Client(shared))
            assert shared.large_body.locked() is waits


def test_a_client_that_waits_to_retry_has_forgotten_the_response(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: list[weakref.ref[set[str]]] = []
    alive = []

    def decode(_: bytes) -> None:
        page: set[str] = set()
        parsed.append(weakref.ref(page))
        if len(parsed) == 1:
            raise Retryable("the response is not JSON")

    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: alive.append(parsed[0]()))
    monkeypatch.setattr("tap_autopilot.api.client.time", clock)
    with once(GOOD, GOOD) as server:
        Client(api(server.url)).get(Request("/x", "/x", "contacts"), decode)
    assert alive == [None]


def test_a_client_that_waits_lets_others_read_large_bodies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For its turn to send the next request, or to retry."""
    monkeypatch.setattr(body, "LARGE", 3)
    held = []
    with once(GOOD, GOOD.replace(b"true", b"tru\0"), GOOD) as server:
        shared = api(server.url)
        client = Client(shared)
        get(client)
        held.append(shared.large_body.locked())
        clock = SimpleNamespace(
            monotonic=time.monotonic, sleep=lambda _: held.append(shared.large_body.locked())
        )
        monkeypatch.setattr("tap_autopilot.api.client.time", clock)
        monkeypatch.setattr(shared.pacer, "wait", lambda _: clock.sleep(0) or clock.monotonic())
        get(client)
    assert held[0]
    assert len(held) > 3
    assert not any(held[1:])


def test_what_a_run_reads_first_does_not_hold_up_its_other_large_bodies(tap: Tap) -> None:
    large = b" " * (body.LARGE + 1)
    answers = {
        "/contacts": b'{"contacts":[{"contact_id":"p"}]}' + large,
        "/contacts/custom_fields": b"[]" + large,
    }
    digests = {"digests": str(tap.folder / "digests"), "custom_fields_as_columns": True}
    with Scripted(answers) as sandbox:
        config = tap.config(sandbox, request_timeout=30, retry_timeout=0, **digests)
        for warned in (False, True):  # the second run begins with a digests file in doubt
            run = tap.run("-c", tap.file("config.json", config))
            assert run.code == 0, run.stderr
            assert ("everything is sent again" in run.stderr) is warned


def test_cookies_are_neither_kept_nor_sent_back() -> None:
    sets = b"".join(b"Set-Cookie%b: c=x; Path=/\r\n" % name for name in (b"", b"2"))
    with once(GOOD.replace(b"\r\n\r\n", b"\r\n" + sets + b"\r\n"), GOOD) as server:
        session = open_session(read_environment(server.url), Watch())
        for _ in range(2):
            response = session.get(server.url)
            assert response.json() is True
            assert not session.cookies
            assert not response.cookies
            session.close()
    assert len(server.asked) == 2
    assert b"Cookie" not in server.asked[1]


def test_exactly_these_headers_are_sent() -> None:
    with once(GOOD) as server:
        get(Client(api(server.url)))
    lines = server.asked[0].decode().split("\r\n")[1:-2]
    assert dict(line.split(": ", 1) for line in lines) == {
        "Host": f"127.0.0.1:{server.port}",
        "User-Agent": "tap-autopilot",
        "Accept-Encoding": "gzip",
        "Accept": "application/json",
        "Connection": "keep-alive",
        "autopilotapikey": KEY,
    }
