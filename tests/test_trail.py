"""Which bookmark a reading follows: a table of what the bookmarks led to, without requests."""

from __future__ import annotations

import pytest

from tap_autopilot.sources.trail import MAX_DETOURS, MAX_RETRACED, Step, Trail

FOLLOW, RETRACE, GIVE_UP = Step.FOLLOW, Step.RETRACE, Step.GIVE_UP

Event = tuple[str, ...]  # how a bookmark was received, which, and what its page named


def steps(*events: Event) -> list[Step]:
    """What the dead ends among these events ask for."""
    trail, taken = Trail(), []
    for kind, *bookmarks in events:
        if kind == "good":
            trail.accept(bookmarks[0] or None)
        elif kind == "new":
            trail.note_new()
        else:
            bookmark, *names = bookmarks
            named = names[0] if names else None
            taken.append(trail.dead_end(bookmark, named, rejected=kind == "rejected"))
    return taken


def detours(number: int) -> list[Event]:
    """Known pages in a row, each requested twice and then followed."""
    return [("known", str(n), str(n + 1)) for n in range(number) for _ in range(2)]


FIRST: Event = ("good", "")


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        # without a good page, there is nowhere to go back to
        ([("rejected", "a")], [GIVE_UP]),
        ([("known", "a", "b")], [GIVE_UP]),
        # rejected twice, or first known and then rejected
        ([FIRST, ("rejected", "a"), ("rejected", "a")], [RETRACE, GIVE_UP]),
        ([FIRST, ("known", "a", "b"), ("rejected", "a")], [RETRACE, GIVE_UP]),
        # the last page of the listing may have nothing new
        ([FIRST, ("known", "a"), ("known", "a")], [RETRACE, FOLLOW]),
        ([FIRST, ("rejected", "a"), ("known", "a")], [RETRACE, FOLLOW]),
        # a known page leads on only if it twice names the same next page
        ([FIRST, ("known", "a", "b"), ("known", "a", "b")], [RETRACE, FOLLOW]),
        ([FIRST, ("known", "a", "b"), ("known", "a", "c")], [RETRACE, GIVE_UP]),
        ([FIRST, ("rejected", "a"), ("known", "a", "b")], [RETRACE, GIVE_UP]),
        ([FIRST, ("known", "a"), ("known", "a", "b")], [RETRACE, GIVE_UP]),
        # fresh bookmarks
        ([FIRST, ("rejected", "a"), ("rejected", "b")], [RETRACE, RETRACE]),
        ([FIRST, ("rejected", "a"), ("good", "b"), ("rejected", "c")], [RETRACE, RETRACE]),
        (
            [FIRST, *(("rejected", str(n)) for n in range(MAX_RETRACED + 1))],
            [RETRACE] * MAX_RETRACED + [GIVE_UP],
        ),
        # detours do not lead back, nor on without end, unless something new was read meanwhile
        ([FIRST, *detours(1), *[("known", "1", "0")] * 2], [RETRACE, FOLLOW, RETRACE, GIVE_UP]),
        ([FIRST, *detours(MAX_DETOURS + 1)], [RETRACE, FOLLOW] * MAX_DETOURS + [RETRACE, GIVE_UP]),
        (
            [FIRST, *detours(MAX_DETOURS), ("new",), *[("known", "a", "0")] * 2],
            [RETRACE, FOLLOW] * (MAX_DETOURS + 1),
        ),
    ],
)
def test_what_to_do_at_dead_ends(events: list[Event], expected: list[Step]) -> None:
    assert steps(*events) == expected


def test_the_last_good_page_is_the_one_to_go_back_to() -> None:
    trail = Trail()
    for bookmark in ("a", "b"):
        trail.accept(bookmark)
    trail.dead_end("c", None, rejected=True)
    assert trail.last_good == "b"
    assert trail.dead_end("c", None) is Step.FOLLOW
    assert trail.last_good == "c"
