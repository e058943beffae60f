"""Begins a run's progress from a state, as tests give it and want to see it."""

from __future__ import annotations

import copy
from collections.abc import Collection
from datetime import datetime, timezone
from typing import Any

import msgspec

from tap_autopilot.protocol.progress import Progress
from tap_autopilot.protocol.resuming import APPEND_ONLY, Store, Terms, withheld_deletions
from tap_autopilot.protocol.selection import Selected
from tap_autopilot.protocol.state import Pass, State, read_state
from tap_autopilot.sources.completeness import NOTHING_READ, Census
from tap_autopilot.sources.listings import Page, Position, Walk
from tap_autopilot.streams import EMAILS, STREAMS
from tests.in_process import logged

SOURCES = ("contacts", "lists", "smart_segments", "custom_fields", "smart_segments_contacts")
START = [None, [0, 0, "", None, None, 0, False, False, False, 1]]
COUNTS = [5, 3, "c", 7, 8, 2, True, True, True, 2]
HALFWAY = Position("x", Census(5, 3, "c", 7, 8, 2, True, True, True, 2))
MEMBERS = "smart_segments_contacts"
PUSHED = ("email_messages", "contact_events", "activities")
BOOKMARK = {"updated_at": "2020-01-03T00:00:00Z"}
STORE = Store("store", 10, {1: "one", 7: "seven"}.get)
OFTEN_NULL = ("start_date", "columns", "collected", "collected_from")


class Begun(Progress):
    """A run's progress, and what was logged when it began."""

    log: list[str]

    def is_log(self, name: str) -> bool:
        """Whether a stream is a log, as far as the next run can know."""
        return bool(self.value()["bookmarks"].get(name, {}).get("append_only"))

    def shown(self) -> Any:
        """The state without plans, marks and entries that are null."""
        value = self.value()
        assert value.pop("digests") is None
        for name, entry in value["bookmarks"].items():
            for key in ("updated_at", "timestamp", "received_at", *OFTEN_NULL):
                if entry.get(key, 0) is None:
                    del entry[key]
            if name in PUSHED or name in EMAILS:
                is_log = entry.pop("append_only", False)
                assert is_log is (self.withheld(name) == APPEND_ONLY) or name not in self._tables
            if entry["progress"] is None:
                entry.pop("columns", None)
            else:
                assert entry["progress"][1].pop("plan")
                assert ("reading" in entry["progress"][1]) is (name not in PUSHED)
                entry["progress"][1].pop("reading", None)
        for source, position in value["walks"].items():
            if position is not None:
                value["walks"][source] = position[:-1]
        return value


def day(number: int, hour: int = 0) -> datetime:
    return datetime(2020, 1, number, hour, tzinfo=timezone.utc)


def begin(
    *names: str,
    state: Any = None,
    incremental: Collection[str] = (),
    activates: bool = True,
    start_date: datetime | None = None,
    **more: Any,
) -> Begun:
    """The progress of a run that selects these streams."""
    selected = [Selected(STREAMS[name], {}, {}, name in incremental) for name in names]
    state = of_one_reading(state, selected, **more)
    before = copy.deepcopy(state)
    with logged() as log:
        given = read_state(state)
        terms = terms_of(given, selected, start_date, activates=activates, **more)
        progress = Begun(given, selected, terms)
    assert state == before, "a state is left as it is"
    progress.log = log
    return progress


def terms_of(
    state: State,
    selected: list[Selected],
    start_date: datetime | None = None,
    *,
    activates: bool = False,
    store: Store | None = None,
    **more: Any,
) -> Terms:
    """The terms of a run with these settings."""
    withheld = withheld_deletions(selected, state, start_date, has_store=store is not None)
    versioned = {table.stream.name for table in selected if activates} - withheld.keys()
    return Terms(start_date, withheld, versioned, store, **more)


def of_one_reading(state: Any, selected: list[Selected], **more: Any) -> Any:
    """A state whose passes have the plan of these streams, and the mark of their positions."""
    state = copy.deepcopy(state)
    value = state.get("value", state) if isinstance(state, dict) else None
    if isinstance(value, dict) and isinstance(bookmarks := value.get("bookmarks"), dict):
        given = State()
        plans = Progress(given, selected, terms_of(given, selected, **more)).value()
        for name, entry in bookmarks.items():
            match entry:
                case {"progress": [_, dict(details), *_]}:
                    details.setdefault("reading", "m")
                    if details["reading"] is None:
                        del details["reading"]
                    if name in plans["bookmarks"]:
                        plan = plans["bookmarks"][name]["progress"][1]["plan"]
                        details.setdefault("plan", plan)
        if isinstance(positions := value.get("walks"), dict):
            for position in positions.values():
                if isinstance(position, list):
                    position.append("m")
    return state


def plain(found: Pass) -> Pass:
    """A pass without its plan and mark."""
    return msgspec.structs.replace(found, plan="", mark=None)


def walks(**found: Any) -> dict[str, Any]:
    """The `walks` of a state: null but for these."""
    return {**dict.fromkeys(SOURCES), **found}


def write(progress: Progress, walk: Walk, after: Position | None, count: int = 1) -> list[str]:
    """Note a written page, with which so many documents have been read."""
    return progress.advance(
        Page(walk, [], after, NOTHING_READ._replace(read=count), 0, day(1), None)
    )


def resumed(entry: Any, walk: Any = ("x", COUNTS), **more: Any) -> Begun:
    """A run of contacts only, with this progress in its state."""
    state = {
        "bookmarks": {"contacts": {"progress": entry}},
        "walks": {"contacts": list(walk) if walk else walk},
    }
    return begin("contacts", state=state, **more)
