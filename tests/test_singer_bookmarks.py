"""The Singer bookmarks of incremental passes: when they move, and when they stay."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

import pytest

from tap_autopilot.sources.completeness import Doubt
from tap_autopilot.sources.listings import (
    CONTACTS,
    LISTS,
)
from tests.begun import BOOKMARK, COUNTS, HALFWAY, begin, day, walks, write

STARTED = day(9)


def moved(
    newest: datetime | None,
    *,
    started: datetime | None = STARTED,
    before: datetime | None = None,
    doubts: Collection[Doubt] = (),
    start_date: datetime | None = None,
) -> Any:
    """The state's entry of contacts after an incremental pass."""
    entry = {"updated_at": before.isoformat()} if before else {}
    progress = begin(
        "contacts", state={"bookmarks": {"contacts": entry}}, incremental=["contacts"],
        start_date=start_date,
    )  # fmt: skip
    found = progress.pass_of("contacts")
    found.newest, found.started = newest, started
    found.doubts.update(dict.fromkeys(doubts, "why"))
    write(progress, CONTACTS, None)
    progress.finish()
    assert progress.incomplete() == set()
    return progress.shown()["bookmarks"]["contacts"]


def test_the_bookmark_moves_to_the_newest_change() -> None:
    assert moved(day(5, 10)) == {"progress": None, "updated_at": "2020-01-05T10:00:00Z"}
    assert moved(day(5), before=day(4))["updated_at"] == "2020-01-05T00:00:00Z"
    assert moved(day(5), doubts=[Doubt.SKIPPED])["updated_at"] == "2020-01-05T00:00:00Z"


def test_the_bookmark_stays_a_minute_before_the_start_of_the_pass() -> None:
    assert moved(day(9))["updated_at"] == "2020-01-08T23:59:00Z"


def test_the_bookmark_never_moves_back() -> None:
    assert moved(day(5), before=day(6))["updated_at"] == "2020-01-06T00:00:00Z"


@pytest.mark.parametrize("doubts", [[Doubt.SHORT], [Doubt.SKIPPED, Doubt.UNCOUNTED]])
def test_the_bookmark_does_not_move_if_there_is_doubt(doubts: list[Doubt]) -> None:
    assert moved(day(5), doubts=doubts) == {"progress": None}
    assert moved(day(5), before=day(4), doubts=doubts)["updated_at"].startswith("2020-01-04")


def test_the_bookmark_stays_if_nothing_has_a_time() -> None:
    assert moved(None) == {"progress": None}
    assert moved(day(5), started=None) == {"progress": None}


def test_the_bookmark_remembers_its_start_date() -> None:
    assert moved(day(5), start_date=day(2)) == {
        "progress": None,
        "updated_at": "2020-01-05T00:00:00Z",
        "start_date": "2020-01-02T00:00:00Z",
    }
    state = {"bookmarks": {"contacts": {**BOOKMARK, "start_date": "2020-01-02T00:00:00Z"}}}
    progress = begin("contacts", state=state, incremental=["contacts"])
    found = progress.pass_of("contacts")
    found.newest, found.started, found.is_complete = day(5), day(9), True
    progress.finish()
    entry = progress.value()["bookmarks"]["contacts"]
    assert entry["start_date"] is None, "so that it also goes from merged states"
    state = {"bookmarks": {"contacts": {**BOOKMARK, "start_date": "not a time"}}}
    progress = begin("contacts", state=state, incremental=["contacts"])
    found = progress.pass_of("contacts")
    found.newest, found.started = day(5), day(9)
    write(progress, CONTACTS, None)
    progress.finish()
    assert progress.shown()["bookmarks"]["contacts"].keys() == {"progress", "updated_at"}


def test_what_is_not_complete_stays_as_it_is() -> None:
    progress = begin("contacts", "lists", incremental=["contacts"])
    found = progress.pass_of("contacts")
    found.newest, found.started = day(5), day(9)
    write(progress, CONTACTS, HALFWAY, 5)
    write(progress, LISTS, None)
    progress.finish()
    value = progress.shown()
    assert value["bookmarks"]["contacts"] == {
        "progress": [
            "reading",
            {
                "started": "2020-01-09T00:00:00Z",
                "newest": "2020-01-05T00:00:00Z",
                "incremental": True,
            },
        ]
    }
    assert value["bookmarks"]["lists"] == {"progress": None}
    assert value["walks"] == walks(contacts=["x", COUNTS])
    assert progress.incomplete() == {"contacts"}


def test_a_state_may_have_other_entries_besides_bookmarks() -> None:
    progress = begin("lists")
    assert progress.value()["digests"] is None, "so that an older position is not trusted"
    progress.digests = [5, "x"]
    assert progress.value()["digests"] == [5, "x"]
