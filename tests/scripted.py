"""A server that gives the answers of a script, for what no real account would do on request."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.server import Options, Sandbox

KEY = "s3cr3t+key/of=the~account!"


class Scripted(Sandbox):
    """Answers by path below /v1, percent-decoded; a list is used up answer by answer.

    An answer is JSON, or (status, JSON). What is not in the script is an empty listing.
    """

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__(Account(contacts=0, lists=0, segments=0), Options(api_key=KEY))
        self.answers = answers

    def answer(self, method: str, target: str, headers: dict[str, str]) -> tuple[int, bytes]:
        path = urllib.parse.unquote(target.removeprefix("/v1"), errors="surrogateescape")
        if path not in self.answers:
            return super().answer(method, target, headers)
        found = self.answers[path]
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        status, value = found if isinstance(found, tuple) else (200, found)
        return status, json.dumps(value).encode()


def page(*ids: Any, bookmark: Any = ..., total: Any = ...) -> dict[str, Any]:
    """A page of bare contacts."""
    answer: dict[str, Any] = {"contacts": [{"contact_id": one} for one in ids]}
    if bookmark is not ...:
        answer["bookmark"] = bookmark
    if total is not ...:
        answer["total_contacts"] = total
    return answer
