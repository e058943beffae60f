"""What a run resumes from the state of earlier runs, and what starts over."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

import msgspec

from tap_autopilot.protocol.positions import EachSegment, OneListing, Source
from tap_autopilot.protocol.selection import Selected
from tap_autopilot.protocol.state import Pass, State, StorePosition, StreamState
from tap_autopilot.sources.listings import LISTINGS, MEMBERS
from tap_autopilot.streams import COLLECTED, EMAILS, STREAMS, Stream

LOG = logging.getLogger(__name__)

APPEND_ONLY = "a log of events is append-only"
HAS_START_DATE = "start_date is set"
CANNOT_RESUME = "cannot resume from the state"


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
        if not entry.invalid.isdisjoint(("collected", "collected_from")):
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
    """The tables in the digests file, with their versions.

    In their present shape, it has rows of those `known`, all rows of those `filled`. Those
    `under_way` are in a pass.
    """

    versions: Mapping[str, int]
    known: Collection[str]
    filled: Collection[str]
    under_way: Collection[str]


@dataclass(frozen=True)
class Terms:
    """The terms on which passes resume or start: the settings, and what the target has.

    `withheld` says of which streams deletions are never sent, and why. Passes over `versioned`
    streams end with ACTIVATE_VERSION, unless there is a doubt.
    """

    start_date: datetime | None
    withheld: Mapping[str, str]
    versioned: Collection[str]
    store: Store | None = None
    remembered: Remembered | None = None
    account: str = ""
    now: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    def has_all(self, name: str) -> bool:
        """Whether the target lacks only rows that changed since the bookmark."""
        return self.remembered is None or name in self.remembered.filled

    def contents_of(self, table: Selected) -> str:
        """What tells the columns of a table, and the account they come from, from others."""
        return f"{fingerprint(table.sent)}-{fingerprint(self.account)}"

    def is_foreign(self, entry: StreamState) -> bool:
        """Whether a stream's bookmark was made for another account."""
        _, _, account = (entry.contents or "").partition("-")
        return account not in ("", fingerprint(self.account))

    def bookmark_of(self, entry: StreamState) -> datetime | None:
        """A stream's bookmark, unless it is foreign."""
        return None if self.is_foreign(entry) else entry.bookmark

    def new_pass(self, table: Selected, entry: StreamState) -> Pass:
        """A pass from the start, after the bookmark if it is incremental."""
        stream = table.stream
        bounds = [self.start_date] if stream.replication_key else []
        if table.incremental and self.has_all(stream.name):
            bookmark = self.bookmark_of(entry)
            bounds.append(bookmark and before(bookmark, stream.look_back))
        store = self.store.id if self.store and COLLECTED in stream.sources else ""
        has_digests = self.remembered is not None
        plan = [stream.key_properties, self.contents_of(table), has_digests, store]
        now = int(self.now.timestamp() * 1000)
        versions = self.remembered.versions if self.remembered is not None else {}
        return Pass(
            plan=fingerprint(plan),
            incremental=table.incremental,
            since=max(filter(None, bounds), default=None),
            version=versions.get(stream.name, now) if stream.name in self.versioned else None,
        )

    def mismatch(self, entry: StreamState, new: Pass) -> str:
        """Why the state's pass is not the `new` one; empty if it is, or if there is none."""
        interrupted = entry.progress
        if interrupted is None:
            return CANNOT_RESUME if "progress" in entry.invalid else ""
        if (interrupted.incremental, interrupted.since) != (new.incremental, new.since):
            return CANNOT_RESUME
        if interrupted.plan != new.plan:
            return "the state is for another account, columns or settings"
        return ""

    def resumed(self, stream: type[Stream], entry: StreamState, new: Pass) -> Pass | None:
        """The state's pass, which has no `mismatch`, if the store and the digests still fit it."""
        name, interrupted = stream.name, entry.progress
        if interrupted is None:
            return None
        if self.store and COLLECTED in stream.sources and self.store.mismatch(entry):
            return None
        if new.version is None:
            interrupted = msgspec.structs.replace(interrupted, version=None)
        if self.remembered is None:
            return interrupted
        # The digests must know what the pass has sent so far.
        is_there = interrupted.is_complete or name in self.remembered.under_way
        is_known = is_there and name in self.remembered.known
        return interrupted if is_known and interrupted.version == new.version else None


def withheld_deletions(
    selected: Iterable[Selected], state: State, start_date: datetime | None, *, has_store: bool
) -> dict[str, str]:
    """The streams whose passes cannot tell which rows were deleted, each with the reason.

    Those over an append-only log cannot, nor those that leave out unchanged rows.
    """
    reasons = {}
    for table in selected:
        if state.is_log(table.name, has_store=has_store):
            reasons[table.name] = APPEND_ONLY
        elif table.incremental:
            reasons[table.name] = "an incremental pass cannot tell what was deleted"
        elif table.stream.replication_key is not None and start_date is not None:
            reasons[table.name] = HAS_START_DATE
    return reasons


class Decided(NamedTuple):
    """The pass of each stream, which of them are `resumed`, and what feeds them."""

    passes: dict[str, Pass]
    resumed: set[str]
    listings: dict[str, OneListing]
    members: EachSegment


def decide_passes(state: State, selected: Sequence[Selected], terms: Terms) -> Decided:
    """Resume each of the state's passes that can resume; start the others over.

    One listing may feed several streams, so their passes resume together, or not at all.
    """
    entries = state.streams
    new = {table.name: terms.new_pass(table, entries[table.name]) for table in selected}
    passes = new | _resumable(state, selected, new, terms)
    for table in selected:
        if table.incremental and passes[table.name] is new[table.name]:
            _check_contents(table, entries[table.name], terms)
    mark = secrets.token_hex(4)
    listings = {walk.source: OneListing(walk, mark) for walk in LISTINGS}
    members = EachSegment(mark)
    sources: dict[str, Source] = {**listings, MEMBERS: members}
    for name, source in sources.items():
        needed = [table for table in selected if name in table.stream.sources]
        fed = [table.name for table in needed if not passes[table.name].is_complete]
        resumed = [stream for stream in fed if passes[stream] is not new[stream]]
        marks = {passes[stream].mark for stream in fed}
        if resumed and (resumed != fed or not source.resume(state.walks.get(name), marks)):
            LOG.warning("%s: %s; starting over.", ", ".join(fed), CANNOT_RESUME)
            passes.update({stream: new[stream] for stream in fed})
        for stream in fed:
            passes[stream].mark = source.mark
    resumed = [name for name in new if passes[name] is not new[name]]
    return Decided(passes, {*resumed}, listings, members)


def _resumable(
    state: State, selected: Sequence[Selected], new: Mapping[str, Pass], terms: Terms
) -> dict[str, Pass]:
    """The state's passes that can resume, as far as the streams' entries tell."""
    tables = [table for table in selected if not table.log_based]
    saved = [state.streams[table.name].progress for table in tables]
    # An interrupted run leaves a pass of each stream, or at least one that is not complete. If
    # only some streams have passes, all complete, another run has ended since.
    is_interrupted = None not in saved or any(
        current and not current.is_complete for current in saved
    )
    passes: dict[str, Pass] = {}
    not_resumed: dict[str, list[str]] = {}  # streams, by why they start over
    for table in tables:
        entry, start = state.streams[table.name], new[table.name]
        if why := terms.mismatch(entry, start):
            not_resumed.setdefault(why, []).append(table.name)
        elif is_interrupted and (interrupted := terms.resumed(table.stream, entry, start)):
            passes[table.name] = interrupted
    for why, names in not_resumed.items():
        LOG.warning("%s: %s; starting over.", ", ".join(names), why)
    return passes


def _check_contents(table: Selected, entry: StreamState, terms: Terms) -> None:
    """Warn if rows sent by earlier incremental passes may lack columns, or be another account's."""
    name = table.name
    if not entry.bookmark or not terms.has_all(name):
        return
    if terms.is_foreign(entry):
        LOG.warning(
            "%s: the state's %s is of another account or API key, so it could skip rows; ignoring"
            " it.",
            name, table.stream.replication_key,
        )  # fmt: skip
    elif entry.contents not in (None, terms.contents_of(table)):
        LOG.warning(
            "%s: the selected columns changed, but only rows that change from now on are sent. To"
            " send all rows again, run once with --full-refresh %s.",
            name, name,
        )  # fmt: skip


def drop_unsafe_bookmarks(state: State, selected: Sequence[Selected], terms: Terms) -> None:
    """Drop Singer bookmarks that could skip rows. Adds entries for streams that have none."""
    for table in selected:
        stream = table.stream
        entry = state.streams.setdefault(stream.name, StreamState())
        entry.is_incremental = table.incremental
        bookmark, made_under = entry.bookmark, entry.start_date
        if "bookmark" in entry.invalid or (bookmark and bookmark > terms.now):
            LOG.warning(
                "%s: the state's %s is not a time in the past; ignoring it.",
                stream.name, stream.replication_key,
            )  # fmt: skip
            entry.bookmark = None
        elif bookmark and "start_date" in entry.invalid:
            LOG.warning(
                "%s: the state's start_date is not a time, so its %s could skip rows; ignoring it.",
                stream.name, stream.replication_key,
            )  # fmt: skip
            entry.bookmark = None
        elif bookmark and made_under and _includes_more(terms.start_date, made_under):
            LOG.warning(
                "%s: start_date is earlier than %s, or no longer set, so the state's %s could skip"
                " rows; ignoring it.",
                stream.name, made_under.isoformat(), stream.replication_key,
            )  # fmt: skip
            entry.bookmark = None


def set_store_positions(
    state: State, passes: Mapping[str, Pass], resumed: Collection[str], terms: Terms
) -> dict[str, int]:
    """Set each stream's position in the store: 0 for a full pass that is not `resumed`.

    Without a store, a stream forgets its position: this run may replace all of its rows.
    Returns the last event that earlier runs have sent for each stream, if any.
    """
    store, remembered = terms.store, terms.remembered
    sent: dict[str, int] = {}
    starting_over: dict[str, list[str]] = {}
    if store is None and any(state.streams[name].collected for name in passes):
        LOG.warning(
            "The state is from a run that read a collector's store, but collector_database is"
            " not set, so pushed events are not read."
        )
    for name, current in passes.items():
        if COLLECTED not in STREAMS[name].sources:
            continue
        entry = state.streams[name]
        entry.append_only = state.is_log(name, has_store=store is not None)
        if store is None:
            entry.collected = entry.collected_from = None
            continue
        if current.is_complete:
            continue
        position, made_under = 0, entry.collected_from
        start_date = terms.start_date if name in EMAILS else None
        reason = store.mismatch(entry)
        if entry.collected and not reason:
            sent[name] = entry.collected.seq
            knows = name in remembered.known if remembered else current.incremental
            if knows or name in resumed:
                position = entry.collected.seq
            if position and made_under and _includes_more(start_date, made_under):
                position, reason = 0, "start_date is earlier, or no longer set"
        if reason:
            starting_over.setdefault(reason, []).append(name)
        entry.collected = store.position(position)
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
        progress = state.streams.get(table.name, StreamState()).progress
        if table.incremental and progress is not None and not progress.incremental:
            LOG.info(
                "%s: completing the interrupted full pass; incremental replication starts with the"
                " next run.",
                table.name,
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
    """A short hash of a value, to notice that it changed."""
    return hashlib.blake2b(msgspec.json.encode(value), digest_size=8).hexdigest()
