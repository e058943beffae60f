"""Registering hooks with Autopilot, and receiving their deliveries."""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from tap_autopilot.collector.hooks import EVENTS
from tests.collector.conftest import TOKEN, Collector, Start
from tests.conftest import PATIENCE

API_KEY = "ap1-key-of-the-account"


class Autopilot:
    """The part of Autopilot's API that manages hooks. The first `failures` requests fail."""

    def __init__(self) -> None:
        self.hooks: dict[str, dict[str, str]] = {}
        self.failures = 0
        self.most = 99  # hooks that it registers
        self.odd: list[Any] = []  # entries of the list that are no hooks
        self.lost: set[str] = set()  # methods whose next response is lost
        self.requests: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self, status: int, body: Any = None) -> None:
                if self.command in outer.lost:
                    outer.lost.remove(self.command)
                    self.close_connection = True
                    return
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def handle_request(self) -> None:
                outer.requests.append(f"{self.command} {self.path}")
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
                if outer.failures:
                    outer.failures -= 1
                    self.answer(503)
                elif self.headers["autopilotapikey"] != API_KEY:
                    self.answer(401)
                elif self.command == "GET" and self.path == "/v1/hooks":
                    self.answer(200, {"hooks": [*outer.odd, *outer.hooks.values()]})
                elif self.command == "POST" and len(outer.hooks) == outer.most:
                    self.answer(402)
                elif self.command == "POST" and self.path == "/v1/hook":
                    if body["target_url"] in {one["target_url"] for one in outer.hooks.values()}:
                        self.answer(409)
                        return
                    name = f"hook_{len(outer.hooks)}"
                    outer.hooks[name] = {"hook_id": name, **body}
                    self.answer(201, {"id": name})
                elif self.command == "DELETE":
                    name = urllib.parse.unquote(self.path.removeprefix("/v1/hook/"))
                    self.answer(200 if outer.hooks.pop(name, None) else 404)

            do_GET = do_POST = do_DELETE = handle_request  # noqa: N815

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def autopilot() -> Iterator[Autopilot]:
    found = Autopilot()
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_hooks_are_registered_once_and_only_ours_are_removed(
    tmp_path: Path, autopilot: Autopilot
) -> None:
    autopilot.hooks["mine"] = {
        "hook_id": "mine", "event": "contact_added", "target_url": "https://other.example.com/x",
    }  # fmt: skip
    collector = Collector(tmp_path, api_key=API_KEY, api_url=autopilot.url)
    base = "https://collector.example.com/autopilot"
    autopilot.failures = 1
    done = collector.run("--register-hooks", base + "/")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "7 hooks registered."
    assert TOKEN not in done.stdout + done.stderr
    urls = {
        one["target_url"]: one["event"] for name, one in autopilot.hooks.items() if name != "mine"
    }
    assert urls == {f"{base}/hooks/{TOKEN}/{event}": event for event in EVENTS}
    assert collector.run("--register-hooks", base).stdout == "0 hooks registered.\n"
    assert collector.run("--unregister-hooks", base + "2").stdout == "0 hooks removed.\n"
    assert collector.run("--unregister-hooks", base).stdout.endswith("7 hooks removed.\n")
    assert list(autopilot.hooks) == ["mine"]


BASE = "https://collector.example.com"


def test_a_lost_response_ends_nothing_half_way(tmp_path: Path, autopilot: Autopilot) -> None:
    collector = Collector(tmp_path, api_key=API_KEY, api_url=autopilot.url)
    autopilot.lost = {"POST"}
    assert collector.run("--register-hooks", BASE).stdout.endswith("7 hooks registered.\n")
    assert len(autopilot.hooks) == 7
    autopilot.lost = {"DELETE"}
    done = collector.run("--unregister-hooks", BASE)
    assert done.stdout.splitlines() == [
        *(f"removed {event}" for event in EVENTS),
        "7 hooks removed.",
    ]
    assert not autopilot.hooks


def test_what_was_registered_before_a_failure_has_been_told(
    tmp_path: Path, autopilot: Autopilot
) -> None:
    autopilot.most = 2
    done = Collector(tmp_path, api_key=API_KEY, api_url=autopilot.url).run("--register-hooks", BASE)
    assert done.returncode == 1
    assert done.stdout == f"registered {EVENTS[0]}\nregistered {EVENTS[1]}\n"
    assert "HTTP 402" in done.stderr


def test_a_url_that_another_event_has_is_replaced(tmp_path: Path, autopilot: Autopilot) -> None:
    url = f"{BASE}/hooks/{TOKEN}/contact_added"
    autopilot.hooks["a/b c"] = {"hook_id": "a/b c", "event": "contact_updated", "target_url": url}
    collector = Collector(tmp_path, api_key=API_KEY, api_url=autopilot.url)
    assert collector.run("--register-hooks", BASE).stdout.endswith("7 hooks registered.\n")
    assert "DELETE /v1/hook/a%2Fb%20c" in autopilot.requests
    assert sorted(hook["event"] for hook in autopilot.hooks.values()) == sorted(EVENTS)


def test_hooks_with_an_old_token_are_removed(tmp_path: Path, autopilot: Autopilot) -> None:
    collector = Collector(tmp_path, api_key=API_KEY, api_url=autopilot.url)
    collector.run("--register-hooks", BASE)
    collector.settings["hook_tokens"] = ["new-" + TOKEN]
    done = collector.run("--register-hooks", BASE)
    assert "7 hooks registered." in done.stdout
    assert {hook["target_url"] for hook in autopilot.hooks.values()} == {
        f"{BASE}/hooks/new-{TOKEN}/{event}" for event in EVENTS
    }


def test_odd_entries_end_nothing(tmp_path: Path, autopilot: Autopilot) -> None:
    url = f"{BASE}/hooks/{TOKEN}/contact_added"
    autopilot.odd = [
        5, None, [], {}, {"event": [], "target_url": {}}, {"hook_id": {}, "target_url": url},
        {"hook_id": "..", "event": "contact_added", "target_url": f"{BASE}/hooks/o/contact_added"},
        {"hook_id": "\ud800", "event": "a", "target_url": f"{BASE}/hooks/o/contact_added"},
        {"event": "contact_added", "target_url": f"{BASE}/hooks/{'o' * 20}/contact_added"},
    ]  # fmt: skip
    collector = Collector(tmp_path, api_key=API_KEY, api_url=autopilot.url)
    for option, said in (("--register-hooks", "7 hooks registered."),
                         ("--unregister-hooks", "8 hooks removed.")):  # fmt: skip
        done = collector.run(option, BASE)
        assert said in done.stdout, done.stderr
        assert "The hook for contact_added has no usable id" in done.stderr
    deleted = [asked for asked in autopilot.requests if not asked.startswith(("GET", "POST"))]
    assert all(asked.startswith("DELETE /v1/hook/") for asked in deleted)
    assert "DELETE /v1/hook/None" not in deleted


def test_a_list_of_hooks_that_is_too_large_is_not_parsed(
    tmp_path: Path, autopilot: Autopilot
) -> None:
    autopilot.odd = [{}] * 300_000
    done = Collector(tmp_path, api_key=API_KEY, api_url=autopilot.url).run(
        "--unregister-hooks", BASE
    )
    assert done.returncode == 1
    assert "GET /hooks: the response is truncated or too large." in done.stderr


def test_a_hooks_event_is_printed_on_one_line(tmp_path: Path, autopilot: Autopilot) -> None:
    url = f"{BASE}/hooks/{TOKEN}/contact_added"
    autopilot.hooks["h"] = {"hook_id": "h", "event": "\x1b[2J\nforged", "target_url": url}
    done = Collector(tmp_path, api_key=API_KEY, api_url=autopilot.url).run(
        "--unregister-hooks", BASE
    )
    assert done.stdout == "removed \\x1b[2J\\nforged\n1 hook removed.\n"


@pytest.mark.parametrize(
    ("settings", "url", "code", "said"),
    [
        ({"api_key": None}, "https://x", 2, "api_key"),
        ({"api_key": "wrong"}, "https://x", 2, "api_key"),
        ({"hook_tokens": []}, "https://x", 2, "hook_tokens"),
        ({}, "http://example.com", 2, "https"),
    ],
)
def test_errors_in_registering_hooks(
    tmp_path: Path, autopilot: Autopilot, settings: Any, url: str, code: int, said: str
) -> None:
    given = {"api_key": API_KEY, "api_url": autopilot.url, **settings}
    done = Collector(tmp_path, **given).run("--register-hooks", url)
    assert done.returncode == code
    assert said in done.stderr.splitlines()[-1]
    assert not autopilot.hooks


def test_registered_hooks_deliver_to_the_collector(start: Start, autopilot: Autopilot) -> None:
    collector = start(api_key=API_KEY, api_url=autopilot.url)
    assert collector.run("--register-hooks", collector.url).returncode == 0
    for hook in autopilot.hooks.values():
        answer = requests.post(
            hook["target_url"], json={"contact_id": "person_1"}, timeout=PATIENCE
        )
        assert answer.status_code == 200
    assert [event.route for event in collector.events()] == [f"hooks/{event}" for event in EVENTS]


def test_added_removed_and_added_again_are_three(start: Start) -> None:
    collector = start()

    def deliver(event: str, contact: str = "p", where: str = "l") -> None:
        body = {"contact_id": contact, "list_id": where}
        url = f"{collector.url}/hooks/{TOKEN}/{event}"
        assert requests.post(url, json=body, timeout=PATIENCE).status_code == 200

    added, removed = "contact_added_to_list", "contact_removed_from_list"
    for event in (added, added, removed, removed, added, added):
        deliver(event)
        deliver(added, contact="other")
        deliver(added, where="other")
    deliver("contact_updated")
    deliver("contact_unsubscribed")  # the same body, by another route
    assert [event.route for event in collector.events()] == [
        f"hooks/{event}"
        for event in (
            added,
            added,
            added,
            removed,
            added,
            "contact_updated",
            "contact_unsubscribed",
        )
    ]
