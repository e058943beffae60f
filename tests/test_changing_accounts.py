"""Accounts that change between responses: nothing is lost, and in doubt nothing is deleted.

The accounts are small and scripted, with two contacts per page and exact totals. Each once made the
tap lose rows, delete existing rows, or hang.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.protocol import progress
from tap_autopilot.run import sync
from tests import in_process
from tests.changing_sandbox import ChangingSandbox
from tests.invariants import Run
from tests.scripted import Scripted, page, paths
from tests.soak import churn


def changing(changes: dict[int, list[str]], **options: Any) -> ChangingSandbox:
    """An account that loses and gains contacts, such as "-a" and "+d1", before responses."""
    steps = {
        number: [("delete" if one[0] == "-" else "create", one[1:]) for one in some]
        for number, some in changes.items()
    }
    return ChangingSandbox(options.pop("contacts", "abcdefghij"), changes=steps, **options)


def read(answers: dict[str, Any], **settings: Any) -> Run:
    return in_process.run(Scripted(answers), **settings)


def ids(run: Run) -> list[str]:
    return [row["contact_id"] for row in run.rows("contacts")]


def activated(run: Run, stream: str = "contacts") -> bool:
    return bool(run.of("ACTIVATE_VERSION", stream))


EVERY = [(style, stale) for style in ("next", "last") for stale in ("on", "empty", "404", "first")]


@pytest.mark.parametrize(("style", "stale"), EVERY)
@pytest.mark.parametrize(
    "changes",
    [
        {2: ["+a1"]},
        {2: ["-a"]},
        {2: ["+d1"]},
        {2: ["-e"]},
        {2: ["-c"]},
        {2: ["-b"]},
        {2: ["-b", "-c"]},
        {3: ["-c", "-d", "-e"]},
        {2: ["-b"], 3: ["-c"], 4: ["-d"], 5: ["-e"]},
        {2: ["+a1", "-f"]},
        {2: ["-a", "-b", "+c1", "+c2"], 4: ["-e"], 5: ["-d"]},
    ],
    ids=str,
)
def test_what_exists_throughout_is_read_and_churn_raises_no_doubt(
    changes: dict[int, list[str]], style: str, stale: str
) -> None:
    sandbox = changing(changes, style=style, stale=stale)
    run = in_process.run(sandbox)
    assert run.code == 0, run.stderr
    assert set(ids(run)) >= set("abcdefghij") & set(sandbox.account.contact_ids)
    assert activated(run), run.stderr


def test_passes_with_a_lost_page_claim_nothing_false(tmp_path: Path) -> None:
    """The real command, in three of the passes of `make soak`."""
    figures, _ = churn.play(Namespace(passes=1, lost=2, seed=1), tmp_path)
    assert "; 2 passes with a lost page: 0 activated an affected table" in figures
    assert figures.endswith("; 0 false claims")


def test_a_matching_count_does_not_make_an_empty_page_the_end() -> None:
    """As many contacts were read as the total says, but f is still to come."""
    changes = {2: ["-a", "-b", "+c1", "+c2"], 4: ["-e"]}
    run = in_process.run(changing(changes, contacts="abcdef", style="next", stale="empty"))
    assert run.code == 0
    assert ids(run) == ["a", "b", "c", "c1", "c2", "d", "f"]
    assert activated(run)


def test_a_large_shortage_fails_the_run() -> None:
    sandbox = Scripted({"/contacts": page("a", total=1000)})
    run = in_process.run(sandbox)
    again = in_process.run(sandbox, state=run.state)
    for one in (run, again):
        assert one.code == 1
        assert "got only 1 of the 1,000 contacts" in one.last_words
        assert not activated(one)
        assert len(paths(one, "/contacts")) == 2


def test_a_small_shortage_is_reported_with_both_numbers() -> None:
    sandbox = Scripted({"/contacts": page(*map(str, range(100, 198)), total=99)})
    run = in_process.run(sandbox)
    off = in_process.run(sandbox, check_totals=False)
    assert (run.code, activated(run)) == (0, False)
    (line,) = [line for line in run.log if line.startswith("WARNING contacts, lists_contacts")]
    assert "read 98 of the 99 contacts that the API reported; deleted rows are kept" in line
    assert (off.code, activated(off)) == (0, True)
    assert len(paths(off, "/contacts")) == 1


SEGMENTS = {"segments": [{"segment_id": one} for one in ("s1", "s2", "s3")]}


@pytest.mark.parametrize(
    ("stream", "answers"),
    [
        ("contacts", {"/contacts": [page("a", total=2), page(total=0)]}),
        (
            "lists",
            {
                "/lists": [{"lists": [{"list_id": "l"}], "bookmark": "x"}, {"lists": []}],
                "/lists/x": (404, {}),
            },
        ),
        (
            "smart_segments_contacts",
            {
                "/smart_segments": {"segments": SEGMENTS["segments"][:1]},
                "/smart_segments/s1/contacts": [page("a", total=2), page(total=0)],
            },
        ),
    ],
)
def test_a_listing_that_is_empty_when_it_is_read_again_deletes_nothing(
    stream: str, answers: dict[str, Any]
) -> None:
    run = read(answers)
    assert (run.code, len(run.rows(stream))) == (0, 1)
    assert not activated(run, stream)
    assert any(stream in line and "at all; deleted rows are kept" in line for line in run.log)


def test_segments_that_are_gone_when_the_next_run_lists_them_stay_in_the_target() -> None:
    """The next run lists them from the start, since their members are not complete either."""
    begun: dict[str, Any] = {"segments": SEGMENTS["segments"], "bookmark": "x"}
    sandbox = Scripted(
        {
            "/smart_segments": [begun, {"segments": []}],
            "/smart_segments/x": [(500, {})] * 5 + [{"segments": []}],
        }
    )
    run = in_process.run(sandbox)
    again = in_process.run(sandbox, state=run.state)
    assert (run.code, len(run.rows("smart_segments")), again.code) == (1, 3, 0)
    assert not activated(again, "smart_segments")


@pytest.mark.parametrize(
    "settings", [{"start_date": "2016-01-01"}, {"emit_activate_version_messages": False}]
)
@pytest.mark.parametrize("with_digests", [True, False])
def test_a_doubt_withholds_only_what_the_settings_ask_for(
    tmp_path: Path, settings: dict[str, Any], *, with_digests: bool
) -> None:
    digests = {"digests": str(tmp_path / "digests")} if with_digests else {}
    run = read({"/contacts": page(*map(str, range(100, 198)), total=99)}, **digests, **settings)
    (line,) = [one for one in run.log if one.startswith("WARNING contacts")]
    assert "read 98 of the 99 contacts that the API reported" in line
    deletes = with_digests and "start_date" not in settings
    assert ("; deleted rows are kept this time" in line) is deletes


def test_the_listing_is_complete_even_if_all_listed_segments_are_gone() -> None:
    answers: dict[str, Any] = {"s1": (404, {}), "s2": (404, {}), "s3": (500, {})}
    answers = {f"/smart_segments/{one}/contacts": answer for one, answer in answers.items()}
    listed = {"segments": SEGMENTS["segments"][:2]}
    sandbox = Scripted({"/smart_segments": [SEGMENTS, listed], **answers})
    first = in_process.run(sandbox)
    run = in_process.run(sandbox, state=first.state)
    assert run.last_words == (
        "CRITICAL Not complete: smart_segments_contacts (smart_segments_contacts: all 2 segments"
        " returned 404)."
    )
    assert activated(run, "smart_segments")
    assert not activated(run, "smart_segments_contacts")
    assert "INFO smart_segments: 2 rows." in run.log


@pytest.mark.parametrize("status", [404, 403])
def test_an_answer_ends_a_row_of_failed_segments(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(sync, "MAX_FAILED_SEGMENTS", 2)
    failed: Any = (500, {})
    answers = [failed, (status, {}), failed, page("a", total=1), failed, failed, page()]
    listed = [{"segment_id": str(number), "title": "x"} for number in range(len(answers))]
    members = {f"/smart_segments/{number}/contacts": one for number, one in enumerate(answers)}
    run = in_process.run(Scripted({"/smart_segments": {"segments": listed}, **members}))
    assert len(run.rows("smart_segments_contacts")) == 1
    assert "ERROR 2 segments in a row failed; leaving the rest for the next run." in run.log
    assert not paths(run, "/smart_segments/6")


def test_a_segment_deleted_while_it_is_read_fails_only_this_run() -> None:
    answers: dict[str, Any] = {
        f"/smart_segments/{one}/contacts": page("a", total=1) for one in ("s1", "s3")
    }
    gone: list[Any] = [page("a", "b", bookmark="x", total=4), (404, {})]
    answers |= {"/smart_segments/s2/contacts": gone, "/smart_segments/s2/contacts/x": (404, {})}
    sandbox = Scripted({"/smart_segments": SEGMENTS, **answers})
    run = in_process.run(sandbox)
    again = in_process.run(sandbox, state=run.state)
    assert run.code == 1
    assert "was deleted while it was being read" in run.last_words
    assert not activated(run, "smart_segments_contacts")
    assert again.code == 0
    assert activated(again, "smart_segments_contacts")


def test_several_readings_together_have_no_more_segments_than_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each reading may be of other segments, and all of their ids are kept."""
    monkeypatch.setattr(progress, "MAX_SEGMENTS", 3)
    begun, other = ({"segments": [{"segment_id": one} for one in two]} for two in ("ab", "cd"))
    answers: dict[str, Any] = {"/smart_segments": [{**begun, "bookmark": "x"}, (400, {}), other]}
    sandbox = Scripted({**answers, "/smart_segments/x": (400, {})})
    run = in_process.run(sandbox)
    assert "smart_segments_contacts (GET /smart_segments: more than 3 smart s" in run.last_words
    assert not paths(run, "/smart_segments/a") + paths(run, "/smart_segments/d")
    assert activated(run, "smart_segments")


# Documents that are no rows, and versions


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
    assert any("some documents were skipped; deleted rows are kept" in line for line in run.log)


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
