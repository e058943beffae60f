"""One GET over HTTP: the response, or why there is none. Knows nothing about retries or pacing."""

from __future__ import annotations

import functools
import http.client
import logging
import threading
import time
import urllib.parse
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

import requests
import urllib3
from requests.adapters import HTTPAdapter

from tap_autopilot.api.body import Body, read_body, return_free_memory
from tap_autopilot.api.environment import Environment
from tap_autopilot.api.failures import DROPPED, TIMED_OUT, causes_of, describe, explain
from tap_autopilot.api.watchdog import Watch, Watchdog
from tap_autopilot.exceptions import Retryable

CONNECT_SHARE = 4  # the host's first address may take a quarter of the time, so others get a turn
MAX_CONNECT = 20.0  # seconds for each address
TRANSPORT_ERRORS = (OSError, ValueError, http.client.HTTPException, urllib3.exceptions.HTTPError)


class Received(NamedTuple):
    """A response; `at` is when its last byte arrived."""

    status: int
    headers: Mapping[str, str]
    body: Body
    at: datetime


class StaleConnection(Retryable):
    """The server closed a kept-alive connection before it responded to this request."""


class Connection:
    """A connection to one origin, for one thread, kept alive between requests.

    Of the connections with the same `turn`, one at a time has a body of more than `share` bytes:
    from when it is read until `forget` or the next request.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        environment: Environment,
        watchdog: Watchdog,
        turn: threading.Lock,
        share: int,
    ) -> None:
        self._turn = turn
        self._share = share
        self._has_turn = False
        self._environment = environment
        self._watchdog = watchdog
        self._watch = Watch()
        self._session = open_session(environment, self._watch)
        self._session.headers.update(headers)
        self._request = self._session.prepare_request(requests.Request("GET", url))

    def get(self, url: str, deadline: float) -> Received:
        """The response to a GET that must finish by `deadline`, on the monotonic clock.

        Raises Retryable if a retry may help, StaleConnection if it will, and UserError for an
        untrusted certificate or a proxy that refuses.
        """
        self.forget()
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
                body = read_body(
                    response.raw, encoding, self._share, lambda: self._wait_for_turn(deadline)
                )
            if self._watch.timed_out:  # a cut-off body of unknown length looks complete
                raise TimeoutError
            if response.status_code < 200:  # the final response will follow on this connection
                self._session.close()
            return Received(
                response.status_code, response.headers, body, datetime.now(timezone.utc)
            )
        except TRANSPORT_ERRORS as problem:
            peer, causes = urllib.parse.urlsplit(url).netloc, list(causes_of(problem))
            if self._watch.is_costly:
                raise Retryable("the response takes too much CPU to read") from None
            if self._watch.timed_out:
                raise Retryable(TIMED_OUT.format(seconds=round(timeout, 2))) from None
            reused = self._watch.connects == connects
            if response is None and reused and any(isinstance(cause, DROPPED) for cause in causes):
                raise StaleConnection(describe(causes, peer, timeout)) from None
            late = time.monotonic() >= deadline
            raise explain(causes, peer, self._environment, timeout, late=late) from None
        finally:
            self._watchdog.stop(self._watch)

    def _wait_for_turn(self, deadline: float) -> None:
        """Wait until no other connection has a large body. Raises TimeoutError."""
        if not self._has_turn:
            return_free_memory()
            self._has_turn = self._turn.acquire(timeout=max(0.0, deadline - time.monotonic()))
        if not self._has_turn:
            raise TimeoutError

    def forget(self) -> None:
        """Note that the last body is no longer in memory."""
        if self._has_turn:
            self._has_turn = False
            self._turn.release()


def open_session(environment: Environment, watch: Watch) -> requests.Session:
    """A session whose only connection is watched, with the environment's proxies and CA bundle."""
    # urllib3 logs malformed headers, however long, with a traceback; our own message is enough.
    logging.getLogger("urllib3.connection").setLevel(logging.ERROR)
    session = _Session()
    session.trust_env = False  # already read, and ~/.netrc must not add a header
    session.proxies.update(environment.proxies)
    session.verify = environment.verify
    adapter = _WatchedAdapter(watch)
    for scheme in ("https://", "http://"):
        session.mount(scheme, adapter)
    return session


class _Session(requests.Session):
    """A session that leaves redirects alone; `requests` would first read a body of any size."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere."""


class _WatchedAdapter(HTTPAdapter):
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

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """The response, without cookies: parsing large ones takes minutes and gigabytes."""
        headers = resp._original_response.msg  # noqa: SLF001  # where `requests` looks for them
        for name in ("Set-Cookie", "Set-Cookie2"):
            if name in headers:
                del headers[name]
        return super().build_response(req, resp)

    def close(self) -> None:
        """Close the connection; the next request makes a new one."""
        self._pool = None
        super().close()
