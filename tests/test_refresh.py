"""--full-refresh: some tables start over, the others go on from the state."""

from __future__ import annotations

from typing import Any

import pytest

from tap_autopilot.protocol.state import StreamState, read_state
from tap_autopilot.sandbox.account import Account
from tests.conftest import Serve, Tap
from tests.invariants import Run, check
from tests.recording import Sandbox
from tests.test_incremental import incremental  # noqa: F401

ACCOUNT = Account(contacts=250, segments=3, members=20)
FROM_CONTACTS = ["contacts", "lists_contacts", "email_delivered", "email_opened"]


def refresh(tap: Tap, sandbox: Sandbox, state: Any, names: str, catalog: Any = None) -> Run:
    arguments = tap.arguments(sandbox, catalog=catalog, state=state, config={})
    return check(tap.run(*arguments, "--full-refresh", names))


def test_only_the_named_tables_lose_their_bookmarks(
    tap: Tap,
    serve: Serve,
    incremental: Any,  # noqa: F811
) -> None:
    first = tap.sync(serve(ACCOUNT), catalog=incremental)
    again = refresh(tap, serve(ACCOUNT), first.state, "email_opened, contacts", incremental)
    assert again.code == 0
    assert "INFO Starting over: email_opened, contacts." in again.log
    for name in ("contacts", "email_opened"):
        assert again.rows(name) == first.rows(name)
    assert 0 < len(again.rows("email_delivered")) < len(first.rows("email_delivered"))
    assert set(again.state["bookmarks"]) == set(first.state["bookmarks"])


def test_tables_that_were_being_read_together_start_over_together(tap: Tap, serve: Serve) -> None:
    broken = tap.sync(serve(ACCOUNT, "/contacts@2-:400"))
    rest = refresh(tap, serve(ACCOUNT), broken.state, "contacts")
    whole = tap.sync(serve(ACCOUNT))
    for name in FROM_CONTACTS:
        assert rest.rows(name) == whole.rows(name)
        assert rest.of("ACTIVATE_VERSION", name)
    (said,) = [line for line in rest.log if "starting over too" in line]
    assert said.startswith("INFO lists_contacts, email_delivered, ")
    assert "smart_segments" not in said
    assert not any("cannot resume" in line for line in rest.log)


@pytest.mark.parametrize(
    ("entry", "is_log"),
    [({"collected": ["store", 7]}, True), ({"collected": 5}, True), ({"collected": None}, False)],
)
def test_a_log_of_pushed_events_remains_one_and_starts_over(entry: Any, is_log: bool) -> None:
    state = read_state({"bookmarks": {"email_opened": {"progress": None, **entry}, "lists": {}}})
    state.start_over({"email_opened", "contacts"})
    assert state.streams == {
        "email_opened": StreamState(append_only=is_log), "lists": StreamState(),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "settings", "said"),
    [
        ("people", {}, "--full-refresh has unknown streams: people; choose from contacts,"),
        (",", {}, "--full-refresh has no streams"),
        ("contacts", {"digests": "digests"}, "--full-refresh cannot be combined with digests"),
    ],
)
def test_mistakes_are_reported(
    tap: Tap, serve: Serve, names: str, settings: Any, said: str
) -> None:
    arguments = tap.arguments(serve(), catalog=None, state={}, config=settings)
    run = check(tap.run(*arguments, "--full-refresh", names))
    assert run.code == 2
    assert said in run.last_words
