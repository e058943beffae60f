"""Singer's STATE: what its value holds, read strictly and written whole.

    bookmarks.<stream>   how far a stream has come, a `StreamState`
    walks.<source>       how far the reading of a source has come, see `protocol.positions`
    digests              the position in the digests file

Some tools, such as Meltano, merge a run's state into an older one, key by key. So a run writes all
keys of its streams, even if the value is null, and no value is an object, which would be merged
with the older one. For example, `"progress": null` ends a pass that an older run left unfinished.
What belongs together may still come from different runs, so it has a common mark: a pass only
resumes at a position that has its mark.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import msgspec

from tap_autopilot.amounts import amount
from tap_autopilot.rfc3339 import rfc3339
from tap_autopilot.rows.changed import ChangedSince
from tap_autopilot.rows.times import as_datetime
from tap_autopilot.sources.completeness import Doubt
from tap_autopilot.streams import COLLECTED, STREAMS, Stream

LOG = logging.getLogger(__name__)

READING, COMPLETE = "reading", "complete"  # the status of a pass
SKIPPED = "some documents were skipped"
MAX_NAMED = 3  # listings that raise the same doubt; further ones are counted

T = TypeVar("T")


class Pass(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A pass: it reads a stream from start to end, over as many runs as it takes.

    `protocol.resuming` makes it; as it goes on, only its methods change it, and `Progress` ends it.

    `plan` is a fingerprint of what it sends: which columns, from which account and store, with
    digests or not. `mark`, in the state `reading`, is also that of its source's position; None if
    only a store feeds it. Rows that changed before `since` are not sent. An incremental pass has
    the time when it `started`, and the `newest` change before that. `version` is that of its rows,
    if it should end with ACTIVATE_VERSION. `doubts` say why it may be incomplete; `repeated` counts
    the further listings that raised the same one.
    """

    plan: str = ""
    mark: str | None = msgspec.field(default=None, name="reading")
    incremental: bool = False
    since: datetime | None = None
    started: datetime | None = None
    newest: datetime | None = None
    version: int | None = None
    doubts: dict[Doubt, str] = {}
    repeated: dict[Doubt, int] = {}
    is_complete: bool = False  # while other streams of the run are not

    @property
    def window(self) -> ChangedSince | None:
        """Which rows it sends; None for all."""
        if self.since is None and not self.incremental:
            return None
        return ChangedSince(self.since, self.started)

    def start(self, at: datetime) -> None:
        """Note when an incremental pass started; it does only once."""
        if self.incremental and self.started is None:
            self.started = at

    def note_page(
        self, newest: datetime | None, doubts: Mapping[Doubt, str], *, skips: bool
    ) -> None:
        """Note a page's newest change and its doubts, and if it `skips` documents."""
        if newest is not None:
            self.newest = max(newest, self.newest or newest)
        self.note_doubts({**doubts, Doubt.SKIPPED: SKIPPED} if skips else doubts)

    def note_doubts(self, doubts: Mapping[Doubt, str]) -> None:
        """Note the doubts about one of its listings; several may raise the same doubt.

        A listing that is read again, such as that of the segments, may give the same reason again.
        """
        for doubt, reason in doubts.items():
            if doubt not in self.doubts:
                self.doubts[doubt] = reason
                continue
            if reason in self.doubts[doubt]:
                continue
            self.repeated[doubt] = self.repeated.get(doubt, 0) + 1
            if self.repeated[doubt] < MAX_NAMED:
                self.doubts[doubt] += f", and {reason}"

    @property
    def why_in_doubt(self) -> str | None:
        """What its doubts say about the first few listings, and how many more there are."""
        texts = []
        for doubt, text in self.doubts.items():
            more = self.repeated.get(doubt, 0) - MAX_NAMED + 1
            texts.append(
                f"{text}, and so on for {amount(more, 'more segment')}" if more > 0 else text
            )
        return ", and ".join(texts) or None

    @property
    def has_all_rows(self) -> bool:
        """Whether it surely has read all that can become rows, so that a bookmark may move."""
        return all(doubt.moves for doubt in self.doubts)

    @property
    def is_sound(self) -> bool:
        """Whether its parts can be those of one pass."""
        is_whole = not self.incremental and self.since is None
        times = [time for time in (self.since, self.started, self.newest) if time is not None]
        return (
            bool(self.plan)
            and all(self.doubts.values())  # a doubt without a reason would look like none
            and (self.version is None or is_whole)
            and (self.incremental or (self.started or self.newest) is None)
            and (self.newest is None or self.started is not None)
            and all(time.tzinfo is not None for time in times)
        )


class StorePosition(NamedTuple):
    """The `seq` of the last event that was written, in the collector's store with this id.

    The event's fingerprint tells whether the store still has that event there.
    """

    store_id: str
    seq: int
    fingerprint: str | None = None


class StreamState(msgspec.Struct):
    """How far a stream has come. `invalid` names entries of the state that were not valid.

    `is_incremental` says that this run reads it incrementally.

    `bookmark` is the Singer bookmark, in the state under the name of the stream's replication key.
    `start_date` is the one under which it was made; `contents`, in the state `columns`, has
    fingerprints of the columns sent and of the account.

    A stream that a collector's store feeds has its position in the store, `collected`. If a
    `start_date` leaves out events, `collected_from` is that date. As long as the table has pushed
    events, it is `append_only`, also in runs without the store.
    """

    progress: Pass | None = None
    bookmark: datetime | None = None
    start_date: datetime | None = None
    contents: str | None = None
    collected: StorePosition | None = None
    collected_from: datetime | None = None
    append_only: bool = False
    invalid: frozenset[str] = frozenset()
    is_incremental: bool = False

    def value(self, stream: type[Stream]) -> dict[str, Any]:
        """Its value in a STATE message: everything that a state may have of this stream."""
        written: dict[str, Any] = {"progress": self.progress and _written(self.progress)}
        if stream.replication_key and (self.is_incremental or self.bookmark):
            written[stream.replication_key] = _time(self.bookmark)
            written["start_date"] = _time(self.start_date)
            written["columns"] = self.contents
        if COLLECTED in stream.sources:
            position = self.collected
            written["collected"] = position and [part for part in position if part is not None]
            written["collected_from"] = _time(self.collected_from)
            written["append_only"] = self.append_only
        return written


class State(msgspec.Struct):
    """A state: how far each stream and each source has come, and the position in the digests."""

    streams: dict[str, StreamState] = {}
    walks: dict[str, Any] = {}
    digests_position: Any = None

    def start_over(self, names: Collection[str]) -> None:
        """Forget how far these streams have come; the others keep their positions.

        Streams that were being read together with them start over too: one listing feeds them all.
        """
        sources = {source for name in names for source in STREAMS[name].sources} - {COLLECTED}
        together = []
        for name, entry in self.streams.items():
            if name in names:
                self.streams[name] = StreamState(append_only=entry.append_only)
            elif sources.isdisjoint(STREAMS[name].sources) or entry.progress is None:
                continue
            elif not entry.progress.is_complete:
                together.append(name)
                entry.progress = None
        if together:
            LOG.info(
                "%s: starting over too, because the interrupted run was reading them together.",
                ", ".join(together),
            )

    def is_log(self, name: str, *, has_store: bool) -> bool:
        """Whether a stream's table is append-only, because it has pushed events.

        It remains so in a run without the store; otherwise its pushed rows would be deleted.
        """
        entry = self.streams.get(name)
        is_fed = has_store and COLLECTED in STREAMS[name].sources
        return is_fed or (entry is not None and entry.append_only)

    def value(self) -> dict[str, Any]:
        """The value of a STATE message."""
        bookmarks = {name: entry.value(STREAMS[name]) for name, entry in self.streams.items()}
        return {"bookmarks": bookmarks, "walks": self.walks, "digests": self.digests_position}


def read_state(state: Any) -> State:
    """A state as given to the tap: null, the value of a STATE message, or the whole message.

    What is not valid is ignored, with a warning, here or where it would be used.
    """
    if isinstance(state, dict) and state.get("type") == "STATE":  # a whole line of a tap's output
        state = state.get("value")
        if state is None:
            return State()
    if state is None or state == {}:
        return State()
    bookmarks = state.get("bookmarks") if isinstance(state, dict) else None
    if not isinstance(bookmarks, dict):
        LOG.warning("The state is not a Singer state; starting without it.")
        return State()
    streams = {}
    for name, entry in bookmarks.items():
        if name not in STREAMS:
            LOG.warning("The state has an unknown stream %r; ignored.", name)
        elif not isinstance(entry, dict):
            LOG.warning("%s: the state's bookmark is not an object; starting over.", name)
        else:
            streams[name] = _read(STREAMS[name], entry)
    return State(streams, as_type(state.get("walks"), dict) or {}, state.get("digests"))


def _read(stream: type[Stream], entry: Mapping[str, Any]) -> StreamState:
    """A stream's entry in a state."""
    key = stream.replication_key
    bookmark = entry.get(key) if key else None
    given = {**entry, "bookmark": bookmark, "contents": entry.get("columns")}
    fields: dict[str, Any] = {
        "progress": _progress(given.get("progress")),
        "bookmark": _moment(given["bookmark"]),
        "start_date": _moment(given.get("start_date")),
        "contents": as_type(given["contents"], str),
        "collected": as_type(given.get("collected"), StorePosition),
        "collected_from": _moment(given.get("collected_from")),
    }
    invalid = {
        name for name, value in fields.items() if value is None and given.get(name) is not None
    }
    has_pushed = fields["collected"] is not None or "collected" in invalid
    is_log = has_pushed or entry.get("append_only") is True
    return StreamState(**fields, append_only=is_log, invalid=frozenset(invalid))


def _progress(value: Any) -> Pass | None:
    """The pass that a state's progress describes, if it is one."""
    match value:
        case [str(status), dict(details)] if status in (READING, COMPLETE):
            restored = as_type(details, Pass)
            if restored is not None and restored.is_sound:
                restored.is_complete = status == COMPLETE
                return restored
    return None


def _written(progress: Pass) -> list[Any]:
    """A pass as a state's progress: a list, which tools do not merge into an older one."""
    details = msgspec.to_builtins(progress)
    is_complete = details.pop("is_complete", False)
    return [COMPLETE if is_complete else READING, details]


def as_type(value: Any, kind: type[T]) -> T | None:
    """A part of a state as its type; None if it is not of that type, or cannot be written again."""
    try:
        msgspec.json.encode(value)
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeEncodeError, OverflowError, RecursionError):
        return None


def _moment(value: Any) -> datetime | None:
    """A time in a state; None if it is not valid."""
    return as_datetime(value) if isinstance(value, str) else None


def _time(moment: datetime | None) -> str | None:
    """A time as text for the state."""
    return rfc3339(moment, "auto") if moment else None
