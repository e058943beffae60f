"""The sandbox's account changes: what happens, what is served meanwhile, and what is recorded."""

from __future__ import annotations

import email.utils
import json
import time
import urllib.parse
from typing import Any

import requests

from tap_autopilot.sandbox.account import CONTACTS, LISTS, SEGMENTS, Account, members_of_segment
from tests.changing_sandbox import ChangingSandbox
from tests.conftest import KEY, PATIENCE, Serve
from tests.lying_pager import Options
from tests.recording import Sandbox, existed_throughout

HEADERS = {"autopilotapikey": KEY}


def ask(sandbox: Sandbox, path: str, bookmark: str | None = None) -> Any:
    """A response, without a network in between; None if it is not a 200."""
    if bookmark is not None:
        path += "/" + urllib.parse.quote(bookmark, safe="")
    answer = sandbox.respond("GET", f"/v1{path}", HEADERS)
    return json.loads(answer.body) if answer.status == 200 else None


def walk(sandbox: Sandbox, path: str = CONTACTS) -> list[Any]:
    """All pages of a listing, or those before a refused bookmark."""
    pages = [ask(sandbox, path)]
    while pages[-1] and "bookmark" in pages[-1] and len(pages) < 100:
        pages.append(ask(sandbox, path, pages[-1]["bookmark"]))
    return pages


def ids(pages: list[Any]) -> list[str]:
    return [one["contact_id"] for page in pages if page for one in page["contacts"]]


def living(churn: float, seed: int = 1, **options: Any) -> Sandbox:
    account = Account(contacts=400, members=100)
    chosen = {"page": 20, "churn": churn, "seed": seed, **options}
    return Sandbox(account, Options(**chosen))


def test_the_same_seed_and_requests_change_the_same_things() -> None:
    first, same, other = living(2), living(2), living(2, seed=2)
    for sandbox in (first, same, other):
        walk(sandbox)
        walk(sandbox, members_of_segment(sandbox.account.segments[0]["segment_id"]))
    assert first.account.log == same.account.log
    assert first.account.contact_ids == same.account.contact_ids
    assert first.account.log != other.account.log


def test_everything_happens_and_the_log_adds_up() -> None:
    sandbox = living(20)
    account = sandbox.account
    before = {listing: set(account.ids(listing) or ()) for listing in (CONTACTS, LISTS, SEGMENTS)}
    for _ in range(10):
        walk(sandbox)
    happened = {(change.what, change.listing.count("/")) for change in account.log}
    assert happened >= {(what, 1) for what in ("created", "changed", "deleted")}
    assert happened >= {(what, 3) for what in ("created", "deleted")}
    for what in ("created", "changed", "deleted"):
        for listing in (CONTACTS, LISTS, SEGMENTS):
            assert any(one.what == what and one.listing == listing for one in account.log)
    for listing, there in before.items():
        assert existed_throughout(account, listing, 0, 0) == there
        assert existed_throughout(account, listing) <= there


def test_members_are_sorted_contacts_and_lists_match_the_contacts() -> None:
    sandbox = living(50)
    account = sandbox.account
    walk(sandbox)
    assert account.contact_ids == sorted(set(account.contact_ids))
    for segment in account.segments:
        members = account.segment_members(segment["segment_id"])
        assert members == sorted(set(members or ()) & set(account.contact_ids))
    named: dict[str, list[str]] = {}
    for contact_id in account.contact_ids:
        for list_id in account.contact(contact_id).get("lists") or ():
            named.setdefault(list_id, []).append(contact_id)
    assert {one["list_id"] for one in account.lists} >= named.keys()
    for one in account.lists:
        assert account.list_members(one["list_id"]) == named.get(one["list_id"], [])


def test_the_record_has_what_was_served_and_what_existed() -> None:
    sandbox = ChangingSandbox(
        "abcd",
        segments={"s": "abc"},
        lists={"l": "a"},
        changes={2: [("delete", "a"), ("create", "c1")], 3: [("leave", "s", "b")]},
    )
    walk(sandbox)
    ask(sandbox, "/smart_segments/s/contacts")
    ask(sandbox, "/lists")
    first, second, third, members, lists = sandbox.served
    assert (first.listing, first.ids, first.total, first.bookmark) == (CONTACTS, ("a", "b"), 4, "b")
    assert (second.ids, second.asked, second.request) == (("c", "c1"), "b", 1)
    assert (third.ids, third.bookmark) == (("d",), None)
    assert (members.listing, members.ids) == ("/smart_segments/s/contacts", ("c",))
    assert (lists.ids, lists.total) == (("l",), None)
    assert sandbox.existed_throughout(CONTACTS) == set("bcd")
    assert sandbox.existed_throughout(CONTACTS, 0, 1) == set("abcd")
    assert sandbox.existed_throughout(CONTACTS, 1) == {*"bcd", "c1"}
    assert sandbox.existed_throughout("/smart_segments/s/contacts", 0, 2) == set("bc")
    assert sandbox.existed_throughout("/list/l/contacts") == set()


def test_a_deleted_list_or_segment_takes_its_members_with_it() -> None:
    steps = [("delete_list", "l"), ("delete_segment", "s")]
    sandbox = ChangingSandbox("ab", segments={"s": "a", "t": ""}, lists={"l": "ab", "m": "b"}, changes={1: steps})  # fmt: skip
    assert ask(sandbox, "/list/l/contacts")
    contacts = ask(sandbox, CONTACTS)["contacts"]
    assert [one["lists"] for one in contacts] == [[], ["m"]]
    assert ask(sandbox, "/list/l/contacts") is None
    assert ask(sandbox, "/smart_segments/s/contacts") is None
    assert sandbox.existed_throughout("/list/l/contacts", 0, 1) == set("ab")
    assert sandbox.existed_throughout("/smart_segments/s/contacts", 0, 1) == {"a"}
    assert sandbox.existed_throughout("/smart_segments/s/contacts") == set()


def test_responses_have_a_date(serve: Serve) -> None:
    for skew in (0, -86_400):
        answer = requests.get(f"{serve(clock_skew=skew).url}/lists", timeout=PATIENCE)
        date = email.utils.parsedate_to_datetime(answer.headers["Date"])
        assert abs(date.timestamp() - time.time() - skew) < 60
    assert "Date" not in requests.get(f"{serve(date=False).url}/lists", timeout=PATIENCE).headers
