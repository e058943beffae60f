"""What a run has to read, and how far it has come."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any

from tap_autopilot.exceptions import RunError
from tap_autopilot.protocol.positions import Source
from tap_autopilot.protocol.resuming import (
    Terms,
    before,
    decide_passes,
    drop_unsafe_bookmarks,
    set_store_positions,
)
from tap_autopilot.protocol.selection import Selected
from tap_autopilot.protocol.state import Pass, State
from tap_autopilot.rows.names import compile_pick
from tap_autopilot.rows.values import as_key
from tap_autopilot.sources.listings import LISTINGS, MEMBERS, SEGMENTS, Page, Position, Walk
from tap_autopilot.sources.reading import MAX_SEGMENTS
from tap_autopilot.streams import COLLECTED

LOG = logging.getLogger(__name__)

MARGIN = timedelta(minutes=1)  # between a bookmark and the time when its pass began


class Progress:
    """The passes of the selected streams, and the sources that feed them."""

    def __init__(self, state: State, selected: Sequence[Selected], terms: Terms) -> None:
        """Decide what the run has to read. Puts that into the state, to be kept up to date."""
        self._state, self._terms = state, terms
        self._entries = state.streams
        self._tables = {table.name: table for table in selected}
        self._log_based = {table.name for table in selected if table.log_based}
        # A run that does not read the API leaves interrupted passes as they are.
        self._reads_api = len(self._log_based) < len(selected)

        drop_unsafe_bookmarks(state, selected, terms)
        decided = decide_passes(state, selected, terms)
        self._passes, self._resumed, self._listings, self._members = decided
        self._sources: dict[str, Source] = {**self._listings, MEMBERS: self._members}
        if self._reads_api:
            self._replace_passes()
        if self.fed_by(MEMBERS):  # only a listing read from the start names all segments
            self._listings[SEGMENTS.source].position = Position()
        self._segment_ids: set[str] = set()
        # By stream, the last of the store's events that earlier runs have sent.
        self.sent_before = set_store_positions(
            state, self._passes, self._resumed | self._log_based, terms
        )
        absent = set() if terms.store else {COLLECTED}
        self._unread = {table.name: {*table.stream.sources} - absent for table in selected}
        done = [name for name, current in self._passes.items() if current.is_complete]
        if done and not self.incomplete():
            LOG.warning(
                "The interrupted run completed every stream, so this run reads nothing; the next"
                " one reads them again."
            )
        elif done:
            LOG.info("Already completed by the interrupted run: %s.", ", ".join(done))

    def _replace_passes(self) -> None:
        """Put the passes of this run into the state, instead of those of an earlier run."""
        dropped = []
        for name, entry in self._entries.items():
            if name in self._tables and name not in self._log_based:
                entry.progress = self._passes[name]
                continue
            if entry.progress is not None and not entry.progress.is_complete:
                dropped.append(name)
            entry.progress = None
        if dropped:
            LOG.info(
                "%s: this run does not resume the interrupted pass; it starts over next time.",
                ", ".join(dropped),
            )

    def withheld(self, stream: str) -> str | None:
        """Why the pass of a stream cannot tell which rows were deleted; None if it can."""
        return self._terms.withheld.get(stream)

    def fed_by(self, source: str) -> list[str]:
        """The selected streams that still need a source."""
        return [
            name
            for name, table in self._tables.items()
            if source in table.stream.sources and not self._passes[name].is_complete
        ]

    def walks(self) -> list[tuple[Walk, Position]]:
        """The listings to read, interrupted ones first; those of members from `note_segments`.

        Segments are listed even if only their members are needed.
        """
        walks = []
        for walk in LISTINGS:
            sources = {walk.source, walk.children or walk.source}
            if any(map(self.fed_by, sources)):
                is_new = not any(self._sources[source].was_interrupted for source in sources)
                walks.append((is_new, walk, self._listings[walk.source].position))
        walks.sort(key=itemgetter(0))
        return [(walk, position) for _, walk, position in walks]

    def note_segments(self, page: Page) -> list[tuple[Walk, Position]]:
        """Note the segments on a page. After the last page, returns the walks over their members.

        Raises RunError if there are too many.
        """
        pick = compile_pick([page.walk.key])
        keys = [as_key(pick(document).get(page.walk.key)) for document in page.documents]
        if len(self._segment_ids) <= MAX_SEGMENTS:
            self._segment_ids.update(key for key in keys if key is not None)
        if page.after is None and len(self._segment_ids) > MAX_SEGMENTS:  # of several readings
            raise RunError(f"GET {page.walk.path}: more than {MAX_SEGMENTS:,} {page.walk}.")
        for name in self.fed_by(MEMBERS):
            self._passes[name].note_page(None, page.doubts, skips=None in keys)
        return [] if page.after is not None else self._members.walks(self._segment_ids)

    def pass_of(self, stream: str) -> Pass:
        """How the pass of a stream is going."""
        return self._passes[stream]

    def is_resumed(self, stream: str) -> bool:
        """Whether the pass of a stream began in an earlier run."""
        return stream in self._resumed

    def note_start(self, stream: str, date: datetime | None) -> None:
        """Note when a pass started: by our clock or the API's, the earlier one."""
        now = self._terms.now
        self._passes[stream].start(min(now, date or now))

    def advance(self, page: Page) -> list[str]:
        """Note a page that is about to be written. Returns the streams that it completes."""
        walk = page.walk
        self._sources[walk.source].advance(walk, page.after, read=page.census.read)
        return self.complete(walk.source)

    def complete(self, source: str) -> list[str]:
        """Note that a source is complete, if it is. Returns the streams that this completes.

        Raises RunError if what was read cannot be everything.
        """
        reading = self._sources[source]
        if not reading.is_complete:
            return []
        names, doubts = self.fed_by(source), reading.doubts()
        for doubt, reason in doubts.items():
            if doubt.fails:
                reading.start_over()
                raise RunError(f"{source}: {reason}.")
        for name in names:
            self._passes[name].note_doubts(doubts)
        return self.finish_source(source)

    def finish_source(self, source: str) -> list[str]:
        """Note that a source is read to its end. Returns the streams that this completes."""
        complete = []
        for name in self.fed_by(source):
            self._unread[name].discard(source)
            if not self._unread[name]:
                self._passes[name].is_complete = True
                complete.append(name)
        return complete

    def store_positions(self) -> dict[str, int]:
        """The position in the collector's store of each stream that it feeds."""
        positions = {name: self._entries[name].collected for name in self.fed_by(COLLECTED)}
        return {name: position.seq for name, position in positions.items() if position}

    def advance_in_store(self, names: Collection[str], last: int) -> None:
        """Note that the store's events up to `last` are written to these streams."""
        ahead = [
            name for name, seq in self.store_positions().items() if name in names and seq < last
        ]
        if ahead:
            assert self._terms.store is not None
            position = self._terms.store.position(last)
            for name in ahead:
                self._entries[name].collected = position

    def note_gone(self, walk: Walk) -> list[str]:
        """Note that a segment no longer exists. Returns the streams that this completes."""
        self._members.note_gone(walk)
        return self.complete(walk.source)

    def note_failure(self, walk: Walk) -> None:
        """Note that a walk failed."""
        if walk.source == MEMBERS:
            self._members.note_failure(walk)

    def incomplete(self) -> set[str]:
        """The selected streams that are not complete."""
        return {name for name, current in self._passes.items() if not current.is_complete}

    def finish(self) -> None:
        """End complete passes and move their bookmarks; the others resume next time.

        This way, a stream that never succeeds does not hold up the others.
        """
        for name, current in self._passes.items():
            if not current.is_complete:
                continue
            entry = self._entries[name]
            if self._reads_api:
                entry.progress = None
            if current.newest and current.started and current.has_all_rows:
                bookmark = min(current.newest, before(current.started, MARGIN))
                entry.bookmark = max(bookmark, self._terms.bookmark_of(entry) or bookmark)
                entry.start_date = self._terms.start_date
                entry.contents = self._terms.contents_of(self._tables[name])

    def value(self, digests: Any = None) -> dict[str, Any]:
        """The value of a STATE message, with the position in the digests file, if there is one."""
        saved = {} if self._reads_api else self._state.walks
        walks = {
            source: reading.value() if self.fed_by(source) else None
            for source, reading in self._sources.items()
        }
        return State(self._entries, saved or walks, digests).value()
