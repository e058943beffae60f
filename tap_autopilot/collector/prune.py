"""Drops the bodies of events that a target has loaded, according to the STATE it printed.

While a collector is using a file, nothing else can write to it. So the command leaves a request
next to the file, `<database>.prune`, and the collector carries it out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import ciso8601

from tap_autopilot.collector import raw_json
from tap_autopilot.collector.raw_json import NotJson
from tap_autopilot.collector.store import POSTGRES, table_of
from tap_autopilot.collector.writing import Pruner, Store, Unavailable
from tap_autopilot.exceptions import RunError, UserError

if TYPE_CHECKING:
    from tap_autopilot.collector.writer import Writer

LOG = logging.getLogger(__name__)

LOOK_EVERY = 0.5  # seconds
PATIENCE = 3600.0  # seconds to wait for the collector
MAX_SEQ = 2**63 - 1

# What to keep of an email event: its message, contact and time, and what it says about the message.
# This is enough to recognize the same event in a contact.
_CALL = (
    "type", "event", "messageId", "userId", "anonymousId", "timestamp", "sentAt",
    "originalTimestamp", "receivedAt",
)  # fmt: skip
_TRAITS = ("email", "contact_id")
_PROPERTIES = (
    "event", "email", "contact_id", "email_id", "email_name", "email_subject", "campaign_id",
    "campaign_name", "transactional",
)  # fmt: skip


def remains(source: str, route: str, body: bytes) -> bytes:
    """What remains of a pruned event: JSON with a few members in their usual places."""
    try:
        found = raw_json.members(body) if source == "segment" and raw_json.is_object(body) else {}
        kind = (raw_json.string(found.get("type", b"")) or route).lower()
        if kind not in ("track", "batch", "segment"):
            return b"{}"
        kept = {name: found[name] for name in _CALL if name in found}
        traits = _only(_inner(_inner(found, "context"), "traits"), _TRAITS)
        properties = _only(_inner(found, "properties"), _PROPERTIES)
    except NotJson:
        return b"{}"
    if traits:
        kept["context"] = raw_json.build({"traits": raw_json.build(traits)})
    if properties:
        kept["properties"] = raw_json.build(properties)
    return raw_json.build(kept)


class Loaded(NamedTuple):
    """Which events of a table are loaded: up to `seq` and, if set, not older than `since`."""

    seq: int
    since: str | None = None


def _checked(seq: Any, since: Any = None) -> Loaded:
    """A `Loaded` from JSON. Raises ValueError."""
    if not isinstance(seq, int) or not 0 <= seq <= MAX_SEQ:
        raise ValueError(f"{seq!r} is no position in a store")
    if since is not None:
        if not isinstance(since, str):
            raise ValueError(f"{since!r} is not a time")
        ciso8601.parse_rfc3339(since)
    return Loaded(seq, since)


def loaded(state: Any, store_id: str) -> dict[str, Loaded]:
    """Which of this store's events are loaded according to a STATE, by table.

    Raises UserError if the STATE does not mention this store, or is malformed.
    """
    value = state.get("value", state) if isinstance(state, dict) else None
    bookmarks = value.get("bookmarks") if isinstance(value, dict) else None
    positions = {}
    for table, bookmark in bookmarks.items() if isinstance(bookmarks, dict) else ():
        match bookmark:
            case {"collected": [str(store), int(seq)]}:
                if store != store_id:
                    raise UserError("This STATE belongs to another store; nothing was pruned.")
                try:
                    positions[table] = _checked(seq, bookmark.get("collected_from"))
                except ValueError as problem:
                    raise UserError(
                        f"The bookmark of {table:.60} is malformed ({problem}); nothing was pruned."
                    ) from None
    if not positions:
        raise UserError("This STATE mentions no store; nothing was pruned.")
    return positions


def pruner(tables: Mapping[str, Loaded]) -> Pruner:
    """A function that prunes only events already loaded into their tables."""

    def prune_one(seq: int, source: str, route: str, name: str, body: bytes) -> bytes | None:
        found = tables.get(table_of(source, name) or "")
        if found is None or seq > found.seq:
            return None
        if found.since is not None and not _happened_since(body, found.since):
            return None
        return remains(source, route, body)

    return prune_one


def _happened_since(body: bytes, since: str) -> bool:
    """Whether an event's own timestamp is at this time or later."""
    try:
        text = raw_json.string(raw_json.members(body).get("timestamp", b"")) or ""
        return ciso8601.parse_rfc3339(text) >= ciso8601.parse_rfc3339(since)
    except (NotJson, ValueError):
        return False


def prune(store: Store, tables: Mapping[str, Loaded]) -> int:
    """Prune a store that no collector is using; returns how many events were pruned."""
    after = pruned = 0
    up_to = max(found.seq for found in tables.values())
    while after < up_to:
        after, count = store.prune(after, up_to, pruner(tables))
        pruned += count
    return pruned


def request_prune(database: str, tables: Mapping[str, Loaded]) -> int:
    """Have the collector that is using this file prune it; returns how many events were pruned."""
    request = _request(database)
    draft = Path(f"{request}.new")
    result = Path(f"{request}d")
    try:
        result.unlink(missing_ok=True)  # left over from an interrupted command
        draft.write_text(json.dumps(tables))
        draft.replace(request)
    except OSError as problem:
        raise UserError(
            f"Cannot write {request}: {problem.strerror}; nothing was pruned."
        ) from None
    deadline = time.monotonic() + PATIENCE
    while request.exists():
        if time.monotonic() > deadline:
            raise RunError("The collector that is using the store did not prune it within an hour.")
        time.sleep(LOOK_EVERY / 5)
    try:
        pruned = int(json.loads(result.read_text())["pruned"])
        result.unlink()
    except (OSError, ValueError):
        raise RunError("The collector could not prune; see its log.") from None
    return pruned


async def serve_prune_requests(database: str, writer: Writer) -> None:
    """Carry out prune requests, in slices between commits."""
    if database.startswith(POSTGRES):  # the command itself can write to it, so no requests come
        await asyncio.get_running_loop().create_future()
    request = _request(database)
    while True:
        await asyncio.sleep(LOOK_EVERY)
        if not request.exists():
            continue
        try:
            pruned = await _carry_out(_read_request(request), writer)
            Path(f"{request}d").write_text(json.dumps({"pruned": pruned}))
            LOG.info("Pruned %d events.", pruned)
        except Unavailable:
            continue
        except (OSError, ValueError) as problem:
            LOG.error("Cannot prune: %s.", problem)
        with contextlib.suppress(OSError):
            request.unlink()


def _read_request(request: Path) -> dict[str, Loaded]:
    """Read a request. Raises OSError or ValueError if it is invalid."""
    try:
        found = {name: _checked(*one) for name, one in json.loads(request.read_text()).items()}
        max(one.seq for one in found.values())
        return found
    except (AttributeError, TypeError) as problem:
        raise ValueError(str(problem)) from None


async def _carry_out(tables: Mapping[str, Loaded], writer: Writer) -> int:
    up_to = max(found.seq for found in tables.values())
    after = pruned = 0
    while after < up_to:
        after, count = await writer.run(_slice(after, up_to, pruner(tables)))
        pruned += count
    return pruned


def _slice(after: int, up_to: int, prune_one: Pruner) -> Callable[[Store], tuple[int, int]]:
    return lambda store: store.prune(after, up_to, prune_one)


def _request(database: str) -> Path:
    return Path(f"{database}.prune")


def _only(found: dict[str, bytes], names: Sequence[str]) -> dict[str, bytes]:
    """The members with these names, in any spelling."""
    wanted = {_plain(name) for name in names}
    return {name: value for name, value in found.items() if _plain(name) in wanted}


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _inner(found: dict[str, bytes], name: str) -> dict[str, bytes]:
    value = found.get(name, b"")
    return raw_json.members(value) if raw_json.is_object(value) else {}
