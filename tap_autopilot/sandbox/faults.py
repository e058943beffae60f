"""Faults: what the sandbox does instead of responding to a request.

A fault is written `WHEN:WHAT`, with settings after commas:

    3:503                    the third request gets status 503
    5-8:429,retry-after=2    requests 5 to 8 are throttled
    10%:reset                a random one in ten connections is reset
    /lists:hang              requests below that path get no response
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
    "hang-end": "sends the whole body but not the final chunk",
    "drip": "sends one byte at a time, `every` seconds (default 1)",
    "reset": "resets the connection before responding",
    "reset-body": "resets the connection in the middle of the body",
    "close": "closes the connection before responding",
    "cut": "closes the connection in the middle of the body",
    "short": "announces more bytes than it sends, then closes",
    "bad-chunk": "sends a chunk whose size is not a number",
    "bad-json": "sends only the first half of the JSON",
    "html": "responds 200 with a page of HTML",
    "empty": "responds 200 with no body",
    "null": "responds 200 with null",
    "string": "responds 200 with a string",
    "no-listing": "responds 200 without the listing",
    "error-200": "responds 200 with an error object",
    "bad-gzip": "sends a body that claims to be gzip but is not",
    "cut-gzip": "sends only the first half of a gzip body",
    "bomb": "sends a gzip body that unpacks to 128 MiB",
    "redirect": "redirects with 302 to `to` (default: the same path)",
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
        """Parse a fault. Raises ValueError with a message for the user."""
        when, colon, rest = text.partition(":")
        what, *pairs = rest.split(",")
        if not colon or not (what in ACTIONS or STATUS.fullmatch(what)):
            raise ValueError(
                f"{text!r} is not WHEN:WHAT, where WHAT is a status or one of {', '.join(ACTIONS)}"
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
        """Whether the fault strikes this request. Counts the request if it is below the path."""
        if not path.startswith(self.path) or (path == DEFINITIONS and self.path not in ("", path)):
            return False
        self.seen += 1
        within = self.first <= self.seen and (self.last is None or self.seen <= self.last)
        return within and (self.chance >= 1 or rng.random() < self.chance)


class Faults:
    """All faults of a sandbox, checked once per request; the first that strikes wins."""

    def __init__(self, faults: Iterable[Fault] = (), seed: int = 1) -> None:
        self._faults = list(faults)
        self._rng = random.Random(seed)

    def strike(self, path: str) -> Fault | None:
        """The fault for a request to this path, if any."""
        struck = [fault for fault in self._faults if fault.strikes(path, self._rng)]
        return struck[0] if struck else None
