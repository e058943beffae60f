"""Decompresses request bodies part by part, up to a limit."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from tap_autopilot.collector.raw_json import TooLarge

GZIP = 31  # zlib's window bits for a gzip header
ZLIB = 15
RAW = -15
MAX_MEMBERS = 100  # of a gzip file
PART = 64 * 1024  # bytes, decompressed
# Bytes given to zlib at a time, because it copies what it does not use yet.
PIECE = 16 * 1024


class UnknownEncoding(ValueError):
    """An unsupported Content-Encoding."""


class Damaged(ValueError):
    """The body cannot be decompressed."""


def unpacked(body: bytes, encoding: str, limit: int) -> Iterator[bytes]:
    """The decompressed body in parts, from gzip, deflate or neither.

    Raises UnknownEncoding, Damaged, and TooLarge as soon as the output exceeds `limit` bytes.
    """
    if not encoding:
        return iter((body,))
    names = [name.strip().lower() for name in encoding.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if len(names) > 1 or (names and names[0] not in ("gzip", "x-gzip", "deflate")):
        raise UnknownEncoding("unsupported Content-Encoding; use gzip or deflate")
    if not names:
        return iter((body,))
    return _inflate(body, _window_bits(body, names[0]), limit)


def _window_bits(body: bytes, encoding: str) -> int:
    if encoding != "deflate":
        return GZIP
    has_header = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return ZLIB if has_header else RAW  # some senders omit zlib's header


def _inflate(body: bytes, window_bits: int, limit: int) -> Iterator[bytes]:
    size = 0
    for part in _parts(body, window_bits):
        size += len(part)
        if size > limit:
            raise TooLarge(f"the decompressed body is larger than {limit / 2**20:g} MB")
        yield part


def _parts(body: bytes, window_bits: int) -> Iterator[bytes]:
    members = 1
    unpacker = zlib.decompressobj(window_bits)
    for start in range(0, len(body), PIECE):
        piece = body[start : start + PIECE]
        while piece:
            if unpacker.eof:
                if window_bits != GZIP:  # only a gzip file may have several members
                    return
                members += 1
                if members > MAX_MEMBERS:
                    raise Damaged(f"the body has more than {MAX_MEMBERS} gzip members")
                unpacker = zlib.decompressobj(window_bits)
            yield _decompress(unpacker, piece)
            piece = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
    while not unpacker.eof:
        rest = _decompress(unpacker, b"")
        if not rest:
            raise Damaged("the compressed body is truncated")
        yield rest


def _decompress(unpacker: zlib._Decompress, piece: bytes) -> bytes:
    try:
        return unpacker.decompress(piece, PART)
    except zlib.error:
        raise Damaged("the body cannot be decompressed") from None
