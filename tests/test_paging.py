"""Misleading bookmarks and malformed documents."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tap_autopilot.api.client import Api, Client
from tap_autopilot.config import Config
from tap_autopilot.sandbox.account import Account
from tap_autopilot.sources.listings import CONTACTS, Position
from tap_autopilot.sources.reading import MAX_KNOWN_PAGES, pages
from tests import in_process
from tests.conftest import KEY, Serve
from tests.invariants import Run
from tests.scripted import Scripted, page, paths


def read(answers: dict[str, Any], **settings: Any) -> Run:
    return in_process.run(Scripted(answers), **settings)


def ids(run: Run) -> list[str]:
    return [row["contact_id"] for row in run.rows("contacts")]


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_loop_of_bookmarks_is_an_error(length: int) -> None:
    answers = {"/contacts": page("start", bookmark="0")}
    for number in range(length):
        answers[f"/contacts/{number}"] = page(number, bookmark=str((number + 1) % length))
    run = read(answers)
    assert run.code == 1
    assert "leads to documents already read, 3 times" in run.last_words
    assert len(paths(run, "/contacts")) <= 3 * (4 * length + 4)


@pytest.mark.parametrize("known", [1, 4, MAX_KNOWN_PAGES])
def test_known_pages_that_lead_on_are_followed(known: int) -> None:
    """As for a listing that has moved, or that repeats a whole page, the same way each time."""
    answers = {"/contacts": page("a", "b", bookmark="0", total=6)}
    answers["/contacts/0"] = page("c", "d", bookmark="1", total=6)
    for number in range(1, known + 1):
        answers[f"/contacts/{number}"] = page("a", "b", bookmark=str(number + 1), total=6)
    answers[f"/contacts/{known + 1}"] = page("e", "f", total=6)
    run = read(answers, check_totals=known < 5)
    assert run.code == 0, run.stderr
    assert set(ids(run)) == set("abcdef")
    assert len(run.of("ACTIVATE_VERSION", "contacts")) == 1
    assert paths(run, "/contacts/")[-2:] == [f"/contacts/{known}", f"/contacts/{known + 1}"]


def test_a_run_interrupted_among_known_pages_resumes() -> None:
    answers: dict[str, Any] = {
        "/contacts": page("a", "b", bookmark="0", total=4),
        "/contacts/0": page("a", "b", bookmark="1", total=4),
        "/contacts/1": (405, {}),
    }
    first = read(answers)
    assert first.code == 1
    answers["/contacts/1"] = page("c", "d", total=4)
    rest = in_process.run(Scripted(answers), state=first.state)
    assert (rest.code, ids(rest)) == (0, ["c", "d"]), rest.stderr
    assert len(rest.of("ACTIVATE_VERSION", "contacts")) == 1


def test_a_known_page_that_leads_elsewhere_each_time_is_not_followed() -> None:
    answers = {
        "/contacts": page("a", bookmark="0"),
        "/contacts/0": [page("a", bookmark=str(number)) for number in range(1, 50)],
    }
    run = read(answers)
    assert run.code == 1
    assert "leads to documents already read, 3 times" in run.last_words
    assert set(paths(run, "/contacts")) == {"/contacts", "/contacts/0"}


def test_a_negative_total_is_ignored() -> None:
    answers: dict[str, Any] = {
        "/contacts": page("a", bookmark="0", total=-1),
        "/contacts/0": (405, {}),
    }
    first = read(answers)
    answers["/contacts/0"] = page("b", total=-1)
    rest = in_process.run(Scripted(answers), state=first.state)
    assert (rest.code, ids(rest)) == (0, ["b"]), "it resumes"
    assert any("gave no total to compare with" in line for line in rest.log)


def test_new_bookmarks_for_the_same_contact_are_an_error() -> None:
    answers: dict[str, Any] = {"/contacts": page("a", bookmark="0", total=1)}
    answers |= {f"/contacts/{n}": page("a", bookmark=str(n + 1), total=1) for n in range(500)}
    run = read(answers)
    assert run.code == 1
    assert "leads to documents already read, 3 times" in run.last_words
    assert len(paths(run, "/contacts")) <= 3 * 3 * (MAX_KNOWN_PAGES + 2)


def test_a_repeated_contact_that_has_changed_is_sent_again() -> None:
    changed = {"contact_id": "b", "Name": "new"}
    second = {"contacts": [changed], "total_contacts": 2}
    run = read({"/contacts": page("a", "b", bookmark="b"), "/contacts/b": second})
    assert ids(run) == ["a", "b", "b"]
    assert run.rows("contacts")[-1]["name"] == "new"


@pytest.mark.parametrize("listing", ["contacts", "lists", "segments"])
def test_unusable_documents_are_skipped_and_counted(listing: str) -> None:
    key = {"contacts": "contact_id", "lists": "list_id", "segments": "segment_id"}[listing]
    stream = {"segments": "smart_segments"}.get(listing, listing)
    documents: list[Any] = [
        None,
        "x",
        {key: "a"},
        {key: ""},
        {},
        {key: None},
        5,
        [],
        {key: {}},
        {key: 7},
    ]
    total = {"total_contacts": len(documents)} if listing == "contacts" else {}
    members = {f"/smart_segments/{one}/contacts": page("c", total=1) for one in ("a", "7")}
    run = read({f"/{stream}": {listing: documents, **total}, **members})
    assert run.code == 0
    assert [row[key] for row in run.rows(stream)] == ["a", "7"]
    assert any(f"{stream}: 2 rows, 8 documents skipped" in line for line in run.log)
    assert not run.of("ACTIVATE_VERSION", stream)
    assert any("8 documents were skipped; deleted rows are kept" in line for line in run.log)


def test_unusable_members_are_skipped_and_counted() -> None:
    members = {"contacts": [None, {"contact_id": "a"}, {"contact_id": ""}, {}, {"contact_id": 7}]}
    segments = {"segments": [{"segment_id": "s"}, {"segment_id": "s"}, {"segment_id": 8}, {}]}
    answers = {"/smart_segments": segments, "/smart_segments/s/contacts": members}
    run = read({**answers, "/smart_segments/8/contacts": members})
    assert run.code == 0
    assert sorted(tuple(row.values()) for row in run.rows("smart_segments_contacts")) == [
        (segment, contact) for segment in ("8", "s") for contact in ("7", "a")
    ]
    assert not run.of("ACTIVATE_VERSION", "smart_segments_contacts")


def test_a_short_listing_of_segments_puts_their_members_in_doubt() -> None:
    answers = {"/smart_segments": {"segments": [{"SegmentId": "s"}], "total_contacts": 2}}
    run = read({**answers, "/smart_segments/s/contacts": page("a", total=1)})
    assert run.rows("smart_segments_contacts") == [{"segment_id": "s", "contact_id": "a"}]
    assert {one["stream"] for one in run.of("ACTIVATE_VERSION")} == {"custom_fields"}
    warnings = [line for line in run.log if "read 1 of the 2 segments" in line]
    assert [line.split(":")[0] for line in warnings] == [
        "WARNING smart_segments",
        "WARNING smart_segments_contacts",
    ]


def test_records_carry_the_version_that_is_activated() -> None:
    run = read({"/contacts": page("a", "b", total=2)})
    (activation,) = run.of("ACTIVATE_VERSION", "contacts")
    assert {one["version"] for one in run.of("RECORD", "contacts")} == {activation["version"]}
    order = [one["type"] for one in run.messages if one.get("stream", "contacts") == "contacts"]
    assert order.index("ACTIVATE_VERSION") > len(order) - order[::-1].index("RECORD") - 1
    run = read({"/contacts": page("a")}, emit_activate_version_messages=False)
    assert not run.of("ACTIVATE_VERSION")
    assert "version" not in run.of("RECORD")[0]


def test_walks_leave_documents_unread(serve: Serve) -> None:
    """The next request can go out before they are decoded."""
    account = Account(contacts=250, odd=False)
    sandbox = serve(account)
    config = Config.from_mapping({"api_key": KEY, "api_url": sandbox.url})
    walked = list(pages(CONTACTS, Position(), Client(Api(config)), check_totals=True))
    assert [len(one.unread) for one in walked] == [100, 100, 50]
    assert {type(document) for one in walked for document in one.unread} == {msgspec.Raw}
    found = [document["contact_id"] for one in walked for document in one.documents]
    assert found == account.contact_ids
