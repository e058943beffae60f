"""Servers on loopback that receive what a test's subject posts."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar


class Receiver:
    """Reads the bodies of POST requests; a subclass responds to them."""

    protocol = "HTTP/1.1"

    def __init__(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = outer.protocol

            def handle(self) -> None:
                with contextlib.suppress(OSError):  # the sender has had enough, or was killed
                    super().handle()

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) == length:
                    outer.respond(self, body)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def respond(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        """Respond to a request."""
        raise NotImplementedError


def answer(
    request: BaseHTTPRequestHandler, status: int, body: bytes = b"", headers: Mapping[str, str] = {}
) -> None:
    """Send an ordinary response."""
    request.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


Kind = TypeVar("Kind", bound=Receiver)


@contextlib.contextmanager
def serving(receiver: Kind) -> Iterator[Kind]:
    """A receiver, until it is shut down."""
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()
