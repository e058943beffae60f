"""Starting single tables over: takes them out of the state that a run is given."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from tap_autopilot.streams import COLLECTED, STREAMS

LOG = logging.getLogger(__name__)


def starting_over(state: Any, names: Collection[str]) -> Any:
    """The state without the bookmarks and positions of these streams; the others keep theirs.

    Streams that an interrupted run was reading together with one of them start over too, because
    one walk feeds them all. What was a log of pushed events remains one, read from its beginning.
    """
    if isinstance(state, dict) and state.get("type") == "STATE":  # a whole line of a tap's output
        return {**state, "value": starting_over(state.get("value"), names)}
    bookmarks = state.get("bookmarks") if isinstance(state, dict) else None
    if not isinstance(bookmarks, dict):
        return state  # there is nothing to resume
    entries = {
        name: _first(entry) if name in names and isinstance(entry, dict) else entry
        for name, entry in bookmarks.items()
    }
    joined = _read_together(bookmarks, names)
    for name in joined:
        entries[name] = {**entries[name], "progress": None}
    if joined:
        LOG.info(
            "%s: starting over too, because the interrupted run was reading them together.",
            ", ".join(joined),
        )
    return {**state, "bookmarks": entries}


def _first(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of a stream that starts over."""
    found: dict[str, Any] = {"progress": None}
    match entry.get(COLLECTED):
        case [store_id, int(_)]:
            found[COLLECTED] = [store_id, 0]
        case None:
            pass
        case other:
            found[COLLECTED] = other
    return found


def _read_together(bookmarks: dict[str, Any], names: Collection[str]) -> list[str]:
    """The other streams whose passes are halfway through a walk that also feeds one of `names`."""
    halfway = {
        name
        for name, entry in bookmarks.items()
        if name in STREAMS and isinstance(entry, dict) and _is_reading(entry.get("progress"))
    }
    walks = {
        source
        for name in halfway & set(names)
        for source in STREAMS[name].sources
        if source != COLLECTED
    }
    return [
        name
        for name in bookmarks
        if name in halfway and name not in names and walks & set(STREAMS[name].sources)
    ]


def _is_reading(progress: Any) -> bool:
    return isinstance(progress, list) and progress[:1] == ["reading"]
