"""Decompresses request bodies, up to a limit."""

from __future__ import annotations

import zlib

GZIP = 31  # zlib's window bits for a gzip header
ZLIB = 15
RAW = -15
MAX_MEMBERS = 100  # of a gzip file; each costs a copy of the rest


class TooLarge(ValueError):
    """The body is larger than allowed."""


class UnknownEncoding(ValueError):
    """An unsupported Content-Encoding."""


class Damaged(ValueError):
    """The body cannot be decompressed."""


def unpack(body: bytes, encoding: str, limit: int) -> bytes:
    """The decompressed body, from gzip, deflate or neither.

    Raises TooLarge as soon as the output exceeds `limit` bytes.
    """
    names = [name.strip().lower() for name in encoding.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if len(names) > 1 or (names and names[0] not in ("gzip", "x-gzip", "deflate")):
        raise UnknownEncoding("unsupported Content-Encoding; use gzip or deflate")
    if not names:
        return body
    if names[0] == "deflate":
        try:
            return _inflate(body, ZLIB, limit)
        except Damaged:  # some senders omit zlib's header
            return _inflate(body, RAW, limit)
    return _inflate(body, GZIP, limit)


def _inflate(body: bytes, window_bits: int, limit: int) -> bytes:
    found = []
    size = 0
    for _ in range(MAX_MEMBERS):
        unpacker = zlib.decompressobj(window_bits)
        try:
            part = unpacker.decompress(body, limit + 1 - size)
        except zlib.error:
            raise Damaged("the body cannot be decompressed") from None
        found.append(part)
        size += len(part)
        if size > limit:
            raise TooLarge
        if not unpacker.eof:
            raise Damaged("the compressed body is truncated")
        body = unpacker.unused_data
        if not body or window_bits != GZIP:  # a gzip file may have several members
            return b"".join(found)
    raise Damaged(f"the body has more than {MAX_MEMBERS} gzip members")
