"""The digests file alone: small blocks, many tables, kills and doubts at every step."""

from __future__ import annotations

import bisect
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.digests import digests as module
from tap_autopilot.digests import file as file_module
from tap_autopilot.digests.digests import Digests, Start
from tap_autopilot.digests.file import File
from tap_autopilot.exceptions import RunError, UserError

SHAPE, OTHER_SHAPE = b"a", b"b"
PAGE = 7
ROOT = Path(__file__).parents[1]


def contents(keys: list[str], values: Sequence[Any]) -> list[bytes]:
    """Rows, given their keys and values."""
    return [f"{key} {value}".encode() for key, value in zip(keys, values, strict=True)]


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
        known = {table.name for table in digests.confirmed() if table.shape == shape}
        places = {
            name: (reading[name], True)
            if reading.get(name) is not None and name in known
            else ("", False)
            for name in self.account
        }
        if digests.distrust or position is None:  # the first pass activates its own version
            target.rows.clear()
        digests.start({name: Start(shape, 1, resumed) for name, (_, resumed) in places.items()})
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
        return digests.distrust

    def _page(self, digests: Digests, name: str, place: str, pending: list[Any]) -> str | None:
        rows = self.account[name]
        ordered = sorted(rows)
        start = bisect.bisect_right(ordered, place) if place else 0
        keys = ordered[start : start + PAGE]
        digests.note_start(name, "now")
        if self.rng.random() < 0.2:
            self.rng.shuffle(keys)
        if keys and self.rng.random() < 0.2:
            keys.append(keys[0])
        values = [rows[key] for key in keys]
        found = digests.compare(name, keys, contents(keys, values))
        assert found == sorted(dict(found).items())
        pending += [((name, keys[at]), values[at]) for at, _ in found]
        after = max(keys, default=None)
        if after is None or start + PAGE >= len(ordered):
            after = None
            left = [key for batch in digests.bury(name) for key in batch]
            assert left == sorted(left)
            pending += [((name, key), None) for key in left]
            digests.end(name, settled=True, filled=True, activated=True)
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


@pytest.mark.parametrize("seed", range(15))
def test_a_target_never_differs_after_a_quiet_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(module, "FEW", 2)
    monkeypatch.setattr(file_module, "MANY", 3)
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


@contextmanager
def opened(
    path: Path, position: Any, table: str = "one", start: Start | None = None
) -> Iterator[Digests]:
    """The digests at a position, with a pass over one table begun."""
    with closing(Digests(str(path), "somebody")) as digests:
        digests.load(position)
        digests.start({table: start or Start(SHAPE, 1, False)})
        yield digests


def compare(
    digests: Digests, keys: Sequence[str], values: Sequence[Any] = ()
) -> list[tuple[int, bool]]:
    """Compare rows of the table; their values are their keys unless given."""
    return digests.compare("one", list(keys), contents(list(keys), values or keys))


def fill(path: Path, rows: int, *, state: Any = None, version: str = "") -> Any:
    """A whole pass over one table. Returns the position after it."""
    with opened(path, state) as digests:
        digests.note_start("one", "now")
        for start in range(0, rows, 1000):
            keys = [f"{number:08}" for number in range(start, min(start + 1000, rows))]
            compare(digests, keys, [key + version for key in keys])
            digests.flush()
        digests.end("one", settled=True, filled=True, activated=True)
        digests.flush()
        return digests.position


def doubt(path: Path, position: Any, account: str = "somebody") -> str | None:
    with closing(Digests(str(path), account)) as digests:
        digests.load(position)
        return digests.distrust


def test_a_symlink_stays_a_symlink(tmp_path: Path, path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(UserError, match="Cannot open the digests file"):
        fill(tmp_path / "link", 3)
    assert not path.exists()
    path.touch()
    fill(tmp_path / "link", 3)
    assert (tmp_path / "link").is_symlink()
    assert path.stat().st_size


def test_only_its_owner_may_read_it(path: Path) -> None:
    fill(path, 3)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to own files as another user")
@pytest.mark.parametrize("suffix", ["", "-journal", "-wal"])
@pytest.mark.parametrize("use", [file_module.File, lambda path: file_module.trouble(Path(path))])
def test_what_another_user_may_have_planted_is_not_used(
    tmp_path: Path, path: Path, use: Callable[[str], object], suffix: str
) -> None:
    planted = Path(f"{path}{suffix}")
    planted.touch()
    os.chown(planted, 65534, 65534)
    tmp_path.chmod(0o1777)
    with pytest.raises(UserError, match="belongs to another user"):
        use(str(path))


SIZE = """
import resource, sys
from pathlib import Path
from tests.test_digests_file import fill
rows = int(sys.argv[2])
fill(Path(sys.argv[1]), rows, state=fill(Path(sys.argv[1]), rows))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_neither_memory_nor_size_get_out_of_hand(tmp_path: Path) -> None:
    sizes = []
    for rows in (20_000, 200_000):
        path = tmp_path / str(rows)
        command = [sys.executable, "-c", SIZE, str(path), str(rows)]
        run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        sizes.append(int(run.stdout))
        assert path.stat().st_size < 200 * rows
    assert sizes[1] - sizes[0] < 4 * 1024, sizes


def test_a_row_that_changes_back_within_a_pass_is_sent_again(path: Path) -> None:
    key = "00000001"
    with opened(path, fill(path, 3)) as digests:
        for value, sent in ((key, []), ("other", [(0, False)]), (key, [(0, False)]), (key, [])):
            assert compare(digests, [key], [value]) == sent
            digests.flush()


@pytest.mark.parametrize("again", [["x"], ["00000001"]])
def test_what_a_pass_has_seen_stays_seen_if_it_goes_back(path: Path, again: list[str]) -> None:
    position = fill(path, 3)
    with opened(path, position) as digests:
        digests.note_start("one", "now")
        for value in ("other", *again):  # the second is never confirmed
            assert compare(digests, ["00000001"], [value])
            digests.flush()
            position = position if value in again else digests.position
    with opened(path, position, start=Start(SHAPE, 1, True)) as digests:
        assert digests.table("one").began == "now"
        assert list(digests.bury("one")) == [["00000000", "00000002"]]


def test_pages_of_one_table_in_one_step(path: Path) -> None:
    position = fill(path, 3)
    for sent in ([(0, True)], []):
        with opened(path, position) as digests:
            assert digests.distrust is None
            for found in (sent, []):
                assert compare(digests, ["new"], ["row"]) == found
                assert compare(digests, ["00000001"]) == []
            digests.flush()
            position = digests.position


def test_a_disk_that_cannot_be_read_is_not_a_damaged_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = Night(path, random.Random(1), {"contacts": {"a": 1}})
    target = Target()
    night.run(target, kills=False)
    before = path.read_bytes()

    def check(_self: File, _tables: int) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(File, "check", check)
    with pytest.raises(UserError, match=r"Cannot read the digests file .*: disk I/O error\.$"):
        Digests(str(path), "somebody").load(target.state[0])
    assert path.read_bytes() == before


def test_a_disk_that_fails_while_tombstones_are_read_ends_the_run(path: Path) -> None:
    position = fill(path, 3)
    with opened(path, position) as digests:
        buried = digests.bury("one")
        digests._file._db.set_progress_handler(lambda: 1, 1)
        with pytest.raises(RunError, match=r"^Cannot use the digests file .*: interrupted\."):
            next(buried)


@pytest.mark.parametrize("key", ['"', "\\", "\x01", "\x1f\n", "é", "\U0010ffff", " ", "null"])
def test_keys_may_be_any_text(path: Path, key: str) -> None:
    position = None
    for _ in range(2):
        with opened(path, position) as digests:
            compare(digests, [key, f"a{key}", f"{key}z"])
            digests.flush()
            position = digests.position
    with opened(path, position) as digests:
        assert digests.distrust is None
        assert compare(digests, [f"a{key}"]) == []
        assert list(digests.bury("one")) == [sorted([key, f"{key}z"])]


def test_a_file_in_doubt_is_not_carried_into_the_next(path: Path) -> None:
    position = fill(path, 30)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"00000007", b"00000009"))
    with opened(path, position, start=Start(SHAPE, 2, False)) as digests:
        assert digests.distrust
    assert "not the file that" in str(doubt(path, position))


def test_burying_looks_at_every_row_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_module, "MANY", 10)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    with closing(File(str(path))) as digests:
        digests.empty()
        for step, prefix in enumerate(("z", "a"), 1):
            rows = {f"{prefix}{number:04}": number for number in range(2000)}
            digests.send(0, rows, dict.fromkeys(rows), step)
            digests.end_step(step, "")
        digests._db.set_progress_handler(count, 1000)
        assert digests.bury(0, 1, 3)
        digests.end_step(3, "")
        assert sum(map(len, digests.gone(0))) == 2000
    assert steps < 500
