"""What each endpoint accepts, requires and returns."""

from __future__ import annotations

import gzip
import json
import math
import re
import uuid
from typing import Any

import pytest

from tap_autopilot.collector import metrics
from tap_autopilot.collector.request import Refusal
from tests.collector.conftest import KEY, ROOT, TOKEN, Collector, Start, signature
from tests.conftest import wait_until


def track(**more: Any) -> dict[str, Any]:
    return {"type": "track", "event": "Email Opened", "messageId": str(uuid.uuid4()), **more}


@pytest.mark.parametrize("call", ["track", "identify", "page", "screen", "group", "alias"])
def test_single_calls_are_stored_unchanged(shared: Collector, call: str) -> None:
    for path in (call, call[0]):
        shared.forget()
        body = b'{ "messageId":"%s",\n "x" : 1.50 }' % uuid.uuid4().hex.encode()
        answer = shared.post(f"/v1/{path}", body)
        assert (answer.status_code, answer.json()) == (200, {"success": True})
        assert answer.headers["content-type"] == "application/json"
        assert shared.post(f"/v1/{path}", body, key=None).status_code == 401
        (event,) = shared.events()
        assert (event.source, event.route, event.name, event.body) == ("segment", call, call, body)
    assert shared.metric(f'requests_total{{route="{call}",status="200"}}') >= 2


@pytest.mark.parametrize("call", ["batch", "import", "b"])
def test_each_event_gets_the_context_of_its_batch(shared: Collector, call: str) -> None:
    first, second = track(context={"ip": "1"}), track(sentAt="own")
    batch = {
        "batch": [first, second],
        "context": {"ip": "2", "library": {"name": "x"}},
        "integrations": {"All": True},
        "sentAt": "2024-01-01T00:00:00Z",
    }
    assert shared.post(f"/v1/{call}", batch).status_code == 200
    library = {"library": {"name": "x"}}
    assert [json.loads(body) for body in shared.bodies()] == [
        {**first, "context": {**library, "ip": "1"}, "integrations": {"All": True},
         "sentAt": "2024-01-01T00:00:00Z"},
        {**second, "context": {**library, "ip": "2"}, "integrations": {"All": True}},
    ]  # fmt: skip
    assert {event.route for event in shared.events()} == {"batch"}


@pytest.mark.parametrize(
    "spelled", ['"writeKey"', '"write\\u004bey"', '"x":1,"writeKey":"a","writeKey"']
)
def test_a_write_key_in_the_body_is_accepted_but_not_stored(
    shared: Collector, spelled: str
) -> None:
    body = b'{"a":"\\ud83d", %s : "%s" ,"b":2}' % (spelled.encode(), KEY.encode())
    assert shared.post("/v1/track", body, key=None).status_code == 200
    batch = b'{"batch":[%s],"writeKey":"%s"}' % (body, KEY.encode())
    for data, headers in ((batch, {}), (gzip.compress(batch), {"Content-Encoding": "gzip"})):
        assert shared.post("/v1/batch", data, key=None, headers=headers).status_code == 200
    for stored in shared.bodies():
        assert b'"a":"\\ud83d"' in stored
        assert b'"b":2' in stored
        assert KEY.encode() not in stored
        assert b"write" not in stored


@pytest.mark.parametrize(
    ("path", "body", "key", "headers", "status"),
    [
        ("/v1/track", b'{"writeKey": "wrong"}', None, {}, 401),
        ("/v1/track", b'{"writeKey": 5}', None, {}, 401),
        ("/v1/track", b"{}", None, {"Authorization": "Basic ====="}, 401),
        ("/v1/track", b"{}", None, {"Authorization": "Bearer \xff\xfe"}, 401),
        ("/v1/track", b"{}", None, {"Authorization": "Digest x"}, 401),
        ("/segment", b"{}", KEY, {}, 401),
        ("/segment", b"{}", KEY, {"X-Signature": "0" * 40}, 401),
        ("/segment", b"[{}]", None, {"X-Signature": signature(b"{}")}, 401),
        ("/segment", b"[{}]", KEY, {"X-Signature": signature(b"[{}]")}, 401),
        ("/segment", b"[{},{}]", KEY, {"X-Signature": signature(b"{},{}")}, 401),
        ("/segment", b"[]", KEY, {"X-Signature": signature(b"")}, 401),
        ("/segment", b'{"writeKey":"%s"}' % KEY.encode(), KEY, {"X-Signature": ""}, 401),
        ("/v1/track", b"{}", None, {"Authorization": "Bearer eDo="}, 401),  # x:
        ("/hooks/wrong", b"{}", KEY, {}, 404),
        ("/hooks", b"{}", KEY, {}, 404),
        (f"/hooks/{TOKEN}/a/b", b"{}", KEY, {}, 404),
        ("/activity/wrong", b"{}", KEY, {}, 404),
        (f"/activity/{TOKEN}/a", b"{}", KEY, {}, 404),
        ("/v1/unknown", b"{}", KEY, {}, 404),
        ("/v1/track", b"", KEY, {}, 400),
        ("/v1/track", b"hello", KEY, {}, 400),
        ("/v1/track", b"[]", KEY, {}, 400),
        ("/v1/track", b'{"a": NaN}', KEY, {}, 400),
        ("/v1/batch", b'{"batch": {}}', KEY, {}, 400),
        ("/v1/batch", b"{}", KEY, {}, 400),
        (f"/hooks/{TOKEN}", b"7", None, {}, 400),
        (f"/activity/{TOKEN}", b"hello", None, {}, 400),
        (f"/activity/{TOKEN}", b"5\n6", None, {}, 400),
        ("/v1/track", b"{}", KEY, {"Content-Encoding": "br"}, 415),
        ("/v1/track", b"no gzip", KEY, {"Content-Encoding": "gzip"}, 400),
        ("/v1/track", gzip.compress(b"{}", mtime=0)[:-4], KEY, {"Content-Encoding": "gzip"}, 400),
    ],
)
def test_refusals(
    shared: Collector, path: str, body: bytes, key: str | None, headers: Any, status: int
) -> None:
    answer = shared.post(path, body, key=key, headers=headers)
    assert answer.status_code == status
    assert set(answer.json()) == {"code", "message"}
    assert shared.bodies() == []


def test_the_webhooks_destination(shared: Collector) -> None:
    one, two = json.dumps(track()).encode(), json.dumps(track()).encode()
    for body in (one, b" \n%s\n" % one):
        assert shared.webhook(body, key=None) == 200
    assert shared.webhook(b"[ %s , %s ]" % (one, two), signed=one) == 200
    assert shared.bodies() == [one, two]  # the first came three times
    assert {event.route for event in shared.events()} == {"segment"}


def test_hook_deliveries_are_stored_in_both_shapes(shared: Collector) -> None:
    flat = b'{"event": "contact_added", "contact_id": "person_1", "list_id": "l"}'
    nested = b'{"event":"contact_added","contact":{"Email":"\\ud800"},"segment_id":"s"}'
    assert shared.post(f"/hooks/{TOKEN}", flat, key=None).status_code == 200
    assert shared.post(f"/hooks/{TOKEN}/contact_added", nested, key=None).status_code == 200
    assert shared.post(f"/hooks/{TOKEN}/{'a' * 9000}", b"{}", key=None).status_code == 200
    events = shared.events()
    assert [event.body for event in events] == [flat, nested, b"{}"]
    routes = ["hooks", "hooks/contact_added", f"hooks/{'a' * 200}"]  # long names are cut
    assert [event.route for event in events] == routes
    assert {event.source for event in events} == {"hook"}


def test_a_path_that_would_take_long_to_decode_is_not_decoded(shared: Collector) -> None:
    for escapes in (1000, 1001):
        assert shared.post(f"/hooks/{TOKEN}/{'%2B' * escapes}", b"{}").status_code == 200
    assert [event.name[:3] for event in shared.events()] == ["+++", "%2B"]


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b'{"n":1}\n\n{"n":2}\r\n{"n":2}\n', [b'{"n":1}', b'{"n":2}', b'{"n":2}']),
        (b'[{"n":3}, {"n":4}]', [b'{"n":3}', b'{"n":4}']),
        (b'{\n"n":\n5}', [b'{\n"n":\n5}']),
        (b'{"n":6}\nnot json\n', [b'{"n":6}', b"not json"]),
        (b'{"event":"\xff"}\n{"n":7}', [b'{"event":"\xff"}', b'{"n":7}']),
    ],
)
def test_activity_streams(shared: Collector, body: bytes, kept: list[bytes]) -> None:
    for _ in range(2):  # the second is the same delivery, repeated
        assert shared.post(f"/activity/{TOKEN}", body, key=None).status_code == 200
    assert shared.bodies() == kept
    assert {event.source for event in shared.events()} == {"activity"}


ODD = [
    b'{"a": 1e400}',
    b'{"a": %s}' % (b"9" * 10_000),
    b'{"a": "\\ud800", "\\udfff": "\\ud83d\\ude00"}',
    b'{"a": %s1%s}' % (b"[" * 50_000, b"]" * 50_000),
    b'{"event": 5, "messageId": {"x": []}, "type": null}',
    b'{"a": 1, "a": 2}',
    b'{"a": "\\u0000"}',
    b'{"event": "\\ud800"}',
]


@pytest.mark.parametrize("body", ODD, ids=range(len(ODD)))
def test_odd_but_valid_json_is_stored_unchanged(shared: Collector, body: bytes) -> None:
    assert shared.post("/v1/track", body).status_code == 200
    assert shared.post("/v1/batch", b'{"batch":[%s,{}]}' % body).status_code == 200
    assert shared.post(f"/hooks/{TOKEN}", body).status_code == 200
    assert shared.post(f"/activity/{TOKEN}", b"\xef\xbb\xbf" + body + b"\n").status_code == 200
    assert shared.bodies() == [body, body, b"{}", body, body]


def test_endpoints_without_a_secret_do_not_exist(start: Start) -> None:
    collector = start(webhook_secrets=[], hook_tokens=[])
    headers = {"X-Signature": signature(b"{}", "")}
    assert collector.post("/segment", b"{}", headers=headers).status_code == 404
    assert collector.post(f"/hooks/{TOKEN}", b"{}").status_code == 404
    assert collector.post("/hooks/", b"{}").status_code == 404
    assert collector.post("/activity/", b"{}").status_code == 404
    assert collector.post("/v1/track", b"{}").status_code == 200


def test_secrets_can_be_rotated(start: Start) -> None:
    old, new_key = KEY, "a-new-key"
    collector = start(write_keys=f"{old}, {new_key}", webhook_secrets=["one", "two"])
    for key in (old, new_key):
        assert collector.post("/v1/track", b"{}", key=key).status_code == 200
    for secret in ("one", "two"):
        headers = {"X-Signature": signature(b"{}", secret).upper()}
        assert collector.post("/segment", b"{}", headers=headers).status_code == 200
    collector.restart(write_keys=[new_key])
    assert collector.post("/v1/track", b"{}", key=old).status_code == 401
    assert collector.post("/v1/track", b"{}", key=new_key).status_code == 200


def test_no_secret_is_stored_logged_or_shown_and_metrics_name_nobody(start: Start) -> None:
    collector = start()
    secrets = [KEY, TOKEN, *collector.settings["webhook_secrets"]]
    person = {"email": "ada@example.com", "contact_id": "person_1"}
    call = track(writeKey=KEY, context={"traits": person}, event="ada@example.com")
    collector.post("/v1/track", call)
    collector.post("/v1/batch", {"batch": [call], "writeKey": KEY})
    collector.post("/v1/ada@example.com", call)
    collector.post(f"/hooks/{TOKEN}/ada@example.com", person)
    collector.post(f"/activity/{TOKEN}", person)
    collector.post(f"/hooks/{TOKEN}/a/b/c", b"{")
    shown = collector.get("/metrics").content
    assert b"ada" not in shown
    assert b"person_1" not in shown
    shown += collector.run("--stats").stdout.encode() + collector.run("--about").stdout.encode()
    collector.stop()
    for path in collector.folder.iterdir():
        if path.name != "collector.json":
            shown += path.read_bytes()
    for secret in secrets:
        assert secret.encode() not in shown


def test_health_and_metrics_need_no_key(shared: Collector) -> None:
    assert shared.get("/health").status_code == 200
    assert shared.get("/ready").status_code == 200
    shown = shared.get("/metrics")
    assert shown.headers["content-type"].startswith("text/plain")
    assert "tap_autopilot_collector_events_stored_total" in shown.text
    assert shared.get("/v1/track").status_code == 405


def test_alerts_name_metrics_that_are_there_before_anything_happens(start: Start) -> None:
    """Prometheus sees no increase in a counter that appears with its first event.

    Only `requests_total` does, but its alert is for what goes on for a quarter of an hour.
    """
    rules = (ROOT / "docs/operating.md").read_text().partition("```yaml")[2].partition("```")[0]
    named = set(re.findall(r"tap_autopilot_collector_(\w+)", rules)) - {"requests_total"}
    to = {"name": "warehouse", "url": "http://127.0.0.1:9/v1", "write_key": "k3y"}
    collector = start(destinations=[to])
    wait_until(lambda: collector.metric("destination_lag_events") == 0)
    values = {name: collector.metric(name) for name in named}
    assert values == {**dict.fromkeys(named, 0), "ready": 1}
    assert len(named) == 7
    for path in ("/.env", "/health", "/metrics/x"):  # of scanners, which have no events
        assert collector.post(path, track()).status_code == 404
    assert collector.get("/health/live").status_code == 404
    assert collector.metric('requests_total{route="other",status="404"}') == 4
    assert collector.metric("rejected_requests_total") == 0
    assert collector.post("/v1/track", track(), key="wrong").status_code == 401
    assert collector.metric("rejected_requests_total") == 1
    assert collector.post("/v1/track", track()).status_code == 200
    assert collector.metric("rejected_requests_total") == 1


def test_received_events_are_counted_by_those_sources_that_are_on(start: Start) -> None:
    counter = 'events_received_by_source_total{source="%s"}'
    collector = start(webhook_secrets=[])
    assert collector.post("/v1/track", track()).status_code == 200
    assert collector.post(f"/hooks/{TOKEN}", b"[{},{}]", key=None).status_code == 200
    counts = {name: collector.metric(counter % name) for name in ("segment", "hook", "activity")}
    assert counts == {"segment": 1, "hook": 2, "activity": 0}
    collector.restart(hook_tokens=[])
    assert collector.metric(counter % "segment") == 0
    assert math.isnan(collector.metric(counter % "hook"))


@pytest.mark.parametrize("write_keys", [[], [KEY]], ids=["off", "on"])
def test_events_sent_to_unknown_paths_of_an_endpoint_are_rejected(
    start: Start, write_keys: list[str]
) -> None:
    collector = start(write_keys=write_keys)
    paths = ["/v1/Track", "/v1/tracks", *(["/v1/track"] if not write_keys else [])]
    for path in paths:
        assert collector.post(path, track()).status_code == 404
    assert collector.metric('requests_total{route="v1",status="404"}') == len(paths)
    assert collector.metric("rejected_requests_total") == len(paths)


def test_no_refusal_can_be_a_410() -> None:
    """Autopilot deletes a hook that gets one."""
    with pytest.raises(KeyError):
        Refusal(410, "gone")


def test_metrics_are_rendered_for_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RENDER_EVERY", math.inf)
    ours = metrics.Metrics()
    first = ours.text()
    ours.responded("identify", 413)
    assert ours.text() is first
    monkeypatch.setattr(metrics, "RENDER_EVERY", 0.0)
    assert b'{route="identify",status="413"} 1.0' in ours.text()
