"""State: converts the progress of each stream's pass to and from Singer's STATE.

A pass reads a stream from start to end, over as many runs as it takes. During a pass, the state's
`bookmarks.<stream>.progress` is the list [status, details]. The status is "reading" or, while other
streams of the run are not done, "complete". The details have, where applicable:

    plan         a digest of what the pass sends: columns, with digests or not, from which store
    reading      the mark of the reading of its source that the pass belongs to
    since        only rows that changed at this time or later are sent
    incremental  true for an incremental pass
    started      when an incremental pass began
    newest       the most recent change before `started` that it has seen
    skipped      how many documents made no row
    version      the version of the pass's rows, if it should end with ACTIVATE_VERSION
    doubts       why the pass may be incomplete, by kind

`walks.<source>`, the positions in each source, is a list that ends with the mark of the reading.

In `bookmarks.<stream>`, an incremental stream also has its Singer bookmark, under the name of its
replication key, the `start_date` under which the bookmark was made, and a digest of the `columns`
sent. A stream fed by a collector's store has `collected`: the store's id, and the `seq` of the last
event written. If a `start_date` leaves out events, `collected_from` is that date. `append_only` is
true as long as the table has pushed events, also in runs without the store.

With digests, `digests` is the list [offset, check], a position in their file.

Some tools merge a run's state into the old one, key by key, although the run started without a
state. So a run never leaves out an entry that an older state of its streams may have: an entry with
nothing to say is null, which replaces the old value, as a list does. An object would be merged with
the old one. And what belongs together is compared before it is used: a pass only resumes at a
position with the same mark.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from tap_autopilot.exceptions import RunError
from tap_autopilot.protocol.positions import EachSegment, OneListing, is_text
from tap_autopilot.protocol.selection import Selected
from tap_autopilot.rows.changed import ChangedSince
from tap_autopilot.rows.times import as_datetime
from tap_autopilot.sources.completeness import Doubt, activates, moves_bookmark
from tap_autopilot.sources.listings import LISTINGS, MEMBERS, SEGMENTS, Page, Position, Walk
from tap_autopilot.streams import COLLECTED, EMAILS, STREAMS, Stream

LOG = logging.getLogger(__name__)

READING, COMPLETE = "reading", "complete"
FROM = "collected_from"
APPEND_ONLY = "append_only"
COLUMNS = "columns"
MARGIN = timedelta(minutes=1)  # between a bookmark and the time when its pass began


@dataclass
class Pass:
    """One stream's pass: which rows it sends, and how far to trust it."""

    incremental: bool = False
    since: datetime | None = None
    version: int | None = None
    started: datetime | None = None
    newest: datetime | None = None
    skipped: int = 0  # documents without a row
    doubts: dict[Doubt, str] = field(default_factory=dict)
    is_complete: bool = False
    plan: str = ""
    reading: str | None = None  # the mark of its source's reading; None if only a store feeds it

    @property
    def window(self) -> ChangedSince | None:
        """Which rows it sends; None for all."""
        if self.since is None and not self.incremental:
            return None
        return ChangedSince(self.since, self.started)

    @property
    def activates(self) -> bool:
        """Whether it ends with ACTIVATE_VERSION."""
        return self.version is not None and activates(self.doubts)

    def saw(self, newest: datetime | None, skipped: int) -> None:
        """Note a page's newest change and how many of its documents were skipped."""
        if newest is not None:
            self.newest = max(newest, self.newest or newest)
        if skipped:
            self.skipped += skipped
            self.doubts[Doubt.SKIPPED] = f"{self.skipped:,} documents were skipped"


class Remembered(NamedTuple):
    """The tables in the digests file: their versions, and which changed shape or are in a pass."""

    versions: Mapping[str, int]
    reshaped: Collection[str]
    begun: Collection[str]

    def knows(self, name: str) -> bool:
        """Whether the file has a table's rows in their present shape."""
        return name in self.versions and name not in self.reshaped


class Progress:
    """The passes of the selected streams, and the sources that feed them."""

    def __init__(
        self,
        state: Any,
        selected: Sequence[Selected],
        *,
        versions: bool,
        start_date: datetime | None,
        store: tuple[str, int] | None = None,
        remembered: Remembered | None = None,
    ) -> None:
        """Decide what the run has to read, given the previous state.

        `store` is the id of the collector's store and the `seq` of its last event, if any.
        """
        self.more_entries: dict[str, Any] = {}  # of the state
        self._remembered = remembered
        self._now = datetime.now(timezone.utc)
        self._start_date = start_date
        self._store = store
        self._entries, walks = _read(state)
        self._streams = {one.stream.name: one.stream for one in selected}
        self._columns = {one.stream.name: _digest(one.selected) for one in selected}
        passes = [self._entries.get(name, {}).get("progress") for name in self._streams]
        is_interrupted = None not in passes or any(map(_is_reading, passes))
        resumed: dict[str, Pass | None] = {}
        fresh = {}
        for one in selected:
            name, entry = one.stream.name, self._entries.setdefault(one.stream.name, {})
            self._check_bookmark(one.stream, entry)
            fresh[name] = self._fresh(one, entry, versions=versions)
            found = self._resume(name, entry, fresh[name])
            resumed[name] = found if is_interrupted else None  # else another run has ended since
            if resumed[name] is None and one.incremental:
                self._check_columns(one.stream, entry)
        for entry in self._entries.values():
            entry.pop("progress", None)
        self._passes = {name: resumed[name] or fresh[name] for name in self._streams}
        mark = secrets.token_hex(4)
        self._members = EachSegment(mark)
        self._listings = {walk.source: OneListing(walk, mark) for walk in LISTINGS}
        self._sources: dict[str, OneListing | EachSegment] = {
            **self._listings,
            MEMBERS: self._members,
        }
        for source, positions in self._sources.items():
            names = self.fed_by(source)
            resumable = [name for name in names if resumed[name]]
            marks = {self._passes[name].reading for name in names}
            if resumable and (resumable != names or not positions.resume(walks.get(source), marks)):
                LOG.warning("%s: cannot resume from the state; starting over.", ", ".join(names))
                self._passes.update({name: fresh[name] for name in names})
            for name in names:
                self._passes[name].reading = positions.mark
        self._resumed = {name for name, one in resumed.items() if one is self._passes[name]}
        if self._needs(MEMBERS):  # only a listing read from the start names all segments
            self._listings[SEGMENTS.source].position = Position()
        self._unread = {name: self._sources_of(stream) for name, stream in self._streams.items()}
        self._place([name for name in self._streams if self._passes[name] is fresh[name]])
        for one in selected:
            if one.incremental:
                entry = self._entries[one.stream.name]
                keys = (str(one.stream.replication_key), "start_date", COLUMNS)
                entry.update({key: entry.get(key) for key in keys})
        done = [name for name, found in self._passes.items() if found.is_complete]
        if done:
            LOG.info("Already completed by the interrupted run: %s.", ", ".join(done))

    def _check_bookmark(self, stream: type[Stream], entry: dict[str, Any]) -> None:
        """Drop a Singer bookmark that could skip rows."""
        key = str(stream.replication_key)
        if entry.get(key) is None:
            return
        bookmark, made_under = _as_datetime(entry[key]), _as_datetime(entry.get("start_date"))
        if bookmark is None or bookmark > self._now:
            LOG.warning(
                "%s: the state's %s is not a time in the past; ignoring it.",
                stream.name, key,
            )  # fmt: skip
        elif made_under and (self._start_date is None or self._start_date < made_under):
            LOG.warning(
                "%s: start_date is earlier than %s, or no longer set, so the state's %s could skip"
                " rows; ignoring it.",
                stream.name, made_under.isoformat(), key,
            )  # fmt: skip
        else:
            return
        del entry[key]

    def _check_columns(self, stream: type[Stream], entry: dict[str, Any]) -> None:
        """Warn if rows sent by earlier incremental passes may lack columns."""
        before = entry.get(COLUMNS)
        is_sent_again = entry.get(str(stream.replication_key)) is None or (
            self._remembered is not None and not self._remembered.knows(stream.name)
        )
        if before not in (None, self._columns[stream.name]) and not is_sent_again:
            LOG.warning(
                "%s: the selected columns changed, but only rows that change from now on are sent"
                " with the new columns. To send all rows again, start this stream over: delete it"
                " from the state's bookmarks.",
                stream.name,
            )

    def is_log(self, name: str) -> bool:
        """Whether a stream is an append-only log, because it contains pushed events.

        It remains a log in a run without the store; otherwise its pushed rows would be deleted.
        """
        has_store = COLLECTED in self._sources_of(STREAMS[name])
        return has_store or _is_log(self._entries.get(name, {}))

    def _sources_of(self, stream: type[Stream]) -> set[str]:
        return {one for one in stream.sources if one != COLLECTED or self._store is not None}

    def _place(self, fresh: Collection[str]) -> None:
        """Find each stream's position in the store; a new full pass begins at 0.

        Without a store, a stream forgets its position: this run may replace all of its rows.
        """
        starting_over: dict[str, list[str]] = {}
        for name, stream in self._streams.items():
            if COLLECTED not in stream.sources:
                continue
            entry = self._entries[name]
            entry[APPEND_ONLY] = self.is_log(name)
            if self._store is None:
                entry[COLLECTED] = entry[FROM] = None
                continue
            if self._passes[name].is_complete:
                continue
            position, made_under = 0, _as_datetime(entry.get(FROM))
            start_date = self._start_date if name in EMAILS else None
            reason = self._mismatch(entry)
            if not reason and entry.get(COLLECTED) is not None:
                knows = self._remembered is not None and self._remembered.knows(name)
                if knows or name not in fresh or self._passes[name].incremental:
                    position = entry[COLLECTED][1]
                if position and made_under and (not start_date or start_date < made_under):
                    position, reason = 0, "start_date is earlier, or no longer set"
            if reason:
                starting_over.setdefault(reason, []).append(name)
            entry[COLLECTED] = [self._store[0], position]
            entry[FROM] = start_date and _iso(start_date)
        for reason, names in starting_over.items():
            LOG.warning("%s: %s; reading all events in the store.", ", ".join(names), reason)

    def _mismatch(self, entry: dict[str, Any]) -> str:
        """Why a stream's position is not one in this store; empty if it is, or if it has none."""
        assert self._store is not None
        store_id, last = self._store
        match entry.get(COLLECTED):
            case None:
                return ""
            case [str(found), int(seq)] if found == store_id:
                return "" if 0 <= seq <= last else "the store has lost events since"
            case [str(_), int(_)]:
                return "the state is from another store"
        return "the state's position in the store is not valid"

    def _fresh(self, one: Selected, entry: dict[str, Any], *, versions: bool) -> Pass:
        """A new pass."""
        stream = one.stream
        bounds = [self._start_date] if stream.replication_key else []
        sent_before = self._remembered is None or self._remembered.knows(stream.name)
        if one.incremental and sent_before:
            bookmark = _as_datetime(entry.get(str(stream.replication_key)))
            bounds.append(bookmark and _before(bookmark, stream.look_back))
        found = Pass(one.incremental, max(filter(None, bounds), default=None))
        store = self._store[0] if self._store and COLLECTED in stream.sources else ""
        plan = [stream.key_properties, self._columns[stream.name], self._remembered is not None]
        found.plan = _digest([*plan, store])
        is_log = self.is_log(stream.name)
        if versions and not found.incremental and found.since is None and not is_log:
            now = int(self._now.timestamp() * 1000)
            known = self._remembered.versions if self._remembered is not None else {}
            found.version = known.get(stream.name, now)
        return found

    def _resume(self, name: str, entry: dict[str, Any], fresh: Pass) -> Pass | None:
        """The state's pass, if a new one would be the same."""
        progress = entry.get("progress")
        if progress is None:
            return None
        found = _pass(progress, incremental=fresh.incremental)
        if found is None or found.since != fresh.since:
            LOG.warning("%s: cannot resume from the state; starting over.", name)
            return None
        if found.plan != fresh.plan:
            LOG.warning(
                "%s: the state's pass had other columns or settings; starting over.",
                name,
            )
            return None
        if COLLECTED in self._sources_of(self._streams[name]) and self._mismatch(entry):
            return None
        if fresh.version is None:
            found.version = None
        return found if self._can_go_on(name, found, fresh) else None

    def _can_go_on(self, name: str, found: Pass, fresh: Pass) -> bool:
        """Whether the digests, if there are any, know what a pass has sent so far."""
        if self._remembered is None:
            return True
        begun = found.is_complete or name in self._remembered.begun
        return begun and self._remembered.knows(name) and found.version == fresh.version

    def fed_by(self, source: str) -> list[str]:
        """The selected streams that still need a source."""
        return [
            name
            for name, stream in self._streams.items()
            if source in stream.sources and not self._passes[name].is_complete
        ]

    def _needs(self, source: str) -> bool:
        return bool(self.fed_by(source))

    def start(self) -> list[tuple[Walk, Position]]:
        """The walks to start with, interrupted ones first; walks over members come from `found`.

        Segments are listed even if only their members are needed.
        """
        walks = []
        for walk in LISTINGS:
            positions = self._listings[walk.source]
            begun = positions.is_begun or (walk.children is not None and self._members.is_begun)
            if self._needs(walk.source) or (walk.children and self._needs(walk.children)):
                walks.append((not begun, walk, positions))
        walks.sort(key=itemgetter(0))
        return [(walk, positions.position) for _, walk, positions in walks]

    def found(self, segment_ids: Iterable[str]) -> list[tuple[Walk, Position]]:
        """The walks over the members of these segments, which must be all of the account's."""
        return self._members.found(segment_ids)

    def pass_of(self, stream: str) -> Pass:
        """How the pass of a stream is going."""
        return self._passes[stream]

    def is_resumed(self, stream: str) -> bool:
        """Whether the pass of a stream began in an earlier run."""
        return stream in self._resumed

    def began(self, stream: str, date: datetime | None) -> None:
        """Note when the pass began: by our clock or the API's, whichever is earlier."""
        found = self._passes[stream]
        if found.incremental and found.started is None:
            found.started = min(self._now, date or self._now)

    def advance(self, page: Page) -> list[str]:
        """Note that a page is written. Returns the streams that it completes."""
        walk = page.walk
        self._sources[walk.source].advance(walk, page.after, read=len(page.documents))
        return self.completed(walk.source)

    def completed(self, source: str) -> list[str]:
        """Note that a source is complete, if it is. Returns the streams that this completes.

        Raises RunError if what was read cannot be everything.
        """
        positions = self._sources[source]
        if not positions.is_complete:
            return []
        names, doubts = self.fed_by(source), positions.doubts()
        for doubt, reason in doubts.items():
            if doubt.fails:
                self._members = self._sources[source] = EachSegment(positions.mark)
                raise RunError(f"{source}: {reason}.")
        for name in names:
            found = self._passes[name]
            found.doubts = {**doubts, **found.doubts}
        return self._finish_source(source)

    def _finish_source(self, source: str) -> list[str]:
        """Note that a source is read to its end. Returns the streams that this completes."""
        complete = []
        for name in self.fed_by(source):
            self._unread[name].discard(source)
            if not self._unread[name]:
                self._passes[name].is_complete = True
                complete.append(name)
        return complete

    def stored(self) -> dict[str, int]:
        """The position in the collector's store of each stream that it feeds."""
        return {name: self._entries[name][COLLECTED][1] for name in self.fed_by(COLLECTED)}

    def advance_in_store(self, last: int) -> None:
        """Note that the store's events up to `last` are written."""
        for name in self.fed_by(COLLECTED):
            store_id, position = self._entries[name][COLLECTED]
            self._entries[name][COLLECTED] = [store_id, max(last, position)]

    def complete_store(self) -> list[str]:
        """Note that the store is read to its end. Returns the streams that this completes."""
        return self._finish_source(COLLECTED)

    def gone(self, walk: Walk) -> list[str]:
        """Note that a segment no longer exists. Returns the streams that this completes."""
        self._members.gone(walk)
        return self.completed(walk.source)

    def failed(self, walk: Walk) -> None:
        """Note that a walk failed."""
        if walk.source == MEMBERS:
            self._members.failed(walk)

    def incomplete(self) -> set[str]:
        """The selected streams that are not complete."""
        return {name for name, found in self._passes.items() if not found.is_complete}

    def finish(self) -> None:
        """End complete passes and move their bookmarks; the others resume next time.

        This way, a stream that never succeeds does not hold up the others.
        """
        for name, stream in list(self._streams.items()):
            found, entry, key = self._passes[name], self._entries[name], stream.replication_key
            if not found.is_complete:
                continue
            del self._streams[name]
            if key and found.newest and found.started and moves_bookmark(found.doubts):
                bookmark = min(found.newest, _before(found.started, MARGIN))
                before = _as_datetime(entry.get(key)) or bookmark
                entry[key] = _iso(max(bookmark, before))
                entry["start_date"] = self._start_date and _iso(self._start_date)
                entry[COLUMNS] = self._columns[name]

    def value(self) -> dict[str, Any]:
        """The value of a STATE message."""
        bookmarks = {}
        for name, entry in self._entries.items():
            progress = _written(self._passes[name]) if name in self._streams else None
            bookmarks[name] = {"progress": progress, **entry}
        walks = {
            source: positions.value() if self._needs(source) else None
            for source, positions in self._sources.items()
        }
        return {"bookmarks": bookmarks, "walks": walks, "digests": None, **self.more_entries}


def digests_in(state: Any) -> Any:
    """A state's position in the digests file, if any."""
    return _value(state).get("digests")


def complete_first(selected: Iterable[Selected], state: Any) -> list[Selected]:
    """The streams as this run reads them: an interrupted full pass is completed first.

    Otherwise an incremental pass would send rows without the version of the full pass, and a target
    that stored them without storing the state would delete them when the full pass resumes.
    """
    bookmarks = _value(state).get("bookmarks")
    streams = []
    for one in selected:
        entry = bookmarks.get(one.stream.name) if isinstance(bookmarks, dict) else None
        progress = entry.get("progress") if isinstance(entry, dict) else None
        if one.incremental and _pass(progress, incremental=False) is not None:
            LOG.info(
                "%s: completing the interrupted full pass; incremental replication starts with the"
                " next run.",
                one.stream.name,
            )
            streams.append(dataclasses.replace(one, incremental=False))
        else:
            streams.append(one)
    return streams


def collected_streams(state: Any) -> set[str]:
    """The streams that a collector's store has fed, according to a state."""
    bookmarks = _value(state).get("bookmarks")
    entries = bookmarks.items() if isinstance(bookmarks, dict) else ()
    return {name for name, entry in entries if isinstance(entry, dict) and _is_log(entry)}


def _is_log(entry: Mapping[str, Any]) -> bool:
    """Whether a stream's rows are append-only, according to its entry in a state."""
    return entry.get(COLLECTED) is not None or entry.get(APPEND_ONLY) is True


def _is_reading(progress: Any) -> bool:
    """Whether a stream's progress in a state says that its pass is not complete."""
    return isinstance(progress, list) and progress[:1] == [READING]


def _value(state: Any) -> dict[str, Any]:
    """The value of a state, which may be a whole STATE message."""
    if isinstance(state, dict) and state.get("type") == "STATE":
        state = state.get("value")
    return state if isinstance(state, dict) else {}


def _written(found: Pass) -> list[Any]:
    """A pass's entry in the state."""
    more: dict[str, Any] = {"plan": found.plan}
    if found.reading is not None:
        more["reading"] = found.reading
    more |= {
        name: _iso(when)
        for name in ("since", "started", "newest")
        if (when := getattr(found, name)) is not None
    }
    if found.incremental:
        more["incremental"] = True
    if found.version is not None:
        more["version"] = found.version
    if found.skipped:
        more["skipped"] = found.skipped
    if found.doubts:
        more["doubts"] = {doubt.value: reason for doubt, reason in found.doubts.items()}
    return [COMPLETE if found.is_complete else READING, more]


def _pass(progress: Any, *, incremental: bool) -> Pass | None:
    """The pass that a state's progress describes; None if it is not valid."""
    match progress:
        case ["reading" | "complete" as status, dict(more)]:
            pass
        case _:
            return None
    doubts, version, skipped = more.get("doubts", {}), more.get("version"), more.get("skipped", 0)
    plan, reading = more.get("plan", ""), more.get("reading")
    times = {name: more.get(name) for name in ("since", "started", "newest")}
    read = {name: _as_datetime(value) for name, value in times.items()}
    known = {doubt.value: doubt for doubt in Doubt}
    if (
        not more.keys()
        <= {*times, "plan", "reading", "incremental", "version", "skipped", "doubts"}
        or not (plan and is_text(plan))
        or not (reading is None or is_text(reading))
        or more.get("incremental", False) is not incremental
        or any(value is not None and read[name] is None for name, value in times.items())
        or not (version is None or type(version) is int)
        or type(skipped) is not int
        or not (isinstance(doubts, dict) and doubts.keys() <= known.keys())
        or not all(map(is_text, doubts.values()))
        or (version is not None and (incremental or read["since"]))
        or ((read["started"] or read["newest"]) and not incremental)
        or (read["newest"] and not read["started"])
    ):
        return None
    return Pass(
        incremental,
        read["since"],
        version,
        read["started"],
        read["newest"],
        skipped,
        {known[kind]: reason for kind, reason in doubts.items()},
        status == COMPLETE,
        str(plan),
        reading,
    )


def _read(state: Any) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """A state's valid entries, by stream and by source."""
    if state is None or state == {}:
        return {}, {}
    if isinstance(state, dict) and state.get("type") == "STATE":  # a whole line of a tap's output
        return _read(state.get("value"))
    given = state.get("bookmarks") if isinstance(state, dict) else None
    if not isinstance(given, dict):
        LOG.warning("The state is not a Singer tap's; starting without it.")
        return {}, {}
    entries = {}
    for name, entry in given.items():
        if name not in STREAMS:
            LOG.warning("The state has an unknown stream %.60r; ignored.", name)
        elif not isinstance(entry, dict):
            LOG.warning("%s: the state's bookmark is not an object; starting over.", name)
        else:
            bookmark = str(STREAMS[name].replication_key)
            kept = ("progress", bookmark, "start_date", COLUMNS, COLLECTED, FROM, APPEND_ONLY)
            entries[name] = found = {key: entry[key] for key in kept if key in entry}
            for key in (bookmark, COLUMNS):
                if isinstance(found.get(key), str) and not is_text(found[key]):
                    del found[key]
            for key in ("start_date", FROM):
                if _as_datetime(found.get(key)) is None:
                    found.pop(key, None)
            if not is_text(json.dumps(found.get(COLLECTED), ensure_ascii=False)):
                found[COLLECTED] = ["", 0]  # useless, but it says that the table is append-only
            if COLLECTED in STREAMS[name].sources:
                found[APPEND_ONLY] = _is_log(found)
    walks = state.get("walks")
    return entries, walks if isinstance(walks, dict) else {}


def _as_datetime(value: Any) -> datetime | None:
    """A time in a state; None if it is not valid."""
    return as_datetime(value) if isinstance(value, str) else None


def _before(moment: datetime, delta: timedelta) -> datetime:
    """A time earlier by `delta`, if there is one that early."""
    return max(moment, datetime.min.replace(tzinfo=timezone.utc) + delta) - delta


def _iso(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


def _digest(value: Any) -> str:
    """A digest of JSON."""
    return hashlib.blake2b(msgspec.json.encode(value), digest_size=8).hexdigest()
