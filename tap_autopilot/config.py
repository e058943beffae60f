"""The tap's settings: their names, types, defaults, checks and descriptions, all in `Config`."""

from __future__ import annotations

import logging
import re
import urllib.parse
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, ClassVar

import ciso8601

from tap_autopilot.settings import (
    Settings,
    boolean,
    file_name,
    log_format,
    log_level,
    number,
    setting,
    store_address,
    text,
    whole_number,
)
from tap_autopilot.urls import base_url

LOG = logging.getLogger(__name__)


def _api_key(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a string")
    key = value.strip()
    if key != value:
        LOG.warning("Ignored whitespace around api_key.")
    if not re.fullmatch(r"[!-~]+", key):
        raise ValueError("contains whitespace, control or non-ASCII characters")
    return key


def _user_agent(value: Any) -> str:
    agent = text(value)
    if not re.fullmatch(r"[ -~]+", agent):
        raise ValueError("must be a single line of ASCII")
    return agent


def _start_date(value: Any) -> datetime:
    try:
        moment = ciso8601.parse_datetime(text(value))
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        start = zoned.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise ValueError("must be a date such as 2024-01-31 or 2024-01-31T00:00:00Z") from None
    if start > datetime.now(timezone.utc):
        LOG.warning("start_date is in the future, so all contacts and email events are skipped.")
    return start


def _column(value: Any) -> str:
    name = text(value)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", name):
        raise ValueError("must be a column name of letters, digits and underscores")
    return name


@dataclass(frozen=True)
class Config(Settings):
    """The settings of a run, checked. Times are in seconds."""

    prefix: ClassVar[str] = "TAP_AUTOPILOT_"
    # The collector's, and what Meltano passes besides settings.
    foreign: ClassVar[tuple[str, ...]] = ("TAP_AUTOPILOT_COLLECTOR_", "TAP_AUTOPILOT__")

    api_key: str = setting(
        _api_key, "The account's API key (Autopilot: Settings > API).", secret=True
    )
    start_date: datetime | None = setting(
        _start_date, "Skip contacts and email events older than this date.", default=None
    )
    custom_fields_as_columns: bool = setting(
        boolean, "Give each custom field its own column in contacts.", default=False
    )
    nested_as_text: bool = setting(
        boolean,
        "Write arrays and objects as JSON text, for targets that cannot store them.",
        default=False,
    )
    collector_database: str | None = setting(
        store_address,
        "A collector's store to read pushed events from: a file, or `postgresql://…`.",
        default=None,
        secret=True,
    )
    api_url: str = setting(
        base_url, "Base URL of the API.", default="https://api2.autopilothq.com/v1"
    )
    user_agent: str = setting(_user_agent, "User-Agent header to send.", default="tap-autopilot")
    request_timeout: float = setting(
        number(0.01, 86400),
        "Timeout of a single request, in seconds, from connecting to the last byte.",
        default=300.0,
    )
    retry_timeout: float = setting(
        number(0, 86400), "How long to retry a failing request, in seconds.", default=300.0
    )
    max_requests_per_second: float = setting(
        number(0.01, 10000), "Maximum number of requests per second.", default=20.0
    )
    concurrency: int = setting(
        whole_number(1, 64), "How many listings to read in parallel.", default=8
    )
    emit_activate_version_messages: bool = setting(
        boolean,
        "Send ACTIVATE_VERSION messages, so that targets remove deleted rows.",
        default=True,
    )
    check_totals: bool = setting(
        boolean,
        "Compare what was read with the totals that the API reports; turn this off if an"
        " account's totals are wrong.",
        default=True,
    )
    report_file: str | None = setting(
        file_name, "File to which each run appends a one-line JSON report.", default=None
    )
    digests: str | None = setting(
        file_name,
        "File that remembers what was sent, so that later runs send only changes.",
        default=None,
    )
    deleted_at_column: str = setting(
        _column,
        "Column that marks deleted rows if `digests` is set; some targets drop names with `_sdc_`.",
        default="_sdc_deleted_at",
    )
    log_level: str | None = log_level()
    log_format: str | None = log_format()

    @property
    def account(self) -> str:
        """What tells the account from others; a port does not. It contains the key."""
        url = urllib.parse.urlsplit(self.api_url)
        return f"{url.hostname}{url.path}\0{self.api_key}"
