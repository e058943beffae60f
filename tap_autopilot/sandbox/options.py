"""The sandbox's options, from which its command line is made. Times are in seconds."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from tap_autopilot.sandbox.command import count, option, positive, rate
from tap_autopilot.sandbox.faults import Faults
from tap_autopilot.sandbox.pushes import Pushing

BOOKMARKS = {
    "last": "id of the last contact on this page",
    "next": "id of the first contact on the next page",
    "repeat": "id of the last contact on this page, which the next page repeats",
    "opaque": "no id, and characters that must be percent-encoded",
}
STALE = {
    "on": "the page that starts where the contact would be",
    "400": "status 400",
    "404": "status 404",
    "first": "the first page again",
    "empty": "an empty page without a bookmark",
}
SHAPES = {
    "email": "a delivery contains the contact's email",
    "contact": "a delivery contains the whole contact",
}


@dataclass(frozen=True)
class Size:
    """The account to serve."""

    contacts: int = option(432, "number of contacts", metavar="N", read=count)
    lists: int = option(8, "number of lists", metavar="N", read=count)
    segments: int = option(6, "number of smart segments", metavar="N", read=count)
    members: int = option(120, "contacts in each segment", metavar="N", read=count)
    seed: int = option(1, "seed of the account")
    odd: bool = option(True, "leave out the odd values that clients trip over", name="plain")
    days: int = option(0, "days of changes to simulate before serving", metavar="N", read=count)


@dataclass(frozen=True)
class Options:
    """How the sandbox behaves."""

    api_key: str = option("sandbox", "the only key it accepts", metavar="KEY")
    churn: float = option(
        0.0,
        "average number of account changes per response; 0.5 means a change before every other"
        " response. Contacts join, leave, change and move between lists and segments; occasionally"
        " a list or segment is created, renamed or deleted",
        read=rate,
    )
    seed: int = option(1, "seed for the changes", name="churn-seed")
    latency: float = option(0.0, "delay before each response", metavar="SECONDS", read=rate)
    requests_per_second: float = option(
        0.0, "respond with 429 above this rate; 0 means no limit", metavar="RATE", read=rate
    )
    retry_after: str = option("", "Retry-After header of 429 and 503 responses", metavar="TEXT")
    clock_skew: float = option(
        0.0,
        "how far the API's clock is ahead of this machine's; affects Date headers and the times of"
        " changes",
        metavar="SECONDS",
    )
    date: bool = option(True, "send no Date header", name="no-date")
    gzip: bool = option(False, "compress responses if the client accepts gzip")
    page: int = option(100, "contacts per page", metavar="N", read=positive)
    bookmarks: str = option("last", "", choices=BOOKMARKS)
    stale: str = option("on", "response to an outdated bookmark", choices=STALE)
    empty_end: bool = option(
        False, "send a bookmark with the last contacts; it leads to an empty page"
    )
    hook_shape: str = option("email", "what REST hooks deliver", choices=SHAPES)
    hook_wait: float = option(
        1.0, "pause between attempts to deliver to a REST hook", metavar="SECONDS", read=rate
    )
    faults: Faults = field(default_factory=Faults)
    tls: ssl.SSLContext | None = None
    pushing: Pushing | None = None
