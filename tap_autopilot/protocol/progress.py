"""What a run has to read, given the state of earlier runs, and how far it has come."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from tap_autopilot.exceptions import RunError
from tap_autopilot.protocol.positions import EachSegment, OneListing
from tap_autopilot.protocol.selection import Selected
from tap_autopilot.protocol.state import Pass, State, StorePosition, StreamState, as_type
from tap_autopilot.sources.completeness import moves_bookmark
from tap_autopilot.sources.listings import LISTINGS, MEMBERS, SEGMENTS, Page, Position, Walk
from tap_autopilot.streams import COLLECTED, EMAILS, STREAMS, Stream

LOG = logging.getLogger(__name__)

MARGIN = timedelta(minutes=1)  # between a bookmark and the time when its pass began


class Store(NamedTuple):
    """A collector's store: its id, the `seq` of its last event, and how to identify an event."""

    id: str
    last: int
    fingerprint: Callable[[int], str | None]


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
        state: State,
        selected: Sequence[Selected],
        *,
        versions: bool,
        start_date: datetime | None,
        store: Store | None = None,
        remembered: Remembered | None = None,
    ) -> None:
        """Decide what the run has to read, given the previous state."""
        self.digests: Any = None  # the position in their file; an older one is never left in place
        self._remembered = remembered
        self._now = datetime.now(timezone.utc)
        self._start_date = start_date and start_date.astimezone(timezone.utc)
        self._store = store
        self._sent: dict[str, int] = {}
        self._entries = state.streams
        self._logs = {table.stream.name for table in selected if table.log_based}
        # A run that asks the API for nothing leaves interrupted passes as they are.
        self._untouched = as_type(state.walks, dict) if len(self._logs) == len(selected) else None
        self._streams = {table.stream.name: table.stream for table in selected}
        self._columns = {table.stream.name: _digest(table.selected) for table in selected}
        for name in self._streams:
            self._entries.setdefault(name, StreamState())
        passes = [self._entries[name].progress for name in self._streams.keys() - self._logs]
        is_interrupted = None not in passes or any(
            current is not None and not current.is_complete for current in passes
        )
        resumed: dict[str, Pass | None] = {}
        fresh = {}
        for table in selected:
            name, entry = table.stream.name, self._entries[table.stream.name]
            entry.is_incremental = table.incremental
            self._check_bookmark(table.stream, entry)
            fresh[name] = self._fresh(table, entry, versions=versions)
            interrupted = None if table.log_based else self._resume(name, entry, fresh[name])
            # Otherwise another run has ended since.
            resumed[name] = interrupted if is_interrupted else None
            if resumed[name] is None and table.incremental:
                self._check_columns(table.stream, entry)
        for entry in self._entries.values() if self._untouched is None else ():
            entry.progress = None
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
            if resumable and (
                resumable != names or not positions.resume(state.walks.get(source), marks)
            ):
                LOG.warning("%s: cannot resume from the state; starting over.", ", ".join(names))
                self._passes.update({name: fresh[name] for name in names})
            for name in names:
                self._passes[name].reading = positions.mark
        self._resumed = {name for name, current in resumed.items() if current is self._passes[name]}
        if self._needs(MEMBERS):  # only a listing read from the start names all segments
            self._listings[SEGMENTS.source].position = Position()
        self._unread = {name: self._sources_of(stream) for name, stream in self._streams.items()}
        begun = {name for name in self._streams if self._passes[name] is fresh[name]}
        self._place(begun - self._logs)
        done = [name for name, current in self._passes.items() if current.is_complete]
        if done:
            LOG.info("Already completed by the interrupted run: %s.", ", ".join(done))

    def _check_bookmark(self, stream: type[Stream], entry: StreamState) -> None:
        """Drop a Singer bookmark that could skip rows."""
        bookmark, made_under = entry.bookmark, entry.start_date
        if "bookmark" in entry.invalid or (bookmark and bookmark > self._now):
            LOG.warning(
                "%s: the state's %s is not a time in the past; ignoring it.",
                stream.name, stream.replication_key,
            )  # fmt: skip
        elif not bookmark or not made_under:
            return
        elif self._start_date is None or self._start_date < made_under:
            LOG.warning(
                "%s: start_date is earlier than %s, or no longer set, so the state's %s could skip"
                " rows; ignoring it.",
                stream.name, made_under.isoformat(), stream.replication_key,
            )  # fmt: skip
        else:
            return
        entry.bookmark = None

    def _check_columns(self, stream: type[Stream], entry: StreamState) -> None:
        """Warn if rows sent by earlier incremental passes may lack columns."""
        knows = self._remembered is None or self._remembered.knows(stream.name)
        if entry.bookmark and knows and entry.columns not in (None, self._columns[stream.name]):
            LOG.warning(
                "%s: the selected columns changed, but only rows that change from now on are sent"
                " with the new columns. To send all rows again, run once with --full-refresh %s.",
                stream.name, stream.name,
            )  # fmt: skip

    def is_log(self, name: str) -> bool:
        """Whether a stream is an append-only log, because it contains pushed events.

        It remains a log in a run without the store; otherwise its pushed rows would be deleted.
        """
        has_store = COLLECTED in self._sources_of(STREAMS[name])
        return has_store or self._entries.get(name, StreamState()).append_only

    def _sources_of(self, stream: type[Stream]) -> set[str]:
        return {
            source for source in stream.sources if source != COLLECTED or self._store is not None
        }

    def _place(self, fresh: Collection[str]) -> None:
        """Find each stream's position in the store; a new full pass begins at 0.

        Without a store, a stream forgets its position: this run may replace all of its rows.
        """
        starting_over: dict[str, list[str]] = {}
        for name, stream in self._streams.items():
            if COLLECTED not in stream.sources:
                continue
            entry = self._entries[name]
            entry.append_only = self.is_log(name)
            if self._store is None:
                entry.collected = entry.collected_from = None
                continue
            if self._passes[name].is_complete:
                continue
            position, made_under = 0, entry.collected_from
            start_date = self._start_date if name in EMAILS else None
            reason = self._mismatch(entry)
            if entry.collected and not reason:
                self._sent[name] = entry.collected.seq
                knows = self._remembered is not None and self._remembered.knows(name)
                if knows or name not in fresh or self._passes[name].incremental:
                    position = entry.collected.seq
                if position and made_under and (not start_date or start_date < made_under):
                    position, reason = 0, "start_date is earlier, or no longer set"
            if reason:
                starting_over.setdefault(reason, []).append(name)
            entry.collected = self._position(position)
            entry.collected_from = start_date
        for reason, names in starting_over.items():
            LOG.warning("%s: %s; reading all events in the store.", ", ".join(names), reason)

    def _mismatch(self, entry: StreamState) -> str:
        """Why a stream's position is not one in this store; empty if it is, or if it has none."""
        assert self._store is not None
        if "collected" in entry.invalid:
            return "the state's position in the store is not valid"
        if entry.collected is None:
            return ""
        store_id, seq, fingerprint = entry.collected
        if store_id != self._store.id:
            return "the state is from another store"
        if not 0 <= seq <= self._store.last:
            return "the store has lost events since"
        if fingerprint not in (None, self._store.fingerprint(seq)):
            return f"event {seq} in the store is not the one that the state names"
        return ""

    def _position(self, seq: int) -> StorePosition:
        assert self._store is not None
        return StorePosition(self._store.id, seq, self._store.fingerprint(seq) if seq else None)

    def _fresh(self, table: Selected, entry: StreamState, *, versions: bool) -> Pass:
        """A new pass."""
        stream = table.stream
        bounds = [self._start_date] if stream.replication_key else []
        sent_before = self._remembered is None or self._remembered.knows(stream.name)
        if table.incremental and sent_before:
            bounds.append(entry.bookmark and _before(entry.bookmark, stream.look_back))
        store = self._store.id if self._store and COLLECTED in stream.sources else ""
        plan = [stream.key_properties, self._columns[stream.name], self._remembered is not None]
        fresh = Pass(
            plan=_digest([*plan, store]),
            incremental=table.incremental,
            since=max(filter(None, bounds), default=None),
        )
        is_log = self.is_log(stream.name)
        if versions and not fresh.incremental and fresh.since is None and not is_log:
            now = int(self._now.timestamp() * 1000)
            known = self._remembered.versions if self._remembered is not None else {}
            fresh.version = known.get(stream.name, now)
        return fresh

    def _resume(self, name: str, entry: StreamState, fresh: Pass) -> Pass | None:
        """The state's pass, if a new one would be the same."""
        interrupted = entry.progress
        if interrupted is None and "progress" not in entry.invalid:
            return None
        bounds = fresh.incremental, fresh.since
        if interrupted is None or (interrupted.incremental, interrupted.since) != bounds:
            LOG.warning("%s: cannot resume from the state; starting over.", name)
            return None
        if interrupted.plan != fresh.plan:
            LOG.warning("%s: the state is for other columns or settings; starting over.", name)
            return None
        if COLLECTED in self._sources_of(self._streams[name]) and self._mismatch(entry):
            return None
        if fresh.version is None:
            interrupted.version = None
        return interrupted if self._can_resume(name, interrupted, fresh) else None

    def _can_resume(self, name: str, interrupted: Pass, fresh: Pass) -> bool:
        """Whether the digests, if there are any, know what a pass has sent so far."""
        if self._remembered is None:
            return True
        begun = interrupted.is_complete or name in self._remembered.begun
        return begun and self._remembered.knows(name) and interrupted.version == fresh.version

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
        """Walks to start with, interrupted ones first; those of members come from `walks_over`.

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

    def walks_over(self, segment_ids: Iterable[str]) -> list[tuple[Walk, Position]]:
        """The walks over the members of these segments, which must be all of the account's."""
        return self._members.walks_over(segment_ids)

    def pass_of(self, stream: str) -> Pass:
        """How the pass of a stream is going."""
        return self._passes[stream]

    def is_resumed(self, stream: str) -> bool:
        """Whether the pass of a stream began in an earlier run."""
        return stream in self._resumed

    def began(self, stream: str, date: datetime | None) -> None:
        """Note when the pass began: by our clock or the API's, whichever is earlier."""
        current = self._passes[stream]
        if current.incremental and current.started is None:
            current.started = min(self._now, date or self._now)

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
            current = self._passes[name]
            current.doubts = {**doubts, **current.doubts}
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
        positions = {name: self._entries[name].collected for name in self.fed_by(COLLECTED)}
        return {name: position.seq for name, position in positions.items() if position}

    def sent(self) -> dict[str, int]:
        """For each stream, the last of the store's events that earlier runs have sent, if any."""
        return self._sent

    def advance_in_store(self, names: Collection[str], last: int) -> None:
        """Note that the store's events up to `last` are written to these streams."""
        ahead = [name for name, seq in self.stored().items() if name in names and seq < last]
        if ahead:
            position = self._position(last)
            for name in ahead:
                self._entries[name].collected = position

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
        return {name for name, current in self._passes.items() if not current.is_complete}

    def finish(self) -> None:
        """End complete passes and move their bookmarks; the others resume next time.

        This way, a stream that never succeeds does not hold up the others.
        """
        for name in list(self._streams):
            current, entry = self._passes[name], self._entries[name]
            if not current.is_complete:
                continue
            del self._streams[name]
            if current.newest and current.started and moves_bookmark(current.doubts):
                bookmark = min(current.newest, _before(current.started, MARGIN))
                entry.bookmark = max(bookmark, entry.bookmark or bookmark)
                entry.start_date, entry.columns = self._start_date, self._columns[name]

    def value(self) -> dict[str, Any]:
        """The value of a STATE message."""
        for name, entry in self._entries.items() if self._untouched is None else ():
            under_way = name in self._streams and name not in self._logs
            entry.progress = self._passes[name] if under_way else None
        walks = self._untouched or {
            source: positions.value() if self._needs(source) else None
            for source, positions in self._sources.items()
        }
        return State(self._entries, walks, self.digests).value()


def complete_first(selected: Iterable[Selected], state: State) -> list[Selected]:
    """The streams as this run reads them: an interrupted full pass is completed first.

    Otherwise an incremental pass would send rows without the version of the full pass, and a target
    that stored them without storing the state would delete them when the full pass resumes.
    """
    streams = []
    for table in selected:
        progress = state.streams.get(table.stream.name, StreamState()).progress
        if table.incremental and progress is not None and not progress.incremental:
            LOG.info(
                "%s: completing the interrupted full pass; incremental replication starts with the"
                " next run.",
                table.stream.name,
            )
            streams.append(dataclasses.replace(table, incremental=False))
        else:
            streams.append(table)
    return streams


def _before(moment: datetime, delta: timedelta) -> datetime:
    """A time earlier by `delta`, if there is one that early."""
    return max(moment, datetime.min.replace(tzinfo=timezone.utc) + delta) - delta


def _digest(value: Any) -> str:
    """A digest of JSON."""
    return hashlib.blake2b(msgspec.json.encode(value), digest_size=8).hexdigest()
