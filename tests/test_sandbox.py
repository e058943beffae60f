"""The sandbox responds as the API is documented to, and misbehaves as configured."""

from __future__ import annotations

import email.utils
import json
import subprocess
import sys
import time
import urllib.parse
from typing import Any

import msgspec
import pytest
import requests

from tap_autopilot.sandbox.__main__ import _parser
from tap_autopilot.sandbox.account import CONTACTS, LISTS, SEGMENTS, Account, members_of_segment
from tap_autopilot.sandbox.command import values
from tap_autopilot.sandbox.documents import MODELS, as_json
from tap_autopilot.sandbox.faults import Fault
from tap_autopilot.sandbox.options import Options, Size
from tap_autopilot.sandbox.pushes import Pushing
from tests import lying_pager
from tests.changing_sandbox import ChangingSandbox
from tests.conftest import KEY, PATIENCE, Serve, wait_until
from tests.recording import Sandbox


def get(sandbox: Sandbox, path: str, key: str | None = KEY, **headers: str) -> requests.Response:
    if key is not None:
        headers["autopilotapikey"] = key
    return requests.get(
        sandbox.url + path, headers=headers, timeout=PATIENCE, allow_redirects=False
    )


@pytest.mark.parametrize(
    ("path", "key", "status", "message"),
    [
        ("/contacts", None, 400, "No autopilotapikey header provided."),
        ("/contacts", "wrong", 401, "Provided autopilotapikey not valid."),
        ("/deals", KEY, 404, "No such path."),
        ("/../contacts", KEY, 404, "No such path."),
        ("/list/x/contacts", KEY, 404, "No such list or segment."),
        ("/smart_segments/x/contacts", KEY, 404, "No such list or segment."),
        ("/contact/x", KEY, 404, "Contact could not be found."),
    ],
)
def test_refusals(serve: Serve, path: str, key: str | None, status: int, message: str) -> None:
    answer = get(serve(), path, key)
    assert answer.status_code == status
    assert answer.json() == {"error": answer.reason, "message": message}


def test_listings_members_and_one_contact(serve: Serve) -> None:
    account = Account(contacts=250, lists=3, segments=4, members=120)
    sandbox = serve(account)
    assert get(sandbox, "/lists").json() == {"lists": account.lists}
    assert get(sandbox, "/smart_segments").json() == {"segments": account.segments}
    segment = sorted(one["segment_id"] for one in account.segments)
    assert [page["total_contacts"] for page in walk(sandbox, f"/smart_segments/{segment[0]}/contacts")] == [120] * 2  # fmt: skip
    assert get(sandbox, f"/smart_segments/{segment[1]}/contacts").json()["contacts"] == []
    list_id = account.lists[0]["list_id"]
    members = [one for page in walk(sandbox, f"/list/{list_id}/contacts") for one in page["contacts"]]  # fmt: skip
    assert members
    assert all(list_id in one["lists"] for one in members)
    for contact in members[:2]:
        assert get(sandbox, f"/contact/{contact['contact_id']}").json() == contact
        assert get(sandbox, f"/contact/{contact['Email']}").json() == contact


def test_the_account_is_the_same_every_time_and_odd_on_purpose() -> None:
    account, same, other = (
        Account(contacts=300),
        Account(contacts=300),
        Account(contacts=300, seed=2),
    )
    documents = [account.contact(contact_id) for contact_id in account.contact_ids]
    assert documents == [same.contact(contact_id) for contact_id in same.contact_ids]
    assert account.contact_ids != other.contact_ids
    names = {name for document in documents for name in document}
    assert {"Unsubscribed", "unsubscribed", "lead_score", "mail_opened", "FirstName"} <= names
    assert any("updated_at" not in document for document in documents)
    assert any(set(document) == {"Email", "created_at", "api_originated", "contact_id"} for document in documents)  # fmt: skip
    assert any(document.get("mail_clicked") == [] for document in documents)
    assert any(type(document.get("NumberOfEmployees")) is int for document in documents)
    plain = Account(contacts=300, odd=False)
    assert not any("lead_score" in plain.contact(one) for one in plain.contact_ids)


def test_strict_parsers_accept_an_account_that_is_meant_for_them() -> None:
    def refused(account: Account) -> int:
        count = 0
        for contact_id in account.contact_ids:
            try:
                msgspec.json.decode(as_json(account.contact(contact_id)))
            except msgspec.DecodeError:
                count += 1
        return count

    account = Account(contacts=300, strict=True)
    assert any("lead_score" in account.contact(one) for one in account.contact_ids)
    assert refused(account) == 0
    assert refused(Account(contacts=300)) > 0


def test_a_large_account_repeats_everything_but_ids() -> None:
    account = Account(contacts=MODELS + 3)
    first, again = account.contact_ids[2], account.contact_ids[MODELS + 2]
    assert account.contact(again) == account.contact(first) | {"contact_id": again}


def test_a_limit_of_requests_a_second(serve: Serve) -> None:
    sandbox = serve(requests_per_second=3, retry_after="7")
    started = time.monotonic()
    answers = [get(sandbox, "/lists")]
    while answers[-1].status_code == 200:
        answers.append(get(sandbox, "/lists"))
        assert len(answers) <= 4 + 3 * (time.monotonic() - started)
    assert len(answers) >= 4
    assert answers[-1].status_code == 429
    assert answers[-1].headers["Retry-After"] == "7"
    wait_until(lambda: get(sandbox, "/lists").status_code == 200)


def test_latency_and_gzip(serve: Serve) -> None:
    sandbox = serve(latency=0.2, gzip=True)
    started = time.monotonic()
    answer = get(sandbox, "/lists")
    assert time.monotonic() - started >= 0.2
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.json()["lists"]
    assert "Content-Encoding" not in get(sandbox, "/lists", **{"Accept-Encoding": ""}).headers


@pytest.mark.parametrize("text", ["", "5", "5:", "x:500", "5:explode", "5:99", "%:500", "1-x:500"])
def test_invalid_faults_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Fault.parse(text)


def test_it_serves_from_the_command_line() -> None:
    command = [sys.executable, "-m", "tap_autopilot.sandbox", "--port", "0", "--contacts", "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("5 contacts,")
        settings = json.loads(process.stdout.readline().partition(": ")[2])
        said = f"TAP_AUTOPILOT_API_URL={settings['api_url']} TAP_AUTOPILOT_API_KEY=sandbox\n"
        assert process.stdout.readline() == f"or: export {said}"
        url, headers = settings["api_url"], {"autopilotapikey": settings["api_key"]}
        answer = requests.get(f"{url}/contacts", headers=headers, timeout=PATIENCE)
        assert answer.json()["total_contacts"] == 5
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_the_command_line_has_the_defaults_of_the_options() -> None:
    args = _parser().parse_args([])
    for kind in (Options, Pushing, Size):
        defaults = kind()
        found = values(kind, args)
        assert found == {name: getattr(defaults, name) for name in found}


def test_the_command_line_sets_the_options() -> None:
    args = _parser().parse_args(
        ["--plain", "--no-date", "--gzip", "--page", "7", "--latency", "0.5", "--stale", "first",
         "--churn-seed", "3", "--seed", "4", "--push-seed", "5", "--push-rate", "0", "--days", "2",
         "--push-segment", "https://here"]
    )  # fmt: skip
    unset = values(Options, _parser().parse_args([]))
    assert values(Options, args) == unset | {
        "date": False, "gzip": True, "page": 7, "latency": 0.5, "stale": "first", "seed": 3,
    }  # fmt: skip
    assert Pushing(**values(Pushing, args)) == Pushing(seed=5, rate=0, webhook="https://here")
    assert Size(**values(Size, args)) == Size(odd=False, seed=4, days=2)


@pytest.mark.parametrize(
    "arguments",
    [["--page", "0"], ["--churn", "-1"], ["--port", "99999"], ["--contacts", "-1"], ["--push-late", "2"], ["--push-segment", "here"],
     ["--bookmarks", "none"], ["--fault", "x"]],
)  # fmt: skip
def test_wrong_options_are_rejected(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args(arguments)


# Accounts that change

HEADERS = {"autopilotapikey": KEY}


def ask(sandbox: Sandbox, path: str, bookmark: str | None = None) -> Any:
    """A response, without a network in between; None if it is not a 200."""
    if bookmark is not None:
        path += "/" + urllib.parse.quote(bookmark, safe="")
    answer = sandbox.respond("GET", f"/v1{path}", HEADERS)
    return json.loads(answer.body) if answer.status == 200 else None


def walk(sandbox: Sandbox, path: str = CONTACTS) -> list[Any]:
    """All pages of a listing, or those before a refused bookmark."""
    pages = [ask(sandbox, path)]
    while pages[-1] and "bookmark" in pages[-1] and len(pages) < 100:
        pages.append(ask(sandbox, path, pages[-1]["bookmark"]))
    return pages


def ids(pages: list[Any]) -> list[str]:
    return [one["contact_id"] for page in pages if page for one in page["contacts"]]


def living(churn: float, seed: int = 1, **options: Any) -> Sandbox:
    account = Account(contacts=400, members=100)
    chosen = {"page": 20, "churn": churn, "seed": seed, **options}
    return Sandbox(account, lying_pager.Options(**chosen))


def test_the_same_seed_and_requests_change_the_same_things() -> None:
    first, same, other = living(2), living(2), living(2, seed=2)
    for sandbox in (first, same, other):
        walk(sandbox)
        walk(sandbox, members_of_segment(sandbox.account.segments[0]["segment_id"]))
    assert first.account.log == same.account.log
    assert first.account.contact_ids == same.account.contact_ids
    assert first.account.log != other.account.log


def test_everything_happens() -> None:
    sandbox = living(20)
    account = sandbox.account
    for _ in range(10):
        walk(sandbox)
    happened = {(change.what, change.listing.count("/")) for change in account.log}
    assert happened >= {(what, 1) for what in ("created", "changed", "deleted")}
    assert happened >= {(what, 3) for what in ("created", "deleted")}
    for what in ("created", "changed", "deleted"):
        for listing in (CONTACTS, LISTS, SEGMENTS):
            assert any(one.what == what and one.listing == listing for one in account.log)


def test_members_are_sorted_contacts_and_lists_match_the_contacts() -> None:
    sandbox = living(50)
    account = sandbox.account
    walk(sandbox)
    assert account.contact_ids == sorted(set(account.contact_ids))
    for segment in account.segments:
        members = account.segment_members(segment["segment_id"])
        assert members == sorted(set(members or ()) & set(account.contact_ids))
    named: dict[str, list[str]] = {}
    for contact_id in account.contact_ids:
        for list_id in account.contact(contact_id).get("lists") or ():
            named.setdefault(list_id, []).append(contact_id)
    assert {one["list_id"] for one in account.lists} >= named.keys()
    for one in account.lists:
        assert account.list_members(one["list_id"]) == named.get(one["list_id"], [])


def test_a_deleted_list_or_segment_takes_its_members_with_it() -> None:
    steps = [("delete_list", "l"), ("delete_segment", "s")]
    sandbox = ChangingSandbox("ab", segments={"s": "a", "t": ""}, lists={"l": "ab", "m": "b"}, changes={1: steps})  # fmt: skip
    assert ask(sandbox, "/list/l/contacts")
    contacts = ask(sandbox, CONTACTS)["contacts"]
    assert [one["lists"] for one in contacts] == [[], ["m"]]
    assert ask(sandbox, "/list/l/contacts") is None
    assert ask(sandbox, "/smart_segments/s/contacts") is None


def test_responses_have_a_date(serve: Serve) -> None:
    for skew in (0, -86_400):
        answer = requests.get(f"{serve(clock_skew=skew).url}/lists", timeout=PATIENCE)
        date = email.utils.parsedate_to_datetime(answer.headers["Date"])
        assert abs(date.timestamp() - time.time() - skew) < 60
    assert "Date" not in requests.get(f"{serve(date=False).url}/lists", timeout=PATIENCE).headers
