"""The digests file of a run: locked, compacted at the start, then appended to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from tap_autopilot.digests.base import Base, Pages
from tap_autopilot.digests.records import (
    DIGEST,
    Began,
    Block,
    Damaged,
    Ended,
    Header,
    Kept,
    Left,
    Position,
    Ready,
    Record,
    Rows,
    Seen,
    Sent,
    Shaped,
    bounds,
    framed,
    packed,
    scan,
)
from tap_autopilot.digests.table import Table
from tap_autopilot.exceptions import RunError, UserError


class Start(NamedTuple):
    """How a run starts a table: whether its pass is `resumed`, and `born` if it is new."""

    shape: bytes
    born: int
    resumed: bool
    walks: int


@dataclass
class _Loaded:
    """A table as loaded from a file, with the records of its journal."""

    table: Table
    sent: Pages = field(default_factory=Pages)
    unsure: Pages = field(default_factory=lambda: Pages(unsure=True))
    ended: Ended | None = None
    is_outdated: bool = False  # its shape has changed

    def replay(self, record: Record, offset: int, length: int) -> None:
        """Apply a record that the target has confirmed."""
        match record:
            case Shaped(shape=shape):
                self.table.kept.shape = shape
            case Began(at=at):
                self.table.kept.began = at
            case Seen(ranges=ranges):
                self.table.mark(ranges)
            case Sent():
                self.sent.add(record.low, record.high, offset, length)
            case Ended():
                self.ended = record

    def may_be_sent(self, record: Record, offset: int, length: int) -> None:
        """Apply a record that the target has not confirmed."""
        if isinstance(record, (Sent, Left)):
            self.unsure.add(record.low, record.high, offset, length)


class Digests:
    """What the target has, in a file that no other run may use at the same time.

    `doubt` says why the file cannot be trusted, in which case it counts as empty. Raises UserError
    if the file cannot be opened or is in use.
    """

    def __init__(self, path: str, account: str) -> None:
        self._path = Path(path).resolve()
        self._account = account
        self._file = _lock(self._path)
        self._salt = secrets.token_bytes(16)
        self._loaded: dict[str, _Loaded] = {}
        self._header: Header | None = None
        self._given: Position | None = None  # confirmed by the target
        self._journaled = False  # whether anything follows the base
        self._tables: dict[str, Table] = {}
        self._numbers: dict[str, int] = {}
        self._waiting: list[Record] = []
        self._position = Position(0, b"")
        self.doubt: str | None = None

    def load(self, given: Any) -> None:
        """Read the file up to the position that a state names.

        A missing file is no reason for doubt if the state does not name a position.
        """
        try:
            self.doubt = self._load(given)
        except (Damaged, OSError):
            self.doubt = f"{self._path} is damaged, or from another version of the tap"
        if self.doubt is not None:
            self._loaded.clear()
            self._header = self._given = None

    def _load(self, given: Any) -> str | None:
        if not os.fstat(self._file).st_size:
            return f"{self._path} is missing" if given is not None else None
        match given:
            case [int(offset), str(check)]:
                wanted = offset, check
            case None:
                return "the state does not record what the target has"
            case _:
                return "the state's digests are not valid"
        found: list[_Loaded] = []
        alias: Position | None = None  # the end of the old file; states may still refer to it
        is_ready = False
        for record, start, position in scan(self._file):
            size = position.offset - start
            match record:
                case Header():
                    if record.account != self._mark(record.salt):
                        return f"{self._path} belongs to another account or API key"
                    self._header, self._salt = record, record.salt
                    alias = record.made_from and Position(*record.made_from)
                    found = [_Loaded(Table(kept, self._file)) for kept in record.tables]
                case Block():
                    found[record.table].table.add(record.first, bytes(record.count), start, size)
                case Ready():
                    is_ready = True
                case _ if self._given is not None:
                    found[record.table].may_be_sent(record, start, size)
                case _:
                    self._journaled = self._journaled or is_ready
                    found[record.table].replay(record, start, size)
            if is_ready and self._given is None:
                known = {_written(one) for one in (position, alias) if one is not None}
                if wanted in known:
                    self._given = Position(wanted[0], bytes.fromhex(wanted[1]))
                    self._position = position
            if isinstance(record, Ready):
                alias = None
        if not is_ready:
            raise Damaged
        if self._given is None:
            return f"{self._path} is not the file that the state refers to"
        self._journaled = self._journaled or any(one.unsure for one in found)
        self._loaded = {one.table.kept.name: one for one in found}
        return None

    def _mark(self, salt: bytes) -> bytes:
        return blake2b(self._account.encode(), key=salt, digest_size=8).digest()

    def remembered(self) -> dict[str, int]:
        """The tables in the file, and the versions of their rows."""
        return {name: one.table.kept.born for name, one in self._loaded.items()}

    def begun(self) -> set[str]:
        """The tables whose current pass is in the file."""
        return {name for name, one in self._loaded.items() if one.table.kept.began}

    def reshaped(self, shapes: Mapping[str, bytes]) -> set[str]:
        """The tables whose shape has changed."""
        return {
            name
            for name, one in self._loaded.items()
            if shapes.get(name, one.table.kept.shape) != one.table.kept.shape
        }

    def begin(self, starts: Mapping[str, Start]) -> None:
        """Start the run's tables; compact the file if necessary."""
        if self._can_append(starts):
            assert self._header is not None
            self._tables = {name: one.table for name, one in self._loaded.items()}
            try:
                os.ftruncate(self._file, self._position.offset)
            except OSError as problem:
                raise self._failed(problem) from None
        else:
            self._compact(starts)
        self._numbers = {name: number for number, name in enumerate(self._tables)}
        self._loaded.clear()
        for name, start in starts.items():
            self._tables[name].make_room(start.walks)

    def _can_append(self, starts: Mapping[str, Start]) -> bool:
        """Whether the run can append to the file without compacting it."""
        if self._header is None or self._journaled or not starts.keys() <= self._loaded.keys():
            return False
        for name, one in self._loaded.items():
            start = starts.get(name)
            if start is not None and start.shape != one.table.kept.shape:
                return False
            if one.table.kept.began and not (start and start.resumed):
                return False
        return True

    def _compact(self, starts: Mapping[str, Start]) -> None:
        """Replace the file with a compacted one."""
        tables: list[tuple[_Loaded | None, Kept]] = []
        for name, loaded in self._loaded.items():
            start = starts.get(name)
            resumed = start is not None and start.resumed
            kept = _carried_over(loaded.table.kept, loaded.ended, resumed=resumed)
            if start is not None and start.shape != kept.shape:
                loaded.is_outdated = True  # in the journal, because this run may not get far
                self._waiting.append(Shaped(len(tables), start.shape))
            tables.append((loaded, kept))
        known = {kept.name for _, kept in tables}
        tables += [
            (None, Kept(name, start.shape, start.born))
            for name, start in starts.items()
            if name not in known
        ]
        given = self._given
        made_from = None if given is None else (given.offset, given.check)
        header = Header(self._salt, self._mark(self._salt), made_from, [kept for _, kept in tables])
        path = self._path.with_name(f"{self._path.name}.new")
        try:
            new = _lock(path)
            os.ftruncate(new, 0)
            with open(new, "wb", buffering=2**20, closefd=False) as file:
                base = Base(file, header)
                for number, (one, kept) in enumerate(tables):
                    table = self._tables[kept.name] = Table(kept, new)
                    if one is not None:
                        dropping = one.ended is not None and one.ended.dropped
                        base.add_table(
                            one.table, one.sent, one.unsure, table, number,
                            dropping=dropping, outdated=one.is_outdated,
                        )  # fmt: skip
                    if not kept.began:
                        table.marks = bytearray(len(table.marks))
                self._position = base.end(self._tables.values())
            os.fsync(new)
            path.replace(self._path)
            _sync_folder(self._path.parent)
        except OSError as problem:
            raise self._failed(problem) from None
        os.close(self._file)
        self._file = new

    # The pass.

    def kept(self, name: str) -> Kept:
        """What is known about a table besides its rows."""
        return self._tables[name].kept

    def began(self, name: str, at: str) -> None:
        """Note when a pass began, unless that is already noted."""
        table = self._tables[name]
        if table.kept.began is None:
            table.kept.began = at
            self._waiting.append(Began(self._numbers[name], at))

    def compare(self, name: str, keys: list[str], digests: array[int]) -> list[tuple[int, bool]]:
        """Compare a page's rows with what the target has, and note them as seen or sent.

        Returns the index of each row to send, and whether the row is new to the target.
        """
        number = self._numbers[name]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        ordered = list(map(keys.__getitem__, order))
        if ordered != keys:
            digests = array("Q", map(digests.__getitem__, order))
        found = self._tables[name].compare(ordered, digests)
        if found.seen:
            self._waiting.append(Seen(number, found.seen))
        differ = sorted((*found.new, *found.changed))
        sent = {ordered[at]: digests[at] for at in differ}  # if a row occurs twice, the last counts
        if sent:
            rows = Rows(list(sent), array("Q", sent.values()))
            low, high = bounds(rows.keys)
            self._waiting.append(Sent(number, low, high, *packed(rows)))
        new = set(found.new)
        return sorted((order[at], at in new) for at in differ)

    def leave(self, name: str, keys: list[str]) -> None:
        """Note that tombstones will be sent for these rows."""
        rows = Rows(keys, array("Q", bytes(DIGEST * len(keys))))
        low, high = bounds(keys)
        self._waiting.append(Left(self._numbers[name], low, high, *packed(rows)))

    def unseen(self, name: str) -> Iterator[str]:
        """The keys of the rows that the pass did not see."""
        return self._tables[name].unseen()

    def end(self, name: str, *, whole: bool, activated: bool) -> None:
        """Note that a pass ended; `whole` if every row that it did not see got a tombstone."""
        kept = self._tables[name].kept
        settled, activated = kept.settled or whole, kept.activated or activated
        self._waiting.append(Ended(self._numbers[name], whole, settled, activated))

    def flush(self) -> None:
        """Write all notes to the file; `position` then includes them."""
        if not self._waiting:
            return
        offset, check = self._position
        pieces = []
        for record in self._waiting:
            piece, check = framed(record, check)
            pieces.append(piece)
        written = memoryview(b"".join(pieces))
        end = Position(offset + len(written), check)
        try:
            while written:
                count = os.pwrite(self._file, written, offset)
                written, offset = written[count:], offset + count
            if any(isinstance(record, (Sent, Left, Ended)) for record in self._waiting):
                os.fsync(self._file)
        except OSError as problem:
            with contextlib.suppress(OSError):  # a partial record would put the file in doubt
                os.ftruncate(self._file, self._position.offset)
            raise self._failed(problem) from None
        self._position = end
        self._waiting.clear()

    def close(self) -> None:
        """Close and unlock the file."""
        os.close(self._file)

    @property
    def position(self) -> list[Any]:
        """The end of the file, for the state."""
        return list(_written(self._position))

    def _failed(self, problem: OSError) -> RunError:
        return RunError(f"Cannot write the digests file {self._path}: {problem.strerror}.")


def digests_of(rows: Iterable[bytes]) -> array[int]:
    """The digests of rows, as numbers."""
    return array("Q", b"".join([blake2b(row, digest_size=DIGEST).digest() for row in rows]))


def _carried_over(kept: Kept, ended: Ended | None, *, resumed: bool) -> Kept:
    """What the next run knows about a table."""
    if ended is not None:
        return Kept(
            kept.name, kept.shape, kept.born, kept.passes + 1, ended.settled, ended.activated
        )
    began = kept.began if resumed else None
    return Kept(kept.name, kept.shape, kept.born, kept.passes, kept.settled, kept.activated, began)


def _written(position: Position) -> tuple[int, str]:
    return position.offset, position.check.hex()


def _lock(path: Path) -> int:
    """Open or create a file, and lock it."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as problem:
            raise UserError(f"Cannot open the digests file {path}: {problem.strerror}.") from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UserError(f"The digests file {path} is not a regular file.")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
            os.close(descriptor)  # another run has just replaced it
        except BlockingIOError:
            raise UserError(f"The digests file {path} is in use by another run.") from None
        except OSError as problem:
            raise UserError(f"Cannot lock the digests file {path}: {problem.strerror}.") from None


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
