"""The other tables made from contacts, and their rows."""

from __future__ import annotations

import copy
import re
from datetime import datetime, timezone
from typing import Any

import pytest

from tap_autopilot.protocol.schemas import load_schema
from tap_autopilot.rows.changed import ChangedSince
from tap_autopilot.rows.tally import Tally
from tap_autopilot.sandbox.account import Account
from tap_autopilot.streams import STREAMS
from tests import in_process
from tests.conftest import USUAL_STREAMS, Serve
from tests.in_process import logged
from tests.invariants import Run
from tests.scripted import Scripted
from tests.test_selection import entry

EVENTS = {
    "email_delivered": ("Email Delivered", ["mail_received"]),
    "email_opened": ("Email Opened", ["mail_opened"]),
    "email_clicked": ("Email Clicked", ["mail_clicked"]),
    "email_bounced": ("Email Bounced", ["mail_bounced", "mail_hardbounced"]),
    "email_marked_as_spam": ("Email Marked as Spam", ["mail_complained"]),
    "email_unsubscribed": ("Email Unsubscribed", ["mail_unsubscribed"]),
    "email_replied": ("Email Replied", ["mail_replied"]),
}
FED = ["lists_contacts", *EVENTS]


def test_a_page_in_parts_has_the_same_rows(serve: Serve) -> None:
    sandbox = serve(Account(contacts=200, lists=6, segments=2, members=50))
    whole = in_process.run(sandbox)
    with in_process.in_parts(3):
        parts = in_process.run(sandbox)
    assert len(parts.of("STATE")) > 3 * len(whole.of("STATE"))
    assert parts.state == whole.state
    warnings = [line for line in whole.log if line.startswith("WARNING")]
    assert any("not valid Unicode" in line for line in warnings)
    assert [line for line in parts.log if line.startswith("WARNING")] == warnings
    for stream in USUAL_STREAMS:
        assert parts.rows(stream) == whole.rows(stream)
        assert parts.rows(stream)


def test_tables_made_from_contacts_cost_no_extra_requests(serve: Serve, catalog: Any) -> None:
    sandbox = serve()
    catalog["streams"] = [entry(catalog, stream) for stream in ("contacts", *FED)]
    assert [
        request.path.count("/contacts")
        for request in in_process.run(sandbox, catalog=catalog).requests
    ] == [1, 1, 1]
    catalog["streams"] = [entry(catalog, "email_opened")]
    alone = in_process.run(sandbox, catalog=catalog)
    assert len(alone.requests) == 3
    assert {message["stream"] for message in alone.of("RECORD")} == {"email_opened"}


def read(*contacts: Any, catalog: Any = None, **settings: Any) -> Run:
    answer = {"contacts": list(contacts), "total_contacts": len(contacts)}
    run = in_process.run(Scripted({"/contacts": answer}), catalog=catalog, **settings)
    assert run.code == 0
    return run


def test_which_map_feeds_which_table() -> None:
    maps = {name: {f"in {name}": 1} for _, names in EVENTS.values() for name in names}
    run = read({"contact_id": "c", **maps})
    for stream, (text, names) in EVENTS.items():
        rows = run.rows(stream)
        assert sorted(row["email_id"] for row in rows) == [f"in {name}" for name in names]
        assert {(row["event"], row["event_text"]) for row in rows} == {(stream, text)}


def test_memberships_in_two_spellings_and_of_odd_values() -> None:
    run = read(
        {"contact_id": "d", "Lists": ["a", 5, "a"], "lists": []},
        {"contact_id": "f", "lists": ["b"], "Lists": ["c"]},
        {"contact_id": "e", "lists": {}},
    )
    assert [row["list_id"] for row in run.rows("lists_contacts")] == ["a", "5", "b", "c"]
    assert not any("documents skipped" in line for line in run.log)


@pytest.mark.parametrize(
    ("contact", "doubtful"),
    [
        ({"contact_id": "c", "lists": "a"}, {"lists_contacts"}),
        ({"contact_id": "c", "lists": ["a", None]}, {"lists_contacts"}),
        ({"contact_id": "c", "lists": ["a", {"b": 1}]}, {"lists_contacts"}),
        ({"contact_id": "c", "lists": ["a", "b" * 401]}, {"lists_contacts"}),
        ({"contact_id": "c", "mail_opened": ["m"]}, {"email_opened"}),
        ({"contact_id": "c", "mail_opened": {"m": 1, "n" * 401: 1}}, {"email_opened"}),
        ({"contact_id": "c", "mail_hardbounced": 7}, {"email_bounced"}),
        ({"contact_id": "", "lists": ["a"], "mail_clicked": {"m": 1}}, {"contacts", "lists_contacts", "email_clicked"}),
        ({"mail_replied": {"m": 1}}, {"contacts", "lists_contacts", "email_replied"}),
        ({"contact_id": "c" * 299, "lists": ["a"]}, {"lists_contacts"}),
        (["no object"], {"contacts", *FED}),
        (None, {"contacts", *FED}),
    ],
)  # fmt: skip
def test_skipped_values_put_their_tables_in_doubt(contact: Any, doubtful: set[str]) -> None:
    run = read({"contact_id": "good", "lists": ["a"]}, contact)
    activated = {message["stream"] for message in run.of("ACTIVATE_VERSION")}
    fed = {name for name, one in USUAL_STREAMS.items() if "contacts" in one.sources}
    assert fed - activated == doubtful
    (warning,) = [
        line for line in run.log if "deleted rows are kept this time" in line and "skip" in line
    ]
    assert set(re.split(", |: ", warning.removeprefix("WARNING "))) >= doubtful
    assert "some documents were skipped" in warning


# Email events

SCHEMA = load_schema("email_bounced")
START = datetime(1970, 1, 2, tzinfo=timezone.utc)
DAY = 86_400_000


def made(
    *contacts: Any,
    window: ChangedSince | None = None,
    selected: Any = SCHEMA,
    tally: Tally | None = None,
) -> Any:
    make = STREAMS["email_bounced"].compile(SCHEMA, selected, tally or Tally("email_bounced"))
    return [row for rows in make(list(contacts), window, None) for row in rows]


def bounced(contact_id: str, **maps: Any) -> dict[str, Any]:
    return {"contact_id": contact_id, **{f"mail_{name}": it for name, it in maps.items()}}


def test_every_column_of_an_event() -> None:
    contact = {"contact_id": "a:b%", "email": 5, "mail_bounced": {"m:n": 0}}
    (row,) = made(contact)
    assert row == {
        **dict.fromkeys(SCHEMA["properties"]),
        "id": "email_bounced:a%3Ab%25:m:n",
        "event": "email_bounced",
        "event_text": "Email Bounced",
        "timestamp": "1970-01-01T00:00:00.000Z",
        "anonymous_id": "5",
        "context_traits_email": "5",
        "context_traits_contact_id": "a:b%",
        "email_id": "m:n",
    }
    assert list(row) == list(SCHEMA["properties"])
    selected = copy.deepcopy(SCHEMA)
    for column in ("event_text", "timestamp", "link_url"):
        del selected["properties"][column]
        del row[column]
    contacts = [contact, contact]
    assert made(*contacts, selected=selected) == [row, row]


@pytest.mark.parametrize(
    ("contact", "reason"),
    [
        ({}, "it is not a contact"),
        (bounced("", bounced={"m": 1}), "it has no contact_id, or one that is too long"),
        ({"mail_hardbounced": {"m": 1}}, "it has no contact_id, or one that is too long"),
        # Many rows repeat it, so a long one makes gigabytes of a few megabytes.
        (
            bounced("\U0001f600" * 75, bounced={"m": 1}),
            "it has no contact_id, or one that is too long",
        ),
        (bounced("\1" * 50, bounced={"m": 1}), "it has no contact_id, or one that is too long"),
        (bounced("c", bounced="m"), "its mail_bounced is not a map"),
        (bounced("c", hardbounced=[1], bounced=[]), "its mail_hardbounced is not a map"),
        (bounced("c", bounced=None, hardbounced=""), None),
        ({"contact_id": "c"}, None),
        ({"contact_id": "", "email": "e"}, None),
    ],
)
def test_a_contact_whose_events_cannot_be_read(contact: Any, reason: str | None) -> None:
    tally = Tally("email_bounced")
    good = bounced("good", bounced={"m": 1})
    with logged() as lines:
        found = made(contact, good, tally=tally)
    assert [row["context_traits_contact_id"] for row in found] == ["good"]
    assert tally.skipped == (reason is not None)
    assert lines == (
        [f"WARNING email_bounced: skipped a document: {reason}."] if reason is not None else []
    )


@pytest.mark.parametrize(
    ("soft", "hard", "time"),
    [(1, 2, "00.001Z"), (None, 2, "00.002Z"), ("", 2, "00.002Z"), (1, None, "00.001Z")],
)
def test_a_message_in_both_maps(soft: Any, hard: Any, time: str) -> None:
    (row,) = made(bounced("c", bounced={"m": soft}, hardbounced={"m": hard}))
    assert row["timestamp"].endswith(time)


def test_a_time_that_does_not_fit_is_null() -> None:
    tally = Tally("email_bounced")
    events = {"a": "soon", "b": "", "c": None, "d": "2016-12-20"}
    rows = made(bounced("c", bounced=events), tally=tally)
    assert [row["timestamp"] for row in rows] == [None, None, None, "2016-12-20T00:00:00Z"]
    kept = [row["additional_fields"] for row in rows]
    assert kept == [{"timestamp": "soon"}, None, None, None]
    assert not tally.misfits
    tally.count_sent(rows)
    assert tally.misfits == {"timestamp": 1}


def test_what_changed_since_a_moment() -> None:
    window = ChangedSince(START, START.replace(day=5))
    events = {"old": DAY - 1, "equal": DAY, "new": 2 * DAY, "future": 9 * DAY, "unknown": None}
    found = made(bounced("c", bounced=events), window=window)
    assert [row["email_id"] for row in found] == ["equal", "new", "future", "unknown"]
    assert window.newest == START.replace(day=3)
