"""The passes of a run: begun, read in order and completed, and their Singer bookmarks."""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from tap_autopilot.protocol.state import SKIPPED, Pass
from tap_autopilot.rows.changed import ChangedSince
from tap_autopilot.sources.completeness import Doubt
from tap_autopilot.sources.listings import CONTACTS, CUSTOM_FIELDS, LISTS, SEGMENTS, Position
from tap_autopilot.streams import STREAMS
from tests.begun import BOOKMARK, COUNTS, MEMBERS, START, begin, day, plain, walks, write

# New passes


def test_a_new_pass_of_a_whole_stream() -> None:
    before = int(time.time() * 1000)
    progress = begin("contacts", "lists")
    found = progress.pass_of("contacts")
    version = found.version
    assert version is not None
    assert before <= version <= time.time() * 1000
    assert plain(found) == plain(progress.pass_of("lists")) == Pass(version=version)
    assert found.window is None
    assert progress.walks() == [(CONTACTS, Position()), (LISTS, Position())]
    assert progress.shown() == {
        "bookmarks": {
            name: {"progress": ["reading", {"version": version}]} for name in ("contacts", "lists")
        },
        "walks": walks(contacts=START, lists=START),
    }
    assert progress.incomplete() == {"contacts", "lists"}
    assert not progress.is_resumed("contacts")
    assert progress.log == []


@pytest.mark.parametrize(
    ("stream", "bookmark", "start_date", "since"),
    [
        ("contacts", None, None, None),
        ("contacts", day(3), None, day(3)),
        ("contacts", day(3), day(2), day(3)),
        ("contacts", day(3), day(4), day(4)),
        ("contacts", None, day(4), day(4)),
        ("email_opened", day(3), None, day(2)),
        ("email_opened", day(3), day(1), day(2)),
    ],
)
def test_an_incremental_pass_begins_at_its_bookmark(
    stream: str, bookmark: datetime | None, start_date: datetime | None, since: datetime | None
) -> None:
    key = str(STREAMS[stream].replication_key)
    entry = {key: bookmark.isoformat()} if bookmark else {}
    progress = begin(
        stream, state={"bookmarks": {stream: entry}}, incremental=[stream], start_date=start_date
    )
    assert plain(progress.pass_of(stream)) == Pass(incremental=True, since=since)
    assert progress.pass_of(stream).window == ChangedSince(since, None)
    assert progress.log == []


def test_streams_that_are_not_selected_keep_their_entries() -> None:
    entry = {"timestamp": "2020-01-03T00:00:00Z", "start_date": "2020-01-01T00:00:00Z",
             "collected": ["s", 5], "collected_from": "2020-01-02T00:00:00Z"}  # fmt: skip
    state: Any = {"bookmarks": {"email_opened": {"progress": ["reading", {}], "junk": 1, **entry}}}
    state["bookmarks"]["email_opened"]["progress"][1]["plan"] = "p"
    progress = begin("lists", state=state)
    assert progress.shown()["bookmarks"]["email_opened"] == {"progress": None, **entry}
    assert progress.log == [
        "INFO email_opened: this run does not resume the interrupted pass; it starts over next time."
    ]


@pytest.mark.parametrize(
    "entry",
    [
        {"start_date": "soon", "collected_from": 5},
        {"start_date": "\ud800", "collected_from": "\ud800"},
        {"timestamp": "\ud800"},
        {"columns": 5},
        {"columns": "\ud800"},
        {"collected": None},
        {"collected": ["\ud800", 5]},
        {"append_only": "yes"},
    ],
)
def test_entries_that_are_not_valid_are_not_written_again(entry: Any) -> None:
    progress = begin("lists", state={"bookmarks": {"email_opened": entry}})
    assert progress.shown()["bookmarks"]["email_opened"] == {"progress": None}
    assert progress.is_log("email_opened") is isinstance(entry.get("collected"), list)


@pytest.mark.parametrize("bookmark", ["soon", 5, "2999-01-01T00:00:00Z"])
def test_a_bookmark_that_is_not_a_past_time_is_dropped(bookmark: Any) -> None:
    state = {"bookmarks": {"contacts": {"updated_at": bookmark}}}
    progress = begin("contacts", state=state, incremental=["contacts"])
    assert progress.pass_of("contacts").since is None
    assert progress.log == [
        "WARNING contacts: the state's updated_at is not a time in the past; ignoring it."
    ]
    assert progress.shown()["bookmarks"]["contacts"].keys() == {"progress"}


@pytest.mark.parametrize(
    ("made_under", "start_date", "kept"),
    [
        (None, None, True),
        (None, day(1), True),
        (day(2), day(2), True),
        (day(2), day(3), True),
        (day(2), day(1), False),
        (day(2), None, False),
    ],
)
def test_a_bookmark_made_under_a_later_start_date_is_dropped(
    made_under: datetime | None, start_date: datetime | None, kept: bool
) -> None:
    entry = {"updated_at": "2020-01-09T00:00:00Z"}
    if made_under:
        entry["start_date"] = made_under.isoformat()
    progress = begin(
        "contacts", state={"bookmarks": {"contacts": entry}}, incremental=["contacts"],
        start_date=start_date,
    )  # fmt: skip
    assert progress.pass_of("contacts").since == (day(9) if kept else start_date)
    warning = (
        "WARNING contacts: start_date is earlier than 2020-01-02T00:00:00+00:00, or no longer set,"
        " so the state's updated_at could skip rows; ignoring it."
    )
    assert progress.log == [warning] * (not kept)


@pytest.mark.parametrize("made_under", ["soon", 5, ""])
def test_a_bookmark_made_under_an_invalid_start_date_is_dropped(made_under: Any) -> None:
    entry = {"updated_at": "2020-01-09T00:00:00Z", "start_date": made_under}
    state = {"bookmarks": {"contacts": entry}}
    progress = begin("contacts", state=state, incremental=["contacts"], start_date=day(1))
    assert progress.pass_of("contacts").since == day(1)
    (warning,) = progress.log
    assert warning == (
        "WARNING contacts: the state's start_date is not a time, so its updated_at could skip rows;"
        " ignoring it."
    )


def test_a_stream_without_a_replication_key_has_no_bookmark() -> None:
    progress = begin("lists", state={"bookmarks": {"lists": {"None": "soon"}}})
    assert progress.log == []


# What is read, and in which order


def test_what_was_begun_is_read_first() -> None:
    state = {
        "bookmarks": {name: {"progress": ["reading", {}]} for name in ("lists", "custom_fields")},
        "walks": {"lists": ["x", COUNTS], "custom_fields": START},
    }
    progress = begin("contacts", "lists", "custom_fields", state=state)
    assert [walk for walk, _ in progress.walks()] == [LISTS, CONTACTS, CUSTOM_FIELDS]


def test_segments_are_listed_first_if_their_members_were_begun() -> None:
    entry = {"progress": ["reading", {"version": 5}]}
    for through, first in (("s", SEGMENTS), ("", CONTACTS)):
        state = {"bookmarks": {MEMBERS: entry}, "walks": {MEMBERS: [through, 1, 0, []]}}
        progress = begin("contacts", MEMBERS, state=state)
        assert progress.walks()[0] == (first, Position())
        assert progress.is_resumed(MEMBERS)
    assert begin("contacts").walks() == [(CONTACTS, Position())]
    assert begin().walks() == []


# Completion


def test_doubts_about_a_source_are_about_all_that_it_feeds() -> None:
    progress = begin("contacts", "lists_contacts")
    progress.pass_of("contacts").note_page(None, {}, skips=True)
    assert write(progress, CONTACTS, None, 0) == ["contacts", "lists_contacts"]
    reason = "the API listed no contacts at all"
    assert progress.pass_of("lists_contacts").doubts == {Doubt.EMPTY: reason}
    assert progress.pass_of("contacts").doubts == {Doubt.EMPTY: reason, Doubt.SKIPPED: SKIPPED}
    entry = progress.shown()["bookmarks"]["contacts"]["progress"]
    assert entry[1]["doubts"] == {"empty": reason, "skipped": SKIPPED}


def test_what_a_pass_saw() -> None:
    found = Pass()
    found.note_page(None, {}, skips=False)
    assert found == Pass()
    found.note_page(day(2), {}, skips=True)
    found.note_page(day(1), {Doubt.SHORT: "few"}, skips=False)
    assert found.newest == day(2)
    found.note_page(day(3), {}, skips=True)  # perhaps of the same page, in a resumed run
    assert found.newest == day(3)
    assert found.why_in_doubt == "some documents were skipped, and few"


def test_a_doubt_about_many_segments_names_the_first_few_and_the_number() -> None:
    found, texts = Pass(), []
    for segment in "aabcde":  # the first one twice, in a resumed run
        found.note_doubts({Doubt.SHORT: f"few in {segment}"})
        texts.append(str(found.why_in_doubt))
    assert texts == [
        "few in a",
        "few in a",
        "few in a, and few in b",
        "few in a, and few in b, and few in c",
        "few in a, and few in b, and few in c, and so on for 1 more segment",
        "few in a, and few in b, and few in c, and so on for 2 more segments",
    ]
    assert msgspec.convert(msgspec.to_builtins(found), Pass) == found


@pytest.mark.parametrize(
    ("date", "started"),
    [(day(1), day(1)), (datetime(2999, 1, 1, tzinfo=timezone.utc), None), (None, None)],
)
def test_a_pass_begins_by_the_earlier_clock(
    date: datetime | None, started: datetime | None
) -> None:
    before = datetime.now(timezone.utc)
    progress = begin("contacts", "lists", incremental=["contacts"])
    progress.note_start("contacts", date)
    progress.note_start("lists", date)
    found = progress.pass_of("contacts").started
    assert found is not None
    assert found == started or before <= found <= datetime.now(timezone.utc)
    progress.note_start("contacts", day(1) - timedelta(days=1))
    assert progress.pass_of("contacts").started == found
    assert progress.pass_of("lists").started is None


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


@pytest.mark.parametrize(
    ("newest", "how", "bookmark"),
    [
        (day(5, 10), {}, "2020-01-05T10:00:00Z"),
        (day(5), {"before": day(4)}, "2020-01-05T00:00:00Z"),
        (day(5), {"doubts": [Doubt.SKIPPED]}, "2020-01-05T00:00:00Z"),
        (day(9), {}, "2020-01-08T23:59:00Z"),  # a minute before the start of the pass
        (day(5), {"before": day(6)}, "2020-01-06T00:00:00Z"),  # never back
        (None, {}, None),
        (day(5), {"started": None}, None),
    ],
)
def test_the_bookmark_moves_to_the_newest_change(
    newest: datetime | None, how: Any, bookmark: str | None
) -> None:
    moves = {} if bookmark is None else {"updated_at": bookmark}
    assert moved(newest, **how) == {"progress": None, **moves}


@pytest.mark.parametrize("doubts", [[Doubt.SHORT], [Doubt.SKIPPED, Doubt.UNCOUNTED]])
def test_the_bookmark_does_not_move_if_there_is_doubt(doubts: list[Doubt]) -> None:
    assert moved(day(5), doubts=doubts) == {"progress": None}
    assert moved(day(5), before=day(4), doubts=doubts)["updated_at"].startswith("2020-01-04")


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
