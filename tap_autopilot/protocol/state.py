"""State: how far each stream's pass has come, in and out of Singer's STATE.

A pass reads a stream from end to end, over as many runs as it takes. While one is under way,
`bookmarks.<stream>.progress` of the state is [where, more]. Where it is:

    [bookmark, seen]   the position of the next page; or
    "complete"         ; or, for the members of the segments,
    [through, fingerprint, [[segment, bookmark, seen], …]]
                       all segments up to `through` are read but for those that follow

and more, where it applies:

    since      only rows that changed at that moment or later are sent
    started    when an incremental pass began
    newest     the newest change that it has seen, up to then
    version    the number on the pass's rows, when it is to end with ACTIVATE_VERSION
    doubt      why it must not end so, nor move the Singer bookmark

When nothing is left to go on with, `progress` is null. It is never an object and never left out,
because some tools merge a new state into an old one, key by key: so that can only replace it whole.

Beside it an incremental stream has its Singer bookmark, under the name of its replication key. It
moves when the pass is complete: to the newest change that was seen, but to no later than a margin
before the pass began, since the API's clock may be behind ours.
"""

from __future__ import annotations

import copy
import logging
import zlib
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

from tap_autopilot.rows.changed import Window
from tap_autopilot.rows.shape import as_datetime
from tap_autopilot.sources.listings import CONTACTS, LISTS, SEGMENTS, Page, Position, Walk
from tap_autopilot.streams import STREAMS, Stream

LOG = logging.getLogger(__name__)

MEMBERS = "smart_segments_contacts"
COMPLETE = "complete"
NO_MEMBERS: list[Any] = ["", 0, []]
MORE = ("since", "started", "newest", "version", "doubt")
MARGIN = timedelta(minutes=1)  # by which the API's clock may be behind
MOST_SEEN = 2**53  # documents of one listing


class Progress:
    """The passes of the selected streams: where they stand, and the state that says so."""

    def __init__(
        self,
        state: Any,
        selected: Iterable[type[Stream]],
        *,
        incremental: Collection[str],
        versions: bool,
        start_date: datetime | None,
    ) -> None:
        self._streams = list(selected)
        self._bookmarks = _bookmarks(state)
        self._members = _Members()
        now = datetime.now(timezone.utc)
        for name, entry in self._bookmarks.items():
            _check_bookmark(STREAMS[name], entry, now)
            if not any(stream.name == name for stream in self._streams):
                _clear(entry)
        for stream in self._streams:
            entry = self._bookmarks.setdefault(stream.name, {})
            fresh: dict[str, Any] = {"progress": _start(stream)}
            bounds = [start_date if stream.replication_key else None]
            if stream.name in incremental:
                fresh["started"] = now.isoformat()
                bounds.append(_as_datetime(entry.get(str(stream.replication_key))))
            if since := max(filter(None, bounds), default=None):
                fresh["since"] = since.isoformat()
            elif versions and stream.name not in incremental:
                fresh["version"] = int(now.timestamp() * 1000)
            if not _continues(stream, entry, fresh):
                if "progress" in entry:
                    LOG.warning(
                        "%s: the state's progress is not usable; starting over.", stream.name
                    )
                _clear(entry)
                entry.update(fresh)
            elif not versions:
                entry.pop("version", None)
        for walk in (CONTACTS, LISTS, SEGMENTS):
            self._agree(walk)
        if self.needs_members():
            self._members = _Members(*self._bookmarks[MEMBERS]["progress"])
            for name in self.unfinished(SEGMENTS):  # the members need the listing from its start
                self._bookmarks[name]["progress"] = [None, 0]

    def _agree(self, walk: Walk) -> None:
        """Let streams that are fed by one walk go on together; if they cannot, start it over."""
        names = self.unfinished(walk)
        positions = [self._bookmarks[name]["progress"] for name in names]
        if any(position != positions[0] for position in positions):
            LOG.warning("The state has %s at different pages; starting over.", " and ".join(names))
            for name in names:
                self._bookmarks[name]["progress"] = [None, 0]

    def value(self) -> dict[str, Any]:
        """The value of a STATE message."""
        return {
            "bookmarks": {
                name: _written(STREAMS[name], entry) for name, entry in self._bookmarks.items()
            }
        }

    def version(self, stream: str) -> int | None:
        """The version of a stream's rows, if they have one."""
        version: int | None = self._bookmarks[stream].get("version")
        return version

    def doubt(self, stream: str) -> str | None:
        """Why a stream's pass must not end with ACTIVATE_VERSION, if so."""
        reason: str | None = self._bookmarks[stream].get("doubt")
        return reason

    def window(self, stream: str) -> Window | None:
        """Which rows of a stream are sent; None if all are and no bookmark is kept."""
        entry = self._bookmarks[stream]
        if "since" not in entry and "started" not in entry:
            return None
        since, started, newest = (
            _as_datetime(entry.get(name)) for name in ("since", "started", "newest")
        )
        return Window(since, started, newest)

    def note_newest(self, stream: str, window: Window | None) -> None:
        """Remember the newest change that an incremental stream has seen."""
        entry = self._bookmarks[stream]
        if window is not None and window.newest is not None:
            entry["newest"] = window.newest.isoformat()

    def is_incremental(self, stream: str) -> bool:
        """Whether the pass of a stream sends changes only."""
        return "started" in self._bookmarks[stream]

    def add_doubt(self, stream: str, reason: str) -> None:
        """Remember a reason not to end a stream's pass with ACTIVATE_VERSION."""
        self._bookmarks[stream].setdefault("doubt", reason)

    def unfinished(self, walk: Walk) -> list[str]:
        """The selected streams that still need this walk."""
        return [
            stream.name
            for stream in self._streams
            if stream.walk == walk.kind and not self.is_complete(stream.name)
        ]

    def is_complete(self, stream: str) -> bool:
        """Whether the pass of a stream is complete."""
        return bool(self._bookmarks[stream].get("progress", COMPLETE) == COMPLETE)

    def walks(self) -> list[tuple[Walk, Position]]:
        """The walks to begin with, those that were interrupted first.

        The walk over the segments is among them also where only its members are unfinished.
        """
        found = []
        for walk in (CONTACTS, LISTS, SEGMENTS):
            names = self.unfinished(walk)
            if names:
                found.append((walk, Position(*self._bookmarks[names[0]]["progress"])))
            elif walk is SEGMENTS and self.needs_members():
                found.append((walk, Position()))
        return sorted(found, key=lambda one: not self._is_begun(*one))

    def _is_begun(self, walk: Walk, position: Position) -> bool:
        members = walk is SEGMENTS and self.needs_members()
        return position.bookmark is not None or (members and self._members.value() != NO_MEMBERS)

    def needs_members(self) -> bool:
        """Whether the members of segments are still to be read."""
        return MEMBERS in (one.name for one in self._streams) and not self.is_complete(MEMBERS)

    def segments(self, segment_ids: Iterable[str]) -> list[tuple[str, Position]]:
        """The segments whose members are to be read, of all that there are, and from where."""
        todo = self._members.todo(segment_ids)
        self._update_members()
        return todo

    def advance(self, page: Page) -> None:
        """Note that a page's rows are written."""
        if page.walk.segment_id is not None:
            self._members.reached(page.walk.segment_id, page.after)
            self._update_members()
        else:
            after = page.after
            for name in self.unfinished(page.walk):
                self._bookmarks[name]["progress"] = (
                    COMPLETE if after is None else [after.bookmark, after.seen]
                )

    def skip_segment(self, segment_id: str) -> None:
        """Note that a segment is gone, so that there is nothing to read of it."""
        self._members.reached(segment_id, None)
        self._update_members()

    def finish(self) -> None:
        """Leave nothing in the state of the passes that are complete: the next run begins anew.

        Those that are not go on there. A stream is not to wait for another that never succeeds.
        """
        for stream in self._streams:
            entry = self._bookmarks[stream.name]
            if entry.get("progress") == COMPLETE:
                newest, started = (_as_datetime(entry.get(key)) for key in ("newest", "started"))
                if stream.replication_key and newest and started and "doubt" not in entry:
                    bookmark = min(newest, started - MARGIN).isoformat().replace("+00:00", "Z")
                    entry[stream.replication_key] = bookmark
                _clear(entry)

    def _update_members(self) -> None:
        if MEMBERS in self._bookmarks:
            self._bookmarks[MEMBERS]["progress"] = self._members.value()


class _Members:
    """How far the members of the segments are read, in the order of the segments' ids.

    In the state that takes no more room for a thousand segments than for ten: the last one begun,
    those before it that are not finished, and a fingerprint of all up to it, by which to notice
    that others have come in between.
    """

    def __init__(
        self, through: str = "", fingerprint: int = 0, under_way: Iterable[list[Any]] = ()
    ) -> None:
        self._through = through
        self._fingerprint = fingerprint
        self._under_way = {one: Position(bookmark, seen) for one, bookmark, seen in under_way}
        self._ids: list[str] | None = None
        self._begun = 0

    def todo(self, segment_ids: Iterable[str]) -> list[tuple[str, Position]]:
        self._ids = ids = sorted(set(segment_ids))
        self._begun = sum(one <= self._through for one in ids)
        fingerprint = 0
        for one in ids[: self._begun]:
            fingerprint = zlib.crc32(one.encode(), fingerprint)
        if fingerprint != self._fingerprint or not self._under_way.keys() <= set(ids):
            LOG.warning(
                "%s: the segments are not those that the state tells of; starting over.", MEMBERS
            )
            self._through, self._fingerprint, self._under_way, self._begun = "", 0, {}, 0
        return [*self._under_way.items(), *((one, Position()) for one in ids[self._begun :])]

    def reached(self, segment_id: str, after: Position | None) -> None:
        assert self._ids is not None
        while self._begun < len(self._ids) and self._ids[self._begun] <= segment_id:
            one = self._through = self._ids[self._begun]
            self._fingerprint = zlib.crc32(one.encode(), self._fingerprint)
            self._under_way[one] = Position()
            self._begun += 1
        if after is None:
            del self._under_way[segment_id]
        else:
            self._under_way[segment_id] = after

    def value(self) -> Any:
        if self._ids is not None and self._begun == len(self._ids) and not self._under_way:
            return COMPLETE
        under_way = [[one, at.bookmark, at.seen] for one, at in self._under_way.items()]
        return [self._through, self._fingerprint, under_way]


def _start(stream: type[Stream]) -> list[Any]:
    return copy.copy(NO_MEMBERS) if stream.name == MEMBERS else [None, 0]


def _clear(entry: dict[str, Any]) -> None:
    for name in ("progress", *MORE):
        entry.pop(name, None)


def _written(stream: type[Stream], entry: dict[str, Any]) -> dict[str, Any]:
    """What the state says of a stream."""
    written: dict[str, Any] = {"progress": None}
    if "progress" in entry:
        more = {name: entry[name] for name in MORE if name in entry}
        written["progress"] = [entry["progress"], more]
    if stream.replication_key in entry:
        written[stream.replication_key] = entry[stream.replication_key]
    return written


def _bookmarks(state: Any) -> dict[str, dict[str, Any]]:
    """What a given state says of each stream, without what is not usable; of 0.3.0's as well."""
    if state is None or state == {}:
        return {}
    if isinstance(state, dict) and state.get("type") == "STATE":  # a whole line of a tap's output
        return _bookmarks(state.get("value"))
    given = state.get("bookmarks") if isinstance(state, dict) else None
    if not isinstance(given, dict):
        LOG.warning("The state is not one of a Singer tap; starting without it.")
        return {}
    usable = {}
    for name, entry in given.items():
        if name not in STREAMS:
            LOG.warning("The state has a stream %.60r that does not exist; ignored.", name)
        elif not isinstance(entry, dict):
            LOG.warning("%s: the state's bookmark is not an object; starting over.", name)
        else:
            usable[name] = _read(STREAMS[name], copy.deepcopy(entry))
    return usable


def _read(stream: type[Stream], written: dict[str, Any]) -> dict[str, Any]:
    """What the state says of a stream, by name. What is no progress stays, to be found unusable."""
    entry: dict[str, Any] = {}
    match written.get("progress"):
        case None:
            pass
        case [where, dict(more)]:
            entry = {name: more[name] for name in MORE if more.get(name) is not None}
            entry["progress"] = where
        case unusable:
            entry["progress"] = {"unusable": unusable}
    key = stream.replication_key
    if key in written:
        entry[key] = written[key]
    return entry


def _check_bookmark(stream: type[Stream], entry: dict[str, Any], now: datetime) -> None:
    """Drop a Singer bookmark by which rows could be missed."""
    key = str(stream.replication_key)
    if key in entry:
        moment = _as_datetime(entry[key])
        if moment is None or moment > now:
            LOG.warning(
                "%s: the state's %s is no moment in the past; starting without it.",
                stream.name, key,
            )  # fmt: skip
            del entry[key]


def _continues(stream: type[Stream], entry: dict[str, Any], fresh: dict[str, Any]) -> bool:
    """Whether the pass that the state tells of is the one that would begin now."""
    return (
        _is_progress(stream, entry)
        and entry.get("since") == fresh.get("since")
        and ("started" in entry) == ("started" in fresh)
        and not ("version" in entry and {"since", "started"} & entry.keys())
        and _are_in_order(entry.get("newest"), entry.get("started"), fresh.get("started"))
    )


def _are_in_order(newest: Any, started: Any, now: Any) -> bool:
    """Whether the times of an incremental pass can be; without one there must be none."""
    moments = [_as_datetime(one) for one in (newest, started, now) if one is not None]
    known = [one for one in moments if one is not None]
    return len(known) == len(moments) and known == sorted(known) and not (newest and not started)


def _as_datetime(value: Any) -> datetime | None:
    """A moment in a state, with its zone; None for what is none."""
    return as_datetime(value) if isinstance(value, str) else None


def _is_progress(stream: type[Stream], entry: dict[str, Any]) -> bool:
    version, doubt = entry.get("version"), entry.get("doubt")
    if not (version is None or type(version) is int) or not (doubt is None or _is_text(doubt)):
        return False
    match entry.get("progress"):
        case "complete":
            return True
        case [str(through), int(), list(under_way)] if stream.name == MEMBERS:
            return _is_text(through) and all(
                isinstance(one, list) and len(one) == 3 and _is_text(one[0]) and one[0] <= through
                and _is_position(one[1:])
                for one in under_way
            )  # fmt: skip
        case list(position) if stream.name != MEMBERS:
            return _is_position(position)
    return False


def _is_position(value: list[Any]) -> bool:
    match value:
        case [bookmark, int(seen)] if not isinstance(seen, bool) and bookmark != "":
            return 0 <= seen <= MOST_SEEN and (bookmark is None or _is_text(bookmark))
    return False


def _is_text(value: Any) -> bool:
    """Whether a value is text that can be written down as UTF-8."""
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False
