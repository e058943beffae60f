"""Opens a store, which is in a file (SQLite) or at a postgresql:// URL.

with open_reader("autopilot-events.db") as reader:
    for event in reader.read(after=0, limit=1000):
        print(event.seq, event.route, event.body)
"""

from __future__ import annotations

from types import ModuleType

from tap_autopilot.collector.reader import POSTGRES, Reader
from tap_autopilot.collector.store import Store
from tap_autopilot.exceptions import UserError


def open_reader(database: str) -> Reader:
    """A reader of an existing store. Raises UserError if it is missing or unreadable."""
    if database.startswith(POSTGRES):
        reader: Reader = _postgres().PostgresReader(database)
        return reader
    from tap_autopilot.collector.sqlite import SqliteReader

    return SqliteReader(database)


def open_store(database: str, patience: float = 0) -> Store:
    """The store, open for writing, created if missing. Raises UserError.

    A file in use raises InUse after `patience` seconds.
    """
    if database.startswith(POSTGRES):
        store: Store = _postgres().PostgresStore(database)
        return store
    from tap_autopilot.collector.sqlite import SqliteStore

    return SqliteStore(database, patience)


def _postgres() -> ModuleType:
    try:
        from tap_autopilot.collector import postgres
    except ImportError:
        raise UserError(
            "A postgresql:// store needs a driver: pip install 'tap-autopilot[postgres]'."
        ) from None
    return postgres
