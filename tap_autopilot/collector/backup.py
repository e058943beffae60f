"""A consistent copy of a store's file, made while a collector writes to it."""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from tap_autopilot.arguments import shown_file
from tap_autopilot.collector.database import open_reader
from tap_autopilot.collector.reader import POSTGRES
from tap_autopilot.collector.sqlite_file import CLOSED, PART, is_outdated, open_read_only, sync
from tap_autopilot.exceptions import RunError, UserError


def backup(database: str, path: str) -> str:
    """Copy the store to a new file, readable by its owner only. Raises UserError if it exists."""
    if database.startswith(POSTGRES):
        raise UserError(
            "--backup copies a store in a file; for PostgreSQL, use"
            " pg_dump --schema=autopilot_collector."
        )
    target = Path(path).absolute()
    try:
        str(target).encode()
    except UnicodeEncodeError:
        raise UserError("The name of the backup must be valid text.") from None
    with open_reader(database) as reader:
        store_id = reader.store_id
    if os.path.lexists(target):
        raise UserError(f"{path} already exists; --backup never overwrites a file.")
    folder = target.parent / f".{target.name[:100]}-{secrets.token_hex(8)}"
    try:  # named before it is made, so that a signal at any time deletes it
        folder.mkdir(0o700)
        draft = folder / "copy"
        draft.touch(0o600)  # SQLite takes an empty file
        # In a thread, because a signal must not wait for it, which deletes the draft.
        ThreadPoolExecutor(1).submit(_copy, database, draft).result()
        sync(draft)
        os.link(draft, target)  # unlike a rename, it never replaces a file
        sync(target.parent)
    except FileExistsError:
        raise UserError(f"{path} already exists; --backup never overwrites a file.") from None
    except OSError as problem:
        raise UserError(
            f"Cannot write the backup {shown_file(path)}: {problem.strerror}."
        ) from None
    except sqlite3.Error as problem:
        raise RunError(f"The backup to {path} failed: {problem}.") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return f"Copied the store {store_id} to {path}."


def _copy(database: str, draft: Path) -> None:
    with closing(open_read_only(database)) as connection:
        connection.execute("VACUUM INTO ?", (str(draft),))
        if is_outdated(connection, database):
            raise sqlite3.OperationalError("a collector started meanwhile; run it again")
    with closing(sqlite3.connect(draft, isolation_level=None)) as copy:
        copy.execute(CLOSED)
        copy.execute(PART)
