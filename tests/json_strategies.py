"""JSON as nobody would write it: texts that the fuzzers feed to everything that reads JSON."""

from __future__ import annotations

import json

from hypothesis import strategies as st

WHITE = st.sampled_from([b"", b"", b"", b" ", b"\n", b"\r\n\t "])
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.integers(10**12, 2 * 10**12).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["-0", "0.0", "1e400", "-1E-400", "1.50", "1e99999999999999999999"]),
    st.sampled_from(["9" * 40, "9" * 4301, "0." + "1" * 50]),
).map(str.encode)
ODD_CHARACTERS = [
    *(rb"\u0000 \ud800 \udfff \ud83d\ude00 \u00e9 \/ \" \\ \n").split(b" "),
    "é".encode(), "😀".encode(), "\u2028".encode(), "\ufeff".encode(), b"\x7f",
]  # fmt: skip
WORDS = st.sampled_from([b"null", b"true", b"false"])


def strings(odd: st.SearchStrategy[bytes] | None = None) -> st.SearchStrategy[bytes]:
    """Strings with escapes of every kind, and with the given pieces."""
    plain = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=8)
    pieces = st.one_of(
        plain.map(lambda text: json.dumps(text).encode()[1:-1]),
        st.sampled_from(ODD_CHARACTERS),
        *([odd] if odd is not None else []),
    )
    return st.lists(pieces, max_size=4).map(lambda found: b'"%s"' % b"".join(found))


def values(
    leaves: st.SearchStrategy[bytes] | None = None,
    names: st.SearchStrategy[bytes] | None = None,
    most: int = 12,
) -> st.SearchStrategy[bytes]:
    """Any value, with white space anywhere and duplicate names."""
    return st.recursive(
        leaves if leaves is not None else st.one_of(NUMBERS, WORDS, strings()),
        lambda inner: st.one_of(
            arrays(inner), objects(strings() if names is None else names, inner)
        ),
        max_leaves=most,
    )


def arrays(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Arrays of these values."""
    return st.builds(
        lambda white, found: b"[%s%s]" % (white, (white + b"," + white).join(found)),
        WHITE,
        st.lists(inner, max_size=4),
    )


def objects(
    names: st.SearchStrategy[bytes], inner: st.SearchStrategy[bytes], most: int = 4
) -> st.SearchStrategy[bytes]:
    """Objects with these names and values."""
    return st.builds(
        lambda white, found: b"{%s%s%s}" % (
            white,
            b",".join(b"%s%s:%s%s" % (name, white, white, value) for name, value in found),
            white,
        ),
        WHITE,
        st.lists(st.tuples(names, inner), max_size=most),
    )  # fmt: skip


def damaged(texts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """These texts with some bytes replaced, removed or inserted, or truncated."""

    def damage(text: bytes, hits: list[tuple[int, int, bytes]]) -> bytes:
        for place, removed, inserted in hits:
            at = place % (len(text) + 1)
            text = text[:at] + inserted + text[at + removed :]
        return text

    inserted = st.one_of(
        st.binary(max_size=2),
        st.sampled_from([b"NaN", b"-Infinity", b"\x00", b"\xff", b"{", b"]", b",", b'"', b"\\ud8"]),
    )
    hits = st.tuples(st.integers(0, 10_000), st.integers(0, 3), inserted)
    cuts = st.tuples(st.integers(0, 10_000), st.just(10_000), st.just(b""))
    return st.builds(damage, texts, st.lists(st.one_of(hits, cuts), min_size=1, max_size=3))
