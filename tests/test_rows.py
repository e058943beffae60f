"""Rows of contacts, lists and segments, from whole runs."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.sandbox.account import Account
from tests import in_process
from tests.conftest import USUAL_STREAMS, Serve, Tap
from tests.lying_pager import Options
from tests.recording import Sandbox


def test_one_row_literally(tap: Tap, serve: Serve) -> None:
    """The contact in the API's documentation, and the row that it must become."""
    same = {
        "type": "Contact", "Name": "Ada Example", "FirstName": "Ada", "LastName": "Example",
        "Salutation": "Ms.", "Title": "CEO", "Email": "ada@example.com", "Phone": "+65 555-5555",
        "MobilePhone": "", "Fax": "3736162442", "Company": "Example Designs",
        "Industry": "Technology", "Website": "example.com", "Twitter": "@ada",
        "LinkedIn": "in/ada", "MailingStreet": "Kendra Way", "MailingCity": "San Rafael",
        "MailingState": "CA", "MailingPostalCode": "94913", "MailingCountry": "Österreich",
        "owner_name": "James Example", "owner_first_name": "James", "Status": "Nurture",
        "LeadSource": "Autopilot", "company_priority": True, "lists": ["contactlist_1"],
        "created_at": "2016-12-20T07:31:12.000Z", "first_visit_at": "2016-12-12T10:08:10.761Z",
        "first_conversion_at": "2016-12-13T10:08:10.761Z",
    }  # fmt: skip
    mail = {
        f"mail_{event}": {f"batch_{number}": 1482221100000 + number}
        for number, event in enumerate(("received", "opened", "clicked", "bounced", "hardbounced",
                                        "complained", "unsubscribed", "replied"))
    }  # fmt: skip

    class One(Account):
        def model(self, number: int) -> dict[str, Any]:
            assert number == 0
            return {
                "contact_id": "", **same, **mail, "NumberOfEmployees": 10001,
                "employeesRange": {"min": 10001}, "Unsubscribed": False,
                "updated_at": 1482221280000, "anywhere_page_visits": {"//site": True},
                "anywhere_utm": [], "anywhere_form_submits": {"//form": False},
                "custom_fields": [
                    {"kind": "NPS Rating", "value": 10, "fieldType": "integer", "deleted": False},
                    {"kind": "Ratio", "value": 10.5, "fieldType": "float", "deleted": False},
                    {"kind": "Reviewed", "value": True, "fieldType": "boolean", "deleted": False},
                    {"kind": "None", "value": None, "fieldType": "string", "deleted": True},
                ],
                "lead_score": 7, "api_originated": "no",
            }  # fmt: skip

    account = One(contacts=1, lists=0, segments=0)
    row = tap.sync(serve(account)).rows("contacts")[0]
    named = {column.replace("_", ""): value for column, value in row.items()}
    assert {name: named.pop(name.replace("_", "").lower()) for name in same} == same
    assert {name: row.pop(name) for name in mail} == {
        name: [{"id": f"batch_{number}", "timestamp": f"2016-12-20T08:05:00.00{number}Z"}]
        for number, name in enumerate(mail)
    }
    assert {column: row[column] for column in row if column.replace("_", "") in named} == {
        "contact_id": account.contact_ids[0],
        "number_of_employees": "10001",
        "employees_range": {"min": 10001, "max": None},
        "unsubscribed": False,
        "api_originated": None,
        "updated_at": "2016-12-20T08:08:00.000Z",
        "anywhere_page_visits": [{"url": "//site", "value": True}],
        "anywhere_utm": [],
        "anywhere_form_submits": [{"url": "//form", "value": False}],
        "custom_fields": [
            {"kind": "NPS Rating", "field_type": "integer", "value": "10", "deleted": False},
            {"kind": "Ratio", "field_type": "float", "value": "10.5", "deleted": False},
            {"kind": "Reviewed", "field_type": "boolean", "value": "true", "deleted": False},
            {"kind": "None", "field_type": "string", "value": None, "deleted": True},
        ],
        "additional_fields": {"lead_score": 7, "api_originated": "no"},
    }


def test_the_rows_of_a_large_account(tap: Tap, serve: Serve) -> None:
    """The contacts and members are compared with those that were served after every run."""
    account = Account(contacts=1500, lists=30, segments=20, members=120)
    run = tap.sync(serve(account))
    assert run.code == 0
    assert b'"Score":"1e400"' in run.stdout
    assert run.rows("lists") == [{**one, "additional_fields": None} for one in account.lists]
    assert run.rows("smart_segments") == [
        {**one, "additional_fields": None} for one in account.segments
    ]
    assert len(run.rows("smart_segments_contacts")) == 19 * 120
    assert [row["contact_id"] for row in run.rows("contacts")] == account.contact_ids
    extracted = [datetime.fromisoformat(one["time_extracted"][:-1]) for one in run.of("RECORD")]
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    assert all(now - timedelta(minutes=5) < moment <= now for moment in extracted)


NOT_OF_CONTACTS = ["custom_fields", "lists", "smart_segments"]


@pytest.mark.parametrize("bookmarks", ["last", "next", "repeat", "opaque"])
@pytest.mark.parametrize("contacts", [0, 1, 19, 20, 21, 40, 41])
def test_every_contact_is_sent_once_whatever_a_bookmark_means(
    bookmarks: str, contacts: int
) -> None:
    account = Account(contacts=contacts, lists=1, segments=1, members=250)
    sandbox = Sandbox(account, Options(bookmarks=bookmarks, page=20))
    run = in_process.run(sandbox)
    assert run.code == 0
    assert [row["contact_id"] for row in run.rows("contacts")] == account.contact_ids
    members = [row["contact_id"] for row in run.rows("smart_segments_contacts")]
    assert members == account.contact_ids
    activated = [message["stream"] for message in run.of("ACTIVATE_VERSION")]
    assert sorted(activated) == sorted(USUAL_STREAMS if contacts else NOT_OF_CONTACTS)


def test_the_singer_tools_checker_accepts_it(tap: Tap, serve: Serve) -> None:
    sandbox = serve(Account(contacts=150))
    whole = tap.sync(sandbox)
    half = whole.of("STATE")[3]["value"]
    for run in (whole, tap.sync(sandbox, state=half)):
        done = subprocess.run(
            [Path(sys.executable).with_name("singer-check-tap")],
            input=run.stdout,
            cwd=tap.folder,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert b"The output is valid." in done.stdout
