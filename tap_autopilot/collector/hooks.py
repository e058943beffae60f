"""Registers Autopilot's REST hooks with this collector's URLs, and removes them again."""

from __future__ import annotations

import json
import logging
import re
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tap_autopilot.api.failures import may_pass
from tap_autopilot.collector.client import Client, NoResponse, Response
from tap_autopilot.collector.config import CollectorConfig
from tap_autopilot.exceptions import RunError, UserError
from tap_autopilot.urls import base_url

LOG = logging.getLogger(__name__)

EVENTS = (
    "contact_added", "contact_updated", "contact_unsubscribed", "contact_added_to_list",
    "contact_removed_from_list", "contact_entered_segment", "contact_left_segment",
)  # fmt: skip
WAITS = (1, 2, 4, 8, 16)  # seconds between tries
EXISTS = 409  # the status if this URL is already registered
DONE = {"POST": EXISTS, "DELETE": 404}  # the status if it was done before, perhaps by a failed try

Tell = Callable[[str], None]


class _Hook(NamedTuple):
    """A registered hook; each of these may be missing or of the wrong type."""

    id: str | None
    event: str | None
    url: str | None


class Hooks:
    """An account's hooks that point to a collector with the public base URL `base`.

    Each event has its own URL, because Autopilot accepts each URL only once. `tell` is called with
    a line for each hook as soon as it is changed.
    """

    def __init__(self, config: CollectorConfig, base: str, tell: Tell) -> None:
        if config.api_key is None:
            raise UserError("Set api_key, the account's API key, to register or remove hooks.")
        if not config.hook_tokens:
            raise UserError("Set hook_tokens: the first token becomes part of the hook URLs.")
        try:
            self._base = base_url(base)
        except ValueError as problem:
            raise UserError(f"The URL for Autopilot's hooks {problem}.") from None
        self._token = config.hook_tokens[0]
        self._tell = tell
        self._headers = {"autopilotapikey": config.api_key, "Content-Type": "application/json"}
        self._client = Client(config.api_url)

    def register(self) -> int:
        """Register a hook for each event that has none yet; returns how many that were.

        Hooks of this collector with an older token are removed afterwards.
        """
        hooks = self._listed()
        missing = [event for event in EVENTS if not self._is_registered(event, hooks)]
        for event in missing:
            self._add(event)
            self._tell(f"registered {event}")
        current = f"{self._base}/hooks/{self._token}/"
        for hook in hooks:
            if self._is_ours(hook) and not (hook.url or "").startswith(current):
                self._remove(hook)
        return len(missing)

    def remove(self) -> int:
        """Remove the hooks of this collector, with whatever token; returns how many."""
        return sum([self._remove(hook) for hook in self._listed() if self._is_ours(hook)])

    def _url(self, event: str) -> str:
        return f"{self._base}/hooks/{self._token}/{event}"

    def _is_registered(self, event: str, hooks: list[_Hook]) -> bool:
        return any(hook.event == event and hook.url == self._url(event) for hook in hooks)

    def _is_ours(self, hook: _Hook) -> bool:
        """Whether a hook has a URL that `register` makes."""
        pattern = f"{re.escape(self._base)}/hooks/[A-Za-z0-9._~-]+/({'|'.join(EVENTS)})"
        return re.fullmatch(pattern, hook.url or "") is not None

    def _add(self, event: str) -> None:
        """Register a hook; one of another event with the same URL is replaced."""
        body = {"event": event, "target_url": self._url(event)}
        if self._request("POST", "/hook", body).status != EXISTS:
            return
        hooks = self._listed()
        if self._is_registered(event, hooks):  # by a request whose response was lost
            return
        for hook in hooks:
            if hook.url == self._url(event):
                self._remove(hook)
        if self._request("POST", "/hook", body).status == EXISTS:
            raise RunError(
                f"POST /hook: Autopilot says that the URL for {event} is already registered, but"
                " does not list it. Try again later."
            )

    def _remove(self, hook: _Hook) -> bool:
        """Remove a hook; False if that is impossible."""
        name = hook.event or "no event"
        if hook.id is None or hook.id in (".", ".."):  # dots would lead to another path
            LOG.warning("The hook for %s has no usable id; remove it in Autopilot.", name)
            return False
        id_ = urllib.parse.quote(hook.id, safe="", errors="replace")
        self._request("DELETE", f"/hook/{id_}")
        self._tell(f"removed {name}")
        return True

    def _listed(self) -> list[_Hook]:
        try:
            body = self._request("GET", "/hooks").body
            return list(_read(json.loads(body or b"")["hooks"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RunError("GET /hooks: the response has no list of hooks.") from None

    def _request(self, method: str, path: str, body: Any = None) -> Response:
        """The API's response to a request, retried if that may help."""
        what = f"{method} /{path.split('/')[1]}"
        data = None if body is None else json.dumps(body).encode()
        trouble = ""
        for wait in (*WAITS, None):
            try:
                response = self._client.send(
                    method, path, data, headers=self._headers, needs_body=method == "GET"
                )
            except NoResponse as problem:
                trouble = str(problem)
            else:
                status = response.status
                if status in (401, 403):
                    raise UserError(f"{what}: Autopilot does not accept this api_key.")
                if status < 300 and method == "GET" and response.body is None:
                    trouble = "the response is truncated or too large"
                elif status < 300 or status == DONE.get(method):
                    return response
                else:
                    trouble = f"HTTP {status}"
                    if not may_pass(status):
                        break
            if wait is not None:
                time.sleep(wait)
        raise RunError(f"{what}: {trouble}.")


def _read(listed: Any) -> Iterator[_Hook]:
    """The hooks in a response, of whatever form. Raises TypeError if it is no list."""
    if not isinstance(listed, list):
        raise TypeError
    for hook in listed:
        if isinstance(hook, dict):
            number = next((hook[name] for name in ("hook_id", "id") if hook.get(name)), None)
            is_id = isinstance(number, (str, int)) and not isinstance(number, bool)
            yield _Hook(
                str(number) if is_id else None,
                _text(hook.get("event")),
                _text(hook.get("target_url")),
            )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
