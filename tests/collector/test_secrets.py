"""Secrets are compared in constant time, and nothing is accepted without such a comparison."""

from __future__ import annotations

import asyncio
import base64
import hmac
from collections.abc import Callable

import pytest

from tap_autopilot.collector.keys import Keys, SigningKeys
from tests.collector.conftest import KEY, TOKEN, signature
from tests.collector.in_memory import Sender, serve, without_waiting

SECRETS = ["first-secret", "another, longer secret", "last"]
WITH_COLON, WITHOUT = (base64.b64encode(key.encode()).decode() for key in (f"{KEY}:", KEY))


SIGNED = f"X-Signature: {signature(b'{}')}"


@pytest.mark.parametrize("given", [*SECRETS, "first-secreT", "x", ""])
@pytest.mark.parametrize("kind", [Keys, SigningKeys])
def test_all_secrets_are_compared_whichever_it_is(
    monkeypatch: pytest.MonkeyPatch, kind: Callable[[list[str]], Keys | SigningKeys], given: str
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def noted(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    secrets = kind(SECRETS)
    if isinstance(secrets, Keys):
        found = secrets.accept([given]) is not None
    else:
        found = secrets.accept(b"body", signature(b"body", given))
    assert found == (given in SECRETS)
    assert len(compared) == len(SECRETS)
    assert len({len(text) for pair in compared for text in pair}) == 1  # digests


@pytest.mark.parametrize(
    ("path", "header", "body", "refusal"),
    [
        ("/v1/track", f"Authorization: Basic {WITH_COLON}", b"{}", 401),
        ("/v1/track", f"Authorization: basic {WITHOUT}", b"{}", 401),
        ("/v1/track", f"Authorization: Bearer {KEY}", b"{}", 401),
        ("/v1/track", f"Authorization: Bearer {WITH_COLON}", b"{}", 401),
        ("/v1/track", f"Authorization: bearer {WITHOUT}", b"{}", 401),
        ("/v1/track", "X: x", b'{"writeKey":"%s"}' % KEY.encode(), 401),
        ("/v1/batch", "X: x", b'{"batch":[],"writeKey":"%s"}' % KEY.encode(), 401),
        ("/segment", SIGNED, b"{}", 401),
        ("/segment", f"{SIGNED}\r\nAuthorization: Bearer {KEY}", b"[{}]", 401),
        (f"/hooks/{TOKEN}", "X: x", b"{}", 404),
        (f"/activity/{TOKEN}", "X: x", b"{}", 404),
    ],
)
@without_waiting
async def test_each_route_needs_a_comparison_to_succeed(
    monkeypatch: pytest.MonkeyPatch, path: str, header: str, body: bytes, refusal: int
) -> None:
    head = f"POST {path} HTTP/1.1\r\n{header}\r\nContent-Length: {len(body)}\r\n\r\n"
    for status, compare in ((200, hmac.compare_digest), (refusal, lambda *_: False)):
        monkeypatch.setattr(hmac, "compare_digest", compare)
        sender = Sender(serve())
        sender.send(head.encode() + body)
        await asyncio.sleep(0)
        assert sender.statuses == [status]
