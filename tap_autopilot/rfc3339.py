"""Times as RFC 3339 text."""

from __future__ import annotations

from datetime import datetime, timezone


def rfc3339(moment: datetime, timespec: str = "milliseconds") -> str:
    """A time in UTC: "2024-02-29T12:00:00.000Z". `timespec` is that of `datetime.isoformat`."""
    utc = moment.astimezone(timezone.utc).replace(tzinfo=None)
    return utc.isoformat(timespec=timespec) + "Z"
