"""Deletes the bodies of events that a target has loaded, according to the STATE it printed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import ciso8601

from tap_autopilot.collector import raw_json
from tap_autopilot.collector.errands import Do, go_through
from tap_autopilot.collector.names import table_of
from tap_autopilot.collector.raw_json import NotJson
from tap_autopilot.collector.reader import Event, Reader
from tap_autopilot.collector.received import row_of
from tap_autopilot.collector.remnant import Remnant, fingerprint, remains
from tap_autopilot.collector.store import Loaded, Reduced, Store
from tap_autopilot.exceptions import UserError

MAX_SEQ = 2**63 - 1

Choose = Callable[[Event], Remnant | None]  # what to keep of an event; None to keep all of it


def checked(seq: Any, since: Any = None) -> Loaded:
    """A `Loaded` from JSON. Raises ValueError."""
    if not isinstance(seq, int) or isinstance(seq, bool) or not 0 <= seq <= MAX_SEQ:
        raise ValueError(f"{seq!r:.60} is not a position in a store")
    if since is not None:
        if not isinstance(since, str):
            raise ValueError(f"{since!r:.60} is not a time")
        ciso8601.parse_rfc3339(since)
    return Loaded(seq, since)


def loaded(state: Any, reader: Reader) -> dict[str, Loaded]:
    """Which of this store's events are loaded according to a STATE, by table.

    A position in the STATE is [store_id, seq, fingerprint]; older ones have no fingerprint.

    Raises UserError if the STATE does not mention this store, is malformed, or is of another copy
    of the store: then other events have the numbers of those that were loaded.
    """
    value = state.get("value", state) if isinstance(state, dict) else None
    bookmarks = value.get("bookmarks") if isinstance(value, dict) else None
    positions = {}
    for table, bookmark in bookmarks.items() if isinstance(bookmarks, dict) else ():
        match bookmark:
            case {"collected": [str(store), int(seq), *mark]}:
                if store != reader.store_id:
                    raise UserError("This STATE belongs to another store; nothing was pruned.")
                try:
                    position = checked(seq, bookmark.get("collected_from"))
                except ValueError as problem:
                    raise UserError(
                        f"The bookmark of {table:.60} is malformed ({problem}); nothing was pruned."
                    ) from None
                _check_event(reader, position.seq, mark[0] if mark else None)
                positions[table] = position
    if not positions:
        raise UserError("This STATE mentions no store; nothing was pruned.")
    return positions


def _check_event(reader: Reader, seq: int, mark: Any) -> None:
    """Raise UserError unless the store has the event that a position names."""
    why = None
    if seq > reader.last_seq:
        why = f"it ends at event {reader.last_seq}"
    elif mark is not None and seq > 0:
        actual = reader.fingerprint(seq)
        if actual is None:
            why = f"it has no event {seq}"
        elif actual != mark:
            why = "it has a different event there"
    if why is not None:
        raise UserError(
            f"This STATE names event {seq} of the store, but {why}: the store was restored from a"
            " backup, or is a copy. Nothing was pruned. Run the tap, then use its new STATE."
        )


def limited(tables: Mapping[str, Loaded], up_to: int) -> dict[str, Loaded]:
    """What is loaded of these tables, but of no event after this one."""
    return {name: table._replace(seq=min(table.seq, up_to)) for name, table in tables.items()}


def prune_loaded(
    do: Do, tables: Mapping[str, Loaded], destinations: Collection[str] = ()
) -> dict[str, Any]:
    """Prune the loaded events of these tables, from where the last pruning stopped.

    Nothing is pruned that has not reached all of the `destinations`, those of the collector that
    does this, and those that other collectors are forwarding to: the command's settings may differ.
    """
    newest = max((table.seq for table in tables.values()), default=0)
    behind = {
        name: cursor.seq
        for name, cursor in do(lambda store: store.cursors()).items()
        if cursor.seq < newest and (name in destinations or _has_forwarder(do, name))
    }
    tables = limited(tables, min([newest, *behind.values()]))
    done = do(lambda store: store.pruned_up_to())
    pruned_to = {
        name: done[name].seq if name in done and done[name].since == table.since else 0
        for name, table in tables.items()
    }
    ahead = {name: seq for name, seq in pruned_to.items() if seq < tables[name].seq}
    up_to = max((tables[name].seq for name in ahead), default=0)
    count, freed = prune_range(do, min(ahead.values(), default=0), up_to, pruner(tables))
    if ahead:
        do(lambda store: store.save_pruned_up_to({name: tables[name] for name in ahead}))
    while released := do(lambda store: store.release()):
        freed += released
    last_seq = do(lambda store: store.last_seq)
    return {
        "pruned": count,
        "bytes": freed,
        "lags": {name: last_seq - seq for name, seq in behind.items()},
    }


def _has_forwarder(do: Do, destination: str) -> bool:
    """Whether another collector is forwarding; none can begin to until this store is closed."""
    return not do(lambda store: store.owns(destination))


def prune_range(do: Do, after: int, up_to: int, choose: Choose) -> tuple[int, int]:
    """Prune the chosen ones of the events with after < seq <= up_to.

    Returns how many that were, and how many bytes it freed.
    """
    freed = 0

    def chosen(event: Event) -> Reduced | None:
        remnant = choose(event)
        return None if remnant is None else (event, remnant, fingerprint(*row_of(event)))

    def next_slice(store: Store, after: int) -> list[Event]:
        return store.prunable(after, up_to) if after < up_to else []

    def prune(store: Store, pruned: list[Reduced]) -> None:
        nonlocal freed
        freed += store.reduce(pruned)

    count = go_through(do, next_slice, chosen, prune, after)
    return count, freed


def pruner(tables: Mapping[str, Loaded]) -> Choose:
    """A function that prunes only events already loaded into their tables."""

    def prune_one(event: Event) -> Remnant | None:
        table = tables.get(table_of(event.source, event.name) or "")
        if table is None or event.seq > table.seq:
            return None
        if table.since is not None and not _happened_since(event.body, table.since):
            return None
        return remains(event.source, event.body)

    return prune_one


def _happened_since(body: bytes, since: str) -> bool:
    """Whether an event's own timestamp is at this time or later."""
    try:
        text = raw_json.string(raw_json.members(body).get("timestamp", b"")) or ""
        return ciso8601.parse_rfc3339(text) >= ciso8601.parse_rfc3339(since)
    except (NotJson, ValueError):
        return False
