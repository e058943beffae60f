"""The client's policy: what a response other than 200, or no response, means for a request.

A Retryable failure is retried, see `api.retry`. Any other ends the walk or the run.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from collections.abc import Container, Iterator
from typing import NamedTuple

import requests
import urllib3

from tap_autopilot.api.environment import Environment
from tap_autopilot.exceptions import Gone, Outdated, Refused, Retryable, RunError, UserError

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_PHRASE = 80  # characters of a proxy's reason to quote
PASSING_STATUSES = frozenset({408, 425, 429})  # of 4xx: a retry may change these


class Rule(NamedTuple):
    """What these statuses mean; `text` says what happened or, of a final response, what to do.

    Where the `error` ends only a walk, `exit_code` is that of the run.
    """

    statuses: Container[int]
    error: type[Exception]
    text: str = ""
    exit_code: int = RunError.exit_code

    def exception(self, status: int, text: str) -> Exception:
        """The error for a final response."""
        if issubclass(self.error, Refused):
            return self.error(status, text, self.exit_code)
        return self.error(text)


RULES = (  # the first that has the status counts
    Rule(PASSING_STATUSES, Retryable, "status {}"),
    Rule(range(500, 1000), Retryable, "status {}"),
    Rule(REDIRECTS, Retryable, "redirected with status {}, but without a Location"),
    Rule(range(400), Retryable, "unexpected status {}"),
    Rule({401}, UserError, "Check api_key; create a new one in Autopilot under Settings > API."),
    Rule({403}, Refused, "The API key has no permission to read this.", UserError.exit_code),
    Rule({404}, Gone, "Check api_url, which should end in /v1.", UserError.exit_code),
    Rule({400, 410, 422}, Outdated),
    Rule(range(400, 500), Refused),
)

TIMEOUTS = (TimeoutError, urllib3.exceptions.TimeoutError)
TIMED_OUT = "timed out after {seconds:g} s"
# What the innermost exception means. All of these are retried.
REASONS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    (TIMEOUTS, TIMED_OUT),
    ((socket.gaierror,), "could not resolve {peer}"),
    ((ConnectionRefusedError,), "connection refused by {peer}"),
    ((http.client.RemoteDisconnected,), "{peer} closed the connection without a response"),
    ((ConnectionError,), "connection reset by {peer}"),
    (
        (http.client.IncompleteRead, urllib3.exceptions.IncompleteRead),
        "the response is truncated",
    ),
    ((ssl.SSLError,), "TLS with {peer} failed ({detail})"),
)
# How a server closes a connection that it has kept open for too long.
DROPPED = (
    http.client.RemoteDisconnected,
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)
PROXY_ERRORS = (urllib3.exceptions.ProxyError, requests.exceptions.ProxyError)


def rule_of(status: int) -> Rule:
    """What a status other than 200 means."""
    return next(rule for rule in RULES if status in rule.statuses)


def may_pass(status: int) -> bool:
    """Whether a request that failed with this status may succeed if it is retried."""
    return status >= 400 and rule_of(status).error is Retryable


def causes_of(problem: BaseException) -> Iterator[BaseException]:
    """An exception and the exceptions wrapped in it, innermost last."""
    seen: list[BaseException] = []
    cause: BaseException | None = problem
    while cause is not None and cause not in seen:
        seen.append(cause)
        yield cause
        named = (getattr(cause, "reason", None), getattr(cause, "socket_err", None), *cause.args)
        inner = (*named, cause.__cause__, cause.__context__)
        cause = next((each for each in inner if isinstance(each, BaseException)), None)


def describe(causes: list[BaseException], peer: str, timeout: float) -> str:
    """Why a request failed, in a few words; `peer` is the other end."""
    problem = causes[-1]
    connecting = any(isinstance(cause, urllib3.exceptions.ConnectTimeoutError) for cause in causes)
    if isinstance(problem, TIMEOUTS) and connecting:
        return f"connecting to {peer} timed out"
    detail = getattr(problem, "reason", None) or getattr(problem, "strerror", None)
    for types, text in REASONS:
        if isinstance(problem, types):
            # The timeout is rounded because a moment has passed since its deadline was set.
            return text.format(peer=peer, detail=detail, seconds=round(timeout, 2))
    if isinstance(problem, OSError) and problem.strerror:
        return f"{peer}: {problem.strerror}"
    return f"the response is not valid HTTP ({type(problem).__name__})"


def explain(
    causes: list[BaseException], peer: str, environment: Environment, timeout: float, *, late: bool
) -> Exception:
    """What to raise for a request that failed with these exceptions, outermost first.

    `late` is whether the deadline has passed.
    """
    innermost = causes[-1]
    proxy = f"proxy {environment.proxy}"
    response = re.search(r"Tunnel connection failed: (\d+) *(.*)", str(innermost))
    if response:
        status = int(response[1])
        # A part of it might hold a part of a password, which the log would not recognize.
        phrase = response[2] if len(response[2]) <= MAX_PHRASE else ""
        failure = f"{proxy} responded to CONNECT with status {status} {phrase}".rstrip()
        if status >= 400 and not may_pass(status):
            return UserError(f"The {failure}. Check HTTPS_PROXY and its user name and password.")
        return Retryable(failure)
    by_socks = next((cause for cause in causes[::-1] if type(cause).__module__ == "socks"), None)
    at_proxy = by_socks or any(isinstance(cause, PROXY_ERRORS) for cause in causes)
    if isinstance(innermost, socket.gaierror) and environment.socks:
        at_proxy = not by_socks  # while negotiating, it is the target host that is resolved
    peer = proxy if at_proxy else peer
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return UserError(
                f"The certificate of {peer} is not trusted ({cause.verify_message}), so the key"
                " was not sent. Check api_url, the clock and REQUESTS_CA_BUNDLE."
            )
    if by_socks is not None and "Auth" in type(by_socks).__name__:
        return UserError(f"The {proxy} rejected the user name or password. Check HTTPS_PROXY.")
    if by_socks is not None and not getattr(by_socks, "socket_err", None):
        return Retryable(f"{proxy} responded: {by_socks}")
    if isinstance(innermost, TIMEOUTS) and not late:  # while TLS began
        return Retryable(f"connecting to {peer} timed out")
    return Retryable(describe(causes, peer, timeout))
