"""Where a reading goes next, judged by the bookmarks of its pages alone."""

from __future__ import annotations

import enum

MAX_RETRACED = 10  # fresh bookmarks in a row, if a contact was deleted each time
MAX_DETOURS = 10  # dead ends followed in a row


class Step(enum.Enum):
    """What to do at a dead end: a bookmark that is rejected or leads to nothing new."""

    RETRACE = "request the last good page again, for a fresh bookmark"
    FOLLOW = "follow the page all the same"
    GIVE_UP = "read the listing from the start"


class Trail:
    """The bookmarks that a reading has followed. None is the bookmark of the first page.

    `last_good` is the bookmark of the last page that was accepted.
    """

    def __init__(self) -> None:
        self.last_good: str | None = None
        self._has_good = False
        self._retraced = 0  # dead ends since then
        self._dead_end: tuple[str, str | None] | None = None  # the last one, and what it named
        self._detours: set[str] = set()  # dead ends followed since something new was read

    def accept(self, bookmark: str | None) -> None:
        """Note that a bookmark led to a good page."""
        self.last_good, self._has_good, self._retraced = bookmark, True, 0

    def note_new(self) -> None:
        """Note that a page had something new."""
        self._detours.clear()

    def dead_end(self, bookmark: str, names: str | None, *, rejected: bool = False) -> Step:
        """What to do at a dead end; unless it is `rejected`, its page `names` the next one, if any.

        A page of documents already read may be the last, or lead on. It is followed if a second
        request confirms that.
        """
        if self._dead_end is None or self._dead_end[0] != bookmark:
            if not self._has_good or self._retraced == MAX_RETRACED:
                return Step.GIVE_UP
            self._dead_end = bookmark, names
            self._retraced += 1
            return Step.RETRACE
        if rejected or not (names is None or self._leads_on(names)):
            return Step.GIVE_UP
        self.accept(bookmark)
        self._detours.add(bookmark)
        return Step.FOLLOW

    def _leads_on(self, names: str) -> bool:
        """Whether the last dead end, requested again, names the same next page, a new one."""
        assert self._dead_end is not None
        is_new = names not in self._detours and len(self._detours) < MAX_DETOURS
        return is_new and names == self._dead_end[1]
