"""Settings: where they come from, and which are refused, each with one line that says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.collector import client, destinations, notices, received, server, threads
from tap_autopilot.collector.config import CollectorConfig
from tap_autopilot.exceptions import UserError
from tests.collector.conftest import KEY, ROOT, SETTINGS, Collector

DESTINATION = {
    "name": "one",
    "url": "https://example.com/v1",
    "write_key": "k3y-of-the-destination",
}


def to(**changed: Any) -> dict[str, object]:
    """Settings with a destination."""
    return {"destinations": [{**DESTINATION, **changed}]}


def test_it_does_not_start_without_a_secret(tmp_path: Path) -> None:
    collector = Collector(tmp_path, write_keys=[], webhook_secrets=[], hook_tokens=[])
    (line,) = collector.refusal().splitlines()
    assert line.startswith("CRITICAL")
    offered = line.split()[-1]
    assert len(offered) >= 20
    assert offered != collector.refusal().split()[-1]
    assert not Path(collector.database).exists()


@pytest.mark.parametrize(
    ("settings", "environment", "said"),
    [
        ({"max_body_mb": "much"}, {}, "max_body_mb"),
        ({"max_body_mb": 257, "max_pending_mb": 999}, {}, "max_body_mb must be a number from"),
        ({"database": "/nowhere/at/all.db"}, {}, "/nowhere/at/all.db"),
        ({"database": "d" * 300}, {}, "File name too long"),
        ({"listen": "192.0.2.1:80"}, {}, "Cannot assign requested address. Check listen."),
        ({"listen": "1..2:80"}, {}, "no such host name. Check listen."),
        (to(), {"HTTPS_PROXY": "http://:x@"}, "HTTPS_PROXY"),
        (to(), {"REQUESTS_CA_BUNDLE": "/nowhere"}, "The CA bundle /nowhere"),
    ],
)
def test_it_does_not_start_with_what_it_cannot_use(
    tmp_path: Path, settings: dict[str, Any], environment: dict[str, str], said: str
) -> None:
    done = Collector(tmp_path, **settings).run(**environment)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert KEY not in done.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"listen": "nowhere"}, "listen"),
        ({"hook_tokens": ["short"]}, "20 characters"),
        ({"hook_tokens": ["with/slash-in-the-middle"]}, "URL"),
        ({"max_body_mb": 64}, "max_pending_mb must be larger"),
        ({"write_keys": 5}, "write_keys"),
        ({"write_keys": 'a,"k3y"'}, "write_keys must not be in quotes"),
        ({"webhook_secrets": "'k3y'"}, "webhook_secrets must not be in quotes"),
        ({"destinations": [1]}, "destinations.*objects"),
        ({"destinations": "{"}, "destinations.*JSON"),
        ({"destinations": "[" * 100_000}, "destinations.*JSON"),
        ({"destinations": [DESTINATION, DESTINATION]}, "destinations.*unique names"),
        (to(url="http://example.com/v1"), "destinations.*https"),
        (to(url=f"https://{'a' * 70}.example.com/v1"), r"\(one\): has an invalid host name"),
        (to(write_key=None), "destinations.*write_key"),
        (to(write_key="kéy"), "destinations.*ASCII"),
        (to(color=1), "destinations.*color"),
        ({"destinations": [{**DESTINATION, "from": "then"}]}, "destinations.*from"),
        (to(events=[]), "destinations.*events"),
    ],
)
def test_invalid_settings(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        CollectorConfig.from_mapping({**SETTINGS, **settings})
    assert "k3y" not in str(caught.value)


def test_settings_come_from_the_environment_too(tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    refusal = collector.refusal("--listen", "nowhere", TAP_AUTOPILOT_COLLECTOR_MAX_BODY_MB="x")
    assert "max_body_mb" in refusal
    assert "listen" in refusal
    refusal = collector.refusal("--config", "ENV", TAP_AUTOPILOT_COLLECTOR_WRITE_KEYS="a,b c")
    assert "write_keys" in refusal
    about = collector.run("--about", "--format", "json").stdout
    assert json.loads(about)["settings"]["properties"]["write_keys"]["secret"] is True
    assert collector.run("--about", "--format", "markdown").stdout.startswith("| setting")
    assert collector.run("--version").stdout.startswith("tap-autopilot-collector ")
    assert "s3cret" not in collector.refusal("--unknown=s3cret", "s3cret")


def test_limits_that_tests_change_or_import_are_those_promised() -> None:
    collector, operating = [
        " ".join((ROOT / f"docs/{name}.md").read_text().split())
        for name in ("collector", "operating")
    ]
    assert f"Requests time out after {client.DEADLINE:.0f} seconds" in collector
    assert "it keeps retrying, at most a minute apart" in collector
    assert destinations.MAX_WAIT == 60
    assert "then each kind of problem, at most once a minute" in operating
    assert notices.EVERY == destinations.WARN_EVERY == server.SUM_UP_EVERY == 60
    assert server.LAST_RESPONSES + server.LAST_COMMIT < 5
    assert "without `messageId` within an hour" in collector
    assert received.REPEAT_WINDOW == 3_600_000
    assert threads.MAX_STRANGERS_WAITING == 20
