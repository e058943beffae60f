"""What the log says about senders, and when."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tap_autopilot.collector import notices, server
from tap_autopilot.collector.cli import main
from tap_autopilot.collector.notices import EVERY, Notices
from tests.collector.conftest import KEY, ROOT, SECRET, TOKEN, Collector, Start
from tests.conftest import PATIENCE
from tests.fork_server import Fork


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What was warned of since the last call."""
    found: list[str] = []
    monkeypatch.setattr(notices.LOG, "warning", lambda text, *args: found.append(text % args))

    def take() -> list[str]:
        taken = [*found]
        found.clear()
        return taken

    return take


def test_a_sender_that_is_refused_is_warned_of_once_a_minute(
    warned: Callable[[], list[str]],
) -> None:
    now = 1000.0
    one = Notices(lambda: now)
    for later, count, said in (
        (0, 5, ["Turned away 1 track request with status 401: no key."]),
        (EVERY - 1, 1, []),
        (1, 0, ["Turned away 5 track requests with status 401: no key."]),
        (EVERY, 0, []),
        (0, 1, ["Turned away 1 track request with status 401: no key."]),
    ):
        now += later
        for _ in range(count):
            one.note_refusal("track", 401, "no key")
        one.tell_rest()
        assert warned() == said


def test_each_reason_is_told(warned: Callable[[], list[str]]) -> None:
    now = 0.0
    one = Notices(lambda: now)
    for number in range(1, 6):
        one.note_refusal("track", 503, f"reason {number}.")
        one.note_refusal("track", 503, f"reason {number}.")
    now += EVERY
    one.tell_rest()
    assert warned() == [
        "Turned away 1 track request with status 503: reason 1.",
        "Turned away 9 track requests with status 503: reason 1; reason 2; reason 3.",
    ]


def test_the_log_says_what_is_on_and_who_is_refused(start: Start) -> None:
    collector = start(write_keys=[KEY, "another"], hook_tokens=[])
    for _ in range(40):
        collector.post("/v1/track", b"{}", key="wrong")
    collector.post("/v1/nothing", b"{}")
    collector.post(f"/hooks/{TOKEN}", b"{}")
    collector.post("/v1/track", b"{")
    collector.raw(b"hello\r\n\r\n")
    for _ in range(3):
        collector.post("/v1/track", b'{"messageId":"1"}')
    collector.stop()
    log = collector.log.read_text()
    assert "WARNING Dropped 2 duplicate events:" in log
    for line in (
        f"INFO Listening on {collector.url}, storing events in {collector.database} (new store ",
        "/v1 is on; number of write_keys: 2.",
        "/segment is on; number of webhook_secrets: 1.",
        "/hooks is off, because hook_tokens is not set.",
        "/activity is off, because hook_tokens is not set.",
    ):
        assert log.count(line) == 1
    away = [line for line in log.splitlines() if "Turned away" in line]
    assert [line.partition("away ")[2].partition(":")[0] for line in away] == [
        "1 track request with status 401",
        "1 v1 request with status 404",
        "1 hooks request with status 404",
        "1 track request with status 400",
        "1 unread request with status 400",
        "39 track requests with status 401",  # told when it ends, or they would be told nowhere
    ]
    assert all("WARNING" in line for line in away)
    for secret in (KEY, "another", SECRET, TOKEN, "wrong"):
        assert secret not in log


def test_the_log_can_be_json_without_information(start: Start) -> None:
    collector = start(log_level="warning", log_format="json")
    collector.post("/v1/track", b"{}", key="wrong")
    collector.stop()
    (line,) = map(json.loads, collector.log.read_text().splitlines())
    assert line["level"] == "warning"
    assert line["app_name"] == "tap-autopilot-collector"
    assert line["message"].startswith("Turned away 1 track request with status 401: ")


def test_lines_begin_with_the_time_unless_they_go_to_a_terminal(tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    assert collector.start(fork=True).stop() == 0
    logged = collector.log.read_text().splitlines()
    terminal, stderr = pty.openpty()
    stdout, writer = os.pipe()
    process = Fork(main, collector.arguments(), ROOT, writer, stderr)
    os.close(writer)
    os.close(stderr)
    with os.fdopen(stdout) as lines:
        assert lines.readline().startswith("listening on ")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    shown = b""
    with contextlib.suppress(OSError):  # nobody has it open any more
        while part := os.read(terminal, 4096):
            shown += part
    os.close(terminal)
    lines_shown = shown.decode().splitlines()
    assert len(lines_shown) == len(logged) > 1
    assert all(line.startswith("INFO ") for line in lines_shown)
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO ", line) for line in logged)


def test_repeats_that_are_dropped_are_warned_of(warned: Callable[[], list[str]]) -> None:
    one = Notices()
    for total in (0, 3, 3, 5):
        one.repeated(total)
    assert [text.partition(":")[0] for text in warned()] == [
        "Dropped 3 duplicate events",
        "Dropped 2 duplicate events",
    ]


def test_repeats_and_lines_that_are_not_json_are_counted(start: Start) -> None:
    collector = start()
    for _ in range(3):
        collector.post(f"/hooks/{TOKEN}", b"{}")
        collector.post("/v1/track", b'{"messageId":"1"}')
    collector.post(f"/activity/{TOKEN}", b'{"n":7}\nno\nno json\n{"n":"\xff"}')
    assert collector.metric("events_received_total") == 10
    assert collector.metric("events_stored_total") == 6
    assert collector.metric("malformed_lines_total") == 3


def test_an_asterisk_means_every_interface(start: Start) -> None:
    collector = start(listen="*:0")
    port = int(collector.url.rpartition(":")[2])
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
            continue
        with socket.socket(family) as connection:
            connection.settimeout(10)
            connection.connect((host, port))
    assert server._listen("*", 0).getsockname()[0] in ("::", "0.0.0.0")


def test_an_address_of_ipv6(start: Start) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6")
    collector = start(listen="[::1]:0")
    assert collector.url.startswith("http://[::1]:")
    assert collector.post("/v1/track", b"{}").status_code == 200
