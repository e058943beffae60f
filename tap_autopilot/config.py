"""The tap's settings: their names, types, defaults, checks and descriptions, all in `Config`."""

from __future__ import annotations

import ipaddress
import logging
import re
import urllib.parse
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, ClassVar

import ciso8601

from tap_autopilot.settings import Settings, boolean, number, one_of, setting, text, whole_number

LOG = logging.getLogger(__name__)


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
    agent = text(value)
    if not re.fullmatch(r"[ -~]+", agent):
        raise ValueError("must be plain ASCII on one line")
    return agent


def _api_url(value: Any) -> str:
    given = text(value).rstrip("/")
    try:
        url = urllib.parse.urlsplit(given)
        host, _ = url.hostname, url.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if url.scheme not in ("http", "https") or not host or url.query or url.fragment:
        raise ValueError("must look like https://api2.autopilothq.com/v1")
    if url.username is not None:
        raise ValueError("must not hold a user name or password")
    if url.scheme == "http" and not _is_loopback(host):
        raise ValueError("must start with https://, or the key would travel in plain text")
    return given


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _start_date(value: Any) -> datetime:
    try:
        moment = ciso8601.parse_datetime(text(value))
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        found = zoned.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise ValueError("must be a date such as 2024-01-31 or 2024-01-31T00:00:00Z") from None
    if found > datetime.now(timezone.utc):
        LOG.warning("start_date is in the future: it skips all contacts and email events.")
    return found


@dataclass(frozen=True)
class Config(Settings):
    """The settings of a run, checked. Times are in seconds."""

    prefix: ClassVar[str] = "TAP_AUTOPILOT_"

    api_key: str = setting(
        "string", _api_key, "The account's API key (Autopilot: Settings > API).", secret=True
    )
    start_date: datetime | None = setting(
        "date_iso8601",
        _start_date,
        "Leave out contacts and email events older than this date.",
        default=None,
    )
    custom_fields_as_columns: bool = setting(
        "boolean",
        boolean,
        "Give each custom field of the account a column of its own in contacts.",
        default=False,
    )
    api_url: str = setting(
        "string", _api_url, "Where the API is.", default="https://api2.autopilothq.com/v1"
    )
    user_agent: str = setting(
        "string", _user_agent, "How the tap names itself to the API.", default="tap-autopilot"
    )
    request_timeout: float = setting(
        "number",
        number(0.01, 86400),
        "Seconds that one try of a request may take in all.",
        default=300.0,
    )
    retry_timeout: float = setting(
        "number",
        number(0, 86400),
        "Seconds for which a failing request is tried again.",
        default=300.0,
    )
    max_requests_per_second: float = setting(
        "number", number(0.01, 10000), "The most requests a second that are sent.", default=20.0
    )
    concurrency: int = setting(
        "integer", whole_number(1, 64), "How many listings are read at a time.", default=8
    )
    emit_activate_version_messages: bool = setting(
        "boolean", boolean, "Let targets remove rows that are gone from the account.", default=True
    )
    check_totals: bool = setting(
        "boolean",
        boolean,
        "Compare what was read with the totals that the API reports; turn off for accounts whose"
        " totals are inexact.",
        default=True,
    )
    log_level: str | None = setting(
        "string",
        one_of("debug", "info", "warning", "error"),
        "The least that is logged: debug, info, warning or error. Without it info.",
        default=None,
    )
    log_format: str | None = setting(
        "string",
        one_of("text", "json"),
        "How log lines are written: text or json. Without it text, or what Meltano asks for.",
        default=None,
    )
