"""When to retry a failed request; `api.failures` says whether."""

from __future__ import annotations

import email.utils
import functools
import time
from collections.abc import Generator
from datetime import datetime, timezone

FIRST_WAIT = 1.0  # maximum seconds before the second try; doubles with each retry
MAX_WAIT = 60.0  # maximum seconds between tries, unless the server asks for more
MAX_DATE = 100  # characters; headers may have megabytes
SENSIBLE = 1.0  # seconds; if the server asks for less, later retries back off anyway


class Retries:
    """The attempts at one request, which began at `started`, on the monotonic clock.

    No try starts more than `retry_timeout` seconds after that, or ends more than `retry_timeout`
    plus `request_timeout` seconds after it. If the first try uses up all of `retry_timeout`, there
    is still a second one, unless `retry_timeout` is 0.
    """

    def __init__(self, started: float, retry_timeout: float, request_timeout: float) -> None:
        self._started = started
        self._retry_timeout = retry_timeout
        self._request_timeout = request_timeout
        self._growing: Generator[float, None, None] | None = None

    def deadline(self, sent: float) -> float:
        """The deadline of a try that was sent at this time."""
        return min(sent, self._started + self._retry_timeout) + self._request_timeout

    def next_wait(self, asked: float | None) -> float | None:
        """Seconds to wait before the next try; None to give up.

        `asked` is how long the server asked to wait, if it did. It applies without jitter, but is
        cut to the time left, so that the last try comes just when the time is up.
        """
        first = self._growing is None
        left = self._started + self._retry_timeout - time.monotonic()
        if self._retry_timeout == 0 or (left <= 0 and not first):
            return None
        own = self._next_own_wait()
        if asked is None:
            wait = own
        elif asked >= SENSIBLE or first:
            wait = asked
        else:
            wait = max(asked, own)
        return max(0.0, min(wait, left))

    def _next_own_wait(self) -> float:
        import backoff  # only on failure: it imports asyncio

        if self._growing is None:
            self._growing = backoff.expo(factor=FIRST_WAIT, max_value=MAX_WAIT)
            next(self._growing)
        wait: float = backoff.full_jitter(next(self._growing))
        return wait


def retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for; None if it is missing or invalid.

    Accepts both forms, a number of seconds and an HTTP date (RFC 9110, 10.2.3).
    """
    header = (header or "").strip()
    if header.isascii() and header.isdecimal():
        return float(header)
    moment = http_date(header)
    if moment is None:
        return None
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())


def http_date(header: str) -> datetime | None:
    """The time in a header such as Date; None if it is invalid."""
    return _time_in(header) if len(header) <= MAX_DATE else None


@functools.lru_cache(maxsize=16)
def _time_in(header: str) -> datetime | None:
    try:
        moment = email.utils.parsedate_to_datetime(header)
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        return zoned.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None
