"""The sandbox's options."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

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
TOTALS = {
    "exact": "the size of the listing, on every page",
    "missing": "on no page",
    "first-missing": "on every page but the first",
    "collapse": "half the size of the listing, from the middle of the listing on",
}
LOSE = {
    "contacts": "a page of the walk over all contacts",
    "members": "a page of one segment's members",
}


@dataclass(frozen=True)
class Options:
    """How the sandbox behaves. Times are in seconds.

    - `page`: contacts per page.
    - `empty_end`: the last contacts come with a bookmark, which leads to an empty page.
    - `end_early`: bookmarks stop halfway through a listing.
    - `total_off`: added to every total.
    - `lose`: the listing that never serves one of its pages: the bookmark before it leads past it,
      and totals still count it. `contacts@3` names the page; otherwise `seed` picks one. The same
      contacts are missing each time, so reading again does not help, unless `lose_once`.
    - `churn`: average number of account changes per response.
    - `clock_skew`: how far the API's clock is ahead of this machine's.
    - `date`: whether responses have a Date header.
    - `record`: whether to remember what was served.
    - `pushing`: where email events are pushed to, if anywhere.
    - `hook_shape` and `hook_wait`: what REST hooks deliver, and the pause between tries.
    """

    api_key: str = "sandbox"
    page: int = 100
    bookmarks: str = "last"
    stale: str = "on"
    empty_end: bool = False
    end_early: bool = False
    totals: str = "exact"
    total_off: int = 0
    lose: str = ""
    lose_once: bool = False
    seed: int = 1
    churn: float = 0.0
    clock_skew: float = 0.0
    date: bool = True
    record: bool = True
    latency: float = 0.0
    requests_per_second: float = 0.0
    retry_after: str = ""
    gzip: bool = False
    faults: Faults = field(default_factory=Faults)
    tls: ssl.SSLContext | None = None
    pushing: Pushing | None = None
    hook_shape: str = "email"
    hook_wait: float = 1.0
