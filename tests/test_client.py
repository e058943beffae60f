"""The client: what it retries, what it reports, and how long it takes, with sockets and mocks."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest
import responses
import trustme

from tap_autopilot.api import body as body_module
from tap_autopilot.api import client as client_module
from tap_autopilot.api import lenient, retry
from tap_autopilot.api.client import Api, Client, Response
from tap_autopilot.api.retry import Retries
from tap_autopilot.api.watchdog import Watch, Watchdog
from tap_autopilot.config import Config
from tap_autopilot.exceptions import Refused, Retryable, RunError, Unreachable, UserError
from tests.conftest import wait_until

URL = "https://api.example/v1"
KEY = "s3cr3t+key/of=the~account!"
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue"


def api(url: str = URL, **settings: Any) -> Api:
    quick = {"api_key": KEY, "api_url": url, "max_requests_per_second": 1000}
    return Api(Config.from_mapping({**quick, "retry_timeout": 5, **settings}))


def decode_value(body: bytes) -> Any:
    return lenient._loads(body.decode())


def get(
    client: Client, path: str = "/lists", decode: Callable[[bytes], Any] = decode_value
) -> Response[Any]:
    return client.get(path, decode, shown=path, kind="lists", urgency=0)


@pytest.fixture
def mock() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mocked:
        yield mocked


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace sleeping; collects the seconds that the client would have slept."""
    slept: list[float] = []
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=slept.append)
    monkeypatch.setattr("tap_autopilot.api.client.time", clock)
    return slept


# Statuses


@pytest.mark.parametrize("status", [201, 202, 204, 206, 300, 304, 408, 425, 429, 500, 503, 599])
def test_a_transient_status_is_retried(
    mock: responses.RequestsMock, waits: list[float], status: int
) -> None:
    mock.get(f"{URL}/lists", status=status, body=b"" if status in (204, 304) else b"[1]")
    mock.get(f"{URL}/lists", json=[2])
    assert get(Client(api())).value == [2]
    assert len(waits) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_nowhere_is_retried(
    mock: responses.RequestsMock,
    waits: list[float],
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mock.get(f"{URL}/lists", status=status)
    mock.get(f"{URL}/lists", json=[2])
    assert get(Client(api())).value == [2]
    assert len(waits) == 1
    assert f"redirected with status {status}, but without a Location" in caplog.text


@pytest.mark.parametrize("status", [400, 402, 403, 404, 405, 409, 410, 418, 422, 451])
def test_a_refusal_is_raised_with_its_status(mock: responses.RequestsMock, status: int) -> None:
    mock.get(f"{URL}/lists", status=status, json={"error": "No", "message": "Not\nthat."})
    with pytest.raises(Refused, match=rf'GET /lists: status {status} "Not\\nthat\."') as caught:
        get(Client(api()))
    assert caught.value.status == status
    assert caught.value.exit_code == (2 if status == 403 else 1)
    assert len(mock.calls) == 1


def test_a_bad_key_is_a_user_error(mock: responses.RequestsMock) -> None:
    mock.get(f"{URL}/lists", status=401)
    with pytest.raises(UserError, match="Check api_key"):
        get(Client(api()))


@pytest.mark.parametrize(
    "location",
    ["https://other.example/v1/lists", "http://api.example/v1/lists", "http://[x", "//a:b"],
)
def test_a_redirect_to_another_origin_is_a_user_error(
    mock: responses.RequestsMock, location: str
) -> None:
    mock.get(f"{URL}/lists", status=302, headers={"Location": location})
    with pytest.raises(UserError, match="redirect"):
        get(Client(api()))
    assert len(mock.calls) == 1


def test_redirects_within_the_origin_are_followed(mock: responses.RequestsMock) -> None:
    mock.get(f"{URL}/lists", status=307, headers={"Location": "/v2/lists"})
    mock.get(
        "https://api.example/v2/lists",
        status=301,
        headers={"Location": "https://API.example:443/v3"},
    )
    mock.get("https://API.example:443/v3", json=[3])
    assert get(Client(api())).value == [3]
    assert [call.request.headers["autopilotapikey"] for call in mock.calls] == [KEY] * 3


# Bodies


def test_a_response_has_two_times(mock: responses.RequestsMock) -> None:
    date = datetime(2024, 2, 29, 12, 30, 1, tzinfo=timezone.utc)
    mock.get(f"{URL}/lists", json=[], headers={"Date": format_datetime(date, usegmt=True)})
    before = datetime.now(timezone.utc)
    answer = get(Client(api()))
    assert answer.date == date
    assert answer.date.utcoffset() == timedelta(0)
    assert before <= answer.fetched_at <= datetime.now(timezone.utc)


@pytest.mark.parametrize(
    "date", [None, "", "yesterday", "Thu, 99 Feb 2024 12:30:01 GMT", "9" * 400]
)
def test_an_invalid_date_is_ignored(mock: responses.RequestsMock, date: str | None) -> None:
    mock.get(f"{URL}/lists", json=[], headers={} if date is None else {"Date": date})
    assert get(Client(api())).date is None


@pytest.mark.parametrize("packed", [False, True])
def test_a_page_of_a_hundred_large_contacts_is_read(
    mock: responses.RequestsMock, packed: bool
) -> None:
    body = b"[" + b" " * (100 << 20) + b"]"
    headers = {"Content-Encoding": "gzip"} if packed else {}
    mock.get(f"{URL}/lists", body=gzip.compress(body, 1) if packed else body, headers=headers)
    assert get(Client(api()), decode=len).value == len(body)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("status", [200, 404])
def test_a_response_that_is_too_large_is_not_retried(
    mock: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch, packed: bool, status: int
) -> None:
    for module in (client_module, body_module):
        monkeypatch.setattr(module, "MAX_BODY", 5000)
    monkeypatch.setattr(body_module, "PIECE", 1000)
    body = b" " * 100_000
    headers = {"Content-Encoding": "gzip"} if packed else {}
    mock.get(
        f"{URL}/lists", status=status, body=gzip.compress(body) if packed else body, headers=headers
    )
    with pytest.raises(
        RunError, match=r"GET /lists: the response exceeds the limit of 5,000 bytes"
    ):
        get(Client(api()))
    assert len(mock.calls) == 1


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ({"Content-Encoding": "gzip"}, b"[]", "corrupt"),
        ({"Content-Encoding": "gzip"}, gzip.compress(b"[]", mtime=0)[:-3], "truncated"),
        ({"Content-Encoding": "br"}, b"[]", "Content-Encoding"),
        ({}, b"<html>", "a page of HTML"),
    ],
)
def test_an_unreadable_response_is_retried(
    mock: responses.RequestsMock, caplog: pytest.LogCaptureFixture, waits: list[float],
    headers: dict[str, str], body: bytes, said: str,
) -> None:  # fmt: skip
    mock.get(f"{URL}/lists", body=body, headers=headers)
    mock.get(f"{URL}/lists", json=[])
    assert get(Client(api())).value == []
    assert said in caplog.text
    assert len(waits) == 1


# Pace and waits


@pytest.mark.parametrize("body", [b"[]", b"not JSON"])
@pytest.mark.parametrize("status", [200, 204, 500, 503, 404])
def test_only_good_responses_raise_the_pace(
    mock: responses.RequestsMock, body: bytes, status: int
) -> None:
    mock.get(f"{URL}/lists", status=status, body=body)
    shared = api(retry_timeout=0, max_requests_per_second=1000)
    before = shared.pacer._rate
    with contextlib.suppress(RunError):
        get(Client(shared))
    assert (shared.pacer._rate > before) == (status == 200 and body == b"[]")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("1", 1.0), (" 99999999999999999999 ", 1e20), ("-3", None), ("1.5", None), ("soon", None), (None, None),
     ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0)],
)  # fmt: skip
def test_how_long_the_server_asks_to_wait(header: str | None, seconds: float | None) -> None:
    assert retry.retry_after(header) == seconds


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(retry, "time", found)
    monkeypatch.setattr("backoff.full_jitter", lambda most: most)
    return found


def test_waits_grow_until_the_time_is_up(clock: Clock) -> None:
    retries, waits = Retries(clock.now, 300, 300), []
    while (wait := retries.next_wait(None)) is not None:
        waits.append(wait)
        clock.now += wait
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60, 57]


@pytest.mark.parametrize(
    ("asked", "waits"),
    [
        (0, [0, 2, 4, 8]),
        (0.5, [0.5, 2, 4, 8]),
        (1, [1, 1, 1, 1]),
        (25, [25, 25, 25, 25]),
        (900, [300]),
    ],
)
def test_the_wait_that_the_server_asks_for_is_obeyed(
    clock: Clock, asked: float, waits: list[float]
) -> None:
    retries = Retries(clock.now, 300, 300)
    for expected in waits:
        assert retries.next_wait(asked) == expected
        clock.now += expected


def test_a_first_try_that_takes_all_the_time_gets_a_second(clock: Clock) -> None:
    retries = Retries(clock.now, 300, 300)
    clock.now += 300.1
    assert retries.next_wait(None) == 0
    assert retries.deadline(clock.now) == 1600
    clock.now = 1600
    assert retries.next_wait(None) is None


def test_without_a_retry_timeout_nothing_is_retried(clock: Clock) -> None:
    assert Retries(clock.now, 0, 300).next_wait(None) is None


# Sockets


class Server:
    """A server that handles each connection with a function, in its own thread."""

    def __init__(self, handle: Callable[[socket.socket, int], object]) -> None:
        self._handle = handle
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.connections = 0
        self.asked: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connected, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(
                    target=self._one, args=(connected, self.connections), daemon=True
                ).start()

    def _one(self, connected: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), connected:
            self._handle(connected, number)

    def read_request(self, connected: socket.socket) -> bytes:
        """A request, up to the end of its headers; empty if the client has hung up."""
        heard = b""
        while not heard.endswith(b"\r\n\r\n"):
            piece = connected.recv(65536)
            if not piece:
                return b""
            heard += piece
        self.asked.append(heard)
        return heard

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # otherwise the accepting thread keeps it open
        self._listener.close()


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


def test_a_truncated_response_on_a_reused_connection_is_retried_with_a_warning(
    caplog: pytest.LogCaptureFixture, waits: list[float]
) -> None:
    def handle(connected: socket.socket, number: int) -> None:
        server.read_request(connected)
        connected.sendall(GOOD)
        if number == 1:
            server.read_request(connected)
            connected.sendall(GOOD[:-1])

    with Server(handle) as server:
        client = Client(api(server.url))
        assert [get(client).value for _ in range(2)] == [True] * 2
    assert "truncated" in caplog.text
    assert len(waits) == 1


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


def test_a_reset_connection_is_retried(
    caplog: pytest.LogCaptureFixture, waits: list[float]
) -> None:
    def handle(connected: socket.socket, number: int) -> None:
        server.read_request(connected)
        if number == 1:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            connected.sendall(GOOD)

    with Server(handle) as server:
        assert get(Client(api(server.url))).value is True
    assert f"connection reset by 127.0.0.1:{server.port}; retrying in" in caplog.text
    assert len(waits) == 1


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
def test_a_dripping_response_times_out(start: bytes, rest: bytes) -> None:
    def handle(connected: socket.socket, _: int) -> None:
        server.read_request(connected)
        connected.sendall(start)
        drip(connected, rest * (1000 // len(rest)))

    with Server(handle) as server:
        started = time.monotonic()
        with pytest.raises(Unreachable, match=r"timed out after 0\.4 s; gave up after \d+ s"):
            get(Client(api(server.url, request_timeout=0.4, retry_timeout=0)))
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


@pytest.mark.parametrize("what", ["headers", "body", "rest"])
def test_the_deadline_holds_over_tls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, what: str
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def handle(connected: socket.socket, _: int) -> None:
        with context.wrap_socket(connected, server_side=True) as secured:
            server.read_request(secured)
            end = {"headers": b"X: ", "body": b"Content-Length: 1000\r\n\r\n", "rest": b"\r\n[]"}
            secured.sendall(b"HTTP/1.1 200 OK\r\n" + end[what])
            drip(secured, b" " * 1000)

    with Server(handle) as server:
        started = time.monotonic()
        url = server.url.replace("http:", "https:")
        with pytest.raises(Unreachable, match="timed out after"):
            get(Client(api(url, request_timeout=0.6, retry_timeout=0)))
    assert time.monotonic() - started < 30, "rather than 100"


def test_one_watchdog_serves_all_clients_and_then_ends() -> None:
    def watchdogs() -> set[threading.Thread]:
        return {one for one in threading.enumerate() if one.name == "watchdog"}

    before, watchdog, watches = watchdogs(), Watchdog(), [Watch() for _ in range(6)]
    for watch in watches:
        watchdog.start(watch, time.monotonic() + 0.1)
    assert len(watchdogs() - before) == 1
    wait_until(lambda: all(watch.timed_out for watch in watches))
    assert len(watchdogs() - before) == 1
    for watch in watches:
        watchdog.stop(watch)
    wait_until(lambda: watchdogs() <= before)


def in_threads(shared: list[Api]) -> Callable[[], list[BaseException]]:
    """Read from each in a thread. Returns a function that waits for them and returns their errors."""
    errors: list[BaseException] = []

    def read(one: Api) -> None:
        try:
            get(Client(one), "/contacts")
        except RunError as error:
            errors.append(error)

    threads = [threading.Thread(target=read, args=(one,)) for one in shared]
    for thread in threads:
        thread.start()

    def join() -> list[BaseException]:
        for thread in threads:
            thread.join()
        return errors

    return join


# Budgets


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


@pytest.mark.parametrize("status", [200, 404])
def test_a_failing_listing_is_not_an_outage_while_others_respond(
    mock: responses.RequestsMock, status: int
) -> None:
    mock.get(f"{URL}/contacts", status=500)
    mock.get(f"{URL}/lists", status=502)
    mock.get(f"{URL}/smart_segments", status=status)
    ended = in_threads([api(retry_timeout=0)] * 3)
    assert [type(error) for error in ended()] == [RunError] * 3
    assert len(mock.calls) <= 3 + 2 * 3


def test_a_long_pause_leaves_no_time_for_probes(
    mock: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock.get(f"{URL}/contacts", status=429, headers={"Retry-After": "60"})
    shared = api(retry_timeout=0.2)
    client = Client(shared)
    started = time.monotonic()
    monkeypatch.setattr(shared.pacer, "delay", lambda: 60.0)
    with pytest.raises(Unreachable):
        get(client, "/contacts")
    assert len(mock.calls) == 2
    assert time.monotonic() - started < 30, "rather than 60"


# Where the API is


@pytest.mark.parametrize(
    "url",
    [
        "https://api2..host/v1",
        f"https://{'a' * 64}.com/v1",
        "https://.com/v1",
        "https://a b/v1",
        "https://a,b/v1",
        f"https://{'a.' * 130}com/v1",
        "https://[::1/v1",
        "https://[::zz]/v1",
        "https://h:99999/v1",
        "https://h:port/v1",
        "https://bü cher.example/v1",
        "https://\udc80.example/v1",
    ],
)
def test_an_impossible_host_name(url: str) -> None:
    with pytest.raises(UserError, match="api_url"):
        api(url)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("HTTPS://API2.AutopilotHQ.com/v1/", "https://api2.autopilothq.com/v1"),
        ("https://bücher.example/v1", "https://xn--bcher-kva.example/v1"),
        ("https://api2.example.:8443", "https://api2.example.:8443"),
        ("Http://[::1]:80/V1", "http://[::1]:80/V1"),
        ("http://LOCALHOST:80", "http://localhost:80"),
    ],
)
def test_api_url_is_normalized(given: str, used: str) -> None:
    assert api(given).config.api_url == used


def test_the_path_is_sent_unchanged(waits: list[float]) -> None:
    with once(GOOD) as server:
        get(Client(api(server.url)), "/contacts/%2E%2E%2F%7E%20?x")
    assert server.asked[0].startswith(b"GET /v1/contacts/%2E%2E%2F%7E%20?x HTTP/1.1\r\n")
    assert waits == []


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


def test_a_failed_decode_is_retried(mock: responses.RequestsMock, waits: list[float]) -> None:
    mock.get(f"{URL}/lists", json=[])
    tries: list[bytes] = []

    def decode(body: bytes) -> Any:
        tries.append(body)
        if len(tries) < 3:
            raise Retryable("no good")
        return json.loads(body)

    assert get(Client(api()), decode=decode).value == []
    assert len(tries) == 3
    assert len(waits) == 2


def test_the_libraries_log_no_tracebacks() -> None:
    api()
    assert logging.getLogger("urllib3.connection").level == logging.ERROR
