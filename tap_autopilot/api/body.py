"""Reads and decompresses a response's body, up to MAX_BODY."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

MAX_BODY = 2**27  # bytes, compressed or not; a page of the API takes about 200 kB
PIECE = 2**18  # bytes to read or unpack at a time; chunks of one byte take 60 times as much


class Body(NamedTuple):
    """A body, cut off somewhere above MAX_BODY; `problem` says why it cannot be decompressed."""

    content: bytes = b""
    problem: str | None = None


def read_body(raw: Any, encoding: str) -> Body:
    """The body of a urllib3 response with this Content-Encoding."""
    unpack = None
    if encoding.lower() in ("gzip", "x-gzip"):
        unpack = zlib.decompressobj(16 + zlib.MAX_WBITS)
    elif encoding.lower() != "identity":
        return Body(problem="the response has an unsupported Content-Encoding")
    pieces, size = [], 0
    try:
        for piece in _packed(raw) if unpack is None else _unpacked(raw, unpack):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_BODY:
                break
    except zlib.error:
        return Body(problem="the response's gzip data is corrupt")
    if unpack is not None and not unpack.eof and size <= MAX_BODY:
        return Body(problem="the response's gzip data is truncated")
    return Body(pieces[0] if len(pieces) == 1 else b"".join(pieces))


def _packed(raw: Any) -> Iterator[bytes]:
    while piece := raw.read(PIECE, decode_content=False):
        yield piece


def _unpacked(raw: Any, unpack: Any) -> Iterator[bytes]:
    """The decompressed pieces, each of at most PIECE bytes."""
    for packed in _packed(raw):
        piece = unpack.decompress(packed, PIECE)
        yield piece
        while not unpack.eof and (unpack.unconsumed_tail or len(piece) == PIECE):
            piece = unpack.decompress(unpack.unconsumed_tail, PIECE)
            yield piece
        if unpack.eof:
            break
