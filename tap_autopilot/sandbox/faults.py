"""Faults: what the sandbox does instead of responding to a request.

A fault is written `WHEN:WHAT`, with settings after commas:

    3:503                    the third request is answered with status 503
    5-8:429,retry-after=2    requests 5 to 8 are throttled
    10%:reset                one request in ten, by chance, has its connection reset
    /lists:hang              every request below that path gets no answer
    /lists@1:hang            only the first request below that path
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

STATUS = re.compile(r"[1-5]\d\d")
ACTIONS = {
    "hang": "accepts the request and never responds",
    "hang-headers": "goes silent in the middle of the headers",
    "hang-body": "goes silent in the middle of the body",
    "hang-end": "sends the whole body but not its end",
    "drip": "sends one byte at a time, `every` seconds (default 1)",
    "reset": "resets the connection before responding",
    "reset-body": "resets the connection in the middle of the body",
    "close": "closes the connection before responding",
    "cut": "closes the connection in the middle of the body",
    "short": "announces more bytes than it sends, then closes",
    "bad-chunk": "sends a chunk whose size is not a number",
    "bad-json": "sends half of the JSON as if it were all",
    "html": "answers 200 with a page of HTML",
    "empty": "answers 200 with no body",
    "null": "answers 200 with null",
    "string": "answers 200 with a string",
    "no-listing": "answers 200 without the listing",
    "error-200": "answers 200 with an error object",
    "bad-gzip": "sends a body that claims to be gzip and is not",
    "cut-gzip": "sends the first half of a gzip body as if it were all",
    "bomb": "sends a gzip body that unpacks to 128 MiB",
    "redirect": "answers 302 to `to` (default: the same path)",
}

DEFINITIONS = "/contacts/custom_fields"  # not a page of /contacts


@dataclass
class Fault:
    """One fault: when it strikes, what it does, and its settings."""

    what: str
    settings: dict[str, str] = field(default_factory=dict)
    first: int = 1
    last: int | None = None
    path: str = ""
    chance: float = 1.0
    seen: int = 0

    @classmethod
    def parse(cls, text: str) -> Fault:
        """A fault from its written form. Raises ValueError, saying what is wrong with it."""
        when, colon, rest = text.partition(":")
        what, *pairs = rest.split(",")
        if not colon or not (what in ACTIONS or STATUS.fullmatch(what)):
            raise ValueError(
                f"{text!r} is not WHEN:WHAT with WHAT a status or {', '.join(ACTIONS)}"
            )
        fault = cls(what, dict(pair.partition("=")[::2] for pair in pairs))
        path, at, numbers = when.partition("@") if when.startswith("/") else ("", "@", when)
        fault.path = path
        if at and numbers.endswith("%"):
            fault.chance = float(numbers[:-1]) / 100
        elif at:
            first, dash, last = numbers.partition("-")
            fault.first = int(first)
            fault.last = int(last) if last else None if dash else fault.first
        return fault

    def strikes(self, path: str, rng: random.Random) -> bool:
        """Whether this request, the next that the fault sees, is struck."""
        if not path.startswith(self.path) or (path == DEFINITIONS and self.path not in ("", path)):
            return False
        self.seen += 1
        within = self.first <= self.seen and (self.last is None or self.seen <= self.last)
        return within and (self.chance >= 1 or rng.random() < self.chance)


class Faults:
    """All faults of a sandbox, asked once for each request; the first that strikes counts."""

    def __init__(self, faults: Iterable[Fault] = (), seed: int = 1) -> None:
        self._faults = list(faults)
        self._rng = random.Random(seed)

    def strike(self, path: str) -> Fault | None:
        """The fault for a request to this path, if any."""
        struck = [fault for fault in self._faults if fault.strikes(path, self._rng)]
        return struck[0] if struck else None
