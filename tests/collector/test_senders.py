"""Real senders."""

from __future__ import annotations

import json
import warnings

import pytest

from tests.collector.conftest import KEY, Start

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from segment.analytics.client import Client


@pytest.mark.parametrize("gzip", [False, True])
def test_segments_python_library(start: Start, gzip: bool) -> None:
    collector = start()
    failures: list[object] = []
    client = Client(
        KEY, host=collector.url, gzip=gzip, on_error=lambda *error: failures.append(error)
    )
    for number in range(250):
        client.track("user", "Email Opened", {"number": number, "name": "Zoë"})
    client.identify("user", {"email": "ada@example.com"})
    client.shutdown()
    assert failures == []
    found = [json.loads(event.body) for event in collector.events()]
    assert len(found) == 251
    assert sorted(one["properties"]["number"] for one in found[:250]) == list(range(250))
    assert all(one["sentAt"] and one["messageId"] for one in found)
    assert not any(KEY.encode() in event.body for event in collector.events())


def test_a_wrong_key_is_an_error_that_segments_library_understands(start: Start) -> None:
    collector = start()
    failures: list[BaseException] = []
    client = Client(
        "wrong", host=collector.url, on_error=lambda error, _: failures.append(error), max_retries=1
    )
    client.track("user", "Email Opened")
    client.shutdown()
    assert "unauthorized" in str(failures[0])
    assert collector.events() == []
