"""Listings from all kinds of servers, read while they change, with failures, over several runs.

Either everything that existed throughout was read, or there is a doubt or an error. Reading always
ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tap_autopilot.api.client import Client
from tap_autopilot.exceptions import TapError
from tap_autopilot.protocol.positions import OneListing
from tap_autopilot.sandbox.options import BOOKMARKS, STALE
from tap_autopilot.sources.completeness import Doubt
from tap_autopilot.sources.listings import CONTACTS, Page, Position, Walk, members_of
from tap_autopilot.sources.reading import pages
from tests.changing_sandbox import ChangingSandbox
from tests.in_process import DirectClient
from tests.lying_pager import KEY, TOTALS
from tests.scripted import Scripted

LETTERS = "abcdefghijkl"


@dataclass
class Outcome:
    """The result of a pass: the documents that were written, and how it ended."""

    ids: list[Any] = field(default_factory=list)
    doubt: Doubt | None = None
    error: TapError | None = None


def read(walk: Walk, client: Client, kills: set[int]) -> Outcome:
    """Read a listing to its end, in runs that each resume from the state of the one before.

    `kills` are the pages, counted over all runs, after which a run is killed. The last may fail.
    """
    found = Outcome()
    position, written = Position(), 0
    for _ in range(12):
        found.error = None
        try:
            for page in pages(walk, position, client, check_totals=True):
                found.ids += [
                    one.get("contact_id") for one in page.documents if isinstance(one, dict)
                ]
                written += 1
                if page.after is None:
                    found.doubt = page.doubt
                    return found
                position = resumed(walk, page)
                if written in kills:
                    break
        except TapError as error:
            found.error = error
    return found


def resumed(walk: Walk, page: Page) -> Position:
    """The position after a page, as the next run reads it from its state."""
    before, after = OneListing(walk, "m"), OneListing(walk, "n")
    before.advance(walk, page.after, read=page.census.read)
    assert after.resume(json.loads(json.dumps(before.value())), {"m"})
    assert after.position == page.after
    return after.position


STEPS = st.one_of(
    st.tuples(st.just("delete"), st.sampled_from(LETTERS)),
    st.tuples(st.just("create"), st.sampled_from([f"{one}{n}" for one in LETTERS for n in (1, 2)])),
    st.tuples(st.just("change"), st.sampled_from(LETTERS)),
)
CHANGES = st.dictionaries(st.integers(1, 12), st.lists(STEPS, max_size=4), max_size=6)
NUMBERS = st.sets(st.integers(1, 15), max_size=4)


def careful(
    changes: dict[int, list[tuple[str, str]]], listing: str
) -> dict[Any, list[Callable[[ChangingSandbox], None]]]:
    """The changes, without the impossible ones."""

    def step(what: str, one: str) -> Callable[[ChangingSandbox], None]:
        def do(living: ChangingSandbox) -> None:
            is_there = one in living.account
            if what == "create" and not is_there:
                living.create(one)
                if listing != CONTACTS.path:
                    living.account.join("s", one)
            elif what == "delete" and is_there:
                living.account.delete(one)
            elif what == "change" and is_there:
                living.change(one)

        return do

    return {(listing, number): [step(*one) for one in steps] for number, steps in changes.items()}


@st.composite
def options(draw: Any) -> dict[str, Any]:
    """How a server behaves."""
    return {
        "page_size": draw(st.integers(1, 4)),
        "style": draw(st.sampled_from(sorted(BOOKMARKS))),
        "stale": draw(st.sampled_from(sorted(STALE))),
        "empty_end": draw(st.booleans()),
    }


@given(
    st.integers(0, len(LETTERS)), CHANGES, options(), st.sampled_from(sorted(TOTALS)),
    st.integers(-3, 3), NUMBERS, NUMBERS, st.booleans(),
)  # fmt: skip
def test_what_exists_throughout_is_read_or_there_is_a_doubt(
    size: int, changes: Any, chosen: Any, totals: str, off: int, kills: set[int],
    failing: set[int], of_segment: bool,
) -> None:  # fmt: skip
    walk = members_of("s") if of_segment else CONTACTS
    sandbox = ChangingSandbox(
        LETTERS[:size], changes=careful(changes, walk.path), totals=totals, total_off=off,
        segments={"s": LETTERS[:size]}, **chosen,
    )  # fmt: skip
    found = read(walk, DirectClient(sandbox, KEY, failing, most=600), kills)
    existed = sandbox.existed_throughout(walk.path)
    missing = existed - set(found.ids)
    assert not missing or found.error or found.doubt is not None, (missing, found)
    if (
        found.error is None
        and size
        and not changes
        and (totals, off) == ("exact", 0)
        and not kills
        and not failing
    ):
        assert found.doubt is None, found


@given(st.integers(4, len(LETTERS)), options(), NUMBERS, NUMBERS, st.integers(1, 99), st.booleans())
def test_a_lost_page_raises_a_doubt(
    size: int, chosen: Any, kills: set[int], failing: set[int], seed: int, once: bool
) -> None:
    sandbox = ChangingSandbox(LETTERS[:size], lose="contacts", lose_once=once, seed=seed, **chosen)
    found = read(CONTACTS, DirectClient(sandbox, KEY, failing, most=600), kills)
    missing = set(LETTERS[:size]) - set(found.ids)
    assert not missing or found.error or found.doubt is not None, (missing, found)
    if not once and size >= 2 * chosen["page_size"]:
        assert missing


IDS = st.one_of(st.sampled_from([*LETTERS[:6], 5, None, ""]))
MARKS = st.one_of(st.none(), st.sampled_from(["x", "y", "z", "", "/", 7, "x"]))
SCRIPTED = st.one_of(
    st.builds(
        lambda ids, bookmark, total: (
            200,
            {
                "contacts": [{"contact_id": one} if one is not None else {} for one in ids],
                **({"bookmark": bookmark} if bookmark is not None else {}),
                **({"total_contacts": total} if total is not None else {}),
            },
        ),
        st.lists(IDS, max_size=3),
        MARKS,
        st.one_of(st.none(), st.integers(-1, 12)),
    ),
    st.sampled_from([(400, {}), (404, {}), (405, {}), (200, {}), (200, {"contacts": [5]})]),
)


@given(
    st.dictionaries(
        st.sampled_from(["", "/x", "/y", "/z", "//"]),
        st.lists(SCRIPTED, min_size=1, max_size=3),
        min_size=1,
    ),
    NUMBERS,
    st.booleans(),
)
def test_reading_ends_whatever_the_server_sends(
    script: Any, kills: set[int], of_segment: bool
) -> None:
    walk = members_of("s") if of_segment else CONTACTS
    sandbox = Scripted({f"{walk.path}{bookmark}": [*script[bookmark]] for bookmark in script})
    read(walk, DirectClient(sandbox, KEY, set(), most=3 * 1100 * 12), kills)
