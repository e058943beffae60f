"""Dropping the bodies of events that a target has loaded, by the STATE it gave back.

A file that a collector is writing to has one writer only. So the command leaves a request beside
it, `<database>.prune`, and the collector carries it out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tap_autopilot.collector import slices
from tap_autopilot.collector.slices import NotJson
from tap_autopilot.collector.store import table_of
from tap_autopilot.collector.writing import Pruner, Store, Unavailable
from tap_autopilot.exceptions import RunError, UserError

if TYPE_CHECKING:
    from tap_autopilot.collector.writer import Writer

LOG = logging.getLogger(__name__)

LOOK_EVERY = 0.5  # seconds
PATIENCE = 3600.0  # seconds that a collector may take

# What is kept of an email event: which message, contact and time it was about, and what it said
# about the message. This is enough to tell that an event read from a contact is the same one.
_CALL = (
    "type", "event", "messageId", "userId", "anonymousId", "timestamp", "sentAt",
    "originalTimestamp", "receivedAt",
)  # fmt: skip
_TRAITS = ("email", "contact_id")
_PROPERTIES = (
    "event", "email", "contact_id", "email_id", "email_name", "email_subject", "campaign_id",
    "campaign_name", "transactional",
)  # fmt: skip


def told(source: str, route: str, body: bytes) -> bytes:
    """What stays of an event when it is pruned: JSON with a few members in their usual places."""
    try:
        found = slices.members(body) if source == "segment" and slices.is_object(body) else {}
        kind = slices.string(found.get("type", b"")) or route
        if kind not in ("track", "batch", "segment"):
            return b"{}"
        kept = _only(found, _CALL)
        traits = _only(_inner(_inner(found, "context"), "traits"), _TRAITS)
        properties = _only(_inner(found, "properties"), _PROPERTIES)
    except NotJson:
        return b"{}"
    if traits:
        kept["context"] = slices.build({"traits": slices.build(traits)})
    if properties:
        kept["properties"] = slices.build(properties)
    return slices.build(kept)


def loaded(state: Any, store_id: str) -> dict[str, int]:
    """By table, the `seq` up to which a STATE shows that this store's events are loaded.

    Raises UserError if it shows nothing about this store.
    """
    value = state.get("value", state) if isinstance(state, dict) else None
    bookmarks = value.get("bookmarks") if isinstance(value, dict) else None
    positions = {}
    for table, bookmark in bookmarks.items() if isinstance(bookmarks, dict) else ():
        match bookmark:
            case {"collected": [str(store), int(seq)]}:
                if store != store_id:
                    raise UserError("This STATE is about another store; nothing was pruned.")
                positions[table] = seq
    if not positions:
        raise UserError("This STATE says nothing about a store; nothing was pruned.")
    return positions


def pruner(loaded_up_to: Mapping[str, int]) -> Pruner:
    """Prunes the events that are in the tables they belong in, and no others."""

    def prune_one(seq: int, source: str, route: str, name: str, body: bytes) -> bytes | None:
        table = table_of(source, name)
        is_loaded = table is not None and seq <= loaded_up_to.get(table, 0)
        return told(source, route, body) if is_loaded else None

    return prune_one


def prune(store: Store, loaded_up_to: Mapping[str, int]) -> int:
    """Prune a store that no collector is using; how many events were pruned."""
    after = pruned = 0
    up_to = max(loaded_up_to.values())
    while after < up_to:
        after, count = store.prune(after, up_to, pruner(loaded_up_to))
        pruned += count
    return pruned


def ask(database: str, loaded_up_to: Mapping[str, int]) -> int:
    """Have the collector that is using this file prune it; how many events were pruned."""
    request = _request(database)
    draft = Path(f"{request}.new")
    try:
        draft.write_text(json.dumps(loaded_up_to))
        draft.replace(request)
    except OSError as problem:
        raise UserError(
            f"Cannot write {request}: {problem.strerror}; nothing was pruned."
        ) from None
    deadline = time.monotonic() + PATIENCE
    answer = Path(f"{request}d")
    while request.exists():
        if time.monotonic() > deadline:
            raise RunError("The collector that is using the store has not pruned it in an hour.")
        time.sleep(LOOK_EVERY / 5)
    pruned = int(json.loads(answer.read_text())["pruned"])
    answer.unlink()
    return pruned


async def obey(database: str, writer: Writer) -> None:
    """Carry out requests to prune, in slices between the commits."""
    request = _request(database)
    while True:
        await asyncio.sleep(LOOK_EVERY)
        with contextlib.suppress(FileNotFoundError, Unavailable):
            loaded_up_to: dict[str, int] = json.loads(request.read_text())
            up_to = max(loaded_up_to.values())
            after = pruned = 0
            while after < up_to:
                after, count = await writer.run(_slice(after, up_to, pruner(loaded_up_to)))
                pruned += count
            Path(f"{request}d").write_text(json.dumps({"pruned": pruned}))
            request.unlink()
            LOG.info("Pruned %d events.", pruned)


def _slice(after: int, up_to: int, prune_one: Pruner) -> Callable[[Store], tuple[int, int]]:
    return lambda store: store.prune(after, up_to, prune_one)


def _request(database: str) -> Path:
    return Path(f"{database}.prune")


def _only(found: dict[str, bytes], names: Sequence[str]) -> dict[str, bytes]:
    return {name: found[name] for name in names if name in found}


def _inner(found: dict[str, bytes], name: str) -> dict[str, bytes]:
    value = found.get(name, b"")
    return slices.members(value) if slices.is_object(value) else {}
