"""The endpoints: what each path accepts, requires and returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from tap_autopilot.collector import compression, events, keys
from tap_autopilot.collector.compression import Damaged, UnknownEncoding
from tap_autopilot.collector.config import CollectorConfig
from tap_autopilot.collector.events import Contents
from tap_autopilot.collector.keys import Keys, SigningKeys
from tap_autopilot.collector.metrics import Metrics
from tap_autopilot.collector.names import MAX_NAME
from tap_autopilot.collector.notices import OTHER, Notices
from tap_autopilot.collector.raw_json import NotJson, TooLarge, TooSlow, is_array, text_of, trim
from tap_autopilot.collector.request import MAX_VALUE, Refusal, Request
from tap_autopilot.collector.store import Unavailable
from tap_autopilot.collector.threads import Threads
from tap_autopilot.collector.writer import Writer

SMALL = 128 * 1024  # bytes, decompressed, of a body to read in the event loop's thread
SUCCESS = b'{"success": true}'
PLAIN = b"text/plain; version=0.0.4; charset=utf-8"
PUBLIC = ("health", "ready", "metrics")
SETTINGS = {  # what turns each of the others on
    "/v1": "write_keys",
    "/segment": "webhook_secrets",
    "/hooks": "hook_tokens",
    "/activity": "hook_tokens",
}
IN_BODY = b""  # in place of a digest, for all whose body or signature has shown a secret
MAX_ACCEPTED = 1000  # Authorization headers to remember, because each key has several spellings
CALLS = {
    **{call: call for call in events.CALLS},
    **events.CALLS_BY_LETTER,
    **dict.fromkeys(events.BATCHES, "batch"),
}

# Both take the time in epoch milliseconds. Bodies are given in parts, decompressed on demand.
Parse = Callable[[bytes, int], Contents]
Read = Callable[[Iterator[bytes], int], Contents]


class Endpoints:
    """Accepts requests, and responds with 200 once their events are on disk.

    An endpoint without a secret in the settings returns 404.
    """

    def __init__(
        self, config: CollectorConfig, writer: Writer, metrics: Metrics, notices: Notices
    ) -> None:
        self._write_keys = Keys(config.write_keys)
        self._webhook_secrets = SigningKeys(config.webhook_secrets)
        self._hook_tokens = Keys(config.hook_tokens)
        self._max_body = config.max_body
        self._writer = writer
        self._metrics = metrics
        self._notices = notices
        self._threads = Threads()
        # Authorization headers that contain a write key, with its digest.
        self._accepted: dict[bytes, bytes] = {}
        for source, secrets in (
            ("segment", config.write_keys or config.webhook_secrets),
            ("hook", config.hook_tokens),
            ("activity", config.hook_tokens),
        ):
            if secrets:
                metrics.expect(source)
        parse: dict[str, Parse] = {call: partial(events.from_call, call) for call in events.CALLS}
        parse["batch"] = partial(events.from_batch, config.max_body)
        calls = CALLS if config.write_keys else {}
        # By path: the route, and how to parse a body.
        self._calls = {f"v1/{name}": (call, parse[call]) for name, call in calls.items()}

    def admit(self, request: Request) -> bool:
        """Look at the headers: whether to keep the body. Raises Refusal if none is acceptable."""
        path = request.path.strip("/")
        if call := self._calls.get(path):
            request.route, parse = call
            request.secret = self._key_in(request.headers)
            request.read = partial(_parsed if request.is_known else self._if_key_in_body, parse)
        else:
            if request.method in (b"GET", b"HEAD") and path in PUBLIC:
                request.route = path
                return False
            parts = path.split("/")
            request.route = parts[0] if f"/{parts[0]}" in SETTINGS else OTHER
            request.secret, request.read = self._endpoint(parts, request.headers)
        if request.method != b"POST":
            raise Refusal(405, "use POST")
        if path == "segment" and b"x-signature" not in request.headers:
            raise Refusal(401, "X-Signature is missing")
        return True

    def handle(self, request: Request) -> None:
        """Respond once the request's events are on disk.

        A small body is read at once, in the event loop's thread, where `raw_json` raises TooSlow
        instead of beginning what takes long. Then a thread reads it, as it does large bodies.
        """
        if request.refusal is not None:
            self.refuse(request, request.refusal)
            return
        if request.read is None:
            self._look(request)
            return
        if request.received <= SMALL:
            try:
                contents = self._read(request, request.read, SMALL)
            except (TooLarge, TooSlow):
                pass
            else:
                self._store(request, contents)
                return
        try:
            read = partial(self._read_in_thread, request, request.read)
            self._threads.run(request, read, partial(self._store, request))
        except Refusal as refusal:
            self.refuse(request, refusal)

    def refuse(self, request: Request, refusal: Refusal) -> None:
        """Respond with an error."""
        self.note_refusal(request.route, refusal)
        request.respond(refusal.status, refusal.body)

    def note_refusal(self, route: str, refusal: Refusal) -> None:
        """Count a refusal, and warn of it, unless it only reports the collector's own state."""
        self._metrics.responded(route, refusal.status)
        if route not in PUBLIC:
            self._notices.note_refusal(route, refusal.status, str(refusal))

    def close(self) -> None:
        """Refuse the requests that still wait for a thread."""
        self._threads.close()

    def _look(self, request: Request) -> None:
        """Respond to a request for a public endpoint."""
        if request.route == "ready" and (trouble := self._writer.trouble) is not None:
            self.refuse(request, Refusal(503, trouble))
            return
        self._metrics.responded(request.route, 200)
        if request.route == "metrics":
            request.respond(200, self._metrics.text(), PLAIN)
        else:
            request.respond(200, SUCCESS)

    def _read(self, request: Request, read: Read, limit: int) -> Contents | Refusal:
        """The events of a request, or why there are none. Raises TooLarge and TooSlow."""
        encoding = request.headers.get(b"content-encoding", b"").decode("latin-1")
        try:
            parts = compression.unpacked(request.body, encoding, limit)
            return read(parts, int(time.time() * 1000))
        except Refusal as refusal:
            return refusal.with_traceback(None)  # its frames have the body, and refer to it
        except UnknownEncoding as problem:
            return Refusal(415, str(problem))
        except (Damaged, NotJson) as problem:
            return Refusal(400, str(problem))

    def _read_in_thread(self, request: Request, read: Read) -> Contents | Refusal:
        try:
            return self._read(request, read, self._max_body)
        except TooLarge as problem:
            return Refusal(413, str(problem))

    def _store(self, request: Request, contents: Contents | Refusal) -> None:
        """Respond once these events are on disk."""
        if isinstance(contents, Refusal):
            self.refuse(request, contents)
            return
        request.release()  # from here on, the writer counts the bytes
        if contents.malformed:
            self._metrics.malformed(contents.malformed)
        if not contents.events:
            self._stored(request, None)
            return
        try:
            sender = request.secret or IN_BODY
            self._writer.store(contents.events, partial(self._stored, request), sender)
        except Unavailable as reason:
            self._stored(request, reason)

    def _stored(self, request: Request, problem: Unavailable | None) -> None:
        if problem is None:
            self._metrics.responded(request.route, 200)
            request.respond(200, SUCCESS)
        else:
            self.refuse(request, Refusal(503, str(problem)))

    def _endpoint(self, path: list[str], headers: dict[bytes, bytes]) -> tuple[bytes | None, Read]:
        """The digest of the secret in headers or path, if any, and how to read the body.

        Raises Refusal if there is no such endpoint.
        """
        tokens = self._hook_tokens
        match path:
            case ["segment"] if self._webhook_secrets:
                key = self._key_in(headers)
                signature = headers.get(b"x-signature", b"")[:MAX_VALUE]
                return key, partial(self._signed, key is not None, signature)
            case ["hooks", token, *rest] if len(rest) < 2 and (known := tokens.accept([token])):
                event = "".join(rest)[:MAX_NAME]  # a copy, or all of it would stay in memory
                return known, partial(_parsed, partial(events.from_hook, event))
            case ["activity", token] if known := tokens.accept([token]):
                return known, lambda parts, now: events.from_activity(trim(b"".join(parts)), now)
        raise Refusal(404, "not found")

    def _key_in(self, headers: dict[bytes, bytes]) -> bytes | None:
        """The digest of the write key in the headers; None if there is no valid one."""
        header = headers.get(b"authorization")
        if header is None:
            return None
        known = self._accepted.get(header)  # compares randomized hashes, so time tells nothing
        if known is None:
            known = self._write_keys.accept(keys.from_authorization(header.decode("latin-1")))
            if known and len(self._accepted) < MAX_ACCEPTED:
                self._accepted[header] = known
        return known

    def _if_key_in_body(self, parse: Parse, parts: Iterator[bytes], now: int) -> Contents:
        """What was sent with a write key in the body, which is not parsed before there is one."""
        contents = parse(text_of(self._after_key(parts)), now)
        if contents.write_key is None or not self._write_keys.accept([contents.write_key]):
            raise _no_key()
        return contents

    def _after_key(self, parts: Iterator[bytes]) -> bytes:
        """The whole body, if there is a valid write key anywhere in it."""
        seen: list[bytes] = []

        def noted() -> Iterator[bytes]:
            for part in parts:
                seen.append(part)
                yield part

        if not any(self._write_keys.accept([key]) for key in keys.in_body(noted())):
            raise _no_key()
        return b"".join([*seen, *parts])

    def _signed(self, known: bool, signature: bytes, parts: Iterator[bytes], now: int) -> Contents:
        """What Segment's Webhooks destination sent. It is not parsed before there is a secret."""
        raw = b"".join(parts)
        if not is_array(trim(raw)):
            self._check_signature(raw, signature, "body")
            return events.from_webhook(text_of(raw), now)[0]
        if not known:  # Segment signs only the first event of an array
            raise _no_key()
        contents, first = events.from_webhook(text_of(raw), now)
        self._check_signature(raw if first is None else first, signature, "first event")
        return contents

    def _check_signature(self, signed: bytes, signature: bytes, what: str) -> None:
        if not self._webhook_secrets.accept(signed, signature.decode("latin-1")):
            raise Refusal(401, f"X-Signature does not match the {what}")


def _parsed(parse: Parse, parts: Iterator[bytes], now: int) -> Contents:
    return parse(text_of(b"".join(parts)), now)


def _no_key() -> Refusal:
    return Refusal(401, "missing or invalid write key")
