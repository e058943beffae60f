"""Paging that loses pages or gives wrong totals, unlike the API that is documented."""

from __future__ import annotations

import bisect
import random
from dataclasses import dataclass

from tap_autopilot.sandbox import options
from tap_autopilot.sandbox.account import CONTACTS, Account, members_of_segment
from tap_autopilot.sandbox.paging import Page, Pager

KEY = "s3cr3t+key/of=the~account!"
TOTALS = ("exact", "missing", "first-missing", "collapse")


@dataclass(frozen=True)
class Options(options.Options):
    """The sandbox's options, with `KEY` as the key, and these:

    - `totals`: `exact` on every page; `missing` on no page; `first-missing` on every page but the
      first; `collapse` to half the size of the listing, from the middle of the listing on.
    - `total_off`: what to add to every total.
    - `lose`: never serve one page, although totals count its contacts: of `contacts`, or of the
      `members` of a segment; optionally with @ and the page's number, by default any page but the
      first. The bookmark before it leads past it, also when the listing is read again.
    - `lose_once`: serve that page when the listing is read again.
    """

    api_key: str = KEY
    totals: str = "exact"
    total_off: int = 0
    lose: str = ""
    lose_once: bool = False


class LyingPager(Pager):
    """The pages as these options say. `lost` are the ids that the last one skipped."""

    def __init__(self, account: Account, options: Options) -> None:
        super().__init__(account, options)
        self._lies = options
        self._hole = Hole(account, options)
        self._size = 0  # of the listing, with the lost page
        self.lost: tuple[str, ...] = ()

    def page(self, listing: str, bookmark: str | None) -> Page | int:
        if self._lies.lose:
            self._pages.clear()
        return super().page(listing, bookmark)

    def _read(self, listing: str, ids: list[str], bookmark: str | None) -> Page | int:
        lost = self._hole.lost(listing, ids, bookmark)
        place = bisect.bisect_left(ids, lost[0]) if lost else 0
        self._size = len(ids)
        rest = ids[:place] + ids[place + len(lost) :] if lost else ids
        page = super()._read(listing, rest, bookmark)
        if isinstance(page, Page) and page.ids:
            start = bisect.bisect_left(rest, page.ids[0])
            self.lost = lost if start < place <= start + self._lies.page else ()
        return page

    def _total(self, start: int, end: int, size: int) -> int | None:
        del size
        size = self._size
        match self._lies.totals:
            case "missing":
                return None
            case "first-missing" if start == 0:
                return None
            case "collapse" if start > 0 and end * 2 > size:
                size //= 2
        return max(0, size + self._lies.total_off)


class Hole:
    """A page of one listing that is never served, even while contacts join and leave."""

    def __init__(self, account: Account, options: Options) -> None:
        self._account = account
        self._options = options
        self._rng = random.Random(f"hole {options.seed}")
        self._listing = ""
        self._ends = ("", "")  # the first and the last missing id
        self._was_passed = self._is_closed = False

    def lost(self, listing: str, ids: list[str], bookmark: str | None) -> tuple[str, ...]:
        """The contacts to leave out of a listing, for the page at a bookmark."""
        if not self._options.lose:
            return ()
        if not self._listing:
            self._choose(listing)
        if listing != self._listing:
            return ()
        if bookmark is None and self._was_passed:
            self._is_closed = self._options.lose_once
        self._was_passed = self._was_passed or bookmark is not None
        if self._is_closed:
            return ()
        first, last = self._ends
        return tuple(ids[bisect.bisect_left(ids, first) : bisect.bisect_right(ids, last)])

    def _choose(self, listing: str) -> None:
        """Choose the page to lose; any full page but the first unless the option names one."""
        what, _, number = self._options.lose.partition("@")
        if (what == "contacts") != (listing == CONTACTS):
            return
        listings = [CONTACTS]
        if what == "members":
            listings = [members_of_segment(each["segment_id"]) for each in self._account.segments]
        page = self._options.page
        full = {each: len(self._account.ids(each) or ()) // page for each in listings}
        several = sorted(each for each in listings if full[each] >= int(number or 2))
        if several:
            self._listing = self._rng.choice(several)
            start = (int(number or self._rng.randint(2, full[self._listing])) - 1) * page
            ids = self._account.ids(self._listing) or []
            self._ends = (ids[start], ids[start + page - 1])
