"""The client: what it retries, what it reports, and how long it waits."""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
import responses

from tap_autopilot.api import body as body_module
from tap_autopilot.api import client as client_module
from tap_autopilot.api import lenient, retry
from tap_autopilot.api.client import Api, Client, Request, Response
from tap_autopilot.api.retry import Retries
from tap_autopilot.config import Config
from tap_autopilot.exceptions import Refused, RunError, Unreachable, UserError
from tests.conftest import Clock
from tests.lying_pager import KEY

URL = "https://api.example/v1"


def api(url: str = URL, **settings: Any) -> Api:
    quick = {"api_key": KEY, "api_url": url, "max_requests_per_second": 1000}
    return Api(Config.from_mapping({**quick, "retry_timeout": 5, **settings}))


def get(client: Client, path: str = "/lists") -> Response[Any]:
    return client.get(Request(path, path, "lists"), lambda body: lenient._loads(body.decode()))


@pytest.fixture
def mock() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mocked:
        yield mocked


# Statuses


GZIP = {"Content-Encoding": "gzip"}


@pytest.mark.parametrize(
    ("status", "headers", "body", "said"),
    [
        *((one, {}, b"[1]", f"status {one}") for one in (201, 202, 206, 300, 408, 425, 429, 500, 503, 599)),
        *((one, {}, b"", f"status {one}") for one in (204, 304)),
        *((one, {}, b"", f"redirected with status {one}, but without a Location")
          for one in (301, 302, 303, 307, 308)),
        (200, GZIP, b"[]", "corrupt"),
        (200, GZIP, gzip.compress(b"[]", mtime=0)[:-3], "truncated"),
        (200, {"Content-Encoding": "br"}, b"[]", "Content-Encoding"),
        (200, {}, b"<html>", "a page of HTML"),
    ],
)  # fmt: skip
def test_a_response_that_may_pass_is_retried(
    mock: responses.RequestsMock, caplog: pytest.LogCaptureFixture, waits: list[float],
    status: int, headers: dict[str, str], body: bytes, said: str,
) -> None:  # fmt: skip
    mock.get(f"{URL}/lists", status=status, body=body, headers=headers)
    mock.get(f"{URL}/lists", json=[2])
    assert get(Client(api())).value == [2]
    assert said in caplog.text
    assert len(waits) == 1


@pytest.mark.parametrize("status", [400, 402, 403, 404, 405, 409, 410, 418, 422, 451])
def test_a_refusal_is_raised_with_its_status(mock: responses.RequestsMock, status: int) -> None:
    mock.get(f"{URL}/lists", status=status, json={"error": "No", "message": "Not\nthat."})
    with pytest.raises(Refused, match=rf'GET /lists: status {status} "Not\\nthat"\.') as caught:
        get(Client(api()))
    assert caught.value.status == status
    assert caught.value.exit_code == (2 if status in (403, 404) else 1)
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


# Pace and waits


@pytest.mark.parametrize("body", [b"[]", b"not JSON"])
@pytest.mark.parametrize("status", [200, 204, 500, 503, 404])
def test_only_good_responses_raise_the_pace(
    mock: responses.RequestsMock, body: bytes, status: int
) -> None:
    mock.get(f"{URL}/lists", status=status, body=body)
    shared = api(retry_timeout=0, max_requests_per_second=1000)
    before = shared.pacer.rate
    with contextlib.suppress(RunError):
        get(Client(shared))
    assert (shared.pacer.rate > before) == (status == 200 and body == b"[]")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("1", 1.0), (" 99999999999999999999 ", 1e20), ("-3", None), ("1.5", None), ("soon", None), (None, None),
     ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0), ("Sun, 06 Nov 1994 08:49:37 GMT" + " x" * 99, None)],
)  # fmt: skip
def test_how_long_the_server_asks_to_wait(header: str | None, seconds: float | None) -> None:
    assert retry.retry_after(header) == seconds


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
