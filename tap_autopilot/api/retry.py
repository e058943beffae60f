"""When a failed request is tried again, and after how long."""

from __future__ import annotations

import email.utils
import time
from datetime import datetime, timezone

LONGEST_WAIT = 60.0  # seconds between two tries


class Retries:
    """The waits between the tries of one request: growing and jittered, for `timeout` seconds."""

    def __init__(self, timeout: float) -> None:
        self._deadline = time.monotonic() + timeout
        import backoff  # only where something fails: it brings asyncio along

        self._growing = backoff.expo(max_value=LONGEST_WAIT)
        self._jitter = backoff.full_jitter
        next(self._growing)

    def next_wait(self, asked: float | None) -> float | None:
        """Seconds to wait before the next try; None when the time is up.

        What the server asked for is obeyed as it stands, but no wait goes beyond the time that is
        left: the last try comes when the time is up, not before.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            return None
        return min(self._jitter(next(self._growing)) if asked is None else asked, left)


def retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for; None if it asks for nothing sensible.

    Both forms are read, a number of seconds and an HTTP date (RFC 9110, 10.2.3).
    """
    if header is None:
        return None
    try:
        return max(0.0, float(int(header)))
    except (ValueError, OverflowError):
        pass
    try:
        moment = email.utils.parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
