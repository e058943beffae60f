"""Compares the rows of each page with the digests of what the target has."""

from __future__ import annotations

import secrets
import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from tap_autopilot.digests.file import DIGEST, NEVER, NEW, SENT, File, Row, encode, is_damage
from tap_autopilot.exceptions import UserError

FEW = 16  # rows looked up by key


class Start(NamedTuple):
    """How a run starts a table: whether its pass is `resumed`, and `born` if it is new."""

    shape: bytes
    born: int
    resumed: bool


class Table(msgspec.Struct, array_like=True):
    """What the file knows about a table besides its rows.

    `shape` is a digest of what its rows look like, empty if the target has confirmed none of them.
    `born` is when its first pass began, in epoch milliseconds, and the version of its rows.
    `passes` counts finished passes. A table is `settled` once a pass has ended without doubt,
    `activated` once its version was announced, `filled` once all its rows were read in this shape.
    The steps of the current pass come after `since`; it has `began` once a page was read.
    """

    name: str
    shape: bytes = b""
    born: int = 0
    since: int = 0
    passes: int = 0
    settled: bool = False
    activated: bool = False
    began: str | None = None
    filled: bool = False


class _Content(msgspec.Struct, array_like=True):
    """The content of a step. `account` is a digest of the account's address and key."""

    salt: bytes
    account: bytes
    run: bytes  # random, so that no two runs have the same tokens
    tables: list[Table]


class _Page:
    """A page's rows: the digest of each, and how they compare with the file."""

    def __init__(self, table: int, digests: Mapping[str, int]) -> None:
        self.table = table
        self.digests = digests
        self.seen: list[tuple[str, str]] = []  # ranges
        self.differ: dict[str, Row | None] = {}  # as in the file, if there


class Digests:
    """What the target has, in a file that no other run may use at the same time.

    `distrust` says why the file cannot be trusted, in which case it counts as empty; `at_stake`
    names the tables in it, as far as it is readable. Raises UserError if the file cannot be opened
    or is in use.
    """

    def __init__(self, path: str, account: str) -> None:
        self._file = File(path)
        self._account = account
        self._content = _Content(secrets.token_bytes(8), b"", secrets.token_bytes(8), [])
        self._numbers: dict[str, int] = {}  # of the tables
        self._resumable: list[int] = []  # by table, the step when an interrupted pass began, or now
        self._number = 0  # of the last step
        self._token = ""
        self._compared: set[str] = set()  # tables with rows in the next step
        self._changed = False  # since the last step
        self._is_damaged = False
        self.distrust: str | None = None
        self.at_stake: set[str] = set()

    def load(self, position: Any) -> None:
        """Read the file, and go back to the step that a state names; `start` makes it permanent.

        A missing file is no reason for distrust if the state does not name a step. Raises UserError
        if the disk cannot be read.
        """
        path = self._file.path
        try:
            self.distrust = self._load(position)
        except (sqlite3.Error, msgspec.MsgspecError, MemoryError, TypeError, ValueError) as problem:
            if not is_damage(problem):
                self._file.close()
                raise UserError(f"Cannot read the digests file {path}: {problem}.") from None
            self._is_damaged = True
            self.distrust = f"{path} is damaged, or from another version of the tap"

    def _load(self, position: Any) -> str | None:
        path = self._file.path
        if not self._file.is_ours():
            return f"{path} is missing" if position is not None else None
        _, text = self._file.steps().fetchone()
        content = msgspec.json.decode(text, type=_Content)
        self._file.check(len(content.tables))
        self.at_stake = {table.name for table in content.tables}
        if position is None:
            return f"{path} exists, but the state does not mention it"
        if content.account != self._mark(content.salt):
            return f"{path} belongs to another account or API key"
        for number, text in self._file.steps():
            if position == [number, _token(number, text)]:
                break
        else:
            return f"{path} is not the file that the state refers to"
        known = msgspec.json.decode(text, type=_Content).tables
        known += [Table(table.name) for table in content.tables[len(known) :]]
        self._number, self._content.salt, self._content.tables = number, content.salt, known
        ended = [place for place, table in enumerate(known) if table.began is None]
        self._file.go_back(number, len(known), ended)
        return None

    def confirmed(self) -> list[Table]:
        """The tables of which the target has confirmed any rows."""
        return [table for table in self._content.tables if table.shape]

    def start(self, starts: Mapping[str, Start]) -> None:
        """Start the run's tables. A file that is not trusted is emptied, or moved aside."""
        if self._is_damaged:
            self._file.move_aside()
        if not self._number:
            self._file.empty()
        tables = self._content.tables
        known = {table.name for table in tables}
        tables += [Table(name) for name in starts if name not in known]
        self._numbers = {table.name: place for place, table in enumerate(tables)}
        now = self._number
        self._resumable = [now if table.began is None else table.since for table in tables]
        for name, start in starts.items():
            table = self.table(name)
            table.born = table.born if table.shape else start.born
            table.filled = table.filled and table.shape == start.shape
            table.shape = start.shape
            if table.began is None or not start.resumed:
                table.began, table.since = None, now
        self._content.account = self._mark(self._content.salt)
        self._changed = True
        self.flush()

    # The pass.

    def table(self, name: str) -> Table:
        """What is known about a table besides its rows."""
        return self._content.tables[self._numbers[name]]

    def note_start(self, name: str, at: str) -> None:
        """Note when a pass began, if that is now."""
        table = self.table(name)
        if table.began is None:
            table.began, self._changed = at, True

    def compare(
        self, name: str, keys: Sequence[str], rows: Iterable[bytes]
    ) -> list[tuple[int, bool]]:
        """Compare a page's rows with what the target has, and note them as seen or sent.

        Returns the index of each row to send, and whether the row is new to the target. If a row
        occurs twice, the last counts.
        """
        if not keys:
            return []
        if name in self._compared:
            self.flush()  # rows are compared with those of earlier steps
        self._compared.add(name)
        salt = self._content.salt + self.table(name).shape
        digests = array("q", b"".join(_hashes(rows, salt)))
        page = _Page(self._numbers[name], dict(zip(keys, digests, strict=True)))
        with self._file.errors():
            self._compare(page, sorted(page.digests))
        for low, high in page.seen:
            self._file.see(page.table, low, high, self._number + 1)
        self._changed = True
        if not page.differ:
            return []
        resumable = self._resumable[page.table]
        for key, row in page.differ.items():
            if row is not None and row[SENT] > resumable:  # still seen if the pass goes back
                self._file.see(page.table, key, key, row[SENT])
        self._file.send(page.table, page.digests, page.differ, self._number + 1)
        places = dict(zip(keys, range(len(keys)), strict=True))
        differ = [(at, page.differ[keys[at]]) for at in sorted(places[key] for key in page.differ)]
        return [(at, row is None or row[NEW] == NEVER) for at, row in differ]

    def _compare(self, page: _Page, keys: list[str]) -> None:
        """Compare sorted rows with those in the file from the first to the last of them."""
        low, high = keys[0], keys[-1]
        count, total = self._file.count(page.table, low, high, len(keys) + 1)
        if not count:
            page.differ.update(dict.fromkeys(keys))
        elif count == len(keys) and total == sum(map(page.digests.__getitem__, keys)):
            page.seen.append((low, high))
        elif len(keys) > FEW:
            half = len(keys) // 2
            self._compare(page, keys[:half])
            self._compare(page, keys[half:])
        else:
            known = self._file.look_up(page.table, keys)
            same = [key for key in keys if key in known and known[key][DIGEST] == page.digests[key]]
            page.differ.update({key: known.get(key) for key in keys if key not in same})
            alone = count > len(known)  # there are rows between them that the page does not have
            page.seen += [(key, key) for key in same] if alone else [(low, high)] if same else []

    def bury(self, name: str) -> Iterator[list[str]]:
        """Mark the rows that the pass did not see as deleted. Yields their keys, in batches."""
        self.flush()
        table, since = self._numbers[name], self.table(name).since
        self._changed = self._file.bury(table, since, self._number + 1)
        self.flush()
        return self._file.gone(table)

    def end(self, name: str, *, settled: bool, filled: bool, activated: bool) -> None:
        """Note that a pass ended, and what of its table is true from now on."""
        table = self.table(name)
        table.passes, table.began = table.passes + 1, None
        table.settled, table.filled = table.settled or settled, table.filled or filled
        table.activated = table.activated or activated
        self._changed = True

    def flush(self) -> None:
        """End a step, if anything has changed; `position` then names it.

        If rows were sent, it is on disk now. A power cut may undo another step, and its token.
        """
        if not self._changed:
            return
        self._number += 1
        content = encode(self._content)
        self._file.end_step(self._number, content)
        self._token = _token(self._number, content)
        self._compared.clear()
        self._changed = False

    @property
    def position(self) -> list[Any]:
        """The last step, for the state."""
        return [self._number, self._token]

    def close(self) -> None:
        """Close and unlock the file."""
        self._file.close()

    def _mark(self, salt: bytes) -> bytes:
        return blake2b(self._account.encode(), key=salt, digest_size=8).digest()


def _token(number: int, content: str) -> str:
    return blake2b(f"{number} {content}".encode(), digest_size=8).hexdigest()


def _hashes(rows: Iterable[bytes], salt: bytes) -> Iterator[bytes]:
    empty = blake2b(digest_size=8, salt=salt)
    for row in rows:
        of_row = empty.copy()  # takes half the time of a new one
        of_row.update(row)
        yield of_row.digest()
