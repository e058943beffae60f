"""Only what changed: the target ends up with what the account has, whatever went wrong before."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.api.client import Client
from tap_autopilot.config import Config
from tap_autopilot.digests.digests import Digests
from tap_autopilot.exceptions import Unreachable, UserError
from tap_autopilot.protocol.state import read_state
from tap_autopilot.run import changes
from tap_autopilot.run.report import Report
from tap_autopilot.run.sync import sync
from tap_autopilot.sandbox.account import Account
from tap_autopilot.sources.listings import CONTACTS, Walk
from tests.changing_sandbox import ChangingSandbox
from tests.conftest import KEY
from tests.digests import Nights, warned
from tests.invariants import Run, forms
from tests.replica import DELETED_AT, KEYS, TABLES, difference, everything
from tests.soak import nights as soak


def account() -> Account:
    """Contacts a to d; a and b are on list l, b and c in segment s."""
    return ChangingSandbox(
        "abcd", segments={"s": "bc", "t": "c"}, lists={"l": "ab", "m": "c"}
    ).account


def records(run: Run) -> set[tuple[str, ...]]:
    """A run's rows (marked +) and tombstones (marked -), by stream and key."""
    return {
        (("-" if message["record"][DELETED_AT] else "+") + message["stream"],
         *(message["record"][key] for key in KEYS[message["stream"]]))
        for message in run.of("RECORD")
        if message["stream"] != "membership_changes"
    }  # fmt: skip


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path, account())


def test_the_second_night_sends_nothing(nights: Nights) -> None:
    first = nights.night()
    assert records(first) == {("+" + key[0], *key[1:]) for key in everything(nights.account)}
    assert len(first.of("ACTIVATE_VERSION")) == len(TABLES)
    assert not any("sent again" in line for line in first.log), "expected on the first run of all"
    second = nights.night()
    assert (second.code, second.of("RECORD"), second.of("ACTIVATE_VERSION")) == (0, [], [])
    assert any(line.startswith("INFO contacts: 0 rows, 4 unchanged") for line in second.log)


def test_changes_carry_the_activated_version(nights: Nights) -> None:
    activated = {one["stream"]: one["version"] for one in nights.night().of("ACTIVATE_VERSION")}
    nights.account.change("a", {"Company": "Another"})
    nights.account.create({"contact_id": "e", "lists": ["l"]})
    nights.account.join("s", "a")
    nights.account.delete("b")
    run = nights.night()
    assert records(run) == {
        ("+contacts", "a"), ("+contacts", "e"), ("-contacts", "b"),
        ("+lists_contacts", "l", "e"), ("-lists_contacts", "l", "b"),
        ("+smart_segments_contacts", "s", "a"), ("-smart_segments_contacts", "s", "b"),
    }  # fmt: skip
    assert not run.of("ACTIVATE_VERSION")
    for message in run.of("RECORD"):
        if message["stream"] != "membership_changes":
            assert message["version"] == activated[message["stream"]]


def test_a_doubt_withholds_tombstones_until_it_is_resolved(nights: Nights) -> None:
    nights.night()
    nights.account.delete("d")
    short = nights.night(page=1, lose="contacts@2")
    assert records(short) == set()
    assert warned(short, "deleted rows are kept this time")
    assert records(nights.night()) == {("-contacts", "d")}
    assert not nights.night().of("RECORD")


def test_a_first_pass_in_doubt_is_activated_by_the_next(nights: Nights) -> None:
    version = nights.night().of("RECORD", "contacts")[0]["version"]
    nights.path.unlink()
    nights.account.delete("d")
    doubted = nights.night(page=1, lose="contacts@2")
    assert not doubted.of("ACTIVATE_VERSION", "contacts")
    later = doubted.of("RECORD", "contacts")[0]["version"]
    assert later > version
    run = nights.night()
    assert len(run.of("RECORD", "contacts")) == 1, "the row that was missing"
    assert [one["version"] for one in run.of("ACTIVATE_VERSION", "contacts")] == [later]
    assert not difference(nights.replica, nights.full_load())
    assert not nights.night().of("ACTIVATE_VERSION")


@pytest.mark.parametrize("key", [KEY, "another+key"], ids=["lost", "foreign"])
def test_everything_is_sent_again_if_the_file_is_in_doubt(nights: Nights, key: str) -> None:
    nights.night()
    if key == KEY:
        nights.path.unlink()
    nights.account.delete("d")
    run = nights.night(api_key=key, settings={"api_key": key})
    assert warned(run, "everything is sent again")
    assert records(run) == {("+" + key[0], *key[1:]) for key in everything(nights.account)}
    assert not difference(nights.replica, nights.full_load())
    assert not nights.night(api_key=key, settings={"api_key": key}).of("RECORD")


def test_a_run_that_cannot_read_leaves_the_file_as_it_is(nights: Nights) -> None:
    nights.night()
    wrong = nights.night(settings={"api_key": "a+wrong+key"})
    assert (wrong.code, wrong.messages) == (2, [])
    assert not warned(wrong, "everything is sent again")
    assert not nights.night().of("RECORD")


def test_a_refused_account_leaves_the_file_as_it_is(nights: Nights) -> None:
    nights.night()
    other = "another+key"
    refused = nights.night("1-:403", api_key=other, settings={"api_key": other})
    assert (refused.code, refused.messages) == (2, [])
    assert not nights.night().of("RECORD")


def test_an_outage_leaves_the_file_as_it_is(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.night()
    tried = []

    def fetch(_client: Client, walk: Walk) -> None:
        tried.append(walk)
        raise Unreachable("Run again later.")

    monkeypatch.setattr(changes, "fetch", fetch)
    down = nights.night(settings={"api_key": "another+key"})
    assert (down.code, down.messages, tried) == (1, [], [CONTACTS])
    assert not nights.night().of("RECORD")


@pytest.mark.parametrize(
    ("names", "fault", "code"),
    [
        (["custom_fields"], "/contacts/custom_fields:404", 0),
        (["contacts", "lists"], "/contacts:403", 2),
        (["contacts", "lists"], "/contacts:500", 1),
    ],
)
def test_one_refused_listing_does_not_keep_the_file_in_doubt(
    nights: Nights, names: list[str], fault: str, code: int
) -> None:
    nights.night()
    nights.path.unlink()
    catalog = {"streams": [{"tap_stream_id": name, "metadata": []} for name in names]}
    run = nights.night(fault, catalog=catalog)
    assert run.code == code
    assert warned(run, "everything is sent again")
    activated = [message["stream"] for message in run.of("ACTIVATE_VERSION")]
    assert activated == [name for name in names if name == "lists"]
    assert not warned(nights.night(catalog=catalog), "everything is sent again")


def test_a_run_that_cannot_begin_leaves_the_file_unlocked(tmp_path: Path) -> None:
    path = str(tmp_path / "digests")
    given = {"api_key": KEY, "digests": path, "collector_database": str(tmp_path / "missing.db")}
    with pytest.raises(UserError, match="There is no store") as problem:
        sync(Config.from_mapping(given), None, read_state(None), 1, Report())
    Digests(path, "somebody").close()
    assert problem.tb, "which keeps what the run opened from being collected"


def test_the_file_reveals_nothing_of_the_key(nights: Nights) -> None:
    nights.night()
    data = nights.path.read_bytes()
    assert not any(form.encode() in data for form in forms(KEY))


def test_a_change_of_columns_sends_the_table_again_and_its_deletions(nights: Nights) -> None:
    nights.night()
    nights.account.delete("d")
    without = [{"breadcrumb": ["properties", "company"], "metadata": {"selected": False}}]
    catalog = {"streams": [{"tap_stream_id": "contacts", "metadata": without}]}
    run = nights.night(catalog=catalog)
    assert records(run) == {("+contacts", one) for one in "abc"} | {("-contacts", "d")}
    assert not run.of("ACTIVATE_VERSION")
    assert warned(run, "contacts: columns or settings changed")
    assert not nights.night(catalog=catalog).of("RECORD")
    back = nights.night()
    assert records(back) == {("+contacts", one) for one in "abc"}, "the other tables were kept"


def test_an_interrupted_pass_resumes_where_it_stopped(nights: Nights) -> None:
    nights.night(page=1)
    nights.account.delete("d")
    nights.account.change("a", {"Company": "Another"})
    broken = nights.night("/contacts@3-:500", page=1)
    assert broken.code == 1
    assert records(broken) == {("+contacts", "a")}
    rest = nights.night(page=1)
    assert records(rest) == {("-contacts", "d")}
    assert rest.requests[0].path != "/v1/contacts"
    assert not nights.night().of("RECORD")


def test_a_second_run_at_the_same_time_is_refused(nights: Nights) -> None:
    held = Digests(str(nights.path), "somebody")
    run = nights.run()
    assert (run.code, run.requests, run.messages) == (2, [], [])
    assert run.last_words.endswith("is in use by another run.")
    held.close()
    assert nights.night().code == 0


@pytest.mark.parametrize("how", ["start_date", "INCREMENTAL"])
def test_a_stream_that_skips_rows_sends_no_deletions(nights: Nights, how: str) -> None:
    settings = {"start_date": "2015-01-01"} if how == "start_date" else {}
    method = "INCREMENTAL" if how == "INCREMENTAL" else "FULL_TABLE"
    metadata = [{"breadcrumb": [], "metadata": {"replication-method": method}}]
    streams: list[Any] = [{"tap_stream_id": "contacts", "metadata": metadata}]
    catalog = {"streams": [*streams, {"tap_stream_id": "lists"}]}
    nights.night(catalog=catalog, settings=settings)
    nights.account.delete("d")
    nights.account.delete_list("l")
    nights.account.change("a", {"Company": "Another", "updated_at": "2038-01-01T00:00:00Z"})
    run = nights.night(catalog=catalog, settings=settings)
    assert records(run) >= {("+contacts", "a"), ("-lists", "l")}
    assert {name for name, *_ in records(run)} == {"+contacts", "-lists"}
    assert len(run.rows("contacts")) < 3
    later = nights.night(catalog=catalog, settings=settings)
    assert not later.of("RECORD"), "not even rows that the bookmark would repeat"


def test_without_versions_there_are_tombstones(nights: Nights) -> None:
    settings = {"emit_activate_version_messages": False}
    first = nights.night(settings=settings)
    assert not first.of("ACTIVATE_VERSION")
    assert not any("version" in one for one in first.of("RECORD"))
    nights.account.delete("d")
    short = nights.night(page=1, lose="contacts@2", settings=settings)
    assert records(short) == set()
    assert warned(short, "deleted rows are kept this time")
    assert records(nights.night(settings=settings)) == {("-contacts", "d")}
    assert len(nights.night().of("ACTIVATE_VERSION")) == len(TABLES), "now that the setting is on"


def test_streams_can_come_and_go(nights: Nights) -> None:
    some = {"streams": [{"tap_stream_id": "contacts"}]}
    nights.night(catalog=some)
    nights.account.delete("d")
    every = nights.night()
    assert ("-contacts", "d") in records(every)
    assert {name for name, *_ in records(every)} == {
        "-contacts", "+lists", "+smart_segments", "+lists_contacts", "+smart_segments_contacts",
        "+custom_fields",
    }  # fmt: skip
    assert len(every.of("ACTIVATE_VERSION")) == len(TABLES) - 1
    assert not nights.night(catalog=some).of("RECORD")
    assert not nights.night().of("RECORD")


def test_kills_damage_and_lost_pages_lose_nothing(tmp_path: Path) -> None:
    """The real command, in one of the histories that `make soak` plays."""
    figures, is_well = soak.play(Namespace(histories=1, seed=2), tmp_path)
    assert is_well, figures
