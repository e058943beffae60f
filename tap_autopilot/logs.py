"""Logging: plain lines on stderr, in singer's form, in which the API key never appears."""

from __future__ import annotations

import base64
import json
import logging
import re
import sys
import urllib.parse
from collections.abc import Callable

SHORTEST_SECRET = 4  # characters; anything shorter is in half of all words
HIDDEN = "(API key)"
OURS = ("tap_autopilot", "requests", "urllib3")  # all that ever see the key


class _Redacting(logging.Formatter):
    """Formats a record without the secret in any of its usual encodings."""

    def __init__(self, secret: str) -> None:
        super().__init__("%(levelname)s %(message)s")
        self._redact = redactor(secret)

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to stderr. A CRITICAL line is the last: threads still at work have nothing to add."""

    ended = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.ended:
            super().emit(record)
            self.ended = record.levelno >= logging.CRITICAL


def redactor(secret: str) -> Callable[[str], str]:
    """A function that takes a secret out of a text, in all its usual encodings."""
    if len(secret) < SHORTEST_SECRET:
        return str
    forms = re.compile("|".join(map(re.escape, _forms(secret))))
    return lambda text: forms.sub(HIDDEN, text)


def _forms(secret: str) -> list[str]:
    raw = secret.encode()
    forms = {
        secret,
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        urllib.parse.quote(secret, safe=""),
        urllib.parse.quote(secret),
        urllib.parse.quote_plus(secret),
        raw.hex(),
        raw.hex().upper(),
    }
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for shift in range(3):  # where it starts inside a longer text decides how it comes out
            text = encode(b"\0" * shift + raw).decode().rstrip("=")
            first, last = (0, 2, 3)[shift], (len(raw) + shift) % 3
            forms.add(text[first : len(text) - (1 if last else 0)])
    return sorted((form for form in forms if len(form) >= SHORTEST_SECRET), key=len, reverse=True)


def set_up(secret: str = "") -> None:
    """Send our logging, and that of the HTTP libraries, to stderr and keep `secret` out of it."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Redacting(secret))
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False  # singer-python gives the root logger a handler of its own
        logger.setLevel(logging.INFO)
    logging.raiseExceptions = False  # a full or closed stderr must not end the run
