"""Resuming: from any STATE, a run sends what is missing, and only that."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import threading
import time
from typing import Any

import pytest

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sources.completeness import Census
from tap_autopilot.streams import COLLECTED
from tests import in_process
from tests.conftest import COMMAND, KEY, PATIENCE, Serve, Tap
from tests.conftest import USUAL_STREAMS as ALL
from tests.invariants import Run, check
from tests.lying_pager import Options
from tests.recording import Sandbox
from tests.scripted import Scripted, page

STREAMS = ("contacts", "lists", "smart_segments", "smart_segments_contacts")


NO_STORE = {"collected": None, "collected_from": None, "append_only": False}
NOTHING_LEFT = {
    "bookmarks": {
        name: {"progress": None, **(NO_STORE if COLLECTED in one.sources else {})}
        for name, one in ALL.items()
    },
    "walks": dict.fromkeys((*STREAMS, "custom_fields")),
    "digests": None,
}


def keys(run: Run, stream: str, upto: int | None = None) -> list[tuple[str, ...]]:
    """The keys of a stream's rows in the first messages of a run."""
    schema = run.of("SCHEMA", stream)[0]
    return [
        tuple(message["record"][key] for key in schema["key_properties"])
        for message in run.messages[:upto]
        if message["type"] == "RECORD" and message["stream"] == stream
    ]


@pytest.mark.parametrize(
    ("contacts", "bookmarks", "concurrency"),
    [(50, "last", 8), (40, "next", 1), (21, "repeat", 2), (50, "opaque", 3)],
)
def test_every_state_of_a_run_can_be_resumed(
    tap: Tap, serve: Serve, contacts: int, bookmarks: str, concurrency: int
) -> None:
    account = Account(contacts=contacts, lists=2, segments=4, members=30)
    sandbox = serve(account, bookmarks=bookmarks, page=20)
    whole = tap.sync(sandbox, concurrency=concurrency)
    assert whole.state == NOTHING_LEFT
    for number, message in enumerate(whole.messages[:-1]):
        if message["type"] == "STATE":
            rest = in_process.run(sandbox, state=message["value"])
            assert rest.code == 0
            for stream in STREAMS:
                before, after = keys(whole, stream, number), keys(rest, stream)
                assert set(before + after) == set(keys(whole, stream))
                twice = len(before) + len(after) - len(keys(whole, stream))
                assert twice <= (1 if bookmarks == "repeat" and stream != "lists" else 0) * 5


def test_a_resumed_pass_keeps_its_version_and_activates_it(tap: Tap, serve: Serve) -> None:
    sandbox = serve(Account(contacts=250, segments=0))
    whole = tap.sync(sandbox)
    states = whole.of("STATE")
    half = next(one["value"] for one in states if "person" in str(one["value"]))
    rest = tap.sync(sandbox, state=half)
    (first,), (last,) = (run.of("ACTIVATE_VERSION", "contacts") for run in (whole, rest))
    assert first["version"] == last["version"]
    assert {one["version"] for one in rest.of("RECORD", "contacts")} == {first["version"]}
    assert tap.sync(sandbox).of("ACTIVATE_VERSION")[0]["version"] > first["version"]


def test_streams_that_start_over_for_one_reason_share_a_warning(
    tap: Tap, serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sandbox = serve(Account(contacts=5))
    run = tap.sync(sandbox, api_key="wrong")
    rest = tap.sync(
        sandbox, state=run.state, digests=str(tmp_path_factory.mktemp("other") / "digests")
    )
    (line,) = [line for line in rest.log if "starting over" in line]
    assert line == (
        f"WARNING {', '.join(ALL)}: the state is for other columns or settings; starting over."
    )


def test_doubt_survives_an_interruption(tap: Tap) -> None:
    second = page("b", total=2)
    first = page("a", None, bookmark="x", total=2)
    script = Scripted({"/contacts": first, "/contacts/x": (500, {})})
    with script as sandbox:
        run = tap.sync(sandbox, retry_timeout=0)
        assert run.code == 1
        script.answers["/contacts/x"] = second
        rest = tap.sync(sandbox, state=run.state)
    assert rest.code == 0
    assert not rest.of("ACTIVATE_VERSION", "contacts")
    assert any("documents were skipped" in line for line in rest.log)


def test_rows_sent_without_a_version_are_not_deleted(tap: Tap, serve: Serve) -> None:
    sandbox = serve(Account(contacts=250, segments=0), "/contacts@2-:500")
    run = tap.sync(sandbox, retry_timeout=0, emit_activate_version_messages=False)
    rest = tap.sync(serve(Account(contacts=250, segments=0)), state=run.state)
    assert rest.code == 0
    assert not rest.of("ACTIVATE_VERSION", "contacts")


BEGUN = ["reading", {"plan": "p", "reading": "m"}]
OLD = {
    "bookmarks": {"contacts": {"updated_at": "2017-01-20T00:00:00.000000Z"}},
    "currently_syncing": "lists",
}


@pytest.mark.parametrize(
    "state",
    [
        {},
        None,
        OLD,
        [],
        '"state"',
        {"bookmarks": None},
        {"bookmarks": {"contacts": 5, "lists": None, "deals": {"progress": ["x", 1]}}},
        {"bookmarks": {"contacts": {"progress": 5}, "lists": {"progress": []}}},
        {"bookmarks": {"lists": {"progress": ["complete", {"of a later version": 1}]}}},
        {"bookmarks": {"contacts": {"progress": BEGUN}}, "walks": {"contacts": ["x", []]}},
        {"bookmarks": {"smart_segments_contacts": {"progress": BEGUN}},
         "walks": {"smart_segments_contacts": ["", -1, 0, []]}},
    ],
)  # fmt: skip
def test_an_unusable_state_loses_nothing(state: Any) -> None:
    account = Account(contacts=30, lists=2, segments=3, members=5)
    run = in_process.run(Sandbox(account, Options(api_key=KEY, page=20)), state=state)
    assert run.code == 0
    assert len(run.rows("contacts")) == 30
    assert len(run.rows("lists")) == 2
    assert len(run.rows("smart_segments")) == 3
    assert len(run.rows("smart_segments_contacts")) == 10
    if state not in ({}, None, OLD):
        assert any(line.startswith("WARNING") and "state" in line.lower() for line in run.log)


def test_an_empty_state_file_means_no_state(tap: Tap, serve: Serve) -> None:
    run = tap.sync(serve(Account(contacts=5)), state="")
    assert run.code == 0
    assert len(run.rows("contacts")) == 5
    assert any("is empty; starting from the beginning" in line for line in run.log)


def interrupted(tap: Tap, serve: Serve, account: Account, **options: Any) -> Run:
    """A run that read the lists, but only one page of contacts and of some segments."""
    sandbox = serve(account, "/contacts/:405", "/smart_segments/@3-:405", **options)
    run = tap.sync(sandbox, retry_timeout=0, concurrency=2)
    assert run.code == 1
    return run


@pytest.mark.parametrize("stale", ["on", "404", "first", "empty"])
@pytest.mark.parametrize("bookmarks", ["last", "next", "repeat"])
def test_a_bookmark_that_went_stale_between_runs_loses_nothing(stale: str, bookmarks: str) -> None:
    account = Account(contacts=70, segments=0)
    options = Options(api_key=KEY, bookmarks=bookmarks, stale=stale, page=20)
    run = in_process.run(Sandbox(account, options), kill_after=2)
    named = run.state["walks"]["contacts"][0]
    assert named in account.contact_ids
    account.contact_ids = [one for one in account.contact_ids if one != named]
    rest = in_process.run(Sandbox(account, options), state=run.state)
    assert rest.code == 0, rest.stderr
    sent = {row["contact_id"] for one in (run, rest) for row in one.rows("contacts")}
    assert sent >= set(account.contact_ids)


FED = ("lists_contacts", "email_")  # made from contacts, like `contacts` itself


def test_streams_may_come_and_go_between_runs(tap: Tap, serve: Serve, catalog: Any) -> None:
    account = Account(contacts=250, segments=5, members=120)
    run = interrupted(tap, serve, account)
    sandbox = serve(account)
    catalog["streams"].reverse()
    fewer = {"streams": [one for one in catalog["streams"] if one["stream"] != "contacts"]}
    second = tap.sync(sandbox, state=run.state, catalog=fewer)
    assert second.code == 0
    assert second.state == NOTHING_LEFT
    third = tap.sync(sandbox, state=second.state, catalog=catalog)
    assert len(third.rows("contacts")) == 250
    only = {"streams": [one for one in catalog["streams"] if one["stream"] == "contacts"]}
    first = tap.sync(serve(account, "/contacts/:405"), catalog=only)
    with_lists = [one for one in catalog["streams"] if not one["stream"].startswith(FED)]
    rest = tap.sync(sandbox, state=first.state, catalog={"streams": with_lists})
    assert len(rest.rows("contacts")) == 150
    assert len(rest.rows("smart_segments_contacts")) == 4 * 120


def test_segments_may_come_and_go_between_runs(tap: Tap, serve: Serve) -> None:
    account = Account(contacts=150, segments=6, members=120)
    run = interrupted(tap, serve, account)
    account.segments = [{"segment_id": "contactlist_sseg0", "title": "New"}, *account.segments[1:]]
    rest = tap.sync(serve(account), state=run.state)
    assert rest.code == 0
    sent = {key for one in (run, rest) for key in keys(one, "smart_segments_contacts")}
    for segment in account.segments[1:]:
        for contact_id in account.segment_members(segment["segment_id"]) or ():
            assert (segment["segment_id"], contact_id) in sent
    new = keys(tap.sync(serve(account), state=rest.state), "smart_segments_contacts")
    assert any(segment == "contactlist_sseg0" for segment, _ in new)


def test_the_state_does_not_grow_with_the_segments() -> None:
    account = Account(contacts=50, segments=150, members=11)
    run = in_process.run(Sandbox(account, Options(api_key=KEY, page=10)))
    assert run.code == 0
    largest = max(len(str(message["value"])) for message in run.of("STATE"))
    assert largest < 4000


def test_a_state_reaches_the_reader_before_the_page_after_next_is_requested(
    tap: Tap,
) -> None:
    account = Account(contacts=950, segments=0)
    seen: set[str] = set()
    too_late = []

    class Gate(Sandbox):
        def answer(self, method: str, target: str, headers: dict[str, str]) -> tuple[int, bytes]:
            bookmark = target.rpartition("/contacts/")[2]
            if bookmark in account.contact_ids:
                page_number = account.contact_ids.index(bookmark) // 100 + 2
                give_up = time.monotonic() + PATIENCE
                while len(seen) < page_number - 2 and time.monotonic() < give_up:
                    time.sleep(0.001)
                if len(seen) < page_number - 2:
                    too_late.append(page_number)
            return super().answer(method, target, headers)

    with Gate(account) as sandbox:
        config = tap.file("config.json", tap.config(sandbox, api_key="sandbox"))
        command = [*COMMAND, "-c", config]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            for line in process.stdout:
                where = json.loads(line).get("value", {}).get("walks", {}).get("contacts")
                if where and where[0]:
                    seen.add(where[0])
    assert process.returncode == 0
    assert len(seen) == 9
    assert too_late == []


def wait_until_quiet(sandbox: Sandbox) -> int:
    """Wait for a second without requests. Returns how many there were."""
    asked = -1
    while asked < len(sandbox.requests) or not asked:
        asked = len(sandbox.requests)
        time.sleep(1)
    return asked


def test_a_slow_reader_slows_down_the_tap(tap: Tap, serve: Serve) -> None:
    sandbox = serve(Account(contacts=2_500, segments=10, members=300))
    config = tap.file("config.json", tap.config(sandbox))
    reader, writer = os.pipe()
    with subprocess.Popen(
        [*COMMAND, "-c", config], stdout=writer, stderr=subprocess.PIPE
    ) as process:
        os.close(writer)
        asked = wait_until_quiet(sandbox)
        assert asked <= 2 * 8 + 4
        chunks: list[bytes] = []

        def drain() -> None:
            while chunk := os.read(reader, 1 << 16):
                chunks.append(chunk)

        thread = threading.Thread(target=drain)
        thread.start()
        assert process.stderr is not None
        stderr = process.stderr.read().decode()
        thread.join()
    os.close(reader)
    run = check(Run(process.returncode, b"".join(chunks), stderr, KEY))
    assert len(run.rows("contacts")) == 2_500


def test_a_resumed_listing_of_segments_still_names_all_members(tap: Tap) -> None:
    first = {"segments": [{"segment_id": "s1"}], "bookmark": "b2"}
    script = Scripted({"/smart_segments": first, "/smart_segments/b2": (405, {})})
    script.answers |= {f"/smart_segments/{one}/contacts": page(one) for one in ("s1", "s2")}
    with script as sandbox:
        run = tap.sync(sandbox)
        assert run.code == 1
        script.answers["/smart_segments/b2"] = {"segments": [{"segment_id": "s2"}]}
        rest = tap.sync(sandbox, state=run.state)
    assert rest.code == 0
    assert sorted(keys(rest, "smart_segments_contacts")) == [("s1", "s1"), ("s2", "s2")]


@pytest.mark.parametrize("total", [0, 2, 400])
def test_an_empty_response_to_an_old_bookmark_never_ends_a_pass(total: int) -> None:
    answers = {"/contacts": page("c3", "c4", total=2), "/contacts/old": page(total=total)}
    state = {
        "bookmarks": {"contacts": {"progress": ["reading", {"version": 5}]}},
        "walks": {"contacts": ["old", list(dataclasses.astuple(Census(read=2, highest="b")))]},
    }
    run = in_process.run(Scripted(answers), state=state)
    assert run.code == 0
    assert keys(run, "contacts") == [("c3",), ("c4",)]


def test_a_stream_does_not_wait_for_another_that_never_succeeds(tap: Tap, serve: Serve) -> None:
    account = Account(contacts=150, segments=3, members=5)
    broken = account.segments[0]["segment_id"]
    sandbox = serve(account, f"/smart_segments/{broken}:405")
    state = None
    for _ in range(2):
        run = tap.sync(sandbox, state=state)
        assert run.code == 1
        assert len(run.rows("contacts")) == 150
        state = run.state
        unfinished = [name for name, one in state["bookmarks"].items() if one["progress"]]
        assert unfinished == ["smart_segments_contacts"]
