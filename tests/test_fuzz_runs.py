"""Whole passes over several runs: nothing is silently lost, whatever the input.

The account changes, responses fail, runs are killed, and states, catalogs and settings are damaged.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tap_autopilot.config import Config
from tap_autopilot.exceptions import UserError
from tap_autopilot.protocol.catalog import discover
from tap_autopilot.sandbox.options import BOOKMARKS, STALE
from tests import in_process
from tests.changing_sandbox import ChangingSandbox
from tests.invariants import Run, check_together
from tests.lying_pager import KEY
from tests.test_fuzz_paging import CHANGES, NUMBERS, careful

FEWER = settings(max_examples=settings().max_examples // 2)
LETTERS = "abcdefgh"
CATALOG = discover()
TABLES = ("contacts", "lists", "smart_segments", "smart_segments_contacts", "lists_contacts")
CONTACTS, MEMBERS = "/contacts", "/smart_segments/s/contacts"


def account(draw: Any, changes: Any = None) -> ChangingSandbox:
    """A small account on some kind of server."""
    there = LETTERS[: draw(st.integers(0, len(LETTERS)))]
    style = draw(st.sampled_from(sorted(BOOKMARKS)))
    return ChangingSandbox(
        there,
        page_size=draw(st.integers(2 if style == "repeat" else 1, 4)),
        style=style,
        stale=draw(st.sampled_from(sorted(STALE))),
        lists={"l": "ace", "m": "b"},
        segments={"s": there[:3], "t": "", "u": there[3:]},
        changes=changes,
    )


def incremental(draw: Any) -> Any:
    """A catalog of some streams, some of them INCREMENTAL."""
    names = draw(st.sets(st.sampled_from([*TABLES, "email_opened"]), min_size=1))
    streams = []
    for name in sorted(names):
        method = draw(st.sampled_from(["FULL_TABLE", "INCREMENTAL"]))
        metadata = [{"breadcrumb": [], "metadata": {"replication-method": method}}]
        streams.append({"tap_stream_id": name, "metadata": metadata})
    return {"streams": streams}


def chooser(draw: Any) -> Callable[[int], int]:
    """A function that picks the walk to read next."""
    ways = iter(draw(st.lists(st.integers(0, 11), max_size=30)))
    return lambda number: next(ways, 0) % number


@FEWER
@given(st.data())
def test_a_pass_over_many_runs_loses_nothing_silently(data: st.DataObject) -> None:
    draw = data.draw
    of_contacts, of_members = draw(CHANGES), draw(CHANGES)
    changes = careful(of_contacts, CONTACTS) | careful(of_members, MEMBERS)
    sandbox = account(draw, changes)
    catalog = incremental(draw)
    failing = draw(NUMBERS)
    runs: list[Run] = []
    for kill_after in [*draw(st.lists(st.integers(1, 6), max_size=4)), *[-1] * 6]:
        state = runs[-1].state if runs else None
        runs.append(
            in_process.run(
                sandbox, catalog=catalog, state=state, choose=chooser(draw),
                kill_after=kill_after, failing=failing,
            )
        )  # fmt: skip
        if not runs[-1].killed and runs[-1].code == 0:
            break
    check_together(runs)


JUNK: list[Any] = [
    None, True, 0, -1, 5, 2**70, 1.5, "", "x", "\ud800", [], [1], ["x", None], {}, {"a": 1},
]  # fmt: skip


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a value."""
    yield above
    items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for name, item in items:
        yield from places(item, (*above, name))


def damaged(draw: Any, value: Any, most: int) -> Any:
    """A value with some parts replaced by another type, or removed."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, most))):
        path = draw(st.sampled_from(list(places(value))))
        junk = copy.deepcopy(draw(st.sampled_from(JUNK)))
        if not path:
            value = junk
            continue
        parent = value
        for name in path[:-1]:
            parent = parent[name]
        if isinstance(parent, dict) and draw(st.booleans()):
            del parent[path[-1]]
        elif type(junk) is not type(parent[path[-1]]):
            parent[path[-1]] = junk
    return value


@FEWER
@given(st.data())
def test_a_damaged_state_loses_nothing(data: st.DataObject) -> None:
    draw = data.draw
    sandbox = account(draw)
    assume(sandbox.account.contact_ids)
    first = in_process.run(sandbox, choose=chooser(draw), kill_after=draw(st.integers(1, 9)))
    assume(first.killed)
    state = damaged(draw, first.state, 2)
    rest = in_process.run(sandbox, state=state, choose=chooser(draw))
    whole = in_process.run(sandbox)
    assert rest.code == whole.code == 0
    for stream in whole.selected:
        sent = {json.dumps(row) for one in (first, rest) for row in one.rows(stream)}
        missing = {json.dumps(row) for row in whole.rows(stream)} - sent
        assert not missing, (stream, missing, state, rest.log)


@FEWER
@given(st.data())
def test_a_damaged_catalog_is_an_error_or_works(data: st.DataObject) -> None:
    catalog = damaged(data.draw, CATALOG, 4)
    if data.draw(st.booleans()):
        streams = catalog.get("streams") if isinstance(catalog, dict) else None
        if isinstance(streams, list):
            catalog["streams"] = data.draw(st.lists(st.sampled_from(streams or JUNK), max_size=4))
    sandbox = account(data.draw)
    assert in_process.run(sandbox, catalog=catalog, choose=chooser(data.draw)).code in (0, 2)


VALUES = st.one_of(
    st.sampled_from([*JUNK, "true", "FALSE ", "1e3", "nan", "5.0", KEY, "2024-01-31", "9999-12-31T23:59:59-10:00"]),
    st.text(max_size=12),
    st.sampled_from(
        ["http://localhost", "https://[::1]:5/v1/", "https://a:b@c", "http://[x", "https://é.example",
         "https://x:99999", "https:///x", "http://127.1", "https://" + "a" * 300]
    ),
    st.floats(),
    st.integers(),
)  # fmt: skip
SETTINGS = [*Config.__dataclass_fields__, "unknown"]


@given(st.dictionaries(st.sampled_from(SETTINGS), VALUES))
def test_settings_are_an_error_or_work(raw: dict[str, Any]) -> None:
    try:
        config = Config.from_mapping(raw)
    except UserError as error:
        said = str(error)
    else:
        said = ""
        assert config.api_key == str(raw["api_key"]).strip()
    assert not said or said.startswith("Invalid config: ")
