"""The other tables made from contacts, compared with what was served."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tap_autopilot.sandbox.account import Account
from tests import in_process
from tests.conftest import USUAL_STREAMS, Serve
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
    assert "1 documents were skipped" in warning
