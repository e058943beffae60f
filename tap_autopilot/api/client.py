"""Authenticated GET requests: paced, with a deadline, retried if that may help."""

from __future__ import annotations

import collections
import json
import logging
import math
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar

from tap_autopilot.amounts import amount
from tap_autopilot.api.body import MAX_BODY, largest_share
from tap_autopilot.api.connection import Connection, Received, StaleConnection
from tap_autopilot.api.environment import read_environment
from tap_autopilot.api.failures import REDIRECTS, rule_of
from tap_autopilot.api.pace import Pacer
from tap_autopilot.api.retry import Retries, http_date, retry_after
from tap_autopilot.api.watchdog import Watchdog
from tap_autopilot.config import Config
from tap_autopilot.exceptions import (
    Oversized,
    Retryable,
    RunError,
    TapError,
    Unreachable,
    UserError,
)
from tap_autopilot.logs import printable
from tap_autopilot.redaction import redactor

LOG = logging.getLogger(__name__)
T = TypeVar("T")

MAX_REDIRECTS = 5
NO_RESPONSE = "no response"
MAX_MESSAGE = 2**16  # bytes of an error's body
PROBES = ("/lists", "/smart_segments")
PROBE_TIMEOUT = 10.0  # seconds for all probes together


@dataclass
class Traffic:
    """Counts of the requests for one source.

    `statuses` counts requests by the status of the response, or NO_RESPONSE. `seconds` is the total
    time of the requests, `throttled` how long 429s held up all walks.
    """

    statuses: collections.Counter[str] = field(default_factory=collections.Counter)
    seconds: float = 0.0
    retries: int = 0
    throttled: float = 0.0

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return self.statuses.total()

    def __str__(self) -> str:
        parts = [amount(self.requests, "request")]
        if self.retries:
            parts.append(f"{self.retries:,} retried")
        if self.throttled:
            parts.append(f"throttled for {self.throttled:.1f} s")
        return ", ".join(parts)


class Request(NamedTuple):
    """A GET for `source`. `path` is percent-encoded; messages show `shown`.

    If several requests are waiting, the most urgent goes first.
    """

    path: str
    shown: str
    source: str
    urgency: float = math.inf

    def __str__(self) -> str:
        return f"GET {self.shown}"


@dataclass(frozen=True)
class Response(Generic[T]):
    """A successful response, decoded.

    `fetched_at` is when its last byte arrived, by our clock; `date` is its Date header, by the
    API's clock, or None if the header is missing or invalid. Both are in UTC.
    """

    value: T
    fetched_at: datetime
    date: datetime | None


class Api:
    """What all clients of a run share. Raises UserError for an unusable proxy or CA bundle.

    `last_response` is when the last successful response arrived, `last_silence` when all probes
    last failed, on the monotonic clock.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.environment = read_environment(config.api_url)
        self.pacer = Pacer(config.max_requests_per_second)
        self.watchdog = Watchdog()
        self.traffic: dict[str, Traffic] = collections.defaultdict(Traffic)
        self.counting = threading.Lock()
        self.probing = threading.Lock()
        self.large_body = threading.Lock()
        self.last_response = self.last_silence = -math.inf
        # By client: since when it has been waiting for a response, and to what.
        self.awaited: dict[int, tuple[float, str]] = {}


class Client:
    """Sends requests to the API, for one thread."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._url = api.config.api_url
        self._redact = redactor(api.config.api_key)
        headers = {
            "autopilotapikey": api.config.api_key,
            "User-Agent": api.config.user_agent,
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
        }
        self._connection = Connection(
            self._url, headers, api.environment, api.watchdog, api.large_body,
            largest_share(api.config.concurrency),
        )  # fmt: skip

    def get(self, request: Request, decode: Callable[[bytes], T]) -> Response[T]:
        """The response to a request, with its body read by `decode`.

        `decode` raises Retryable for an unexpected body.

        Raises Refused for a 4xx, UserError for a bad key, proxy, certificate or redirect, RunError
        if no try succeeded (see `Retries`), and Unreachable if the API does not respond to other
        requests either.
        """
        self.forget()
        self._api.awaited[id(self)] = time.monotonic(), str(request)
        try:
            return self._get(request, decode)
        finally:
            del self._api.awaited[id(self)]

    def forget(self) -> None:
        """Note that the last response is no longer in memory, so that others may read a large one.

        A request does so, too, before it waits.
        """
        self._connection.forget()

    def _get(self, request: Request, decode: Callable[[bytes], T]) -> Response[T]:
        config = self._api.config
        started = sent = self._api.pacer.wait(request.urgency)
        retries = Retries(started, config.retry_timeout, config.request_timeout)
        while True:
            try:
                response = _decoded(self._follow(request, retries.deadline(sent)), decode)
            except Oversized as found:
                raise RunError(f"{request}: {found}.") from None
            except Retryable as found:
                found.__traceback__ = found.__context__ = None  # they hold the response
                problem = found
            else:
                self._api.pacer.note_success()
                self._api.last_response = time.monotonic()
                return response
            # Not until here, because before Python 3.11, an `except` holds the traceback, too.
            self.forget()
            wait = retries.next_wait(problem.wait)
            if problem.throttled:
                pause = wait if wait and problem.wait else 0.0
                self._count(request, throttled=self._api.pacer.throttle(sent, pause))
            if wait is None:
                raise self._failure(request, problem, started)
            self._count(request, retries=1)
            level = logging.INFO if problem.throttled else logging.WARNING
            LOG.log(
                level, "%s: %s; retrying in %.1f s.", request, problem, max(wait, 0.1),
                extra={"is_live": problem.throttled},
            )  # fmt: skip
            time.sleep(wait)
            sent = self._api.pacer.wait(math.inf)

    def _failure(self, request: Request, problem: Retryable, started: float) -> RunError:
        seconds = time.monotonic() - started
        error, also, advice = RunError, "", "Run again later."
        if self._is_silent_since(started):
            error, also = Unreachable, ", and the API does not respond to other requests either"
            if self._api.last_response < 0:  # it never did
                advice = "Check api_url, or run again later."
        return error(f"{request}: {problem}; gave up after {seconds:.0f} s{also}. {advice}")

    def _is_silent_since(self, moment: float) -> bool:
        """Whether the API has not responded to anything since `moment`, which means an outage.

        If no other request succeeded meanwhile, one client sends two cheap probes on behalf of all
        clients, with PROBE_TIMEOUT for both.
        """
        api = self._api
        with api.probing:
            if api.last_response < moment and api.last_silence < moment:
                if self._probe_succeeds():
                    api.last_response = time.monotonic()
                else:
                    api.last_silence = time.monotonic()
            return api.last_response < moment

    def _probe_succeeds(self) -> bool:
        deadline = time.monotonic() + min(self._api.config.request_timeout, PROBE_TIMEOUT)
        for path in PROBES:
            if time.monotonic() + self._api.pacer.delay() >= deadline:
                break
            self._api.pacer.wait(math.inf)
            try:
                self._follow(Request(path, path, "probes"), deadline)
            except Retryable:
                continue
            except TapError:
                return True
            return True
        return False

    def _count(self, request: Request, *, retries: int = 0, throttled: float = 0.0) -> None:
        with self._api.counting:
            traffic = self._api.traffic[request.source]
            traffic.retries += retries
            traffic.throttled += throttled

    def _follow(self, request: Request, deadline: float) -> Received:
        """The successful response to a request, after any redirects within the origin."""
        url = self._url + request.path
        for _ in range(MAX_REDIRECTS):
            received = self._fetch(url, request.source, deadline)
            location = received.headers.get("Location")
            if received.status not in REDIRECTS or location is None:
                return self._checked(request, received)
            del received  # its body may be large
            try:
                url = urllib.parse.urljoin(url, location)
                same = _origin(url) == _origin(self._url)
            except ValueError:
                same = False
            if not same:
                raise UserError(
                    f"{request}: redirected to another origin; the API key was not sent there."
                    " If the API has moved, set api_url."
                )
            self._api.pacer.wait(math.inf)
        raise RunError(f"{request}: redirect loop. Check api_url.")

    def _fetch(self, url: str, source: str, deadline: float) -> Received:
        """The response to one request, resent once if the server had closed the connection."""
        try:
            return self._send(url, source, deadline)
        except StaleConnection:
            self._api.pacer.wait(math.inf)
            return self._send(url, source, deadline)

    def _send(self, url: str, source: str, deadline: float) -> Received:
        began, status = time.monotonic(), NO_RESPONSE
        try:
            received = self._connection.get(url, deadline)
            status = str(received.status)
            return received
        finally:
            with self._api.counting:
                traffic = self._api.traffic[source]
                traffic.statuses[status] += 1
                traffic.seconds += time.monotonic() - began

    def _checked(self, request: Request, received: Received) -> Received:
        """A successful response, decompressed; raises the right error for any other."""
        status, (body, problem) = received.status, received.body
        rule = None if status == 200 else rule_of(status)
        if rule is not None and rule.error is Retryable:
            wait = retry_after(received.headers.get("Retry-After"))
            raise Retryable(rule.text.format(status), wait, throttled=status == 429)
        if problem is not None:
            raise Retryable(problem)
        if len(body) > MAX_BODY:
            raise RunError(f"{request}: the response exceeds the limit of {MAX_BODY:,} bytes.")
        if rule is None:
            return received
        text = f"{request}: status {status}{self._message(body)}. {rule.text}".rstrip()
        raise rule.exception(status, text)

    def _message(self, body: bytes) -> str:
        """The API's error message, on one line and truncated; empty if it gave no short one."""
        try:
            message = json.loads(body[:MAX_MESSAGE])["message"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return ""
        if not isinstance(message, str):
            return ""
        return f' "{printable(self._redact(message))[:200].rstrip(". ")}"'


def _decoded(received: Received, decode: Callable[[bytes], T]) -> Response[T]:
    date = http_date(received.headers.get("Date", ""))
    return Response(decode(received.body.content), received.at, date)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """The scheme, host and port of a URL. Raises ValueError if it is not a URL."""
    parts = urllib.parse.urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port
