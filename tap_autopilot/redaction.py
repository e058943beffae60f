"""Removes secrets from texts, however they are encoded there."""

from __future__ import annotations

import base64
import html
import re
import urllib.parse
from collections.abc import Callable

MIN_SECRET = 4  # characters; anything shorter occurs in too many words
HIDDEN = "(API key)"


def redactor(*secrets: str) -> Callable[[str], str]:
    """A function that removes secrets from a text, in all their usual encodings."""
    known = sorted({one for one in secrets if len(one) >= MIN_SECRET}, key=len, reverse=True)
    if not known:
        return str
    forms = re.compile("|".join(form for one in known for form in (_spelled(one), *_base64(one))))
    return lambda text: forms.sub(HIDDEN, text)


def _spelled(secret: str) -> str:
    """A pattern of a secret in any case, in hex, or with any of its characters escaped."""
    in_hex = "[ :-]?".join(f"{byte:02x}" for byte in _bytes(secret))
    return f"(?i:{''.join(map(_escaped, secret))}|{in_hex})"


def _escaped(letter: str) -> str:
    """A pattern of a character, as it is, or as JSON, URLs, HTML or programs escape it."""
    units = re.findall("....", letter.encode("utf-16-be", "surrogatepass").hex())
    forms = {
        "".join(rf"\\u{unit}" for unit in units),
        *("".join(f"{mark}{byte:02x}" for byte in _bytes(letter)) for mark in ("%", r"\\x")),
        f"&#(?:0*{ord(letter)}|x0*{ord(letter):x});",
        re.escape(html.escape(letter)),
        re.escape(urllib.parse.quote_plus(letter, errors="surrogatepass")),
    }
    forms.discard(re.escape(letter))  # matching in two ways takes exponential time
    most = 1 if letter == "\\" else 3
    return rf"(?:\\{{0,{most}}}{re.escape(letter)}|{'|'.join(sorted(forms))})"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # bytes that are not UTF-8 become surrogates


def _base64(secret: str) -> list[str]:
    raw = _bytes(secret)
    forms = []
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for shift in range(3):  # its position in a longer text changes its encoding
            text = encode(b"\0" * shift + raw).decode().rstrip("=")
            first, last = (0, 2, 3)[shift], (len(raw) + shift) % 3
            forms.append(text[first : len(text) - (1 if last else 0)])
    return [re.escape(form) for form in forms if len(form) >= MIN_SECRET]
