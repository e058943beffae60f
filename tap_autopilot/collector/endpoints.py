"""The endpoints: one ASGI callable, without a framework."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tap_autopilot.collector import compression, events, keys
from tap_autopilot.collector.events import Found
from tap_autopilot.collector.keys import Keys, SigningKeys
from tap_autopilot.collector.metrics import Metrics
from tap_autopilot.collector.protocol import RETRY_AFTER, Reservation, error_body
from tap_autopilot.collector.raw_json import NotJson, is_array, text_of, trim
from tap_autopilot.collector.writer import Writer
from tap_autopilot.collector.writing import Unavailable

# Bytes; larger bodies are decompressed and parsed in a thread, not in the event loop.
LARGE = 256 * 1024
THREADS = 2  # for that; each holds one decompressed body
SUCCESS = b'{"success": true}'
JSON = b"application/json"
PLAIN = b"text/plain; version=0.0.4; charset=utf-8"

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = dict[bytes, str]
Parse = Callable[[bytes, int], Found]  # takes the body, and the time in epoch milliseconds


class _Refusal(Exception):
    """A response other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Disconnected(Exception):
    """The sender disconnected, or was refused before the body's end."""


@dataclass(frozen=True)
class Secrets:
    """The secrets of each endpoint. An endpoint without a secret returns 404."""

    write_keys: Keys
    webhook_secrets: SigningKeys
    hook_tokens: Keys


class Endpoints:
    """Accepts requests, and responds with 200 once their events are on disk."""

    def __init__(self, secrets: Secrets, writer: Writer, metrics: Metrics, max_body: int) -> None:
        self._secrets = secrets
        self._writer = writer
        self._metrics = metrics
        self._max_body = max_body
        self._threads = ThreadPoolExecutor(THREADS, "parser")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request."""
        path = scope["path"].strip("/").split("/")
        reservation: Reservation = scope["reservation"]
        content, kind, status = SUCCESS, JSON, 200
        try:
            if scope["method"] in ("GET", "HEAD") and path[0] in ("health", "ready", "metrics"):
                await _discard(receive, reservation)
                content, kind = self._look(path)
            else:
                await self._take(scope, path, receive)
        except _Disconnected:
            return
        except _Refusal as refusal:
            status, content = refusal.status, error_body(refusal.status, str(refusal))
        except Unavailable as reason:
            status, content = 503, error_body(503, str(reason))
        finally:
            reservation.release()
        self._metrics.responded(_label(path), status)
        await _respond(send, status, content, kind)

    def close(self) -> None:
        """Refuse the requests that still wait for a thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _look(self, path: list[str]) -> tuple[bytes, bytes]:
        """The response of a public endpoint, and its content type."""
        if path == ["metrics"]:
            return self._metrics.text(), PLAIN
        if path == ["ready"] and (trouble := self._writer.trouble) is not None:
            raise Unavailable(trouble)
        if path not in (["health"], ["ready"]):
            raise _Refusal(404, "not found")
        return SUCCESS, JSON

    async def _take(self, scope: Scope, path: list[str], receive: Receive) -> None:
        """Store the events of a request."""
        reservation: Reservation = scope["reservation"]
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        try:
            parse = self._admit(scope["method"], path, headers)
        except _Refusal:
            await _discard(receive, reservation)
            raise
        body = await _read(receive)
        if len(body) > LARGE or b"content-encoding" in headers:
            encoding = headers.get(b"content-encoding", "")
            try:
                found = await asyncio.get_running_loop().run_in_executor(
                    self._threads, lambda: _parse(parse, self._unpack(body, encoding))
                )
            except asyncio.CancelledError:
                raise Unavailable("shutting down") from None
        else:
            found = _parse(parse, body)
        reservation.release()  # from here on, the writer counts the bytes
        if found.events:
            await self._writer.store(found.events)
        if found.malformed:
            self._metrics.malformed(found.malformed)

    def _unpack(self, body: bytes, encoding: str) -> bytes:
        try:
            return compression.unpack(body, encoding, self._max_body)
        except compression.TooLarge:
            size = self._max_body >> 20
            raise _Refusal(413, f"the decompressed body is larger than {size} MB") from None
        except compression.UnknownEncoding as problem:
            raise _Refusal(415, str(problem)) from None
        except compression.Damaged as problem:
            raise _Refusal(400, str(problem)) from None

    def _admit(self, method: str, path: list[str], headers: Headers) -> Parse:
        """The parser of this request's body. Raises _Refusal if no body could be accepted."""
        parse = self._parser(path, headers)
        if method != "POST":
            raise _Refusal(405, "use POST")
        if path == ["segment"] and b"x-signature" not in headers:
            raise _Refusal(401, "X-Signature is missing")
        return parse

    def _parser(self, path: list[str], headers: Headers) -> Parse:
        """The function that parses a request's body and checks its secret, for this path."""
        match path:
            case ["v1", call] if self._secrets.write_keys and call in events.CALLS:
                return lambda body, now: self._with_key(
                    events.from_call(text_of(body), call, now), headers
                )
            case ["v1", "batch" | "import"] if self._secrets.write_keys:
                return lambda body, now: self._with_key(
                    events.from_batch(text_of(body), now, self._max_body), headers
                )
            case ["segment"] if self._secrets.webhook_secrets:
                return lambda body, now: self._signed(body, headers, now)
            case ["hooks", token, *rest] if len(rest) < 2 and self._knows(token):
                return lambda body, now: events.from_hook(text_of(body), "".join(rest), now)
            case ["activity", token] if self._knows(token):
                return lambda body, now: events.from_activity(trim(body), now)
        raise _Refusal(404, "not found")

    def _knows(self, token: str) -> bool:
        return self._secrets.hook_tokens.accept([token])

    def _with_key(self, found: Found, headers: Headers) -> Found:
        candidates = keys.from_authorization(headers.get(b"authorization", ""))
        if found.write_key is not None:
            candidates.append(found.write_key)
        if not self._secrets.write_keys.accept(candidates):
            raise _Refusal(401, "missing or invalid write key")
        return found

    def _signed(self, raw: bytes, headers: Headers, now: int) -> Found:
        body = text_of(raw)
        found, first = events.from_webhook(body, now)
        signed = raw if first is None else first
        if not self._secrets.webhook_secrets.accept(signed, headers[b"x-signature"]):
            what = "body" if first is None else "first event"
            raise _Refusal(401, f"X-Signature does not match the {what}")
        return self._with_key(found, headers) if is_array(body) else found


def _parse(parse: Parse, body: bytes) -> Found:
    try:
        return parse(body, int(time.time() * 1000))
    except NotJson as problem:
        raise _Refusal(400, str(problem)) from None
    except compression.TooLarge:
        raise _Refusal(413, "too many events or values, or too much shared context") from None


def _label(path: list[str]) -> str:
    """The path's label in the metrics, without tokens; "other" if there is no such endpoint."""
    if path[0] in ("hooks", "activity", "segment", "health", "ready", "metrics"):
        return path[0]
    known = (*events.CALLS, "batch", "import")
    return path[1] if len(path) == 2 and path[0] == "v1" and path[1] in known else "other"


async def _read(receive: Receive) -> bytes:
    """The whole body. Raises _Disconnected."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _Disconnected
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _discard(receive: Receive, reservation: Reservation) -> None:
    """Wait for the end of a body without keeping it. Raises _Disconnected."""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise _Disconnected
        reservation.release()
        more = message.get("more_body", False)


async def _respond(send: Send, status: int, content: bytes, kind: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(content))]
    if status == 503:
        headers.append((b"retry-after", b"%d" % RETRY_AFTER))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
