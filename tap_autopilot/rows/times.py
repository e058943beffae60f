"""Times: RFC 3339 in UTC, from ISO 8601, RFC 1123 or epoch milliseconds.

Autopilot writes ISO 8601 and epoch milliseconds, and has written `Fri, 02 Jun 2017 15:18:58 GMT`.
"""

from __future__ import annotations

import functools
import re
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import ciso8601

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)
_FIRST, _LAST = -62_135_596_800_000, 253_402_300_799_999  # of the years 0001 to 9999
_SECONDS = tuple(f"{minute:02d}:{second:02d}." for minute in range(60) for second in range(60))
_THOUSANDTHS = tuple(f"{thousandth:03d}Z" for thousandth in range(1000))
_MAX_DIGITS = 30
_LONGEST = len("2017-06-02T15:18:58.123456789Z")
_RFC_1123 = re.compile(
    r"(?:[a-z]{3}, )?(\d{1,2}) ([a-z]{3}) ([1-9]\d{3}) (\d\d:\d\d:\d\d)"
    r"(?: (?:GMT|UTC?|([+-]\d\d)(\d\d)))?",
    re.ASCII | re.IGNORECASE,
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = {name: f"{number:02d}" for number, name in enumerate(_MONTHS, 1)}
_OFFSET = re.compile(r"[+-]\d\d:?\d\d", re.ASCII)


def as_time(value: Any) -> str:
    """A time as RFC 3339 in UTC. Raises ValueError if the value is not a time.

    Text that already has this format stays unchanged, with up to nine digits of a second. More
    are cut to six: PostgreSQL refuses a hundred, and with them all rows of a load.
    """
    if value.__class__ is str:
        try:
            ciso8601.parse_rfc3339(value)
            if value[-1] == "Z" and value[10] == "T" and len(value) <= _LONGEST:
                return value
        except ValueError:
            rewritten = _in_iso_8601(value)
            if rewritten != value:
                return as_time(rewritten)
        return _in_utc(value)
    return from_epoch(as_whole_number(value))


def as_datetime(value: Any) -> datetime | None:
    """The time in a value, as text or epoch milliseconds; None if there is none."""
    time = time_in(value)
    return None if time is None else ciso8601.parse_datetime(time)


def time_in(value: Any) -> str | None:
    """What `as_time` returns; None if the value is not a time."""
    try:
        return as_time(value)
    except ValueError:
        return None


def as_whole_number(value: Any) -> int:
    """A whole number, possibly written as 10.0. Raises ValueError for anything else."""
    if value.__class__ is int:
        return value
    if value.__class__ is Decimal and abs(value.adjusted()) < _MAX_DIGITS:
        number = int(value)
        if number == value:
            return number
    raise ValueError


def from_epoch(milliseconds: int) -> str:
    """The time from milliseconds since the epoch. Raises ValueError for a year beyond 9999."""
    rest = milliseconds % 3_600_000
    hour = _hour(milliseconds // 3_600_000)
    return f"{hour}{_SECONDS[rest // 1_000]}{_THOUSANDTHS[rest % 1_000]}"


def to_epoch(time: str | None) -> int | None:
    """The milliseconds since the epoch of a row's time."""
    return None if time is None else (ciso8601.parse_datetime(time) - _EPOCH) // _MILLISECOND


def epoch_of(value: Any) -> int | None:
    """The milliseconds since the epoch of the time in a value; None if there is none."""
    if value.__class__ is int and _FIRST <= value <= _LAST:
        return int(value)
    moment = as_datetime(value)
    return None if moment is None else (moment - _EPOCH) // _MILLISECOND


@functools.lru_cache(maxsize=10_000)
def _hour(number: int) -> str:
    """The text of an hour since the epoch, up to the minutes; cached, since events share hours."""
    try:
        return (_EPOCH + timedelta(hours=number)).isoformat()[:14]
    except OverflowError:
        raise ValueError from None


def _in_utc(text: str) -> str:
    try:
        parsed = ciso8601.parse_datetime(text)
        zone = parsed.tzinfo
        utc = parsed.astimezone(timezone.utc) if zone else parsed.replace(tzinfo=timezone.utc)
        return utc.isoformat()[:-6] + "Z"
    except OverflowError:
        raise ValueError from None


def _in_iso_8601(text: str) -> str:
    """Text without blanks around it, with an RFC 1123 time or a separate zone as in ISO 8601."""
    text = text.strip()
    if found := _RFC_1123.fullmatch(text):  # email.utils takes five times as long
        day, month, year, clock, hours, minutes = found.groups()
        offset = f"{hours}:{minutes}" if hours else "Z"
        return f"{year}-{_MONTH.get(month.lower())}-{day:0>2}T{clock}{offset}"
    moment, _, zone = text.rpartition(" ")
    if zone.upper() in ("UTC", "GMT", "Z"):
        return f"{moment.rstrip()}Z"
    return moment.rstrip() + zone if _OFFSET.fullmatch(zone) else text
