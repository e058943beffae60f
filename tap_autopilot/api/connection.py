"""One GET over HTTP: the response, or why there is none. Knows nothing about retries or pacing."""

from __future__ import annotations

import functools
import http.client
import re
import socket
import ssl
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

import requests
import urllib3
from requests.adapters import HTTPAdapter

from tap_autopilot.api.body import Body, read_body
from tap_autopilot.api.environment import Environment
from tap_autopilot.api.retry import may_pass
from tap_autopilot.api.watchdog import Watch, Watchdog
from tap_autopilot.exceptions import Retryable, UserError

CONNECT_SHARE = 4  # the host's first address may take a quarter of the time, so others get a turn
MAX_CONNECT = 20.0  # seconds for each address


class Received(NamedTuple):
    """A response; `at` is when its last byte arrived."""

    status: int
    headers: Mapping[str, str]
    body: Body
    at: datetime


class StaleConnection(Retryable):
    """The server closed a kept-alive connection before it responded to this request."""


class Connection:
    """A connection to one origin, for one thread, kept alive between requests."""

    def __init__(
        self, url: str, headers: Mapping[str, str], environment: Environment, watchdog: Watchdog
    ) -> None:
        self._proxy = environment.proxy
        self._socks = environment.socks
        self._watchdog = watchdog
        self._watch = Watch()
        self._session = requests.Session()
        self._session.trust_env = False  # already read, and ~/.netrc must not add a header
        self._session.proxies.update(environment.proxies)
        self._session.verify = environment.verify
        self._session.headers.update(headers)
        adapter = WatchedAdapter(self._watch)
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, adapter)
        self._request = self._session.prepare_request(requests.Request("GET", url))

    def get(self, url: str, deadline: float) -> Received:
        """The response to a GET that must finish by `deadline`, on the monotonic clock.

        Raises Retryable if a retry may help, StaleConnection if it will, and UserError for an
        untrusted certificate, a redirect to an invalid URL, or a proxy that refuses.
        """
        timeout = max(deadline - time.monotonic(), 0.001)
        connects = self._watch.connects
        self._request.url = url  # prepared once, because preparing takes as long as all the rest
        response = None
        self._watchdog.start(self._watch, deadline)
        try:
            response = self._session.send(
                self._request,
                stream=True,
                allow_redirects=False,
                timeout=(min(timeout / CONNECT_SHARE, MAX_CONNECT), timeout),
            )
            with response:
                encoding = response.headers.get("Content-Encoding", "identity")
                body = Body() if response.is_redirect else read_body(response.raw, encoding)
            if self._watch.timed_out:  # a cut-off body of unknown length looks complete
                raise TimeoutError
            if response.status_code < 200:  # the final response will follow on this connection
                self._session.close()
            return Received(
                response.status_code, response.headers, body, datetime.now(timezone.utc)
            )
        except (OSError, ValueError, http.client.HTTPException, urllib3.exceptions.HTTPError) as e:
            causes = list(causes_of(e))
            reused = self._watch.connects == connects
            if self._watch.timed_out:
                raise Retryable(f"timed out after {_seconds(timeout)} s") from None
            if response is None and type(e) in (ValueError, UnicodeDecodeError):
                raise UserError(
                    f"{self._peer(url)} redirects to an invalid URL. Check api_url."
                ) from None
            if response is None and reused and any(isinstance(one, _DROPPED) for one in causes):
                raise StaleConnection(describe(causes, self._peer(url), timeout)) from None
            raise self._explain(causes, url, timeout, deadline) from None
        finally:
            self._watchdog.stop(self._watch)

    def _peer(self, url: str) -> str:
        return urllib.parse.urlsplit(url).netloc

    def _explain(
        self, causes: list[BaseException], url: str, timeout: float, deadline: float
    ) -> Exception:
        """What to raise for a request that failed with these exceptions, outermost first."""
        text = str(causes[-1])
        proxy = f"proxy {self._proxy}"
        refused = re.search(r"Tunnel connection failed: (\d+) *(.{0,80})", text)
        if refused:
            status = int(refused[1])
            failure = f"{proxy} responded to CONNECT with status {status} {refused[2]}".rstrip()
            if status >= 400 and not may_pass(status):
                return UserError(
                    f"The {failure}. Check HTTPS_PROXY and its user name and password."
                )
            return Retryable(failure)
        by_socks = next((one for one in causes[::-1] if type(one).__module__ == "socks"), None)
        at_proxy = by_socks or any(isinstance(one, _PROXY_ERRORS) for one in causes)
        if isinstance(causes[-1], socket.gaierror) and self._socks:
            at_proxy = not by_socks  # while negotiating, it is the target host that is resolved
        peer = proxy if at_proxy else self._peer(url)
        untrusted = next((one for one in causes if isinstance(one, _UNTRUSTED)), None)
        if untrusted is not None:
            return UserError(
                f"The certificate of {peer} is not trusted ({untrusted.verify_message}), so the key"
                " was not sent. Check api_url, the clock and REQUESTS_CA_BUNDLE."
            )
        if by_socks is not None and "Auth" in type(by_socks).__name__:
            return UserError(f"The {proxy} rejected the user name or password. Check HTTPS_PROXY.")
        if by_socks is not None and not getattr(by_socks, "socket_err", None):
            return Retryable(f"{proxy} responded: {by_socks}")
        if isinstance(causes[-1], _TIMEOUTS) and time.monotonic() < deadline:  # while TLS began
            return Retryable(f"connecting to {peer} timed out")
        return Retryable(describe(causes, peer, timeout))


class WatchedAdapter(HTTPAdapter):
    """The transport adapter for `requests`; it registers its connections with a `Watch`."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._pool: Any = None
        super().__init__(pool_connections=1, pool_maxsize=1)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """The connection pool for a request: always the same, since there is one origin."""
        if self._pool is None:
            pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
            pool.ConnectionCls = functools.partial(self._watch.new_connection, pool.ConnectionCls)
            self._pool = pool
        return self._pool

    def close(self) -> None:
        """Close the connection; the next request makes a new one."""
        self._pool = None
        super().close()


_DROPPED = (
    http.client.RemoteDisconnected,
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)
_PROXY_ERRORS = (urllib3.exceptions.ProxyError, requests.exceptions.ProxyError)
_TIMEOUTS = (TimeoutError, urllib3.exceptions.TimeoutError)
_CONNECT_TIMEOUT = urllib3.exceptions.ConnectTimeoutError
_UNTRUSTED = ssl.SSLCertVerificationError


def _seconds(timeout: float) -> str:
    """A timeout as text, rounded because a moment has passed since its deadline was set."""
    return f"{round(timeout, 2):g}"


def causes_of(problem: BaseException) -> Iterator[BaseException]:
    """An exception and the exceptions wrapped in it, innermost last."""
    seen: list[BaseException] = []
    found: object = problem
    while isinstance(found, BaseException) and found not in seen:
        seen.append(found)
        yield found
        known = (getattr(found, "reason", None), getattr(found, "socket_err", None), *found.args)
        inner = (*known, found.__cause__, found.__context__)
        found = next((one for one in inner if isinstance(one, BaseException)), None)


def describe(causes: list[BaseException], peer: str, timeout: float) -> str:
    """Why a request failed, in a few words; `peer` is the other end."""
    problem = causes[-1]
    if isinstance(problem, _TIMEOUTS):
        connecting = any(isinstance(one, _CONNECT_TIMEOUT) for one in causes)
        return (
            f"connecting to {peer} timed out"
            if connecting
            else f"timed out after {_seconds(timeout)} s"
        )
    if isinstance(problem, socket.gaierror):
        return f"could not resolve {peer}"
    if isinstance(problem, ConnectionRefusedError):
        return f"connection refused by {peer}"
    if isinstance(problem, http.client.RemoteDisconnected):
        return f"{peer} closed the connection without a response"
    if isinstance(problem, ConnectionError):
        return f"connection reset by {peer}"
    if isinstance(problem, (http.client.IncompleteRead, urllib3.exceptions.IncompleteRead)):
        return "the response is truncated"
    if isinstance(problem, ssl.SSLError):
        return f"TLS with {peer} failed ({problem.reason or problem.strerror})"
    if isinstance(problem, OSError) and problem.strerror:
        return f"{peer}: {problem.strerror}"
    return f"the response is not valid HTTP ({type(problem).__name__})"
