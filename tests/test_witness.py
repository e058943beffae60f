"""The invariants catch a tap that drops rows, invents them, or hides a shortage.

The runs are made up: the requests to the sandbox are real, but each test writes the tap's output.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from argparse import Namespace
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.sandbox.account import CONTACTS
from tap_autopilot.sandbox.documents import iso
from tests.changing_sandbox import ChangingSandbox
from tests.conftest import KEY
from tests.invariants import Run, check_together
from tests.recording import Sandbox
from tests.scripted import Scripted, page
from tests.soak import churn
from tests.witness import check_bookmarks, check_complete, check_served, check_tombstones

MEMBERS = "smart_segments_contacts"
STREAMS: dict[str, list[str]] = {
    "contacts": ["contact_id"],
    "lists": ["list_id"],
    "lists_contacts": ["list_id", "contact_id"],
    "smart_segments": ["segment_id"],
    MEMBERS: ["segment_id", "contact_id"],
    "email_opened": ["id"],
}


LIVING = {"changes": {2: [("create", "a1"), ("delete", "f")], 3: [("delete", "b")]}}
GONE = {
    "segments": {"s": "ab", "t": "c"},
    "changes": {("/smart_segments/t/contacts", 1): [("delete_segment", "t")]},
}
MOVING = {
    "lists": {"l": "abc", "m": ""},
    "changes": {2: [("change", "d", {"lists": ["m"]}), ("change", "c", {"lists": ["m"]})]},
}
LOSSY: dict[str, Any] = {"contacts": "abcdefgh", "lose": "contacts@2"}
SHORT: dict[str, Any] = {"contacts": "abcdefgh", "end_early": True}
READ = "WARNING contacts: read {} of the 8 contacts the API reported\n"


def read(sandbox: Sandbox, *paths: str) -> None:
    """Read listings page by page, as a tap does."""
    for path in paths or (CONTACTS,):
        bookmark: str | None = ""
        while bookmark is not None:
            more = "/" + urllib.parse.quote(bookmark, safe="") if bookmark else ""
            answer = sandbox.respond("GET", f"/v1{path}{more}", {"autopilotapikey": KEY})
            answer.delivered = True
            bookmark = json.loads(answer.body).get("bookmark")


def run_of(
    sandbox: Sandbox,
    stream: str,
    rows: Iterable[Any],
    *,
    activates: bool = False,
    bookmark: str | None = None,
    code: int = 0,
    log: str = "",
    since: int = 0,
    given: Any = None,
    **settings: Any,
) -> Run:
    """A run that wrote these rows of one stream. A row is written as its key, a letter per part."""
    keys = STREAMS[stream]
    records = [dict(zip(keys, [row] if len(keys) == 1 else row, strict=True)) for row in rows]
    schema: dict[str, Any] = {"type": "SCHEMA", "stream": stream}
    messages: list[dict[str, Any]] = [schema]
    messages += [
        {"type": "RECORD", "stream": stream, "record": row, "version": 7} for row in records
    ]
    if activates:
        messages.append({"type": "ACTIVATE_VERSION", "stream": stream, "version": 7})
    value: dict[str, Any] = {"bookmarks": {stream: {"progress": None}}}
    if bookmark:
        schema["bookmark_properties"] = ["updated_at"]
        value["bookmarks"][stream]["updated_at"] = bookmark
    messages.append({"type": "STATE", "value": value})
    run = Run(code, "".join(json.dumps(one) + "\n" for one in messages).encode(), log)
    run.watch(sandbox, since, given, settings)
    return run


def judge(run: Run) -> None:
    check_served(run)
    check_complete([run])
    check_bookmarks([run])


@pytest.mark.parametrize(
    ("account", "stream", "rows", "how", "why"),
    [
        # an account that changes
        (LIVING, "contacts", "abcde", {"activates": True}, None),
        (LIVING, "contacts", "abcdeg", {}, "never served: 1, such as .*'g'"),
        (LIVING, "contacts", "abde", {}, "served, but not a row: 1, such as .*'c'"),
        (LIVING, "contacts", "abde", {"start_date": "2016-01-01"}, None),
        (LIVING, "contacts", "ab", {"code": 1}, None),
        # members of segments, one of which is gone
        (GONE, MEMBERS, ["sa", "sb"], {"activates": True}, None),
        (GONE, MEMBERS, ["sa"], {"activates": True}, "served, but not a row"),
        (GONE, MEMBERS, ["sa", "sb", "ta"], {}, "never served"),
        # members of lists: those that stayed
        (MOVING, "lists_contacts", ["la", "lb"], {"activates": True}, None),
        (MOVING, "lists_contacts", ["la"], {"activates": True}, "1 of 2 missing"),
        (MOVING, "lists_contacts", ["lz"], {}, "never served"),
        # a lost page
        (LOSSY, "contacts", "abefgh", {}, "2 of 8 missing at exit 0, without a warning"),
        (LOSSY, "contacts", "abefgh", {"log": "WARNING is vague\n"}, "no warning has the numbers"),
        (LOSSY, "contacts", "abefgh", {"log": READ.format(3)}, "no warning has the numbers"),
        (LOSSY, "contacts", "abefgh", {"log": READ.format(6)}, None),
        (LOSSY, "contacts", "abefgh", {"log": READ.format(6), "activates": True}, "ACTIVATE_VERSION"),
        (LOSSY, "contacts", "abefgh", {"log": READ.format(6), "bookmark": "2016-01-01T00:00:00Z"},
         "and its bookmark moved"),
        (LOSSY, "contacts", "abefgh", {"activates": True, "check_totals": False}, None),
        (LOSSY, "email_opened", "", {"log": READ.format(6), "activates": True}, "would delete"),
        # a large shortage
        (SHORT, "contacts", "abcd", {"log": READ.format(4)}, "too much for exit 0"),
        (SHORT, "contacts", "abcd", {"log": READ.format(4), "code": 1}, None),
    ],
)  # fmt: skip
def test_a_run_that_is_judged(
    account: dict[str, Any], stream: str, rows: Iterable[Any], how: dict[str, Any], why: str | None
) -> None:
    sandbox = ChangingSandbox(**account)
    segments = [f"/smart_segments/{one}/contacts" for one in account.get("segments", ())]
    read(sandbox, CONTACTS, "/smart_segments", *segments)
    run = run_of(sandbox, stream, rows, **how)
    if why is None:
        judge(run)
    else:
        with pytest.raises(AssertionError, match=why):
            judge(run)


def test_responses_that_did_not_arrive_need_no_rows() -> None:
    sandbox = ChangingSandbox("abcd")
    read(sandbox)
    sandbox.served[0].response.delivered = False
    sandbox.served[1].fault = "cut"
    check_served(run_of(sandbox, "contacts", ""))


@pytest.mark.parametrize("skew", [0, -7200, 7200])
def test_a_bookmark_is_no_later_than_the_start_on_the_apis_clock(skew: float) -> None:
    sandbox = ChangingSandbox(clock_skew=skew)
    read(sandbox)
    began = sandbox.requests[0].clock
    for late in (0.001, 3600):
        bookmark = iso(began + timedelta(seconds=late))
        with pytest.raises(AssertionError, match="after the start"):
            judge(run_of(sandbox, "contacts", "abcdef", bookmark=bookmark))
        given = {"bookmarks": {"contacts": {"updated_at": bookmark}}}
        judge(run_of(sandbox, "contacts", "abcdef", bookmark=bookmark, given=given))
    judge(run_of(sandbox, "contacts", "abcdef", bookmark=iso(began)))


def test_runs_that_are_one_pass() -> None:
    sandbox = ChangingSandbox(changes={4: [("create", "b1"), ("delete", "e")]})
    read(sandbox)
    asked = len(sandbox.requests)
    first = run_of(sandbox, "contacts", "abcd", code=1)
    read(sandbox)

    def rest(rows: str, **more: Any) -> Run:
        more = {"given": first.state, "activates": True, **more}
        return run_of(sandbox, "contacts", rows, since=asked, **more)

    check_together([first, rest("cdf")])
    check_together([first, rest("f")])
    with pytest.raises(AssertionError, match="1 of 5 missing"):
        check_together([first, rest("", activates=False)])
    with pytest.raises(AssertionError, match="would delete"):
        check_together([first, rest("", code=1)])
    schema, *rows, state = first.stdout.splitlines(keepends=True)
    killed = Run(-9, b"".join([schema, *rows[:2], state, *rows[2:]]), "", killed=True)
    killed.watch(sandbox, 0)
    check_together([killed, rest("cdf")])
    with pytest.raises(AssertionError, match="2 of 5 missing"):
        check_together([killed, rest("f", activates=False)])


def test_a_script_is_judged_by_what_it_served() -> None:
    sandbox = Scripted({"/contacts": page("a", None, "b\0", total=9)})
    read(sandbox)
    (served,) = sandbox.served
    assert (served.ids, served.nameless, served.total) == (("a", "b\0"), 1, 9)
    judge(run_of(sandbox, "contacts", "ab"))


def test_the_harness_counts_passes(tmp_path: Path) -> None:
    figures, _ = churn.play(Namespace(passes=1, lost=2, seed=1), tmp_path)
    assert re.match(r"1 passes over changing accounts: [01] sent every ACTIVATE_VERSION", figures)
    assert "2 passes with a lost page: 0 activated an affected table" in figures


def test_a_tombstone_for_an_existing_row_is_caught() -> None:
    sandbox = ChangingSandbox(changes={2: [("delete", "a")]})
    read(sandbox)

    def judge_tombstone(contact_id: str, *, given: Any = None, **more: Any) -> None:
        row = {"contact_id": contact_id, "_sdc_deleted_at": "2026-01-01T00:00:00Z", **more}
        schema = {"type": "SCHEMA", "stream": "contacts", "key_properties": ["contact_id"]}
        record = {"type": "RECORD", "stream": "contacts", "record": row}
        lines = [json.dumps(one) + "\n" for one in (schema, record)]
        run = Run(0, "".join(lines).encode(), "")
        run.watch(sandbox, 0, given, {"digests": "file"})
        check_tombstones(run)

    judge_tombstone("a")
    with pytest.raises(AssertionError, match="tombstones for existing rows"):
        judge_tombstone("b")
    judge_tombstone("b", given={"bookmarks": {"contacts": {"progress": ["reading", {}]}}})
    with pytest.raises(AssertionError, match="a tombstone with"):
        judge_tombstone("a", name="A")
