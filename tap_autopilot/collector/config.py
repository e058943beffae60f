"""The collector's settings: their names, types, defaults, checks and descriptions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from tap_autopilot.arguments import shown_name
from tap_autopilot.collector.names import kind_of
from tap_autopilot.exceptions import UserError
from tap_autopilot.settings import (
    Settings,
    log_format,
    log_level,
    number,
    passwords,
    setting,
    store_address,
    text,
    whole_number,
)
from tap_autopilot.urls import base_url

MIN_TOKEN = 20


@dataclass(frozen=True)
class Destination:
    """Where to forward events. `events` are the kinds to forward; None stands for all."""

    name: str
    url: str
    write_key: str
    events: frozenset[str] | None
    from_start: bool


def listed(value: Any) -> tuple[str, ...]:
    """A list of strings, given as an array or as one comma-separated string."""
    if isinstance(value, str):
        value = _from_json(value) if value.lstrip().startswith("[") else value.split(",")
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise ValueError("must be an array of strings, or a comma-separated string")
    return tuple(item.strip() for item in value if item.strip())


def secrets_of(least: int) -> Callable[[Any], tuple[str, ...]]:
    """A reader for a list of secrets of at least `least` characters."""

    def read(value: Any) -> tuple[str, ...]:
        secrets = listed(value)
        if any(len(secret) < least for secret in secrets):
            raise ValueError(f"must each have at least {least} characters")
        if not all(map(_is_ascii, secrets)):
            raise ValueError("must be plain ASCII without whitespace")
        if any(re.fullmatch(r"(['\"]).*\1", secret) for secret in secrets):
            raise ValueError("must not be in quotes")  # which Docker's --env-file keeps
        return secrets

    return read


def token_list(value: Any) -> tuple[str, ...]:
    """Secrets that are safe in a URL."""
    tokens = secrets_of(MIN_TOKEN)(value)
    if not all(re.fullmatch(r"[A-Za-z0-9._~-]+", token) for token in tokens):
        raise ValueError("must contain only letters, digits and -._~, because they go into URLs")
    return tokens


def address(value: Any) -> tuple[str, int]:
    """A host and a port."""
    host, colon, port = text(value).rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not re.fullmatch(r"\d{1,5}", port) or int(port) > 65535:
        raise ValueError("must look like 127.0.0.1:8787")
    return host, int(port)


def destination_list(value: Any) -> tuple[Destination, ...]:
    """Destinations: an array of objects, or the same as JSON text."""
    if isinstance(value, str):
        value = _from_json(value)
    if not isinstance(value, list):
        raise ValueError("must be an array of objects")
    destinations = tuple(map(_destination, value))
    if len({to.name for to in destinations}) < len(destinations):
        raise ValueError("must have unique names")
    return destinations


def _destination(given: Any) -> Destination:
    if not isinstance(given, dict):
        raise ValueError("must be an array of objects")
    if unknown := given.keys() - {"name", "url", "write_key", "events", "from"}:
        raise ValueError(f"has an unknown member {shown_name(min(unknown))}")
    try:
        name, key = text(given.get("name")), text(given.get("write_key"))
    except ValueError:
        raise ValueError("must have name, url and write_key in each object") from None
    if not _is_ascii(key):
        raise ValueError(f"({name}): write_key must be plain ASCII without whitespace")
    try:
        url = base_url(given.get("url"))
        events = listed(given["events"]) if given.get("events") is not None else None
    except ValueError as problem:
        raise ValueError(f"({name}): {problem}") from None
    if given.get("from", "now") not in ("now", "start"):
        raise ValueError(f'({name}): "from" must be "now" or "start"')
    if events is not None and not events:
        raise ValueError(f"({name}): events must not be empty; leave it out to forward all")
    chosen = None if events is None else frozenset(map(kind_of, events))
    return Destination(name, url, key, chosen, given.get("from") == "start")


def _is_ascii(secret: str) -> bool:
    return re.fullmatch(r"[!-~]+", secret) is not None


def _from_json(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None


@dataclass(frozen=True)
class CollectorConfig(Settings):
    """The settings of a collector, checked."""

    prefix: ClassVar[str] = "TAP_AUTOPILOT_COLLECTOR_"

    database: str = setting(
        store_address,
        "Where to store events: a file, or postgresql://… for several collectors to share.",
        default="autopilot-events.db",
    )
    listen: tuple[str, int] = setting(
        address, "Host and port to listen on; port 0 picks a free one.", default=("127.0.0.1", 8787)
    )
    write_keys: tuple[str, ...] = setting(
        secrets_of(1),
        "Segment-style write keys that senders may use; array or comma-separated.",
        default=(),
        secret=True,
    )
    webhook_secrets: tuple[str, ...] = setting(
        secrets_of(1),
        "Shared secrets of Segment's Webhooks destination; array or comma-separated.",
        default=(),
        secret=True,
    )
    hook_tokens: tuple[str, ...] = setting(
        token_list,
        "Secrets in the URLs given to Autopilot's REST hooks and Activity Streams, of at least 20"
        " characters each; array or comma-separated.",
        default=(),
        secret=True,
    )
    destinations: tuple[Destination, ...] = setting(
        destination_list,
        "Where to forward events: an array of objects with name, url and write_key, and"
        ' optionally events (names) and from ("now" or "start").',
        default=(),
        secret=True,
    )
    max_body_mb: float = setting(
        number(0.001, 256),  # SQLite takes up to 953, and an event that it refuses ends the process
        "Largest body accepted, compressed or not.",
        default=8.0,
    )
    max_pending_mb: float = setting(
        number(0.001, 65536),
        "Maximum memory for events not yet on disk; beyond that, senders get a 503.",
        default=64.0,
    )
    min_free_mb: int = setting(
        whole_number(0, 2**40),
        "Minimum free disk space; below that, senders get a 503. Not used with PostgreSQL, whose"
        " disk may be elsewhere.",
        default=256,
    )
    request_timeout: float = setting(
        number(0.1, 3600),
        "Timeout for receiving a whole request, headers and body, in seconds.",
        default=15.0,
    )

    api_key: str | None = setting(
        text,
        "The account's API key; only for --register-hooks and --unregister-hooks.",
        default=None,
        secret=True,
    )
    api_url: str = setting(
        base_url, "Base URL of Autopilot's API.", default="https://api2.autopilothq.com/v1"
    )
    log_level: str | None = log_level()
    log_format: str | None = log_format()

    def __post_init__(self) -> None:
        if self.max_pending_mb <= self.max_body_mb:
            raise UserError(
                "Invalid config: max_pending_mb must be larger than max_body_mb, or the largest"
                " bodies would get a 503 each time."
            )

    @property
    def secrets(self) -> tuple[str, ...]:
        """All secrets, which must never be shown."""
        keys = (to.write_key for to in self.destinations)
        others = [self.api_key or "", *passwords(self.database)]
        return (*self.write_keys, *self.webhook_secrets, *self.hook_tokens, *keys, *others)

    @property
    def max_body(self) -> int:
        """The largest body accepted, in bytes."""
        return int(self.max_body_mb * 2**20)

    @property
    def accepts_senders(self) -> bool:
        """Whether there is a secret that a sender could show."""
        return bool(self.write_keys or self.webhook_secrets or self.hook_tokens)

    def require_secrets(self, offer: str) -> None:
        """Raise UserError, suggesting a random secret, unless a secret is set."""
        if not self.accepts_senders:
            raise UserError(
                "No secrets are set, so no sender could authenticate: set write_keys,"
                f" webhook_secrets or hook_tokens. A random secret to use: {offer}"
            )
