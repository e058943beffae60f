"""Rows compared with what the sandbox served, by a second, independent version of the rules."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.sandbox.account import Account
from tests import in_process
from tests.conftest import KEY, USUAL_STREAMS, Serve, Tap
from tests.lying_pager import Options
from tests.recording import Sandbox

TEXT = {
    "contact_id": "contact_id", "type": "type", "Name": "name", "FirstName": "first_name",
    "LastName": "last_name", "Salutation": "salutation", "Title": "title", "Email": "email",
    "Phone": "phone", "MobilePhone": "mobile_phone", "Fax": "fax", "Company": "company",
    "Industry": "industry", "NumberOfEmployees": "number_of_employees", "Website": "website",
    "Twitter": "twitter", "LinkedIn": "linkedin", "MailingStreet": "mailing_street",
    "MailingCity": "mailing_city", "MailingState": "mailing_state",
    "MailingPostalCode": "mailing_postal_code", "MailingCountry": "mailing_country",
    "owner_name": "owner_name", "owner_first_name": "owner_first_name", "Status": "status",
    "LeadSource": "lead_source",
}  # fmt: skip
BOOLEAN = {
    "company_priority": "company_priority", "unsubscribed": "unsubscribed",
    "Unsubscribed": "unsubscribed", "api_originated": "api_originated",
}  # fmt: skip
TIME = ("created_at", "updated_at", "first_visit_at", "first_conversion_at")
VISITS = ("anywhere_page_visits", "anywhere_utm", "anywhere_form_submits")
MAIL = tuple(
    f"mail_{event}"
    for event in (
        "received", "opened", "clicked", "bounced", "hardbounced", "complained", "unsubscribed",
        "replied",
    )
)  # fmt: skip
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class NoFit(Exception):
    """The value does not fit its column."""


def instant(value: Any) -> datetime:
    """The moment that a served value or a row's text stands for."""
    try:
        if type(value) is int:
            return EPOCH + timedelta(milliseconds=value)
        if type(value) is str:
            if value.endswith(" GMT"):
                return parsedate_to_datetime(value)
            value = value.strip().replace(" +0000", "Z").replace(" UTC", "Z")
            moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
            return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    except (ValueError, OverflowError):
        pass
    raise NoFit


def text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def spelled(value: Any) -> str:
    return text(value) if not isinstance(value, list) else json.dumps(value, separators=(",", ":"))


def expect(name: str, value: Any) -> tuple[str | None, Any]:
    """The column of a served field and its value, times as moments. Raises NoFit."""
    if name in TEXT:
        return TEXT[name], text(value)
    if name in BOOLEAN:
        if not isinstance(value, bool):
            raise NoFit
        return BOOLEAN[name], value
    if name == "employeesRange":
        if not all(isinstance(one, int) for one in value.values()):
            raise NoFit
        return "employees_range", {"min": value.get("min"), "max": value.get("max")}
    if name in TIME:
        return name, instant(value)
    if name == "lists":
        return name, value
    if name in VISITS:
        return name, [{"url": url, "value": seen} for url, seen in dict(value).items()]
    if name in MAIL:
        pairs = dict(value).items()
        return name, [{"id": one, "timestamp": instant(when)} for one, when in pairs]
    if name == "custom_fields":
        return name, [
            {
                "kind": one["kind"],
                "field_type": one["fieldType"],
                "value": None if one["value"] is None else spelled(one["value"]),
                "deleted": one["deleted"],
            }
            for one in value
        ]
    return None, value


def expected_row(columns: list[str], document: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(columns)
    additional = {}
    for name, value in document.items():
        if value is None or (value == "" and name not in TEXT):
            continue
        try:
            column, converted = expect(name, value)
        except NoFit:
            column = None
        if column is None:
            additional[name] = value
        else:
            row[column] = converted
        if name == "custom_fields" and any("order" in one for one in value):
            additional[name] = value
    row["additional_fields"] = additional or None
    return row


def read_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its times as moments."""
    read = dict(row)
    for column in TIME:
        read[column] = row[column] and instant(row[column])
    for column in MAIL:
        read[column] = row[column] and [
            {"id": one["id"], "timestamp": instant(one["timestamp"])} for one in row[column]
        ]
    return read


def served(value: Any) -> Any:
    """A served value without invalid text."""
    if isinstance(value, str):
        return value.replace("\0", "").replace("\ud83d", "\ufffd")
    if isinstance(value, dict):
        return {name: served(item) for name, item in value.items()}
    return [served(item) for item in value] if isinstance(value, list) else value


def test_thousands_of_contacts_arrive_with_every_value(tap: Tap, serve: Serve) -> None:
    account = Account(contacts=3_000, lists=30, segments=20, members=150)
    sandbox = serve(account)
    run = tap.sync(sandbox)
    assert run.code == 0
    first = sandbox.respond("GET", "/v1/contacts", {"autopilotapikey": KEY}).body
    assert b'"Score":1e400' in first
    assert b'"Score":"1e400"' in run.stdout
    assert run.rows("lists") == [{**one, "additional_fields": None} for one in account.lists]
    assert run.rows("smart_segments") == [
        {**one, "additional_fields": None} for one in account.segments
    ]
    members = [
        (one["segment_id"], contact_id)
        for one in account.segments
        for contact_id in account.segment_members(one["segment_id"]) or ()
    ]
    rows = run.rows("smart_segments_contacts")
    assert len(rows) == len(members) == 19 * 150
    assert {(row["segment_id"], row["contact_id"]) for row in rows} == set(members)
    contacts = run.rows("contacts")
    assert [row["contact_id"] for row in contacts] == account.contact_ids
    columns = list(contacts[0])
    for row in contacts:
        document = served(account.contact(row["contact_id"]))
        assert read_row(row) == expected_row(columns, document)
    extracted = [message["time_extracted"] for message in run.of("RECORD")]
    now = datetime.now(timezone.utc)
    assert all(now - timedelta(minutes=5) < instant(one) <= now for one in extracted)


def test_one_row_literally(tap: Tap, serve: Serve) -> None:
    """The contact in the API's documentation, and the row that it must become."""

    class One(Account):
        def model(self, number: int) -> dict[str, Any]:
            assert number == 0
            return {
                "contact_id": "", "Name": "Ada Example", "FirstName": "Ada", "LinkedIn": "in/ada",
                "NumberOfEmployees": 10001, "employeesRange": {"min": 10001},
                "MailingCountry": "Österreich", "Unsubscribed": False, "MobilePhone": "",
                "created_at": "2016-12-20T07:31:12.000Z", "updated_at": 1482221280000,
                "anywhere_page_visits": {"//site": True}, "anywhere_utm": [],
                "mail_opened": {"batch_1": 1482221100007},
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
    assert {column: value for column, value in row.items() if value is not None} == {
        "contact_id": account.contact_ids[0],
        "name": "Ada Example",
        "first_name": "Ada",
        "linkedin": "in/ada",
        "number_of_employees": "10001",
        "employees_range": {"min": 10001, "max": None},
        "mailing_country": "Österreich",
        "unsubscribed": False,
        "mobile_phone": "",
        "created_at": "2016-12-20T07:31:12.000Z",
        "updated_at": "2016-12-20T08:08:00.000Z",
        "anywhere_page_visits": [{"url": "//site", "value": True}],
        "anywhere_utm": [],
        "mail_opened": [{"id": "batch_1", "timestamp": "2016-12-20T08:05:00.007Z"}],
        "custom_fields": [
            {"kind": "NPS Rating", "field_type": "integer", "value": "10", "deleted": False},
            {"kind": "Ratio", "field_type": "float", "value": "10.5", "deleted": False},
            {"kind": "Reviewed", "field_type": "boolean", "value": "true", "deleted": False},
            {"kind": "None", "field_type": "string", "value": None, "deleted": True},
        ],
        "additional_fields": {"lead_score": 7, "api_originated": "no"},
    }
    assert len(row) == 48


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


@pytest.mark.parametrize(("concurrency", "packed"), [(1, True), (3, False)])
def test_the_same_rows_at_any_concurrency(
    tap: Tap, serve: Serve, concurrency: int, packed: bool
) -> None:
    sandbox = serve(Account(contacts=90, segments=5, members=44), gzip=packed, page=20)
    run, other = tap.sync(sandbox, concurrency=concurrency), tap.sync(sandbox)
    for stream in ("contacts", "lists", "smart_segments"):
        assert run.rows(stream) == other.rows(stream)
    rows, others = (
        sorted(map(tuple, map(dict.values, one.rows("smart_segments_contacts"))))
        for one in (run, other)
    )
    assert rows == others


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
