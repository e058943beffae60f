"""HTTP requests that the collector sends: to its destinations, and to Autopilot's API for hooks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

import requests
import urllib3

from tap_autopilot import __version__
from tap_autopilot.api.connection import TRANSPORT_ERRORS, open_session
from tap_autopilot.api.environment import read_environment
from tap_autopilot.api.failures import causes_of, describe
from tap_autopilot.api.watchdog import Watch, Watchdog

MAX_CPU = 0.5  # seconds for an exchange, which needs little; the event loop waits for each
DEADLINE = 30.0  # seconds for a whole exchange
CONNECT = 10.0  # seconds
BODY = 2.0  # seconds for a response's body, if its status says everything
MAX_IGNORED = 64 * 1024  # bytes of such a body that are read, so that the connection can be reused
MAX_BODY = 2**20  # bytes of a body that is needed, which is parsed into up to 50 times as much
PIECE = 65_536


class Response(NamedTuple):
    """A response; `body` is None if it was cut off, or larger than it should be."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None


class NoResponse(Exception):
    """Why there is no response."""


class Client:
    """Sends requests to one origin, one at a time. Raises UserError for an unusable proxy.

    From the environment it takes proxies and CA bundles, as the tap does, and nothing else.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._netloc = urllib3.util.parse_url(url).netloc or url
        self._watchdog = Watchdog()
        self._watch = Watch(MAX_CPU)
        self._session = open_session(read_environment(url), self._watch)
        self._session.headers["User-Agent"] = f"tap-autopilot-collector/{__version__}"

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        needs_body: bool = False,
    ) -> Response:
        """The response to a request, within DEADLINE seconds. Raises NoResponse.

        If the response's body is not needed, only a little of it is read.
        """
        deadline = time.monotonic() + DEADLINE
        self._watchdog.start(self._watch, deadline)
        try:
            request = self._session.prepare_request(
                requests.Request(method, self._url + path, headers, data=body, auth=auth)
            )
            response = self._session.send(
                request, stream=True, allow_redirects=False, timeout=(CONNECT, DEADLINE)
            )
            if self._watch.timed_out:
                raise TimeoutError
            if response.status_code < 200:  # the final response will follow on this connection
                self._session.close()
                raise NoResponse(f"unexpected status {response.status_code}")
            if not needs_body:
                deadline = min(deadline, time.monotonic() + BODY)
                self._watchdog.start(self._watch, deadline)
            content = _read(response, deadline, MAX_BODY if needs_body else MAX_IGNORED)
            if content is None or self._watch.timed_out:
                content = None
                self._session.close()
            return Response(response.status_code, response.headers, content)
        except TRANSPORT_ERRORS as problem:
            self._session.close()
            if self._watch.is_costly:
                raise NoResponse("the response takes too much CPU to read") from None
            if self._watch.timed_out:
                raise NoResponse(f"timed out after {DEADLINE:g} s") from None
            raise NoResponse(describe(list(causes_of(problem)), self._netloc, DEADLINE)) from None
        finally:
            self._watchdog.stop(self._watch)


def _read(response: requests.Response, deadline: float, most: int) -> bytes | None:
    """The body; None if it is cut off, too large, or not there by the deadline."""
    pieces, size = [], 0
    try:
        for piece in response.iter_content(PIECE):
            pieces.append(piece)
            size += len(piece)
            if size > most or time.monotonic() > deadline:
                return None
    except TRANSPORT_ERRORS:
        return None
    return b"".join(pieces)
