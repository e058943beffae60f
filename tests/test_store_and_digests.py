"""Passes with a collector's store or with digests: positions, and what is trusted."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

import pytest

from tap_autopilot.protocol.beginning import Remembered
from tap_autopilot.sources.listings import CONTACTS, Position
from tap_autopilot.streams import COLLECTED
from tests.begun import COUNTS, HALFWAY, STORE, Begun, begin, day, resumed, write

# A collector's store


def in_store(collected: Any, *names: str, **more: Any) -> Begun:
    """A run with a store of ten events, and these positions in its state."""
    names = names or ("email_opened",)
    entries = {name: dict(collected) if isinstance(collected, dict) else {"collected": collected}
               for name in names}  # fmt: skip
    return begin(*names, state={"bookmarks": entries}, store=STORE, **more)


@pytest.mark.parametrize(
    ("collected", "position", "reason"),
    [
        (None, 0, None),
        (["store", 0], 0, None),
        (["store", 7], 7, None),
        (["store", 10], 10, None),
        (["store", 7, "seven"], 7, None),
        (["store", 7, "another"], 0, "event 7 in the store is not the one that the state names"),
        (["store", 10, "ten"], 0, "event 10 in the store is not the one that the state names"),
        (["store", 7, "seven", 1], 0, "the state's position in the store is not valid"),
        (["store", 7, 7], 0, "the state's position in the store is not valid"),
        (["another", 7, "seven"], 0, "the state is from another store"),
        (["store", 11], 0, "the store has lost events since"),
        (["store", -1], 0, "the store has lost events since"),
        (["another", 7], 0, "the state is from another store"),
        ([5, 7], 0, "the state's position in the store is not valid"),
        (["store", "7"], 0, "the state's position in the store is not valid"),
        (["store"], 0, "the state's position in the store is not valid"),
        (7, 0, "the state's position in the store is not valid"),
    ],
)
def test_an_incremental_pass_continues_reading_the_store(
    collected: Any, position: int, reason: str | None
) -> None:
    names = ("email_opened", "contact_events")
    progress = in_store(collected, *names, incremental=names)
    assert progress.store_positions() == dict.fromkeys(names, position)
    assert progress.log == [
        f"WARNING email_opened, contact_events: {reason}; reading all events in the store."
    ] * (reason is not None)
    entry = progress.shown()["bookmarks"]["contact_events"]
    assert entry == {
        "progress": ["reading", {"incremental": True}],
        "collected": ["store", position, *(["seven"] if position == 7 else [])],
    }


@pytest.mark.parametrize(
    ("collected", "position", "resumes"),
    [(["store", 7], 7, True), (["another", 7], 0, False), (None, 0, True)],
)
def test_a_full_pass_resumes_in_its_own_store_only(
    collected: Any, position: int, resumes: bool
) -> None:
    state = {
        "bookmarks": {"email_opened": {"progress": ["reading", {}], "collected": collected}},
        "walks": {"contacts": ["x", COUNTS]},
    }
    progress = begin("email_opened", state=state, store=STORE)
    assert progress.is_resumed("email_opened") is resumes
    assert progress.store_positions() == {"email_opened": position}


@pytest.mark.parametrize(
    ("made_under", "start_date", "position"),
    [
        (None, None, 7),
        (None, day(1), 7),
        (day(2), day(2), 7),
        (day(2), day(3), 7),
        (day(2), day(1), 0),
        (day(2), None, 0),
    ],
)
def test_an_earlier_start_date_reads_all_of_the_store(
    made_under: datetime | None, start_date: datetime | None, position: int
) -> None:
    collected: dict[str, Any] = {"collected": ["store", 7]}
    if made_under:
        collected["collected_from"] = made_under.isoformat()
    progress = in_store(collected, incremental=["email_opened"], start_date=start_date)
    assert progress.store_positions() == {"email_opened": position}
    assert progress.log == [
        "WARNING email_opened: start_date is earlier, or no longer set; reading all events in the store."
    ] * (not position)
    entry = progress.value()["bookmarks"]["email_opened"]
    assert entry["collected_from"] == (
        start_date.isoformat().replace("+00:00", "Z") if start_date else None
    )


def test_the_position_in_the_store_moves_forward_only() -> None:
    names = ("email_opened", "contact_events")
    progress = begin(*names, incremental=names, store=STORE,
                     state={"bookmarks": {"email_opened": {"collected": ["store", 7]}}})  # fmt: skip
    progress.advance_in_store(names, 5)
    assert progress.store_positions() == {"email_opened": 7, "contact_events": 5}
    assert progress.shown()["bookmarks"]["contact_events"]["collected"] == ["store", 5]


def test_a_stream_with_two_sources_is_complete_after_both() -> None:
    progress = in_store(None, "email_opened", "contact_events")
    assert progress.finish_source(COLLECTED) == ["contact_events"]
    assert write(progress, CONTACTS, None) == ["email_opened"]
    other = in_store(None, "email_opened", "contact_events")
    assert write(other, CONTACTS, None) == []
    assert other.finish_source(COLLECTED) == ["email_opened", "contact_events"]
    without = begin("email_opened")
    assert write(without, CONTACTS, None) == ["email_opened"]


def test_what_a_store_feeds_is_a_log() -> None:
    progress = begin("email_opened", "contacts", store=STORE)
    assert (progress.is_log("email_opened"), progress.is_log("contacts")) == (True, False)
    assert progress.pass_of("email_opened").version is None
    assert progress.pass_of("contacts").version is not None
    without = begin("email_opened", "email_clicked",
                    state={"bookmarks": {"email_opened": {"collected": ["store", 7]}}})  # fmt: skip
    assert (without.is_log("email_opened"), without.is_log("email_clicked")) == (True, False)
    assert not without.is_log("email_replied"), "it is not selected"
    entries = without.value()["bookmarks"]
    assert entries["email_opened"]["collected"] is None, "this run may replace all rows"
    assert [one["append_only"] for one in entries.values()] == [True, False]
    assert "collector_database is not set" in str(without.log)
    again = begin("email_opened", "email_clicked", state=without.value())
    assert "collector_database" not in str(again.log)
    assert (again.is_log("email_opened"), again.is_log("email_clicked")) == (True, False)


# Digests


@pytest.mark.parametrize(
    ("versions", "reshaped", "begun", "goes_on"),
    [
        ({"contacts": 3}, (), ("contacts",), True),
        ({"contacts": 3}, ("contacts",), ("contacts",), False),
        ({"contacts": 4}, (), ("contacts",), False),
        ({"contacts": 3}, (), ("lists",), False),
        ({}, (), (), False),
    ],
)
def test_a_pass_resumes_if_the_digests_cover_what_it_sent(
    versions: dict[str, int],
    reshaped: Collection[str],
    begun: Collection[str],
    goes_on: bool,
) -> None:
    remembered = Remembered(versions, reshaped, (), begun)
    progress = resumed(["reading", {"version": 3}], remembered=remembered)
    assert progress.is_resumed("contacts") is goes_on
    assert progress.start() == [(CONTACTS, HALFWAY if goes_on else Position())]


@pytest.mark.parametrize("incremental", [(), ("email_opened",)])
@pytest.mark.parametrize("reshaped", [(), ("email_opened",)])
def test_a_pass_with_digests_continues_reading_the_store_unless_its_rows_changed_shape(
    reshaped: Collection[str], incremental: Collection[str]
) -> None:
    remembered = Remembered({"email_opened": 3}, reshaped, (), ())
    progress = in_store(["store", 7], remembered=remembered, incremental=incremental)
    assert progress.store_positions() == {"email_opened": 0 if reshaped else 7}
