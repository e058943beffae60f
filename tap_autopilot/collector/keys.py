"""Checks senders' secrets. Comparisons take constant time."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Iterator, Sequence

NAME = b'"writeKey"'
WINDOW = 64 * 1024  # bytes searched at a time, so that other threads have their turn
REACH = 4096  # bytes that a name and its value may take
MAX_NAMED = 10_000  # write keys to look at in a body, which may be in each of its events
MAX_TRIED = 100  # of these, if their values differ from the one before
# The closing quote is optional: a string that never ends costs as much, so it must count, too.
_VALUE = re.compile(rb'[ \t\n\r]*:[ \t\n\r]*("[^"\\]*(?:\\.[^"\\]*)*"?)', re.DOTALL)
_ESCAPED = [
    (b"\\u%s" % code, bytes.fromhex(code.decode()).lstrip(b"\0"))
    for code in (b"0077", b"0072", b"0069", b"0074", b"0065", b"004b", b"004B", b"0079")
]


class Keys:
    """Several secrets, any of which is accepted, so that they can be rotated."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._digests = [_digest(secret) for secret in secrets]

    def accept(self, candidates: Sequence[str]) -> bytes | None:
        """The digest of a secret that is among the candidates; None if there is none."""
        accepted = None
        for candidate in candidates:
            digest = _digest(candidate)
            for secret in self._digests:
                if hmac.compare_digest(digest, secret):
                    accepted = secret
        return accepted


class SigningKeys:
    """Several secrets, any of which may sign a body."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = [secret.encode() for secret in secrets]

    def __bool__(self) -> bool:
        return bool(self._secrets)

    def accept(self, body: bytes, signature: str) -> bool:
        """Whether the signature is the hex HMAC-SHA1 of the body, with any of the secrets."""
        given = signature.strip().lower().encode("utf-8", "replace")
        accepted = False
        for secret in self._secrets:
            expected = hmac.new(secret, body, hashlib.sha1).hexdigest().encode()
            accepted |= hmac.compare_digest(expected, given)
        return accepted


def from_authorization(header: str) -> list[str]:
    """The write keys that an Authorization header may contain.

    Basic has the key as the user name, with or without the colon; Bearer the key itself, or what
    Basic would have.
    """
    scheme, _, rest = header.strip().partition(" ")
    rest = rest.strip()
    if scheme.lower() not in ("basic", "bearer") or not rest:
        return []
    keys = [rest] if scheme.lower() == "bearer" else []
    try:
        user = base64.b64decode(rest + "=" * (-len(rest) % 4)).decode()
    except ValueError:  # not Base64, not ASCII, or not UTF-8 inside
        return keys
    return [*keys, user.partition(":")[0]]


def in_body(parts: Iterable[bytes]) -> Iterator[str]:
    """The text values named writeKey in a body, wherever they are in it, and however spelled.

    This does not parse: it costs little, whatever the body is. A name and its value may take 4 KB.
    """
    named = tried = 0
    tail = b""
    seen = b""  # the last value, with what leads to it
    for part in parts:
        for start in range(0, len(part), WINDOW):
            window = tail + part[start : start + WINDOW]
            tail = window[-REACH:]
            if b"\\u00" in window:
                for escaped, letter in _ESCAPED:
                    window = window.replace(escaped, letter)
            at = window.find(NAME)
            while at >= 0:
                named += 1
                if named > MAX_NAMED or tried > MAX_TRIED:
                    return
                at += len(NAME)
                again = seen and window.startswith(seen, at)
                match = None if again else _VALUE.match(window, at, at + REACH)
                if match is not None:
                    tried += 1
                    with contextlib.suppress(ValueError):  # not JSON
                        value = json.loads(match[1].decode())
                        seen = match[0]
                        yield value
                at = window.find(NAME, at)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
