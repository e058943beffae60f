"""A destination that events are forwarded to."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from tests.conftest import wait_until

KEY = "k3y-of-the-destination"


class Destination:
    """A server that keeps the batches to which it answered 200.

    `answer` returns a status for the ids of a batch; `behave` writes the whole response instead.
    """

    protocol = "HTTP/1.0"

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []
        self.sizes: list[int] = []
        self.tries: list[float] = []  # when there were requests, whatever came of them
        self.authorizations: set[str | None] = set()
        self.answer: Callable[[list[str]], int] = lambda _: 200
        self.headers: dict[str, str] = {}
        self.behave: Callable[[BaseHTTPRequestHandler], object] | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = outer.protocol

            def handle(self) -> None:
                with contextlib.suppress(OSError):  # the collector has had enough, or was killed
                    super().handle()

            def do_POST(self) -> None:
                outer.tries.append(time.monotonic())
                assert self.path == "/v1/batch"
                outer.authorizations.add(self.headers["Authorization"])
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) == length:
                    outer.respond(self, body)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def respond(self, response: BaseHTTPRequestHandler, body: bytes) -> None:
        """Answer a batch."""
        if self.behave is not None:
            self.behave(response)
            return
        found = json.loads(body)
        status = self.answer(ids_of(found))
        if status == 200:
            self.batches.append(found)
            self.sizes.append(len(body))
        response.send_response(status)
        for name, value in {**self.headers, "Content-Length": "0"}.items():
            response.send_header(name, value)
        response.end_headers()

    def setting(self, name: str = "one", **more: Any) -> dict[str, Any]:
        """This destination as an entry of the setting."""
        url = f"http://127.0.0.1:{self.server.server_port}/v1"
        return {"name": name, "url": url, "write_key": KEY, **more}

    @property
    def ids(self) -> list[str]:
        """The ids of the accepted events, in order."""
        return [name for batch in [*self.batches] for name in ids_of(batch)]

    def wait_for(self, count: int) -> None:
        """Wait until so many events were accepted."""
        wait_until(lambda: len(self.ids) >= count)


def ids_of(batch: dict[str, Any]) -> list[str]:
    return [event["messageId"] for event in batch["batch"]]


Kind = TypeVar("Kind", bound=Destination)


@contextlib.contextmanager
def serving(destination: Kind) -> Iterator[Kind]:
    """A destination, while it serves."""
    yield destination
    destination.server.shutdown()
    destination.server.server_close()
