"""The settings: their names, types, defaults, checks and descriptions, all in `Config`."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import logging
import math
import os
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import ciso8601

from tap_autopilot.exceptions import UserError

LOG = logging.getLogger(__name__)

ENVIRONMENT = "ENV"

_TRUE = {"true": True, "false": False}


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be text")
    return value.strip()


def _api_key(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be the account's API key, as text")
    key = value.strip()
    if key != value:
        LOG.warning("api_key has white space around it, which is left out.")
    if not re.fullmatch(r"[!-~]+", key):
        raise ValueError("has characters that no API key has (white space, control or non-ASCII)")
    return key


def _user_agent(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch(r"[ -~]+", text):
        raise ValueError("must be plain ASCII on one line")
    return text


def _api_url(value: Any) -> str:
    text = _text(value).rstrip("/")
    try:
        url = urllib.parse.urlsplit(text)
        host, _ = url.hostname, url.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if url.scheme not in ("http", "https") or not host or url.query or url.fragment:
        raise ValueError("must look like https://api2.autopilothq.com/v1")
    if url.username is not None:
        raise ValueError("must not hold a user name or password")
    if url.scheme == "http" and not _is_loopback(host):
        raise ValueError("must start with https://, or the key would travel in plain text")
    return text


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _start_date(value: Any) -> datetime:
    try:
        moment = ciso8601.parse_datetime(_text(value))
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        return zoned.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise ValueError("must be a date such as 2024-01-31 or 2024-01-31T00:00:00Z") from None


def _boolean(value: Any) -> bool:
    if isinstance(value, str):
        value = _TRUE.get(value.strip().lower(), value)
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _number(least: float, most: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not least <= number <= most:
            raise ValueError(f"must be a number from {least:g} to {most:g}")
        return number

    return read


def _whole_number(least: int, most: int) -> Callable[[Any], int]:
    number = _number(least, most)

    def read(value: Any) -> int:
        if number(value) % 1:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return int(number(value))

    return read


def _one_of(*choices: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        text = _text(value).lower()
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return read


def _setting(
    kind: str,
    read: Callable[[Any], Any],
    description: str,
    *,
    default: Any = dataclasses.MISSING,
    secret: bool = False,
) -> Any:
    metadata = {"kind": kind, "read": read, "description": description, "secret": secret}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """The settings of a run, checked. Times are in seconds.

    The `kind` of a setting is one of string, date_iso8601, number, integer and boolean.
    """

    api_key: str = _setting(
        "string", _api_key, "The account's API key (Autopilot: Settings > API).", secret=True
    )
    start_date: datetime | None = _setting(
        "date_iso8601",
        _start_date,
        "Leave out contacts and email events older than this date.",
        default=None,
    )
    custom_fields_as_columns: bool = _setting(
        "boolean",
        _boolean,
        "Give each custom field of the account a column of its own in contacts.",
        default=False,
    )
    api_url: str = _setting(
        "string", _api_url, "Where the API is.", default="https://api2.autopilothq.com/v1"
    )
    user_agent: str = _setting(
        "string", _user_agent, "How the tap names itself to the API.", default="tap-autopilot"
    )
    request_timeout: float = _setting(
        "number",
        _number(0.01, 86400),
        "Seconds that one try of a request may take in all.",
        default=300.0,
    )
    retry_timeout: float = _setting(
        "number",
        _number(0, 86400),
        "Seconds for which a failing request is tried again.",
        default=300.0,
    )
    max_requests_per_second: float = _setting(
        "number", _number(0.01, 10000), "The most requests a second that are sent.", default=20.0
    )
    concurrency: int = _setting(
        "integer", _whole_number(1, 64), "How many listings are read at a time.", default=8
    )
    emit_activate_version_messages: bool = _setting(
        "boolean", _boolean, "Let targets remove rows that are gone from the account.", default=True
    )
    log_level: str | None = _setting(
        "string",
        _one_of("debug", "info", "warning", "error"),
        "The least that is logged: debug, info, warning or error. Without it info.",
        default=None,
    )
    log_format: str | None = _setting(
        "string",
        _one_of("text", "json"),
        "How log lines are written: text or json. Without it text, or what Meltano asks for.",
        default=None,
    )

    @classmethod
    def from_mapping(cls, raw: Mapping[str, Any]) -> Config:
        """The settings from a parsed file. Raises UserError, naming every mistake at once."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in raw:
            if name not in fields:
                LOG.warning("The config has a setting %.60r that does not exist; ignored.", name)
        values, mistakes = {}, []
        for name, field in fields.items():
            value = raw.get(name)
            if value is None or value == "":
                if field.default is dataclasses.MISSING:
                    mistakes.append(f"{name} is missing (or {variable(name)} in the environment)")
                continue
            try:
                values[name] = field.metadata["read"](value)
            except ValueError as problem:
                mistakes.append(f"{name} {problem}")
        if mistakes:
            raise UserError(f"The config is not usable: {'; '.join(mistakes)}.")
        return cls(**values)


def gather(sources: Iterable[str]) -> dict[str, Any]:
    """The settings from files, and from the environment where a source is "ENV"; later ones win.

    Where no source is "ENV", the environment has what the files lack. Raises UserError for what is
    no file of settings.
    """
    found: dict[str, Any] = {}
    sources = list(sources)
    for source in sources if ENVIRONMENT in sources else [ENVIRONMENT, *sources]:
        if source == ENVIRONMENT:
            names = [field.name for field in dataclasses.fields(Config)]
            given: Any = {name: os.environ.get(variable(name)) for name in names}
            given = {name: value for name, value in given.items() if value}
        else:
            given = read_json(source, "config")
            if not isinstance(given, dict):
                raise UserError(
                    f'The config file {source} is not an object such as {{"api_key": "…"}}.'
                )
        found |= given
    return found


def variable(name: str) -> str:
    """The environment variable for a setting."""
    return f"TAP_AUTOPILOT_{name.upper()}"


def read_json(path: str, what: str) -> Any:
    """The JSON in a file that the user named. Raises UserError if there is none.

    An empty file is `None`: it is what a failed run leaves of a state kept with `tail -1`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        return json.loads(text) if text.strip() else None
    except OSError as problem:
        raise UserError(f"Cannot read the {what} file {path}: {problem.strerror}.") from None
    except (ValueError, RecursionError) as problem:
        place = f" (line {problem.lineno})" if isinstance(problem, json.JSONDecodeError) else ""
        raise UserError(f"The {what} file {path} is not JSON{place}.") from None
