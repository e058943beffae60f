"""The memory for events that are not on disk yet."""

from __future__ import annotations

from collections import Counter

SHARE = 4  # times what is left for others, for the requests with one secret
STRANGERS_FULL = "too much is arriving without a secret in the headers"
SENDER_FULL = "this sender already has too many events waiting to be written"


class Pending:
    """How many bytes are in memory but not on disk. For use in the event loop's thread only.

    Of these, requests that have shown no secret yet get half, until the others need it. Those with
    the same secret get four times as much as they leave for the others, or for requests without
    one. A sender with nothing pending, or less than `max_body` bytes, may use all the memory left.
    If nothing at all is pending, any request has room: a batch whose events share a context may
    take twice its size.
    """

    def __init__(self, limit: int, max_body: int = 0) -> None:
        self._limit = limit
        self._max_body = max_body
        self._sizes: Counter[bytes | None] = Counter()  # by the digests of secrets
        self.bytes = 0

    def reserve(self, size: int, secret: bytes | None) -> str | None:
        """Count this many bytes. Returns why there is no room for them, if so."""
        left = self._limit - self.bytes - size
        if left < 0 < self.bytes:
            return "too many events are waiting to be written"
        share = self._limit // 2 if secret is None else SHARE * (left + self._sizes[None])
        if self._sizes[secret] + size > max(share, self._max_body, size):
            return STRANGERS_FULL if secret is None else SENDER_FULL
        self.bytes += size
        self._sizes[secret] += size
        return None

    def release(self, size: int, secret: bytes | None) -> None:
        """Stop counting bytes that `reserve` has counted."""
        self.bytes -= size
        self._sizes[secret] -= size
