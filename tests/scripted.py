"""A server with scripted responses, for what no real account would do on request."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.faults import DEFINITIONS
from tests.invariants import Run
from tests.lying_pager import Options
from tests.recording import Sandbox


class Scripted(Sandbox):
    """Responses by path below /v1, percent-decoded.

    A list is consumed one response at a time; its last response repeats.

    A response is JSON, or bytes for a raw body, or (status, either), or (status, either, headers),
    or a function from the path to any of these. Any other path is an empty listing.
    """

    def __init__(self, answers: dict[str, Any], **options: Any) -> None:
        account = Account(contacts=0, lists=0, segments=0)
        account._documents.custom_fields = []
        super().__init__(account, Options(**options))
        self.answers = answers
        self._more: dict[str, str] = {}

    def answer(self, method: str, target: str, headers: dict[str, str]) -> tuple[int, bytes]:
        self._more = {}
        path = urllib.parse.unquote(target.removeprefix("/v1"), errors="surrogateescape")
        if path not in self.answers:
            return super().answer(method, target, headers)
        found = self.answers[path]
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        if callable(found):
            found = found(path)
        status, value, *more = found if isinstance(found, tuple) else (200, found)
        self._more = dict(*more)
        return status, value if isinstance(value, bytes) else json.dumps(value).encode()

    def headers(self) -> dict[str, str]:
        return super().headers() | self._more


def page(*ids: Any, bookmark: Any = ..., total: Any = ...) -> dict[str, Any]:
    """A page of contacts that have only ids."""
    answer: dict[str, Any] = {"contacts": [{"contact_id": one} for one in ids]}
    if bookmark is not ...:
        answer["bookmark"] = bookmark
    if total is not ...:
        answer["total_contacts"] = total
    return answer


def paths(run: Run, start: str) -> list[str]:
    """The paths below /v1 that a run requested and that begin with `start`.

    Custom fields are left out.
    """
    asked = [request.path.removeprefix("/v1") for request in run.requests]
    return [path for path in asked if path.startswith(start) and path != DEFINITIONS]
