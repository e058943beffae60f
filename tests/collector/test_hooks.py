"""Registering hooks with Autopilot, and receiving their deliveries."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from tap_autopilot.collector.hooks import EVENTS
from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.faults import Fault, Faults
from tap_autopilot.sandbox.hooks import Hook
from tests.collector.conftest import TOKEN, Collector, Start
from tests.conftest import PATIENCE
from tests.lying_pager import Options
from tests.recording import Sandbox

API_KEY = "ap1-key-of-the-account"
BASE = "https://collector.example.com"


class Autopilot(Sandbox):
    """A sandbox for hooks only. `odd` are entries of its list that are no hooks."""

    def __init__(self, *faults: str) -> None:
        struck = Faults(map(Fault.parse, faults))
        super().__init__(Account(contacts=0), Options(api_key=API_KEY, faults=struck))
        self.odd: list[Any] = []
        self.registered = self.hooks._hooks
        answer = self.hooks.answer

        def with_odd(method: str, path: str, body: bytes) -> tuple[int, bytes]:
            status, found = answer(method, urllib.parse.unquote(path), body)
            if path == "/hooks":
                found = json.dumps({"hooks": [*self.odd, *json.loads(found)["hooks"]]}).encode()
            return status, found

        self.hooks.answer = with_odd  # type: ignore[method-assign]

    def add(
        self, hook_id: str, event: str, url: str = f"{BASE}/hooks/{TOKEN}/contact_added"
    ) -> None:
        """Somebody has registered this hook."""
        self.registered[hook_id] = Hook(hook_id, event, url, "")

    @property
    def urls(self) -> dict[str, str]:
        """The event of each registered URL."""
        return {one.target_url: one.event for one in self.registered.values()}


@pytest.fixture
def autopilot() -> Iterator[Callable[..., Autopilot]]:
    with ExitStack() as stack:
        yield lambda *faults: stack.enter_context(Autopilot(*faults))


Serve = Callable[..., Autopilot]


def collector_of(folder: Path, autopilot: Autopilot, **settings: Any) -> Collector:
    return Collector(folder, **{"api_key": API_KEY, "api_url": autopilot.url, **settings})


def test_hooks_are_registered_once_and_only_ours_are_removed(
    tmp_path: Path, autopilot: Serve
) -> None:
    api = autopilot("1:503")
    api.add("mine", "contact_added", "https://other.example.com/x")
    url = f"{BASE}/hooks/old-{TOKEN}/contact_added"
    api.add("a?b c", "contact_updated", url)  # our URL, but of another event
    collector = collector_of(tmp_path, api, hook_tokens=["old-" + TOKEN])
    assert collector.run("--register-hooks", BASE + "/").returncode == 0
    collector.settings["hook_tokens"] = [TOKEN]
    done = collector.run("--register-hooks", BASE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "7 hooks registered."
    assert TOKEN not in done.stdout + done.stderr
    assert "/v1/hook/a%3Fb%20c" in [asked.path for asked in api.requests]
    ours = {f"{BASE}/hooks/{TOKEN}/{event}": event for event in EVENTS}
    assert api.urls == {**ours, "https://other.example.com/x": "contact_added"}
    assert collector.run("--register-hooks", BASE).stdout == "0 hooks registered.\n"
    assert collector.run("--unregister-hooks", BASE + "2").stdout == "0 hooks removed.\n"
    api.add("h", "\x1b[2J\nforged")
    removed = [f"removed {event}" for event in (*EVENTS, "\\x1b[2J\\nforged")]
    done = collector.run("--unregister-hooks", BASE)
    assert done.stdout.splitlines() == [*removed, "8 hooks removed."]
    assert list(api.registered) == ["mine"]


def test_a_lost_response_ends_nothing_half_way(tmp_path: Path, autopilot: Serve) -> None:
    api = autopilot("2:close", "/hook/@1:close")  # the first POST, and the first DELETE
    collector = collector_of(tmp_path, api)
    assert collector.run("--register-hooks", BASE).stdout.endswith("7 hooks registered.\n")
    assert len(api.registered) == 7
    assert collector.run("--unregister-hooks", BASE).stdout.endswith("7 hooks removed.\n")
    assert not api.registered
    assert {409, 404} <= {asked.status for asked in api.requests}


def test_what_was_registered_before_a_failure_has_been_told(
    tmp_path: Path, autopilot: Serve
) -> None:
    done = collector_of(tmp_path, autopilot("4:402")).run("--register-hooks", BASE)
    assert done.returncode == 1
    assert done.stdout == f"registered {EVENTS[0]}\nregistered {EVENTS[1]}\n"
    assert "HTTP 402" in done.stderr


def test_odd_entries_end_nothing(tmp_path: Path, autopilot: Serve) -> None:
    api = autopilot()
    url = f"{BASE}/hooks/{TOKEN}/contact_added"
    api.odd = [
        5, None, [], {}, {"event": [], "target_url": {}}, {"hook_id": {}, "target_url": url},
        {"hook_id": "..", "event": "contact_added", "target_url": f"{BASE}/hooks/o/contact_added"},
        {"hook_id": "\ud800", "event": "a", "target_url": f"{BASE}/hooks/o/contact_added"},
        {"event": "contact_added", "target_url": f"{BASE}/hooks/{'o' * 20}/contact_added"},
    ]  # fmt: skip
    collector = collector_of(tmp_path, api)
    for option, said in (("--register-hooks", "7 hooks registered."),
                         ("--unregister-hooks", "8 hooks removed.")):  # fmt: skip
        done = collector.run(option, BASE)
        assert said in done.stdout, done.stderr
        assert "The hook for contact_added has no usable id" in done.stderr
    deleted = [asked.path for asked in api.requests if asked.method == "DELETE"]
    assert all(path.startswith("/v1/hook/") for path in deleted)
    assert "/v1/hook/None" not in deleted


def test_a_list_of_hooks_that_is_too_large_is_not_parsed(tmp_path: Path, autopilot: Serve) -> None:
    api = autopilot()
    api.odd = [{}] * 300_000
    done = collector_of(tmp_path, api).run("--unregister-hooks", BASE)
    assert done.returncode == 1
    assert "GET /hooks: the response is truncated or too large." in done.stderr


@pytest.mark.parametrize(
    ("settings", "url", "said"),
    [
        ({"api_key": None}, "https://x", "api_key"),
        ({"api_key": "wrong"}, "https://x", "api_key"),
        ({"hook_tokens": []}, "https://x", "hook_tokens"),
        ({}, "http://example.com", "https"),
    ],
)
def test_errors_in_registering_hooks(
    tmp_path: Path, autopilot: Serve, settings: Any, url: str, said: str
) -> None:
    api = autopilot()
    refusal = collector_of(tmp_path, api, **settings).refusal("--register-hooks", url)
    assert said in refusal.splitlines()[-1]
    assert not api.registered


def test_registered_hooks_deliver_to_the_collector(start: Start, autopilot: Serve) -> None:
    api = autopilot()
    collector = start(api_key=API_KEY, api_url=api.url)
    assert collector.run("--register-hooks", collector.url).returncode == 0
    for url in api.urls:
        answer = requests.post(url, json={"contact_id": "person_1"}, timeout=PATIENCE)
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
    routes = [added] * 3 + [removed, added, "contact_updated", "contact_unsubscribed"]
    assert [event.route for event in collector.events()] == [f"hooks/{name}" for name in routes]
