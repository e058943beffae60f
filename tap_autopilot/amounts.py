"""Numbers of things, and lengths of time, as people read them."""

from __future__ import annotations


def amount(number: int, what: str) -> str:
    """A number of things: "1 row", "3,324 rows"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A length of time: "0.4 s", "41 s", "12 min", "3 h 5 min"."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
