"""Reads and decompresses a response's body, up to MAX_BODY."""

from __future__ import annotations

import contextlib
import functools
import io
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

MAX_BODY = 2**27  # bytes, compressed or not; a page of the API takes about 200 kB
LARGE = 2**22  # bytes; a run has at most one larger body in memory
ALL = 2**25  # bytes of its other bodies together; what they become may take ten times as much
PIECE = 2**18  # bytes to read or unpack at a time; chunks of one byte take 60 times as much
HUGE = 2**23  # bytes; so much memory goes back to the system once it is free
M_MMAP_THRESHOLD = -3  # in glibc's <malloc.h>


class Body(NamedTuple):
    """A body, cut off somewhere above MAX_BODY; `problem` says why it cannot be decompressed."""

    content: bytes = b""
    problem: str | None = None


def largest_share(connections: int) -> int:
    """The size of a body, in bytes, that all connections of a run may have at the same time."""
    return min(LARGE, ALL // connections)


def read_body(raw: Any, encoding: str, share: int, when_large: Callable[[], None]) -> Body:
    """The body of a urllib3 response with this Content-Encoding.

    Calls `when_large` before reading on, each time, once it has more than `share` bytes.
    """
    unpack = None
    if encoding.lower() in ("gzip", "x-gzip"):
        unpack = zlib.decompressobj(16 + zlib.MAX_WBITS)
    elif encoding.lower() != "identity":
        return Body(problem="the response has an unsupported Content-Encoding")
    content = io.BytesIO()  # which is not copied, as pieces would be, nor split up in memory
    try:
        for piece in _packed(raw) if unpack is None else _unpacked(raw, unpack):
            content.write(piece)
            if content.tell() > MAX_BODY:
                break
            if content.tell() > share:
                when_large()
    except zlib.error:
        return Body(problem="the response's gzip data is corrupt")
    if unpack is not None and not unpack.eof and content.tell() <= MAX_BODY:
        return Body(problem="the response's gzip data is truncated")
    return Body(content.getvalue())


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


@functools.cache
def return_free_memory() -> None:
    """From now on, return blocks of HUGE bytes to the system as soon as they are free.

    By default, glibc keeps them, but a text of another size often does not fit there, so a large
    response would take twice as much. Other C libraries may not have this setting.
    """
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import ctypes  # takes a while

        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, HUGE)
