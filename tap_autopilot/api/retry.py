"""When a failed request is tried again, and after how long."""

from __future__ import annotations

import email.utils
import functools
import time
from collections.abc import Generator
from datetime import datetime, timezone

FIRST_WAIT = 1.0  # seconds at most before the second try; each later wait may be twice as long
LONGEST_WAIT = 60.0  # seconds between two tries, unless the server asks for more
SENSIBLE = 1.0  # seconds; a server that asks for less is waited for longer than that


class Retries:
    """The tries of one request that began at `started`, on the monotonic clock.

    No try starts later than `retry_timeout` seconds after that, and none ends later than
    `retry_timeout` and `request_timeout` together. A first try that used up all of `retry_timeout`
    is still followed by a second one, unless `retry_timeout` is 0.
    """

    def __init__(self, started: float, retry_timeout: float, request_timeout: float) -> None:
        self._started = started
        self._retry_timeout = retry_timeout
        self._request_timeout = request_timeout
        self._growing: Generator[float, None, None] | None = None

    def deadline(self, sent: float) -> float:
        """When a try sent at this moment must be over."""
        return min(sent, self._started + self._retry_timeout) + self._request_timeout

    def next_wait(self, asked: float | None) -> float | None:
        """Seconds to wait before the next try; None if there is none.

        `asked` is what the server asked for, if it did. That is obeyed without jitter, but cut to
        the time that is left, so that the last try comes when the time is up and not before.
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
        import backoff  # only where something fails: it brings asyncio along

        if self._growing is None:
            self._growing = backoff.expo(factor=FIRST_WAIT, max_value=LONGEST_WAIT)
            next(self._growing)
        wait: float = backoff.full_jitter(next(self._growing))
        return wait


def retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for; None if it asks for nothing sensible.

    Both forms are read, a number of seconds and an HTTP date (RFC 9110, 10.2.3).
    """
    if header is None:
        return None
    try:
        return max(0.0, float(int(header)))
    except (ValueError, OverflowError):
        moment = http_date(header)
    if moment is None:
        return None
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())


@functools.lru_cache(maxsize=16)
def http_date(header: str) -> datetime | None:
    """The moment that a header such as Date names; None if it is nonsense."""
    try:
        moment = email.utils.parsedate_to_datetime(header)
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        return zoned.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None
