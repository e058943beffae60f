"""A consistent copy of a store's file, made while a collector writes to it."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from tap_autopilot.arguments import shown_file
from tap_autopilot.collector.database import open_reader
from tap_autopilot.collector.reader import POSTGRES
from tap_autopilot.collector.sqlite_file import open_read_only, sync
from tap_autopilot.exceptions import RunError, UserError


def backup(database: str, path: str) -> str:
    """Copy the store to a new file, readable by its owner only. Raises UserError if it exists."""
    if database.startswith(POSTGRES):
        raise UserError(
            "--backup copies a store in a file; for PostgreSQL, use"
            " pg_dump --schema=autopilot_collector."
        )
    target = Path(path).absolute()
    with open_reader(database) as reader:
        store_id = reader.store_id
    if os.path.lexists(target):
        raise UserError(f"{path} already exists; --backup never overwrites a file.")
    try:
        with tempfile.TemporaryDirectory(
            dir=target.parent, prefix=f".{target.name[:100]}-"
        ) as folder:
            draft = Path(folder) / "copy"
            draft.touch(0o600)  # SQLite takes an empty file
            with closing(open_read_only(database)) as connection:
                connection.execute("VACUUM INTO ?", (str(draft),))
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
    return f"Copied the store {store_id} to {path}."
