"""Resuming: from any STATE, a run sends what is missing, and only that."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time

import pytest

from tap_autopilot.sandbox.account import Account
from tap_autopilot.streams import COLLECTED
from tests import in_process
from tests.conftest import KEY, PATIENCE, Serve, Tap
from tests.conftest import USUAL_STREAMS as ALL
from tests.invariants import Run, check
from tests.lying_pager import Options
from tests.recording import Sandbox

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


def test_a_pass_over_another_account_starts_over(tap: Tap, serve: Serve) -> None:
    states = tap.sync(serve(Account(contacts=250, segments=0))).of("STATE")
    half = next(one["value"] for one in states if "person" in str(one["value"]))
    other = serve(Account(contacts=250, segments=0), api_key="its-own-key")
    run = tap.sync(other, state=half, api_key="its-own-key")
    assert len(run.rows("contacts")) == 250
    assert "another account" in run.stderr


def test_the_state_does_not_grow_with_the_segments() -> None:
    account = Account(contacts=50, segments=150, members=11)
    run = in_process.run(Sandbox(account, Options(page=10)))
    assert run.code == 0
    largest = max(len(str(message["value"])) for message in run.of("STATE"))
    assert largest < 4000


def test_a_state_reaches_the_reader_before_the_page_after_next_is_requested(tap: Tap) -> None:
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
        command = tap.command(sandbox)
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
    command = tap.command(sandbox)
    reader, writer = os.pipe()
    with subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE) as process:
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
