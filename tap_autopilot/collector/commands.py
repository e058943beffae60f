"""The commands that change a store: --prune, --erase, --forget-destination. They return a summary.

If a collector is using the store, it does the work, see `errands`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from tap_autopilot.amounts import amount
from tap_autopilot.collector.config import Destination
from tap_autopilot.collector.database import open_reader, open_store
from tap_autopilot.collector.erase import MAX_IDS, erase_person
from tap_autopilot.collector.errands import Do, Errand, Wanted, alone, ask, busy
from tap_autopilot.collector.prune import checked, limited, loaded, prune_loaded
from tap_autopilot.collector.reader import shown
from tap_autopilot.collector.store import InUse
from tap_autopilot.exceptions import RunError, UserError
from tap_autopilot.settings import read_json

LOG = logging.getLogger(__name__)

COMMAND_LOCK = ""  # of whoever changes a shared store by a command; no destination has this name
MALFORMED = (
    "The collector's response is malformed; it may be another version. Restart it, and try again."
)


def errand_of(request: Any, destinations: Collection[str] | None) -> Errand:
    """The errand that a command asks of a collector with these destinations. Raises UserError."""
    _check_text(request)
    try:
        match request:
            case {"prune": dict(asked)}:
                tables = {name: checked(*table) for name, table in asked.items()}
                return partial(prune_loaded, tables=tables, destinations=destinations or ())
            case {"erase": str(who)} if who.strip():
                return partial(erase_person, who=who)
            case {"forget": str(name)}:
                return partial(forget_destination, name=name, destinations=destinations)
    except (TypeError, ValueError) as problem:
        raise UserError(f"The request to prune is malformed: {problem}.") from None
    raise UserError("The collector does not know this request; it may be an older version.")


def forget_destination(do: Do, name: str, destinations: Collection[str] | None) -> dict[str, Any]:
    """Forget a destination that is not among those in the settings, and that nobody forwards to.

    If it came back without its cursor, the collector would start after the newest event.
    """
    if destinations is None:
        raise UserError(
            "These settings do not say which destinations the collector still has; pass its"
            " --config, in which `destinations` is [] if none are left."
        )
    if name in destinations:
        raise UserError(f"Destination {name} is still in the settings; remove it there first.")
    known = do(lambda store: store.cursors())
    if name not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise UserError(f"The store knows no destination of this name; it knows {listed}.")
    if not do(lambda store: store.owns(name)):
        raise UserError(
            f"A collector is forwarding to destination {name}; remove it from the settings of every"
            " collector, and restart them first."
        )
    do(lambda store: store.forget_cursor(name))
    return {}


def prune(database: str, path: str | None, destinations: Sequence[Destination] | None) -> str:
    """Prune what is loaded and has been forwarded to these destinations; None for all known."""
    if path is None:
        raise UserError(
            "--prune needs --state, a file with the last STATE that the target printed."
        )
    state = read_json(path, "state")
    with open_reader(database) as reader:
        last_seq = reader.last_seq
        forwarded = {name: cursor.seq for name, cursor in reader.cursors().items()}
        tables = loaded(state, reader)
    if destinations is not None:
        first = {to.name: 0 if to.from_start else last_seq for to in destinations}
        forwarded = {name: forwarded.get(name, seq) for name, seq in first.items()}
    newest = min(last_seq, max(table.seq for table in tables.values()))
    for name, seq in forwarded.items():
        if seq < newest:
            _warn_of_lag(name, last_seq - seq)
    tables = limited(tables, min([newest, *forwarded.values()]))
    match _carry_out(database, {"prune": tables}):
        case {"pruned": int(pruned), "bytes": int(freed), "lags": dict(lags)}:
            for name, lag in lags.items():
                _warn_of_lag(name, lag)
            return f"Pruned {amount(pruned, 'event')} and freed {freed:,} bytes."
    raise RunError(MALFORMED)


def erase(database: str, who: str) -> str:
    """Erase every event of an email address or contact id."""
    if not who.strip():
        raise UserError("--erase needs an email address or a contact id.")
    open_reader(database).close()  # an existing store
    match _carry_out(database, {"erase": who}):
        case {
            "erased": int(count),
            "others": int(others),
            "shared": int(shared),
            "is_many": bool(is_many),
            "is_gone": bool(is_gone),
        }:
            also = f" (and of {amount(others, 'other id')} of this person)" if others else ""
            if shared:
                also += f" (but not of {amount(shared, 'id')} also named with someone else)"
            if is_many:
                also = f" (but not of the more than {MAX_IDS} ids named with it: too many for one)"
            erased = f"Erased {amount(count, 'event')} of {who.strip()}{also}"
            if is_gone:
                return f"{erased}."
            raise RunError(
                f"{erased} from the tables. The disk may still have them, because a backup or a tap"
                " is reading the store: run this again when it has ended."
            )
    raise RunError(MALFORMED)


def forget(database: str, name: str, destinations: Sequence[Destination] | None) -> str:
    """Forget a destination that is not among these; None if the settings do not have them."""
    open_reader(database).close()
    names = None if destinations is None else [to.name for to in destinations]
    _carry_out(database, {"forget": name}, names)
    return f"Forgot destination {name}."


def _warn_of_lag(destination: str, lag: object) -> None:
    LOG.warning(
        "Not pruning events that destination %s has not received yet (lag: %s). If it is gone for"
        " good, use --forget-destination.",
        destination, lag,
    )  # fmt: skip


def _check_text(request: Any) -> None:
    """Raise UserError for text that no store can look up."""
    try:
        json.dumps(request, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError("The argument or STATE contains text that is not valid Unicode.") from None


def _carry_out(
    database: str, request: dict[str, Any], destinations: Collection[str] | None = None
) -> Any:
    errand = errand_of(request, destinations)
    try:
        store = open_store(database)
    except InUse:
        return ask(database, request)
    try:
        if not store.owns(COMMAND_LOCK):
            raise busy(shown(database))
        return errand(alone(store))
    except Wanted:
        LOG.info("A collector is starting, so it does the rest; only that is counted here.")
    finally:
        store.close()
    return ask(database, request)
