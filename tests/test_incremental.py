"""Only changes are sent: since the Singer bookmark if INCREMENTAL, and since start_date."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from tap_autopilot.protocol.state import StreamState, read_state
from tap_autopilot.rows.changed import ChangedSince
from tap_autopilot.sandbox.account import Account
from tests.changing_sandbox import ChangingSandbox
from tests.conftest import Serve, Tap
from tests.invariants import Run, check
from tests.recording import Sandbox
from tests.scripted import Scripted
from tests.test_selection import choose, entry

KEYS = {"contacts": "updated_at", "email_opened": "timestamp", "email_delivered": "timestamp"}


@pytest.fixture
def incremental(catalog: Any) -> Any:
    """A catalog of some streams, all incremental."""
    catalog["streams"] = [entry(catalog, stream) for stream in KEYS]
    for stream in KEYS:
        choose(catalog, stream, replication_method="INCREMENTAL")
    return catalog


def only(catalog: Any, *streams: str) -> Any:
    return {"streams": [entry(catalog, stream) for stream in streams]}


def contacts(*changes: tuple[str, Any]) -> dict[str, Any]:
    people = [{"contact_id": one, "updated_at": at} for one, at in changes]
    return {"/contacts": {"contacts": people, "total_contacts": len(people)}}


def bookmark(run: Run, stream: str = "contacts") -> Any:
    return run.state["bookmarks"][stream].get(KEYS[stream])


def as_datetime(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def ids(run: Run) -> list[str]:
    return [row["contact_id"] for row in run.rows("contacts")]


def test_the_first_run_sends_all_and_the_next_what_changed(
    tap: Tap, serve: Serve, incremental: Any
) -> None:
    account = Account(contacts=600, odd=False)
    sandbox = serve(account)
    first = tap.sync(sandbox, catalog=incremental)
    assert len(first.rows("contacts")) == 600
    for stream, key in KEYS.items():
        times = [row[key] for row in first.rows(stream) if row[key]]
        if stream != "contacts":
            assert first.state["bookmarks"][stream][key] == max(times)[:-1] + "000Z"
        (schema,) = first.of("SCHEMA", stream)
        assert schema["bookmark_properties"] == [key]
    assert not first.of("ACTIVATE_VERSION")
    assert not any("version" in message for message in first.of("RECORD"))

    again = tap.sync(sandbox, catalog=incremental, state=first.state)
    assert again.state == first.state
    undated = [
        one
        for one in account.contact_ids
        if not account.contact(one).get("updated_at") and not account.contact(one).get("created_at")
    ]
    assert len(ids(again)) <= len(undated) + 1
    newest = as_datetime(bookmark(first, "email_opened"))
    assert all(
        as_datetime(row["timestamp"]) >= newest - timedelta(days=1)
        for row in again.rows("email_opened")
    ), "events may arrive late, so the last day is sent again"
    assert 1 <= len(again.rows("email_opened")) < 40

    account.move_on(7)
    new = tap.sync(sandbox, catalog=incremental, state=again.state)
    touched = [one for one in account.contact_ids if one in account.changed]
    assert set(touched) <= set(ids(new)) <= {*touched, *ids(again)}
    opened = {
        (row["context_traits_contact_id"], row["email_id"]) for row in new.rows("email_opened")
    }
    before = {
        (row["context_traits_contact_id"], row["email_id"]) for row in first.rows("email_opened")
    }
    in_maps = {
        (one, message)
        for one in account.contact_ids
        for message in account.contact(one).get("mail_opened") or ()
    }
    assert opened - before == in_maps - before
    assert opened - before, "a day of changes has some"
    assert len(new.rows("email_opened")) < 80


def test_another_account_starts_from_its_own_first_row(
    tap: Tap, serve: Serve, incremental: Any
) -> None:
    first = tap.sync(serve(Account(contacts=150)), catalog=incremental)
    other = serve(Account(contacts=150, odd=False, seed=2), api_key="its-own-key")
    typo = tap.sync(other, catalog=incremental, state=first.state, api_key="a-typo")
    assert typo.code == 2
    assert bookmark(typo) == bookmark(first)
    run = tap.sync(other, catalog=incremental, state=first.state, api_key="its-own-key")
    assert len(ids(run)) == 150
    assert "the state's updated_at is of another account" in run.stderr
    again = tap.sync(other, catalog=incremental, state=run.state, api_key="its-own-key")
    assert len(ids(again)) < 20


def test_which_changes_move_the_bookmark() -> None:
    start = datetime(2016, 1, 1, tzinfo=timezone.utc)
    before, after = start - timedelta(days=1), start + timedelta(milliseconds=1)
    for changes, newest in (
        ([start], start), ([before, start], start), ([start, before], start), ([None], None),
        ([after], None), ([before, None, after], before),
    ):  # fmt: skip
        window = ChangedSince(None, start)
        assert all(map(window.admits, changes))
        list(map(window.note, changes))
        assert window.newest == newest
    unbounded = ChangedSince(None, None)
    unbounded.note(before)
    assert unbounded.newest is None
    assert [ChangedSince(start, None).admits(one) for one in (None, before, start, after)] == [
        True, False, True, True,
    ]  # fmt: skip


@pytest.mark.parametrize("skew", [-3600, 0, 3600])
def test_a_clock_that_is_wrong_by_an_hour_loses_no_change(
    tap: Tap, incremental: Any, skew: float
) -> None:
    """Contact a changes after it was read, h before; the next run must send a."""
    catalog = only(incremental, "contacts")
    changes: Any = {3: [("change", "a", {"Name": "new"})], 4: [("change", "h")]}
    with ChangingSandbox("abcdefgh", changes=changes, clock_skew=skew) as sandbox:
        first = tap.sync(sandbox, catalog=catalog)
        second = tap.sync(sandbox, catalog=catalog, state=first.state)
    assert first.code == second.code == 0
    assert {"contact_id": "a", "name": "new"}.items() <= second.rows("contacts")[0].items()


CONTACTS = [
    {
        "contact_id": "old",
        "created_at": "2015-01-01T00:00:00Z",
        "updated_at": "2015-06-01T00:00:00Z",
    },
    {"contact_id": "equal", "updated_at": "2016-01-01T10:00:00.000+10:00"},
    {"contact_id": "just before", "updated_at": "2015-12-31T23:59:59.999Z"},
    {"contact_id": "updated", "created_at": "2015-01-01T00:00:00Z", "UpdatedAt": 1482221280000},
    {"contact_id": "created", "created_at": "2016-01-01T00:00:00.001Z"},
    {"contact_id": "created before", "created_at": "2015-01-01T00:00:00Z", "updated_at": ""},
    {
        "contact_id": "unfit",
        "created_at": "2015-01-01T00:00:00Z",
        "updated_at": "soon",
        "Name": "x",
    },
    {"contact_id": "unknown"},
]


@pytest.mark.parametrize("selected", [True, False])
def test_contacts_are_judged_by_their_last_change(tap: Tap, catalog: Any, selected: bool) -> None:
    choose(catalog, "contacts", "properties", "updated_at", selected=selected)
    choose(catalog, "contacts", "properties", "created_at", selected=selected)
    answers = {
        "/contacts": {"contacts": CONTACTS, "total_contacts": len(CONTACTS)},
        "/lists": {"lists": [{"list_id": "l"}]},
    }
    with Scripted(answers) as sandbox:
        run = tap.sync(sandbox, start_date="2016-01-01", catalog=catalog)
    assert run.code == 0
    ids = [row["contact_id"] for row in run.rows("contacts")]
    assert ids == ["equal", "updated", "created", "unfit", "unknown"]
    activated = {message["stream"] for message in run.of("ACTIVATE_VERSION")}
    assert activated == {"custom_fields", "lists", "lists_contacts"}
    assert "version" not in run.of("RECORD", "contacts")[0]


# With --full-refresh

ACCOUNT = Account(contacts=250, segments=3, members=20)
FROM_CONTACTS = ["contacts", "lists_contacts", "email_delivered", "email_opened"]


def refresh(tap: Tap, sandbox: Sandbox, state: Any, names: str, catalog: Any = None) -> Run:
    arguments = tap.arguments(sandbox, catalog=catalog, state=state, config={})
    return check(tap.run(*arguments, "--full-refresh", names))


def test_only_the_named_tables_lose_their_bookmarks(
    tap: Tap, serve: Serve, incremental: Any
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
