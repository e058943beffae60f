"""The connection test: one request that checks the key and counts the contacts."""

from __future__ import annotations

import dataclasses
import math
import time

from tap_autopilot.api.client import Api, Client
from tap_autopilot.api.pace import PUBLISHED_RATE
from tap_autopilot.api.parsing import decode
from tap_autopilot.config import Config
from tap_autopilot.sources.listings import CONTACTS

PATIENCE = 10.0  # seconds; a person is waiting
PAGE = 100  # contacts on a page, as the API documents


def check_connection(config: Config) -> str:
    """Request the first contacts; returns a line with the account's size and a run's duration.

    Raises what `Client.get` raises.
    """
    quick = dataclasses.replace(
        config,
        retry_timeout=min(config.retry_timeout, PATIENCE),
        request_timeout=min(config.request_timeout, PATIENCE),
    )
    started = time.monotonic()
    listing = (
        Client(Api(quick))
        .get(
            CONTACTS.path,
            lambda body: decode(body, CONTACTS.documents),
            shown=CONTACTS.path,
            kind=CONTACTS.source,
            urgency=math.inf,
        )
        .value
    )
    total = max(listing.total or 0, len(listing.documents))
    requests = max(1, math.ceil(total / PAGE))
    each = max(time.monotonic() - started, 1 / min(PUBLISHED_RATE, config.max_requests_per_second))
    minutes = math.ceil(requests * each / 60)
    return (
        f"The API key works. The account has {total:,} contacts. Reading them takes {requests:,}"
        f" requests and at most {minutes:,} {'minute' if minutes == 1 else 'minutes'}. Each smart"
        " segment takes at most that long again."
    )
