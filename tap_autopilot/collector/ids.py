"""The ids of events, by which repeats are recognized and the tap's rows are told apart."""

from __future__ import annotations

import json
import re
from decimal import Decimal

import msgspec

from tap_autopilot.collector import raw_json
from tap_autopilot.collector.raw_json import NotJson, TooLarge

MAX_ROW_ID = 400  # characters of a messageId that is a row's key; databases index 2,700 bytes
USUAL_EXPONENT = 290  # a number beyond that keeps its spelling


class _Call(msgspec.Struct):
    messageId: msgspec.Raw = msgspec.Raw(b"")  # noqa: N815


class _UsualCall(msgspec.Struct):
    messageId: str = ""  # noqa: N815


_ANY = msgspec.json.Decoder(_Call)
_USUAL = msgspec.json.Decoder(_UsualCall)


def message_id(body: bytes) -> str:
    """The messageId of a call, read as the collector does to recognize a repeat; "" if it has none.

    If the tap read it in another way, an event that the collector takes for a new one could replace
    someone else's row.
    """
    call: _Call | _UsualCall | None = raw_json.decode(_USUAL, body)
    if call is None:
        try:
            call, _ = raw_json.pick(_ANY, body)
        except (NotJson, TooLarge):  # as part of a batch it was not too large
            return ""
    return as_id(call.messageId)


def own_id(store_id: str, seq: int, received_at: int) -> str:
    """An id for an event that has none: the same whenever it is read.

    A store that was restored from a backup uses the numbers of lost events again; hence the time.
    """
    return f"{store_id}-{seq}-{received_at}"


def as_id(given: str | msgspec.Raw) -> str:
    """An id as the tap writes it, so that ids are equal here if they are equal in its tables.

    It is given as text without lone surrogates, or as JSON. Numbers become text; NUL is removed;
    lone surrogates are replaced; "" if there is none.
    """
    if isinstance(given, str):
        return given.replace("\0", "")
    raw = bytes(given)
    if raw[:1] == b'"':
        return re.sub("[\ud800-\udfff]", "\ufffd", json.loads(raw).replace("\0", ""))
    if raw[:1] in b"[{" or raw == b"null":  # or empty
        return ""
    text = raw.decode()
    try:
        if not set(text) & set(".eE"):
            return str(int(text))
        number = Decimal(text)
    except (ValueError, ArithmeticError):  # true, false, or too many digits for Python
        return text
    return str(number) if abs(number.adjusted()) < USUAL_EXPONENT else text
