"""The memory for events that are not on disk yet."""

from __future__ import annotations


class Pending:
    """How many bytes are in memory but not on disk. For use in the event loop's thread only.

    Of these, senders that have shown no secret get half, or a body of `max_body` bytes.
    """

    def __init__(self, limit: int, max_body: int = 0) -> None:
        self._limit = limit
        self._max_strangers = max(limit // 2, max_body)
        self._strangers = 0
        self.bytes = 0

    def reserve(self, size: int, *, is_known: bool) -> str | None:
        """Count this many bytes. Returns why there is no room for them, if so."""
        if self.bytes + size > self._limit:
            return "too many events are waiting for the disk"
        if not is_known and self._strangers + size > self._max_strangers:
            return "too many bodies came without a secret in their headers"
        self.bytes += size
        if not is_known:
            self._strangers += size
        return None

    def release(self, size: int, *, is_known: bool) -> None:
        """Stop counting bytes that `reserve` has counted."""
        self.bytes -= size
        if not is_known:
            self._strangers -= size
