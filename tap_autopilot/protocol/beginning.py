"""What a run resumes from the state of earlier runs, and what starts over."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

import msgspec

from tap_autopilot.protocol.selection import Selected
from tap_autopilot.protocol.state import Pass, State, StorePosition, StreamState
from tap_autopilot.sources.completeness import why_blind
from tap_autopilot.streams import COLLECTED, EMAILS, STREAMS, Stream

LOG = logging.getLogger(__name__)


class Store(NamedTuple):
    """A collector's store: its id, the `seq` of its last event, and how to identify an event."""

    id: str
    last: int
    fingerprint: Callable[[int], str | None]

    def position(self, seq: int) -> StorePosition:
        """The position after this event; 0 is the beginning."""
        return StorePosition(self.id, seq, self.fingerprint(seq) if seq else None)

    def mismatch(self, entry: StreamState) -> str:
        """Why a stream's position is not one in this store; empty if it is, or if it has none."""
        if "collected" in entry.invalid:
            return "the state's position in the store is not valid"
        if entry.collected is None:
            return ""
        store_id, seq, event = entry.collected
        if store_id != self.id:
            return "the state is from another store"
        if not 0 <= seq <= self.last:
            return "the store has lost events since"
        if event not in (None, self.fingerprint(seq)):
            return f"event {seq} in the store is not the one that the state names"
        return ""


class Remembered(NamedTuple):
    """The tables in the digests file: their versions, and which changed shape.

    Those `filled` have been read from beginning to end in the shape that the file knows, those
    `begun` are in a pass.
    """

    versions: Mapping[str, int]
    reshaped: Collection[str]
    filled: Collection[str]
    begun: Collection[str]

    def knows(self, name: str) -> bool:
        """Whether the file has a table's rows, all or some of them, in their present shape."""
        return name in self.versions and name not in self.reshaped

    def knows_all(self, name: str) -> bool:
        """Whether the file has all of a table's rows in their present shape."""
        return self.knows(name) and name in self.filled


@dataclass(frozen=True)
class Beginning:
    """How each stream of a run begins, given the state, the settings and what the target has."""

    state: State
    activates: bool  # whether passes end with ACTIVATE_VERSION
    start_date: datetime | None
    store: Store | None = None
    remembered: Remembered | None = None
    now: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    @functools.cached_property
    def logs(self) -> set[str]:
        """The streams whose tables are append-only."""
        return self.state.logs(has_store=self.store is not None)

    def passes(self, selected: Sequence[Selected]) -> tuple[dict[str, Pass], dict[str, Pass]]:
        """A new pass for each stream, and those of the state's passes that can resume.

        Drops Singer bookmarks that could skip rows.
        """
        entries = self.state.streams
        fresh: dict[str, Pass] = {}
        resumed: dict[str, Pass] = {}
        saved = [
            entries.setdefault(table.stream.name, StreamState()).progress
            for table in selected
            if not table.log_based
        ]
        # An interrupted run leaves a pass of each stream, or at least one that is not complete. If
        # only some streams have passes, all complete, another run has ended since.
        is_interrupted = None not in saved or any(
            current and not current.is_complete for current in saved
        )
        not_resumed: dict[str, list[str]] = {}  # streams, by why they start over
        for table in selected:
            name = table.stream.name
            entry = entries.setdefault(name, StreamState())
            entry.is_incremental = table.incremental
            self._check_bookmark(table.stream, entry)
            fresh[name] = self._fresh(table, entry)
            if not table.log_based:
                interrupted = self._resumable(table.stream, entry, fresh[name])
                if isinstance(interrupted, str):
                    not_resumed.setdefault(interrupted, []).append(name)
                elif interrupted is not None and is_interrupted:
                    resumed[name] = interrupted
            if table.incremental and name not in resumed:
                self._check_columns(table, entry)
        for why, names in not_resumed.items():
            LOG.warning("%s: %s; starting over.", ", ".join(names), why)
        return fresh, resumed

    def has_version(self, table: Selected) -> bool:
        """Whether a pass over a table ends with ACTIVATE_VERSION, unless there is a doubt."""
        is_log = table.stream.name in self.logs
        windowed = table.stream.replication_key is not None and self.start_date is not None
        blind = why_blind(is_log=is_log, incremental=table.incremental, windowed=windowed)
        return self.activates and blind is None

    def _has_all(self, name: str) -> bool:
        """Whether the target lacks only rows that changed since the bookmark."""
        return self.remembered is None or self.remembered.knows_all(name)

    def _check_bookmark(self, stream: type[Stream], entry: StreamState) -> None:
        """Drop a Singer bookmark that could skip rows."""
        bookmark, made_under = entry.bookmark, entry.start_date
        if "bookmark" in entry.invalid or (bookmark and bookmark > self.now):
            LOG.warning(
                "%s: the state's %s is not a time in the past; ignoring it.",
                stream.name, stream.replication_key,
            )  # fmt: skip
        elif bookmark and made_under and _includes_more(self.start_date, made_under):
            LOG.warning(
                "%s: start_date is earlier than %s, or no longer set, so the state's %s could skip"
                " rows; ignoring it.",
                stream.name, made_under.isoformat(), stream.replication_key,
            )  # fmt: skip
        else:
            return
        entry.bookmark = None

    def _check_columns(self, table: Selected, entry: StreamState) -> None:
        """Warn if rows sent by earlier incremental passes may lack columns."""
        name = table.stream.name
        changed = entry.columns not in (None, fingerprint(table.sent))
        if entry.bookmark and changed and self._has_all(name):
            LOG.warning(
                "%s: the selected columns changed, but only rows that change from now on are sent"
                " with the new columns. To send all rows again, run once with --full-refresh %s.",
                name, name,
            )  # fmt: skip

    def _fresh(self, table: Selected, entry: StreamState) -> Pass:
        """A new pass."""
        stream = table.stream
        bounds = [self.start_date] if stream.replication_key else []
        if table.incremental and self._has_all(stream.name):
            bounds.append(entry.bookmark and before(entry.bookmark, stream.look_back))
        store = self.store.id if self.store and COLLECTED in stream.sources else ""
        plan = [stream.key_properties, fingerprint(table.sent), self.remembered is not None, store]
        fresh = Pass(
            plan=fingerprint(plan),
            incremental=table.incremental,
            since=max(filter(None, bounds), default=None),
        )
        if self.has_version(table):
            now = int(self.now.timestamp() * 1000)
            versions = self.remembered.versions if self.remembered is not None else {}
            fresh.version = versions.get(stream.name, now)
        return fresh

    def _resumable(
        self, stream: type[Stream], entry: StreamState, fresh: Pass
    ) -> Pass | str | None:
        """The state's pass, if a new one would be the same; or why it cannot resume, to warn of."""
        name, interrupted = stream.name, entry.progress
        if interrupted is None and "progress" not in entry.invalid:
            return None
        bounds = fresh.incremental, fresh.since
        if interrupted is None or (interrupted.incremental, interrupted.since) != bounds:
            return "cannot resume from the state"
        if interrupted.plan != fresh.plan:
            return "the state is for other columns or settings"
        if self.store and COLLECTED in stream.sources and self.store.mismatch(entry):
            return None
        if fresh.version is None:
            interrupted.version = None
        if self.remembered is None:
            return interrupted
        # The digests must know what the pass has sent so far.
        begun = interrupted.is_complete or name in self.remembered.begun
        is_known = begun and self.remembered.knows(name)
        return interrupted if is_known and interrupted.version == fresh.version else None

    def place(self, passes: Mapping[str, Pass], resumed: Collection[str]) -> dict[str, int]:
        """Find the streams' positions in the store, 0 for a full pass that is not `resumed`.

        Without a store, a stream forgets its position: this run may replace all of its rows.
        Returns the last event that earlier runs have sent for each stream, if any.
        """
        sent: dict[str, int] = {}
        starting_over: dict[str, list[str]] = {}
        if self.store is None and any(self.state.streams[name].collected for name in passes):
            LOG.warning(
                "The state is from a run that read a collector's store, but collector_database is"
                " not set, so pushed events are not read."
            )
        for name, current in passes.items():
            if COLLECTED not in STREAMS[name].sources:
                continue
            entry = self.state.streams[name]
            entry.append_only = name in self.logs
            if self.store is None:
                entry.collected = entry.collected_from = None
                continue
            if current.is_complete:
                continue
            position, made_under = 0, entry.collected_from
            start_date = self.start_date if name in EMAILS else None
            reason = self.store.mismatch(entry)
            if entry.collected and not reason:
                sent[name] = entry.collected.seq
                knows = self.remembered.knows(name) if self.remembered else current.incremental
                if knows or name in resumed:
                    position = entry.collected.seq
                if position and made_under and _includes_more(start_date, made_under):
                    position, reason = 0, "start_date is earlier, or no longer set"
            if reason:
                starting_over.setdefault(reason, []).append(name)
            entry.collected = self.store.position(position)
            entry.collected_from = start_date
        for reason, names in starting_over.items():
            LOG.warning("%s: %s; reading all events in the store.", ", ".join(names), reason)
        return sent


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


def _includes_more(start_date: datetime | None, made_under: datetime) -> bool:
    """Whether a start_date includes rows that a position `made_under` another one left out."""
    return start_date is None or start_date < made_under


def before(moment: datetime, delta: timedelta) -> datetime:
    """A time earlier by `delta`, if there is one that early."""
    return max(moment, datetime.min.replace(tzinfo=timezone.utc) + delta) - delta


def fingerprint(value: Any) -> str:
    """What tells columns, or plans of a pass, from others."""
    return hashlib.blake2b(msgspec.json.encode(value), digest_size=8).hexdigest()
