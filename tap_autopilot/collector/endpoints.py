"""The endpoints: what each path takes, requires and responds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from tap_autopilot.collector import compression, events, keys
from tap_autopilot.collector.events import Found
from tap_autopilot.collector.http import Refusal, Request
from tap_autopilot.collector.keys import Keys, SigningKeys
from tap_autopilot.collector.metrics import Metrics
from tap_autopilot.collector.raw_json import NotJson, is_array, text_of, trim
from tap_autopilot.collector.writer import Writer
from tap_autopilot.collector.writing import Unavailable

# Bytes; larger bodies are decompressed and parsed in a thread, not in the event loop.
LARGE = 256 * 1024
THREADS = 2  # for that; each holds one decompressed body
SUCCESS = b'{"success": true}'
PLAIN = b"text/plain; version=0.0.4; charset=utf-8"
PUBLIC = ("health", "ready", "metrics")

Parse = Callable[[bytes, int], Found]  # takes the body, and the time in epoch milliseconds


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

    def admit(self, request: Request) -> bool:
        """Look at the headers: whether to keep the body. Raises Refusal if none is acceptable."""
        path = request.path.strip("/").split("/")
        request.label = _label(path)
        if request.method in (b"GET", b"HEAD") and path[0] in PUBLIC:
            if len(path) > 1:
                raise Refusal(404, "not found")
            return False
        request.route = self._parser(path, request)
        if request.method != b"POST":
            raise Refusal(405, "use POST")
        if path == ["segment"] and b"x-signature" not in request.headers:
            raise Refusal(401, "X-Signature is missing")
        return True

    def handle(self, request: Request) -> None:
        """Respond once the request's events are on disk."""
        body, encoding = request.body, request.headers.get(b"content-encoding")
        try:
            if request.route is None:
                self._look(request)
            elif encoding is None and len(body) <= LARGE:
                self._store(request, _parse(request.route, body))
            else:
                parsing = asyncio.get_running_loop().run_in_executor(
                    self._threads, self._unpack_and_parse, request.route, body, encoding or b""
                )
                parsing.add_done_callback(partial(self._parsed, request))
        except Refusal as refusal:
            self.refuse(request, refusal)

    def refuse(self, request: Request, refusal: Refusal) -> None:
        """Respond with an error."""
        self._metrics.responded(request.label, refusal.status)
        request.respond(refusal.status, refusal.body)

    def close(self) -> None:
        """Refuse the requests that still wait for a thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _look(self, request: Request) -> None:
        """Respond to a request for a public endpoint."""
        if request.label == "ready" and (trouble := self._writer.trouble) is not None:
            raise Refusal(503, trouble)
        self._metrics.responded(request.label, 200)
        if request.label == "metrics":
            request.respond(200, self._metrics.text(), PLAIN)
        else:
            request.respond(200, SUCCESS)

    def _parsed(self, request: Request, parsing: asyncio.Future[Found]) -> None:
        if parsing.cancelled():
            self.refuse(request, Refusal(503, "shutting down"))
        elif isinstance(refusal := parsing.exception(), Refusal):  # not raised: it holds the body
            self.refuse(request, refusal)
        else:
            self._store(request, parsing.result())

    def _store(self, request: Request, found: Found) -> None:
        """Respond once these events are on disk."""
        request.release()  # from here on, the writer counts the bytes
        if found.malformed:
            self._metrics.malformed(found.malformed)
        if not found.events:
            self._succeed(request)
            return
        try:
            storing = self._writer.store(found.events)
        except Unavailable as reason:
            self.refuse(request, Refusal(503, str(reason)))
        else:
            storing.add_done_callback(partial(self._stored, request))

    def _stored(self, request: Request, storing: asyncio.Future[None]) -> None:
        try:
            storing.result()
        except Unavailable as reason:
            self.refuse(request, Refusal(503, str(reason)))
        else:
            self._succeed(request)

    def _succeed(self, request: Request) -> None:
        self._metrics.responded(request.label, 200)
        request.respond(200, SUCCESS)

    def _unpack_and_parse(self, parse: Parse, body: bytes, encoding: bytes) -> Found:
        return _parse(parse, self._unpack(body, encoding.decode("latin-1")))

    def _unpack(self, body: bytes, encoding: str) -> bytes:
        try:
            return compression.unpack(body, encoding, self._max_body)
        except compression.TooLarge:
            size = self._max_body >> 20
            raise Refusal(413, f"the decompressed body is larger than {size} MB") from None
        except compression.UnknownEncoding as problem:
            raise Refusal(415, str(problem)) from None
        except compression.Damaged as problem:
            raise Refusal(400, str(problem)) from None

    def _parser(self, path: list[str], request: Request) -> Parse:
        """The function that parses a request's body and checks its secret, for this path."""
        headers = request.headers
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
        raise Refusal(404, "not found")

    def _knows(self, token: str) -> bool:
        return self._secrets.hook_tokens.accept([token])

    def _with_key(self, found: Found, headers: dict[bytes, bytes]) -> Found:
        candidates = keys.from_authorization(headers.get(b"authorization", b"").decode("latin-1"))
        if found.write_key is not None:
            candidates.append(found.write_key)
        if not self._secrets.write_keys.accept(candidates):
            raise Refusal(401, "missing or invalid write key")
        return found

    def _signed(self, raw: bytes, headers: dict[bytes, bytes], now: int) -> Found:
        body = text_of(raw)
        found, first = events.from_webhook(body, now)
        signed = raw if first is None else first
        if not self._secrets.webhook_secrets.accept(
            signed, headers[b"x-signature"].decode("latin-1")
        ):
            what = "body" if first is None else "first event"
            raise Refusal(401, f"X-Signature does not match the {what}")
        return self._with_key(found, headers) if is_array(body) else found


def _parse(parse: Parse, body: bytes) -> Found:
    try:
        return parse(body, int(time.time() * 1000))
    except NotJson as problem:
        raise Refusal(400, str(problem)) from None
    except compression.TooLarge:
        raise Refusal(413, "too many events or values, or too much shared context") from None


def _label(path: list[str]) -> str:
    """The path's label in the metrics, without tokens; "other" if there is no such endpoint."""
    if path[0] in ("hooks", "activity", "segment", "health", "ready", "metrics"):
        return path[0]
    known = (*events.CALLS, "batch", "import")
    return path[1] if len(path) == 2 and path[0] == "v1" and path[1] in known else "other"
