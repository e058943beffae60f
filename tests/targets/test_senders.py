"""Real client libraries, each in its own environment, set up as docs/senders.md says.

`make test-targets` installs them and runs these.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest
import requests

from tests.collector.conftest import KEY, ROOT, Collector, Start, start  # noqa: F401
from tests.receiver import Receiver, answer, serving
from tests.targets.conftest import ENVIRONMENT

DOCUMENT = (ROOT / "docs/senders.md").read_text(encoding="utf-8")
SETUP = re.compile(
    r"^(\S*[a-z]-(?:python|node))\b[^`]*```(python|js)\n(.*?)```", re.MULTILINE | re.DOTALL
)
SETUPS = {name: (language, setup) for name, language, setup in SETUP.findall(DOCUMENT)}
COUNT = 250
PYTHON = """
failures = []
client.on_error = lambda error, batch: failures.append(error)
for consumer in client.consumers:
    consumer.on_error = client.on_error
for number in range(250):
    client.track("user", "Email Opened", {"number": number, "name": "Zo\\u00eb"})
client.shutdown()
assert not failures, failures
"""
NODE = """
let waiting = 250;
for (let number = 0; number < 250; number++) {
  const event = {userId: "user", event: "Email Opened", properties: {number, name: "Zo\\u00eb"}};
  client.track(event, (error) => {
    if (error) { console.error(String(error)); process.exit(1); }
    if (--waiting === 0) process.exit(0);
  });
}
(client.closeAndFlush || client.flush).call(client);
"""

pytestmark = pytest.mark.targets


class Proxy(Receiver):
    """A reverse proxy that serves the collector at /autopilot/, and counts what it refuses."""

    collector = ""
    lost = 0

    def respond(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        if request.path.startswith("/autopilot/"):
            url = self.collector + request.path.removeprefix("/autopilot")
            headers = {name: value for name, value in request.headers.items() if name != "Host"}
            response = requests.post(url, body, headers=headers, timeout=20)
            answer(request, response.status_code, response.content)
        else:
            self.lost += 1
            answer(request, 404, b"{}")


@pytest.fixture
def collector(start: Start) -> Collector:  # noqa: F811
    return start(fork=False)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with serving(Proxy()) as found:
        yield found


def test_all_libraries_are_documented() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installed = re.findall(r"^(?:PYTHON|NODE)_SENDERS := (.*)$", makefile, re.MULTILINE)
    assert set(SETUPS) == set(" ".join(installed).split())
    assert len(SETUPS) == 8


def send(
    name: str, collector: Collector, proxy: Proxy, key: str
) -> subprocess.CompletedProcess[str]:
    """Send events with a client library."""
    language, setup = SETUPS[name]
    assert "WRITE_KEY" in setup
    assert "https://example.com" in setup
    setup = setup.replace("WRITE_KEY", key).replace("https://example.com", proxy.url)
    script = collector.folder / "send"
    if language == "js":
        node = shutil.which("node")
        if node is None:
            pytest.skip("node is not installed")
        command, setup = node, setup + NODE
        modules = ROOT / ".node-senders" / name / "node_modules"
        assert modules.is_dir(), "run make test-targets"
        environment = {**os.environ, "NODE_PATH": str(modules)}
    else:
        command, setup = f"{ROOT}/.venv-sender-{name}/bin/python", setup + PYTHON
        environment = ENVIRONMENT
    script.write_text(setup, encoding="utf-8")
    proxy.collector = collector.url
    return subprocess.run(
        [command, script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("name", sorted(SETUPS))
def test_each_event_of_a_client_library_is_stored_once(
    name: str, collector: Collector, proxy: Proxy
) -> None:
    sent = send(name, collector, proxy, KEY)
    assert sent.returncode == 0, sent.stderr
    found = [json.loads(body) for body in collector.bodies()]
    assert proxy.lost == 0
    assert sorted(one["properties"]["number"] for one in found) == list(range(COUNT))
    assert all(one["properties"]["name"] == "Zo\u00eb" for one in found)
    assert all(one["type"] == "track" and one["event"] == "Email Opened" for one in found)
    assert len({one["messageId"] for one in found}) == COUNT
    assert not any(KEY in json.dumps(one) for one in found)


def test_a_wrong_key_is_an_error_that_segments_library_understands(
    collector: Collector, proxy: Proxy
) -> None:
    sent = send("segment-analytics-python", collector, proxy, "wrong")
    assert "unauthorized" in sent.stderr
    assert collector.events() == []
