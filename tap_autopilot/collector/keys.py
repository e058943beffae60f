"""Checks senders' secrets. Comparisons take constant time."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Sequence


class Keys:
    """Several secrets, any of which is accepted, so that they can be rotated."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._digests = [_digest(secret) for secret in secrets]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accept(self, candidates: Sequence[str]) -> bool:
        """Whether any of the candidates is one of the secrets."""
        found = False
        for candidate in candidates:
            digest = _digest(candidate)
            for one in self._digests:
                found |= hmac.compare_digest(digest, one)
        return found


class SigningKeys:
    """Several secrets, any of which may sign a body."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = [secret.encode() for secret in secrets]

    def __bool__(self) -> bool:
        return bool(self._secrets)

    def accept(self, body: bytes, signature: str) -> bool:
        """Whether the signature is the hex HMAC-SHA1 of the body, with any of the secrets."""
        given = signature.strip().lower().encode("utf-8", "replace")
        found = False
        for secret in self._secrets:
            expected = hmac.new(secret, body, hashlib.sha1).hexdigest().encode()
            found |= hmac.compare_digest(expected, given)
        return found


def from_authorization(header: str) -> list[str]:
    """The write keys in an Authorization header: Basic, with or without the colon, or Bearer."""
    scheme, _, rest = header.strip().partition(" ")
    rest = rest.strip()
    if scheme.lower() == "bearer" and rest:
        return [rest]
    if scheme.lower() == "basic":
        try:
            user = base64.b64decode(rest + "=" * (-len(rest) % 4)).decode()
        except (binascii.Error, UnicodeDecodeError):
            return []
        return [user.partition(":")[0]]
    return []


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
