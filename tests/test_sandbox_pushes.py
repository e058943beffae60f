"""What the sandbox pushes: email events as Segment sends them, and REST hooks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections import Counter
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
import requests

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.mail import all_occurrences, key_of, track_call
from tap_autopilot.sandbox.pushes import Pusher, Pushing
from tests.changing_sandbox import ChangingSandbox
from tests.conftest import PATIENCE, wait_until
from tests.lying_pager import KEY, Options
from tests.receiver import Receiver, answer, serving
from tests.recording import Sandbox

HEADERS = {"autopilotapikey": KEY}
SECRET, WRITE_KEY = "webhook secret", "write-key"


class Pushed(Receiver):
    """Keeps what it gets, and responds with the given statuses, then 200."""

    def __init__(self, *statuses: int) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.statuses = list(statuses)
        super().__init__()

    def respond(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append((request.path, headers, body))
        answer(request, self.statuses.pop(0) if self.statuses else 200)

    def events(self) -> list[Any]:
        found: list[Any] = []
        for _, _, body in self.got:
            value = json.loads(body)
            if isinstance(value, dict):
                value = value.get("batch", [value])
            found += value
        return found


def pushed(account: Account, *statuses: int, **pushing: Any) -> tuple[Pusher, Pushed]:
    """Push all of an account's events to a webhook, or to a tracking API if there is a path."""
    with serving(Pushed(*statuses)) as receiver:
        path = pushing.pop("tracking", None)
        target = {"tracking": receiver.url + path} if path else {"webhook": receiver.url}
        chosen = Pushing(
            **{**target, "secret": SECRET, "write_key": WRITE_KEY, "rate": 0, **pushing}
        )
        with Sandbox(account, Options(pushing=chosen)) as sandbox:
            assert sandbox.pusher is not None
            assert sandbox.pusher.wait(PATIENCE)
        return sandbox.pusher, receiver


ACCOUNT = Account(contacts=150)


@pytest.fixture(scope="module")
def webhook() -> tuple[Pusher, Pushed]:
    return pushed(ACCOUNT)


def test_a_request_holds_at_most_a_second_of_events() -> None:
    _, receiver = pushed(Account(contacts=20), tracking="/v1", rate=20)
    bodies = [json.loads(body) for _, _, body in receiver.got]
    assert 1 < max(len(body.get("batch", [body])) for body in bodies) <= 20


def test_everything_arrives_except_what_is_withheld(webhook: tuple[Pusher, Pushed]) -> None:
    pusher, receiver = webhook
    arrived = [event["messageId"] for event in receiver.events()]
    assert Counter(arrived) == pusher.acknowledged
    assert pusher.withheld
    assert set(arrived) == pusher.occurrences.keys() - pusher.withheld
    assert 0.02 < 1 - len(set(arrived)) / len(arrived) < 0.2, "some are repeated"
    order = [list(pusher.occurrences).index(one) for one in dict.fromkeys(arrived)]
    late = sum(after < max(order[:number]) for number, after in enumerate(order) if number)
    assert 0.01 < late / len(order) < 0.1


@pytest.mark.parametrize("other_keys", [False, True])
def test_an_event_is_a_track_call_in_segments_format(other_keys: bool) -> None:
    messages: dict[str, set[str]] = {}
    occurrences = all_occurrences(ACCOUNT)
    events = [track_call(ACCOUNT.seed, one, other_keys=other_keys) for one in occurrences]
    for one, event in zip(occurrences, events, strict=True):
        properties, traits = event["properties"], event["context"]["traits"]
        assert (event["type"], event["messageId"]) == ("track", one.message_id)
        assert properties["event"] == one.kind
        assert properties["email_id"].startswith("batchcampaign_")
        assert (key_of(properties["email_id"]) == one.key) != other_keys
        assert properties.get("link_url") == one.link
        assert {"campaign_id", "campaign_name", "email_name", "email_subject", "transactional"} <= properties.keys()  # fmt: skip
        assert ("userId" in event) != ("anonymousId" in event)
        assert event.get("anonymousId", one.email) == one.email
        assert traits["email"].lower() == one.email.lower()
        assert traits.get("contact_id", one.contact_id) == one.contact_id
        described = {name: properties[name] for name in properties if not name.startswith(("link", "event"))}  # fmt: skip
        messages.setdefault(properties["email_id"], set()).add(json.dumps(described))
    assert all(len(known) == 1 for known in messages.values()), "a message is the same for everyone"
    assert {"userId", "anonymousId"} <= {name for event in events for name in event}
    assert any("contact_id" not in event["context"]["traits"] for event in events)
    assert any(event["event"] == "Email Link Clicked" for event in events)


def test_the_webhook_signs_the_first_event(webhook: tuple[Pusher, Pushed]) -> None:
    kinds = set()
    for path, headers, body in webhook[1].got:
        kinds.add(type(json.loads(body)))
        end, raw = 0, body
        if body.startswith(b"["):
            _, end = json.JSONDecoder().raw_decode(body.decode(), 1)
            raw = body.decode()[1:end].encode()
        signature = hmac.new(SECRET.encode(), raw, hashlib.sha1).hexdigest()
        assert headers["x-signature"] == signature
        assert headers["authorization"] == f"Basic {base64.b64encode(WRITE_KEY.encode() + b':').decode()}"  # fmt: skip
        assert path == "/"
    assert kinds == {dict, list}


def test_the_tracking_api_gets_calls_and_batches() -> None:
    pusher, receiver = pushed(ACCOUNT, tracking="/v1/")
    assert {path for path, _, _ in receiver.got} == {"/v1/track", "/v1/batch"}
    assert all("sentAt" in json.loads(body) for _, _, body in receiver.got)
    assert Counter(event["messageId"] for event in receiver.events()) == pusher.acknowledged
    assert all("x-signature" not in headers for _, headers, _ in receiver.got)


@pytest.mark.parametrize(
    ("statuses", "patience", "retries"),
    [((500, 429, 503, 400), 4 * 3600, 3), ((500,), 0, 0), ((401,), 4 * 3600, 0)],
)
def test_failed_pushes_are_retried_and_refused_pushes_are_not(
    statuses: tuple[int, ...], patience: float, retries: int
) -> None:
    pusher, receiver = pushed(ACCOUNT, *statuses, withheld=0, repeated=0, patience=patience)
    first, *others = [json.loads(body) for _, _, body in receiver.got]
    assert others.count(first) == retries
    failed = {one["messageId"] for one in (first if isinstance(first, list) else [first])}
    assert pusher.acknowledged.keys() == pusher.occurrences.keys() - failed


def test_emails_sent_meanwhile_are_pushed_too() -> None:
    sent = {"batchdelivery_X_1482219072777-48a06f90": 1482221012000}
    with serving(Pushed()) as receiver:
        chosen = Pushing(webhook=receiver.url, rate=0, withheld=0, repeated=0)
        with ChangingSandbox(changes={1: [("change", "a", {"mail_received": sent, "Email": "a@example.com"})]}, pushing=chosen) as sandbox:  # fmt: skip
            assert sandbox.pusher is not None
            assert sandbox.pusher.wait(PATIENCE)
            assert not receiver.got
            requests.get(f"{sandbox.url}/contacts", headers=HEADERS, timeout=PATIENCE)
            assert sandbox.pusher.wait(PATIENCE)
        (event,) = receiver.events()
        assert event["properties"]["email_id"].lower() == "batchcampaign_1482219072777-48a06f90"
        assert list(sandbox.pusher.acknowledged) == [event["messageId"]]


def register(sandbox: Sandbox, event: str, url: str) -> requests.Response:
    return requests.post(f"{sandbox.url}/hook", json={"event": event, "target_url": url}, headers=HEADERS, timeout=PATIENCE)  # fmt: skip


def test_hooks_are_registered_listed_and_deleted() -> None:
    with ChangingSandbox() as sandbox:
        answer = register(sandbox, "contact_added", "http://127.0.0.1:1/a")
        assert answer.status_code == 201
        hook_id = answer.json()["id"]
        assert hook_id.startswith("hook_")
        assert register(sandbox, "contact_updated", "http://127.0.0.1:1/a").status_code == 409
        assert register(sandbox, "contact_exploded", "http://127.0.0.1:1/b").status_code == 400
        assert register(sandbox, "contact_added", "nowhere").status_code == 400
        url = f"{sandbox.url}/hooks"
        (hook,) = requests.get(url, headers=HEADERS, timeout=PATIENCE).json()["hooks"]
        assert hook.keys() == {"hook_id", "event", "target_url", "created_at"}
        assert (hook["hook_id"], hook["event"]) == (hook_id, "contact_added")
        gone = f"{sandbox.url}/hook/{hook_id}"
        assert requests.delete(gone, timeout=PATIENCE).status_code == 400
        assert requests.delete(gone, headers=HEADERS, timeout=PATIENCE).status_code == 200
        assert requests.delete(gone, headers=HEADERS, timeout=PATIENCE).status_code == 404
        assert requests.get(url, headers=HEADERS, timeout=PATIENCE).json() == {"hooks": []}


STEPS = [
    ("create", "n", {"Email": "n@example.com"}),
    ("change", "a", {"unsubscribed": True}),
    ("change", "b", {"lists": ["l"]}),
    ("change", "c", {"lists": []}),
    ("join", "s", "d"),
    ("leave", "s", "e"),
    ("delete", "f"),
]
EXPECTED = {
    "contact_added": ("n", {}),
    "contact_unsubscribed": ("a", {}),
    "contact_added_to_list": ("b", {"list_id": "l"}),
    "contact_removed_from_list": ("c", {"list_id": "l"}),
    "contact_entered_segment": ("d", {"segment_id": "s"}),
    "contact_left_segment": ("e", {"segment_id": "s"}),
}


@pytest.mark.parametrize("shape", ["email", "contact"])
def test_hooks_deliver_changes(shape: str) -> None:
    with (
        serving(Pushed()) as receiver,
        ChangingSandbox(lists={"l": "cf"}, segments={"s": "ef"}, changes={1: STEPS}, hook_shape=shape) as sandbox,
    ):  # fmt: skip
        for event in (*EXPECTED, "contact_updated"):
            register(sandbox, event, f"{receiver.url}/{event}")
        requests.get(f"{sandbox.url}/contacts", headers=HEADERS, timeout=PATIENCE)
        wait_for(sandbox, len(EXPECTED) + 3)
        got = [(path, json.loads(body)) for path, _, body in receiver.got]
    for event, (contact_id, more) in EXPECTED.items():
        (body,) = (body for path, body in got if path == f"/{event}")
        held: dict[str, Any] = {"contact": sandbox.account.contact(contact_id)}
        if shape == "email":
            held = {"email": held["contact"].get("Email")}
        assert body == {"event": event, "contact_id": contact_id, **more, **held}
    updated = [body["contact_id"] for path, body in got if path == "/contact_updated"]
    assert updated == ["a", "b", "c"]
    assert {one.outcome for one in sandbox.hooks.deliveries} == {"delivered"}


def wait_for(sandbox: Sandbox, deliveries: int) -> None:
    done = [True] * deliveries
    wait_until(lambda: [bool(one.outcome) for one in sandbox.hooks.deliveries] == done)


@pytest.mark.parametrize(
    ("statuses", "outcome", "least", "most"),
    [((500, 500, 500, 204), "delivered", 4, 4), ((302,) * 6, "lost", 4, 6), ((410,), "gone", 1, 1)],
)
def test_the_outcome_of_a_delivery(
    statuses: tuple[int, ...], outcome: str, least: int, most: int
) -> None:
    """A failed delivery is retried and then lost; 410 deletes the hook."""
    steps = [("create", "x"), ("create", "y")]
    with serving(Pushed(*statuses)) as receiver, ChangingSandbox(changes={1: steps}, hook_wait=0.01) as sandbox:  # fmt: skip
        register(sandbox, "contact_added", receiver.url)
        requests.get(f"{sandbox.url}/contacts", headers=HEADERS, timeout=PATIENCE)
        wait_for(sandbox, 2)
        first, second = sandbox.hooks.deliveries
        assert first.outcome == outcome
        assert least <= first.tries <= most
        gone = outcome == "gone"
        assert second.outcome == ("gone" if gone else "delivered")
        assert len(receiver.got) == first.tries + second.tries
        left = requests.get(f"{sandbox.url}/hooks", headers=HEADERS, timeout=PATIENCE).json()
        assert (left == {"hooks": []}) == gone
