"""Whether a pass is complete, and what to withhold when in doubt.

An account changes while it is being read, so a listing's totals are only a guide to how much there
is to read. A reading that misses nothing includes everything that existed throughout; documents
created or deleted meanwhile may be missing.

A reading is *short* if it has fewer distinct documents than changes in the totals can explain:
fewer than the smallest total minus the square root of the sum of all changes between totals. The
square root is enough because changes ahead of the reader and behind it cancel out as often as they
add up. If most changes are on one side, a complete listing can still look short, so a short listing
is read a second time.
"""

from __future__ import annotations

import enum
import math
from array import array
from bisect import bisect_left
from collections import defaultdict
from typing import Annotated, NamedTuple

import msgspec

LARGE_SHARE = 0.01  # of a listing; a shortage is large if it is more than this and than a page
ORDER_KNOWN = 10_000  # documents; once so many are in order, order alone detects repeats
PARTS = 4096  # of a set of hashes, so that even a part of millions of them is short

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Doubt(enum.Enum):
    """Why a pass may be incomplete. Whatever it is, rows that the pass did not see are kept."""

    SKIPPED = "skipped"  # a document without its id never becomes a row
    SHORT = "short"
    UNCOUNTED = "uncounted"  # no total to compare with
    UNORDERED = "unordered"  # interrupted, and repeats cannot be detected
    UNAVAILABLE = "unavailable"  # this account's API does not offer it
    EMPTY = "empty"  # nothing was read at all
    VERY_SHORT = "very short"
    ALL_GONE = "all gone"  # none of several segments exists anymore

    @property
    def moves(self) -> bool:
        """Whether the Singer bookmark moves all the same."""
        return self is Doubt.SKIPPED

    @property
    def fails(self) -> bool:
        """Whether the run ends with exit code 1."""
        return self in (Doubt.VERY_SHORT, Doubt.ALL_GONE)


class Census(NamedTuple):
    """What one reading of a listing has found so far; in the state, an array of these values.

    `read` counts distinct documents, `largest_page` is the most on one page. `highest` is the
    highest id, or None if the ids are not in order. `least` and `latest` are totals from the API,
    `changes` is the sum of the differences between consecutive totals. `attempt` is 2 for a listing
    that is read a second time, and so on.
    """

    read: Count
    largest_page: Count
    highest: str | None
    least: Count | None
    latest: Count | None
    changes: Count
    collapsed: bool
    uncounted: bool
    resumed: bool
    attempt: Count

    def after(self, *, documents: int, new: int, highest: str | None, total: int | None) -> Census:
        """The census after another page, in which `new` documents were not read before."""
        largest = max(self.largest_page, documents)
        census = self._replace(read=self.read + new, largest_page=largest, highest=highest)
        if total is None:
            return census._replace(uncounted=self.uncounted or self.least is None)
        if self.latest is None or self.least is None:
            return census._replace(least=total, latest=total)
        return census._replace(
            least=min(self.least, total),
            latest=total,
            changes=self.changes + abs(total - self.latest),
            collapsed=self.collapsed or is_large(self.latest - total, self.latest, largest),
        )

    @property
    def missing(self) -> int:
        """How many documents are missing compared to the totals; 0 if churn explains the gap."""
        if self.least is None:
            return 0
        missing = self.least - self.read
        return missing if missing > math.ceil(math.sqrt(self.changes)) else 0

    @property
    def is_short(self) -> bool:
        """Whether the listing has to be read again."""
        return self.missing > 0 or self.collapsed

    def doubt(self, *, counted: bool) -> Doubt | None:
        """The doubt about the listing at its end; `counted` listings should have a total."""
        if self.missing and is_large(self.missing, self.least or 0, self.largest_page):
            return Doubt.VERY_SHORT
        if self.is_short:
            return Doubt.SHORT
        if self.uncounted and counted:
            return Doubt.UNCOUNTED
        return Doubt.UNORDERED if self.resumed and self.highest is None else None


NOTHING_READ = Census(0, 0, "", None, None, 0, False, False, False, 1)


def is_large(missing: int, of: int, page: int) -> bool:
    """Whether more than a page and more than 1% of a listing is missing."""
    return missing > page and missing > LARGE_SHARE * of


class Distinct:
    """Recognizes documents that a reading has already seen, by their ids.

    The API lists documents in the order of their ids. As long as it does, remembering the highest
    id is enough, so memory does not grow with the account. Only the first ids, and those of a
    listing in another order, are remembered one by one. A listing that leaves the order later looks
    short, because lower ids count as repeats; so a reading from the start again is `exact`: it
    remembers all ids.

    `highest` is None once ids are out of order.
    """

    def __init__(self, census: Census, *, exact: bool) -> None:
        self.highest = census.highest
        self._exact = exact
        self._known: _Hashes | None = None if self.highest else _Hashes()

    @property
    def remembered(self) -> int:
        """How many ids are remembered one by one."""
        return len(self._known or ())

    def count_new(self, ids: list[str]) -> int:
        """How many of a page's ids are new. Remembers them."""
        known, highest = self._known, self.highest
        if known is None:
            assert highest is not None
            new = sorted({each for each in ids if each > highest})
        else:
            new = [each for each in dict.fromkeys(ids) if known.add(hash(each))]
        if new and highest is not None:
            in_order = new[0] > highest and all(map(str.__lt__, new, new[1:]))
            self.highest = highest = new[-1] if in_order else None
        if known is not None and highest and len(known) > ORDER_KNOWN and not self._exact:
            self._known = None
        return len(new)


class _Hashes:
    """A set of 64-bit hashes. Millions of them take 11 bytes each, a tenth of those in a `set`."""

    def __init__(self) -> None:
        self._parts: defaultdict[int, array[int]] = defaultdict(lambda: array("q"))  # sorted
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, value: int) -> bool:
        """Add a hash. Return whether it is new."""
        part = self._parts[value % PARTS]
        at = bisect_left(part, value)
        if at < len(part) and part[at] == value:
            return False
        part.insert(at, value)
        self._size += 1
        return True
