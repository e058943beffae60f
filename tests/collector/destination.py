"""A destination that events are forwarded to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.conftest import wait_until
from tests.receiver import Receiver, answer

KEY = "k3y-of-the-destination"


class Destination(Receiver):
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
        super().__init__()

    def respond(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        self.tries.append(time.monotonic())
        assert request.path == "/v1/batch"
        self.authorizations.add(request.headers["Authorization"])
        if self.behave is not None:
            self.behave(request)
            return
        found = json.loads(body)
        status = self.answer(ids_of(found))
        if status == 200:
            self.batches.append(found)
            self.sizes.append(len(body))
        answer(request, status, headers=self.headers)

    def setting(self, name: str = "one", **more: Any) -> dict[str, Any]:
        """This destination as an entry of the setting."""
        return {"name": name, "url": f"{self.url}/v1", "write_key": KEY, **more}

    @property
    def ids(self) -> list[str]:
        """The ids of the accepted events, in order."""
        return [name for batch in [*self.batches] for name in ids_of(batch)]

    def wait_for(self, count: int) -> None:
        """Wait until so many events were accepted."""
        wait_until(lambda: len(self.ids) >= count)


def ids_of(batch: dict[str, Any]) -> list[str]:
    return [event["messageId"] for event in batch["batch"]]
