"""Registers Autopilot's REST hooks with this collector's URLs, and removes them again."""

from __future__ import annotations

import time
from typing import Any

import requests

from tap_autopilot.collector.config import CollectorConfig, origin
from tap_autopilot.exceptions import RunError, UserError

EVENTS = (
    "contact_added", "contact_updated", "contact_unsubscribed", "contact_added_to_list",
    "contact_removed_from_list", "contact_entered_segment", "contact_left_segment",
)  # fmt: skip
TIMEOUT = 30  # seconds
WAITS = (1, 2, 4, 8, 16)  # seconds between tries
RETRIED_STATUSES = (408, 429, 500, 502, 503, 504)
EXISTS = 409  # the status if this URL is already registered


class Hooks:
    """An account's hooks that point to a collector with the public base URL `base`.

    Each event has its own URL, because Autopilot accepts each URL only once.
    """

    def __init__(self, config: CollectorConfig, base: str) -> None:
        if config.api_key is None:
            raise UserError("Set api_key, the account's API key, to register or remove hooks.")
        if not config.hook_tokens:
            raise UserError("Set hook_tokens: the first token becomes part of the hook URLs.")
        try:
            self._base = origin(base)
        except ValueError as problem:
            raise UserError(f"The URL for Autopilot's hooks {problem}.") from None
        self._api = config.api_url
        self._tokens = config.hook_tokens
        self._session = requests.Session()
        self._session.headers["autopilotapikey"] = config.api_key

    def register(self) -> list[str]:
        """Register a hook for each event that has none yet; returns those events."""
        present = {(hook.get("event"), hook.get("target_url")) for hook in self._listed()}
        missing = [event for event in EVENTS if (event, self._url(event)) not in present]
        for event in missing:
            self._request("POST", "hook", {"event": event, "target_url": self._url(event)})
        return missing

    def remove(self) -> list[str]:
        """Remove the hooks created by `register`, with any of the tokens; returns their events."""
        ours = {self._url(event, token): event for event in EVENTS for token in self._tokens}
        found = [hook for hook in self._listed() if hook.get("target_url") in ours]
        for hook in found:
            self._request("DELETE", f"hook/{hook.get('hook_id') or hook.get('id')}")
        return [ours[hook["target_url"]] for hook in found]

    def _url(self, event: str, token: str | None = None) -> str:
        return f"{self._base}/hooks/{token or self._tokens[0]}/{event}"

    def _listed(self) -> list[dict[str, Any]]:
        try:
            found = self._request("GET", "hooks").json()["hooks"]
            return [hook for hook in found if isinstance(hook, dict)]
        except (ValueError, KeyError, TypeError):
            raise RunError("GET /hooks: the response has no list of hooks.") from None

    def _request(self, method: str, path: str, body: Any = None) -> requests.Response:
        """The API's response to a request, retried if that may help."""
        what = f"{method} /{path.partition('/')[0]}"
        for wait in (*WAITS, None):
            try:
                response = self._session.request(
                    method, f"{self._api}/{path}", json=body, timeout=TIMEOUT,
                    allow_redirects=False,
                )  # fmt: skip
                trouble = f"HTTP {response.status_code}"
                if response.status_code in (401, 403):
                    raise UserError(f"{what}: Autopilot does not accept this api_key.")
                if response.status_code < 300 or response.status_code == EXISTS:
                    return response
                if response.status_code not in RETRIED_STATUSES:
                    break
            except requests.RequestException as problem:
                trouble = type(problem).__name__
            if wait is not None:
                time.sleep(wait)
        raise RunError(f"{what}: {trouble}.")
