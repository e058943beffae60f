"""What is counted for a stream, and how much of it is logged."""

from __future__ import annotations

import pytest

from tap_autopilot.rows.tally import MAX_NAMES, Tally


def test_everything_is_counted_and_each_kind_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tally = Tally("contacts")
    with caplog.at_level("INFO", "tap_autopilot"):
        tally.count_replaced(0)
        for _ in range(2):
            tally.count_replaced(3)
            tally.skip("it has no id")
            tally.count_misfit("name")
            tally.count_misfit("title")
            tally.count_unknown("x" * 99)
            tally.count_unknown("Score")
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("WARNING", "contacts: replaced characters that are not valid Unicode."),
        ("WARNING", "contacts: skipped a document: it has no id."),
        ("WARNING", "contacts: a value does not fit column name; kept in additional_fields."),
        ("WARNING", "contacts: a value does not fit column title; kept in additional_fields."),
        ("INFO", f"contacts: no column for field '{'x' * 59}; kept in additional_fields."),
        ("INFO", "contacts: no column for field 'Score'; kept in additional_fields."),
    ]
    assert {vars(one)["stream_name"] for one in caplog.records} == {"contacts"}
    assert (tally.skipped, tally.cleaned) == (2, 6)
    assert tally.unfit == {"name": 2, "title": 2}
    assert tally.unknown == {"x" * 99: 2, "Score": 2}


def test_values_count_only_if_their_row_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally("contacts")
    rows = [{"n": number} for number in range(4)]
    for row in rows[:3]:
        tally.note_misfit("name", row)
    tally.note_misfit("title", rows[1])
    assert not caplog.records
    tally.count_sent([rows[1], rows[3]])
    assert (tally.rows, tally.unfit) == (2, {"name": 1, "title": 1})
    tally.count_sent(rows)
    assert (tally.rows, tally.unfit) == (6, {"name": 1, "title": 1})
    assert len(caplog.records) == 2


def test_unknown_fields_beyond_a_limit_are_counted_together(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tally = Tally("contacts")
    with caplog.at_level("INFO", "tap_autopilot"):
        for number in [*range(MAX_NAMES + 3), 0]:
            tally.count_unknown(f"field{number}")
    assert len(caplog.records) == MAX_NAMES
    assert len(tally.unknown) == MAX_NAMES + 1
    assert (tally.unknown["(others)"], tally.unknown["field0"]) == (3, 2)


def test_notes_mention_only_what_happened() -> None:
    tally = Tally("email_opened")
    counts = (tally.rows, tally.unchanged, tally.deleted, tally.skipped, tally.cleaned,
              tally.pushed, tally.waiting, tally.missed)  # fmt: skip
    assert counts == (0,) * 8
    tally.rows = 9
    assert tally.notes() == []
    tally.unchanged, tally.deleted, tally.skipped = 1, 2, 3
    tally.pushed, tally.missed, tally.waiting = 4, 5, 6
    tally.unfit.update({"name": 1, "title": 6})
    tally.unknown.update({"Score": 3, "Geo": 5})
    tally.cleaned = 9
    assert tally.notes() == [
        "2 of them deleted",
        "1 unchanged",
        "3 documents skipped",
        "4 skipped as already pushed",
        "5 missed by the collector",
        "6 too recent, left for the next run",
        "7 values did not fit (name 1, title 6)",
        "8 values without a column",
        "9 characters replaced",
    ]
