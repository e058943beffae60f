"""The digests file alone: small blocks, many tables, kills and doubts at every step."""

from __future__ import annotations

import bisect
import fcntl
import os
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.digests import base
from tap_autopilot.digests.file import Digests, Start, digests_of
from tap_autopilot.exceptions import RunError, UserError

SHAPE, OTHER_SHAPE = b"a", b"b"
PAGE = 7


class Target:
    """The stored rows, and the last state: the position of the file, and of each table."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], int] = {}
        self.state: tuple[Any, dict[str, str | None]] = (None, {})


class Night:
    """A run over tables that change during it, and that may be killed after any page."""

    def __init__(self, path: Path, rng: random.Random, account: dict[str, dict[str, int]]) -> None:
        self.path, self.rng, self.account = path, rng, account

    def run(self, target: Target, *, kills: bool, shape: bytes = SHAPE) -> str | None:
        """Run. Returns the doubt about the file, if any."""
        position, reading = target.state
        digests = Digests(str(self.path), "somebody")
        digests.load(position)
        known, reshaped = digests.remembered(), digests.reshaped(dict.fromkeys(self.account, shape))
        places = {
            name: (reading[name], True)
            if reading.get(name) is not None and name in known and name not in reshaped
            else ("", False)
            for name in self.account
        }
        if digests.doubt or position is None:  # the first pass activates its own version
            target.rows.clear()
        digests.begin({name: Start(shape, 1, resumed, 2) for name, (_, resumed) in places.items()})
        now: dict[str, str | None] = {name: place for name, (place, _) in places.items()}
        pending: list[tuple[tuple[str, str], int | None]] = []
        while open_tables := [name for name, place in now.items() if place is not None]:
            if kills and self.rng.random() < 0.05:
                break
            name = self.rng.choice(open_tables)
            now[name] = self._page(digests, name, str(now[name]), pending)
            if self.rng.random() < 0.7:
                self._store(target, pending, len(pending))
                target.state = (digests.position, dict(now))
            self._live()
        else:
            self._store(target, pending, len(pending))
            target.state = (digests.position, dict(now))
        self._store(target, pending, self.rng.randrange(len(pending) + 1))
        digests.close()
        return digests.doubt

    def _page(self, digests: Digests, name: str, place: str, pending: list[Any]) -> str | None:
        rows = self.account[name]
        ordered = sorted(rows)
        start = bisect.bisect_right(ordered, place) if place else 0
        keys = ordered[start : start + PAGE]
        digests.began(name, "now")
        if self.rng.random() < 0.2:
            self.rng.shuffle(keys)
        if keys and self.rng.random() < 0.2:
            keys.append(keys[0])
        values = [rows[key] for key in keys]
        numbers = digests_of(b"%d" % value for value in values)
        found = digests.compare(name, keys, numbers)
        assert found == sorted(dict(found).items())
        pending += [((name, keys[at]), values[at]) for at, _ in found]
        after = max(keys, default=None)
        if after is None or start + PAGE >= len(ordered):
            after = None
            left = list(digests.unseen(name))
            assert left == sorted(left)
            if left:
                digests.leave(name, left)
                pending += [((name, key), None) for key in left]
            digests.end(name, whole=True, activated=True)
        digests.flush()
        return after

    def _store(self, target: Target, pending: list[Any], count: int) -> None:
        for key, value in pending[:count]:
            if value is None:
                target.rows.pop(key, None)
            else:
                target.rows[key] = value
        pending.clear()

    def _live(self) -> None:
        for rows in self.account.values():
            for _ in range(self.rng.randrange(3)):
                key = f"{self.rng.randrange(10**4):04}"
                if self.rng.random() < 0.4 and rows:
                    del rows[self.rng.choice(sorted(rows))]
                else:
                    rows[
                        key
                        if self.rng.random() < 0.5 or not rows
                        else self.rng.choice(sorted(rows))
                    ] = self.rng.randrange(3)


@pytest.mark.parametrize("seed", range(60))
def test_a_target_never_differs_after_a_quiet_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(base, "ROWS", 8)
    monkeypatch.setattr(base, "FEWEST", 3)
    rng = random.Random(seed)
    account: dict[str, dict[str, int]] = {
        name: {f"{rng.randrange(10**4):04}": 0 for _ in range(rng.randrange(120))}
        for name in ("one", "other", "third")[: rng.randrange(1, 4)]
    }
    target, night = Target(), Night(tmp_path / "digests", rng, account)
    for _ in range(25):
        night.run(target, kills=rng.random() < 0.8, shape=rng.choice((SHAPE,) * 9 + (OTHER_SHAPE,)))
    for _ in range(2):
        night._live = lambda: None  # type: ignore[method-assign]
        night.run(target, kills=False)
    wanted = {(name, key): value for name, rows in account.items() for key, value in rows.items()}
    assert target.rows == wanted
    before = dict(target.rows)
    assert night.run(target, kills=False) is None
    assert target.rows == before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "digests"


def fill(path: Path, rows: int, *, state: Any = None, account: str = "somebody") -> Any:
    """A whole pass over one table. Returns the position after it."""
    digests = Digests(str(path), account)
    digests.load(state)
    digests.begin({"one": Start(SHAPE, 1, False, 1)})
    digests.began("one", "now")
    for start in range(0, rows, 1000):
        keys = [f"{number:08}" for number in range(start, min(start + 1000, rows))]
        digests.compare("one", keys, digests_of(key.encode() for key in keys))
        digests.flush()
    digests.end("one", whole=True, activated=True)
    digests.flush()
    position = digests.position
    digests.close()
    return position


def doubt(path: Path, position: Any, account: str = "somebody") -> str | None:
    digests = Digests(str(path), account)
    digests.load(position)
    digests.close()
    return digests.doubt


def test_a_file_is_trusted_only_if_the_state_names_it(path: Path) -> None:
    assert doubt(path, None) is None, "the very first run"
    assert "missing" in str(doubt(path, [1, "ab"]))
    first = fill(path, 1500)
    of_first = path.read_bytes()
    assert doubt(path, first) is None
    assert "does not record" in str(doubt(path, None))
    assert "another account" in str(doubt(path, first, "somebody else"))
    wrong: list[Any] = [
        7,
        [1],
        [first[0], 3],
        ["1", first[1]],
        [first[0], "zz"],
        {},
        [True, first[1]],
    ]
    for position in wrong:
        assert doubt(path, position)
    assert "not the file that" in str(doubt(path, [first[0] - 1, first[1]]))
    second = fill(path, 1500, state=first)
    assert doubt(path, second) is None
    assert doubt(path, first) is None, "the state before the last run is good too"
    third = fill(path, 1500, state=second)
    assert "not the file that" in str(doubt(path, first)), "an older state"
    path.write_bytes(of_first)
    assert "not the file that" in str(doubt(path, third)), "an older file"


def test_every_byte_counts(path: Path) -> None:
    position = fill(path, 30)
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert doubt(path, position), at
        path.write_bytes(data[:at])
        assert doubt(path, position), at
    path.write_bytes(data + b"\0")
    assert doubt(path, position), "a trailing byte"


def test_an_empty_file_counts_as_missing(path: Path) -> None:
    path.touch()
    assert doubt(path, None) is None
    assert "missing" in str(doubt(path, [1, "ab"]))


def test_one_run_at_a_time(path: Path) -> None:
    digests = Digests(str(path), "somebody")
    with pytest.raises(UserError, match="in use by another run"):
        Digests(str(path), "somebody")
    digests.load(None)
    digests.begin({"one": Start(SHAPE, 1, False, 1)})
    with pytest.raises(UserError, match="in use by another run"):
        Digests(str(path), "somebody")
    digests.close()
    Digests(str(path), "somebody").close()


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    for name in (".", "nowhere/digests"):
        with pytest.raises(UserError, match="Cannot open the digests file"):
            Digests(str(tmp_path / name), "somebody")
    with Path(os.devnull).open() as null:
        fcntl.flock(null, fcntl.LOCK_EX)  # another process may have locked it
        with pytest.raises(UserError, match="not a regular file"):
            Digests(os.devnull, "somebody")


def test_a_symlink_stays_a_symlink(tmp_path: Path, path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    fill(tmp_path / "link", 3)
    assert (tmp_path / "link").is_symlink()
    assert path.stat().st_size


def test_only_its_owner_may_read_it(path: Path) -> None:
    fill(path, 3)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_ends_the_run_and_leaves_nothing_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = fill(path, 30)
    digests = Digests(str(path), "somebody")
    digests.load(position)
    digests.begin({"one": Start(SHAPE, 1, False, 1)})
    size = path.stat().st_size
    digests.compare("one", ["a"], digests_of([b"a"]))

    def full(descriptor: int, data: Any, offset: int) -> int:
        if len(data) > 5:
            return int(write(descriptor, data[:5], offset))
        raise OSError(28, "No space left on device")

    write = os.pwrite
    monkeypatch.setattr("os.pwrite", full)
    monkeypatch.setattr(
        "os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(RunError, match=r"Cannot write the digests file .*: No space left"):
        digests.flush()
    assert path.stat().st_size == size
    digests.close()


def test_memory_is_little_more_than_a_byte_per_row(path: Path) -> None:
    rows = 300_000
    position = fill(path, rows)
    assert path.stat().st_size < 32 * rows
    tracemalloc.start()
    fill(path, rows, state=position)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size < 32 * rows
    assert most < 12 * 2**20, most


def test_a_row_that_changes_back_within_a_pass_is_sent_again(path: Path) -> None:
    position = fill(path, 3)
    digests = Digests(str(path), "somebody")
    digests.load(position)
    digests.begin({"one": Start(SHAPE, 1, False, 1)})
    key = "00000001"
    before, after = digests_of([key.encode()]), digests_of([b"other"])
    assert digests.compare("one", [key], before) == []
    for numbers in (after, before, before):
        assert digests.compare("one", [key], numbers) == [(0, False)]
    digests.close()


def test_a_file_in_doubt_is_not_carried_into_the_next(path: Path) -> None:
    position = fill(path, 30)
    with path.open("ab") as file:
        file.write(b"damage")
    digests = Digests(str(path), "somebody")
    digests.load(position)
    assert digests.doubt
    digests.begin({"one": Start(SHAPE, 2, False, 1)})
    digests.close()
    assert "not the file that" in str(doubt(path, position))
