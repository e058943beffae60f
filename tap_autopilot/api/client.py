"""One authenticated GET: paced, within a deadline, tried again where that can help."""

from __future__ import annotations

import collections
import email.utils
import http.client
import json
import logging
import math
import socket
import threading
import time
import urllib.parse
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Generic, TypeVar

import requests
import urllib3

from tap_autopilot.api.deadline import DeadlineAdapter
from tap_autopilot.api.pace import Pacer
from tap_autopilot.api.retry import Retries, retry_after
from tap_autopilot.config import Config
from tap_autopilot.exceptions import Refused, Retryable, RunError, TapError, Unreachable, UserError
from tap_autopilot.logs import redactor

LOG = logging.getLogger(__name__)
T = TypeVar("T")

LARGEST_BODY = 64 * 2**20  # bytes, packed and unpacked; a page of the API has some 200 kB
MOST_REDIRECTS = 5
PROBES = ("/lists", "/smart_segments")
RETRIED_STATUSES = frozenset({408, 425, 429})


@dataclass
class Traffic:
    """What the requests of one kind of walk came to. `throttled` is in seconds."""

    requests: int = 0
    retries: int = 0
    throttled: float = 0.0

    def __str__(self) -> str:
        parts = [f"requests: {self.requests}"]
        if self.retries:
            parts.append(f"retries: {self.retries}")
        if self.throttled:
            parts.append(f"throttled for {self.throttled:.1f} s")
        return ", ".join(parts)


@dataclass(frozen=True)
class Answer(Generic[T]):
    """An answer: its value, when it arrived by our clock, and when it was sent by the API's."""

    value: T
    fetched_at: datetime
    date: datetime | None


class Api:
    """What all clients of a run share: the pace, when the API last answered, and the counts."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.pacer = Pacer(config.max_requests_per_second)
        self.last_answer = -math.inf
        self.traffic: dict[str, Traffic] = collections.defaultdict(Traffic)
        self.counting = threading.Lock()


class Client:
    """A connection to the API, for one thread."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._url = api.config.api_url
        self._headers = {
            "autopilotapikey": api.config.api_key,
            "User-Agent": api.config.user_agent,
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
        }
        self._redact = redactor(api.config.api_key)
        adapter: Any = DeadlineAdapter()
        self._deadline = adapter.deadline
        try:
            self._pool = self._connected(adapter)
        except (OSError, requests.RequestException, urllib3.exceptions.HTTPError) as problem:
            raise UserError(
                "The environment's settings for proxies or certificates are not usable:"
                f" {self._redact(str(problem))}"
            ) from None

    def _connected(self, adapter: Any) -> Any:
        """A pool of connections to the API, or to the proxy before it.

        requests knows of proxies and certificates. Its pool is then used as it is, which takes
        half as long.
        """
        session = requests.Session()
        session.trust_env = self._url.startswith("https:")  # no proxy sees a key in plain text
        around = session.merge_environment_settings(self._url, {}, True, None, None)
        request = requests.Request("GET", self._url).prepare()
        pool = adapter.get_connection_with_tls_context(
            request, around["verify"], proxies=around["proxies"]
        )
        adapter.cert_verify(pool, self._url, around["verify"], None)
        return pool

    def get(
        self, path: str, decode: Callable[[bytes], T], *, shown: str, kind: str, urgency: float
    ) -> Answer[T]:
        """What `decode` makes of the answer to `path`, which is percent-encoded already.

        `decode` raises Retryable for an answer that is not what it should be. `shown` is how the
        path is written where people read it, and `kind` under what the request is counted; the
        most urgent request goes first where several wait for their turn. Raises Refused where the
        API says no, UserError where it does not know the key, RunError where `retry_timeout` went
        by without a good answer.
        """
        retries = None
        started = time.monotonic()
        while True:
            sent = self._api.pacer.wait(urgency if retries is None else math.inf)
            try:
                body, date = self._follow(path, shown, kind)
                answer = Answer(decode(body), datetime.now(timezone.utc), date)
            except Retryable as problem:
                retries = retries or Retries(self._api.config.retry_timeout)
                wait = retries.next_wait(problem.wait)
                if problem.throttled:
                    pause = wait if wait and problem.wait else 0.0
                    self._count(kind, throttled=self._api.pacer.throttled(sent, pause))
                else:
                    self._api.pacer.answered()
                if wait is None:
                    raise self._given_up(shown, problem, started) from None
                self._count(kind, retries=1)
                LOG.warning("GET %s: %s; trying again in %.1f s.", shown, problem, wait)
                time.sleep(wait)
            else:
                self._api.pacer.answered()
                self._api.last_answer = time.monotonic()
                return answer

    def _given_up(self, shown: str, problem: Retryable, started: float) -> RunError:
        seconds = time.monotonic() - started
        text = f"GET {shown}: {problem}; given up after {seconds:.0f} s. Run again later"
        if self._api.last_answer < started and not self._is_answering():
            return Unreachable(f"{text}; the API answers nothing else either.")
        return RunError(f"{text}.")

    def _is_answering(self) -> bool:
        """Whether the API answers any of two cheap requests, by which to tell an outage."""
        for path in PROBES:
            self._api.pacer.wait(math.inf)
            try:
                self._follow(path, path, "")
            except Retryable:
                continue
            except TapError:
                pass
            return True
        return False

    def _count(self, kind: str, retries: int = 0, throttled: float = 0.0) -> None:
        with self._api.counting:
            traffic = self._api.traffic[kind]
            traffic.retries += retries
            traffic.throttled += throttled

    def _follow(self, path: str, shown: str, kind: str) -> tuple[bytes, datetime | None]:
        """The body of the answer and its date, through redirects within the origin."""
        url = self._url + path
        for _ in range(MOST_REDIRECTS):
            with self._api.counting:
                self._api.traffic[kind].requests += 1
            status, headers, body = self._fetch(url)
            if status not in (301, 302, 303, 307, 308):
                return self._checked(shown, status, headers, body), _date(headers.get("Date"))
            try:
                target = urllib.parse.urljoin(url, headers.get("Location", ""))
                same = _origin(target) == _origin(self._url)
            except ValueError:
                same = False
            if not same:
                raise Refused(
                    status,
                    f"GET {shown}: redirected to another origin, which must not get the API key;"
                    " if the API has moved, set api_url.",
                )
            url = target
            self._api.pacer.wait(math.inf)
        raise Refused(status, f"GET {shown}: redirected in a circle; check api_url.")

    def _fetch(self, url: str) -> tuple[int, Mapping[str, str], bytes]:
        timeout = self._api.config.request_timeout
        self._deadline.at = time.monotonic() + timeout
        parts = urllib.parse.urlsplit(url)
        try:
            response = self._pool.urlopen(
                "GET",
                f"{parts.path}?{parts.query}" if parts.query else parts.path,
                headers=self._headers,
                timeout=timeout,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
            )
            try:
                body = response.read(LARGEST_BODY + 1)
                if response.read(1):  # a body that is too short is noticed only here
                    raise Retryable("the answer is too large")
            except BaseException:
                response.close()
                raise
            return response.status, response.headers, body
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as problem:
            if "CERTIFICATE_VERIFY_FAILED" in str(problem):
                raise Unreachable(
                    f"The certificate of {parts.hostname} is not trusted, so the key was not sent;"
                    " check api_url, the clock and REQUESTS_CA_BUNDLE."
                ) from None
            raise Retryable(_cause(problem)) from None

    def _checked(self, shown: str, status: int, headers: Mapping[str, str], body: bytes) -> bytes:
        """The unpacked body of a good answer; raises what the status of another one calls for."""
        if status in RETRIED_STATUSES or status >= 500:
            wait = retry_after(headers.get("Retry-After"))
            raise Retryable(f"status {status}", wait, throttled=status == 429)
        encoding = headers.get("Content-Encoding", "identity").lower()
        if encoding in ("gzip", "x-gzip"):
            body = _unpacked(body)
        elif encoding != "identity":
            raise Retryable("the answer is packed in a way that was not asked for")
        if status == 200:
            return body
        said = f"GET {shown}: status {status}{self._message(body)}"
        if status == 401:
            raise UserError(
                f"{said}. Check api_key; a new one is made in Autopilot under Settings > API."
            )
        if status == 403:
            raise Refused(status, f"{said}. The API key may not read this.")
        if status == 404:
            raise Refused(status, f"{said}. Is api_url right?")
        raise Refused(status, f"{said}.")

    def _message(self, body: bytes) -> str:
        """What an error answer says, on one line, cut; nothing where it is not one of the API's."""
        try:
            message = json.loads(body)["message"]
        except (ValueError, TypeError, KeyError):
            return ""
        if not isinstance(message, str):
            return ""
        line = "".join(one if one.isprintable() else " " for one in self._redact(message))
        return f' "{line[:200]}"'


def _date(header: str | None) -> datetime | None:
    try:
        date = email.utils.parsedate_to_datetime(header or "")
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=timezone.utc)


def _unpacked(packed: bytes) -> bytes:
    unpack = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        body = unpack.decompress(packed, LARGEST_BODY)
    except zlib.error:
        raise Retryable("the answer's gzip is damaged") from None
    if unpack.unconsumed_tail:
        raise Retryable("the answer unpacks to too much")
    if not unpack.eof:
        raise Retryable("the answer's gzip is cut short")
    return body


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """The scheme, host and port of a URL. Raises ValueError for what is none."""
    parts = urllib.parse.urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port


def _cause(problem: BaseException) -> str:
    """Why a request failed, in a few words: the innermost of the errors wrapped in each other."""
    while True:
        inner = getattr(problem, "reason", None) or next(
            (arg for arg in problem.args if isinstance(arg, BaseException)), None
        )
        inner = inner or problem.__cause__ or problem.__context__
        if not isinstance(inner, BaseException) or inner is problem:
            break
        problem = inner
    if isinstance(problem, TimeoutError):
        return "no whole answer within request_timeout"
    if isinstance(problem, socket.gaierror):
        return "the host of api_url is not known"
    if isinstance(problem, ConnectionRefusedError):
        return "nobody listens at api_url"
    if isinstance(problem, ConnectionResetError):
        return "the connection was reset"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return f"the connection broke ({type(problem).__name__})"
