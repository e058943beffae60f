"""The `track` calls in a store, as destinations get them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from tap_autopilot.collector import raw_json
from tap_autopilot.collector.events import ANY_CALL, type_of
from tap_autopilot.collector.ids import own_id
from tap_autopilot.collector.names import kind_of
from tap_autopilot.collector.raw_json import NotJson, TooLarge
from tap_autopilot.collector.reader import Event, Reader
from tap_autopilot.exceptions import TapError

READ_AT_ONCE = 200  # events
SHOWN_ID = 100  # characters
RECENT = 2  # reads whose results are kept for other destinations


class TrackCall(NamedTuple):
    """A call to send. Its `kind` is what all spellings of its event's name have in common.

    `id` is the beginning of its messageId, for messages. One that was pruned has no body.
    """

    seq: int
    kind: str
    id: str
    body: bytes


def as_track_call(event: Event, store_id: str) -> TrackCall | None:
    """The event as it is sent; None if it is not a `track` call.

    Timestamps stay unchanged. A call without an id gets one that is the same whenever it is sent.
    Without any type, an event's name makes it a `track` call. Nothing is left of an erased one.
    """
    if event.source != "segment" or not raw_json.is_object(event.body):
        return None
    if event.pruned:  # as only `track` calls are
        is_there = event.body != b"{}"
        return TrackCall(event.seq, kind_of(event.name), "", b"") if is_there else None
    try:
        call, body = raw_json.pick(ANY_CALL, event.body)
    except (NotJson, TooLarge):  # as part of a batch it was not too large
        return None
    given = raw_json.string(raw_json.raw(call.type))
    name = raw_json.string(raw_json.raw(call.event)) or ""
    type_ = type_of(event.route, given or "")
    if type_ != "track" and (type_ or not name):
        return None
    added = {}
    if given != "track":
        added["type"] = b'"track"'
    id_ = raw_json.raw(call.messageId)
    if id_ in (b"", b"null", b'""'):
        id_ = added["messageId"] = b'"%s"' % own_id(store_id, event.seq, event.received_at).encode()
    if added:
        try:
            body = raw_json.build({**raw_json.members(body), **added})
        except TooLarge:  # so many members that no destination would take it
            return None
    body = bytes(body)  # without the members that the scanner has split it into
    return TrackCall(event.seq, kind_of(name), (raw_json.string(id_) or "?")[:SHOWN_ID], body)


class TrackCalls:
    """Reads a store's `track` calls, once for all destinations that need the same ones."""

    def __init__(self, open_reader: Callable[[], Reader]) -> None:
        self._open_reader = open_reader
        self._lock = threading.Lock()
        self._reader: Reader | None = None
        self._closed = False
        self._recent: deque[tuple[int, list[TrackCall], int]] = deque(maxlen=RECENT)

    def after(self, seq: int) -> tuple[list[TrackCall], int]:
        """The next calls, and the `seq` up to which they were read, unchanged at the end."""
        with self._lock:
            for after, calls, up_to in self._recent:
                if after == seq:
                    return calls, up_to
            if self._closed:
                return [], seq
            events, store_id = self._read(seq)
            if not events:
                return [], seq
            calls = [call for event in events if (call := as_track_call(event, store_id))]
            self._recent.append((seq, calls, events[-1].seq))
            return calls, events[-1].seq

    def close(self) -> None:
        """Stop reading: an open connection would keep a file's WAL from being merged at the end."""
        with self._lock:
            self._closed = True
            self._disconnect()

    def _read(self, after: int) -> tuple[list[Event], str]:
        try:
            if self._reader is None:
                self._reader = self._open_reader()
            return self._reader.read(after, READ_AT_ONCE), self._reader.store_id
        except TapError:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
