"""The sandbox's options."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from tap_autopilot.sandbox.faults import Faults
from tap_autopilot.sandbox.pushes import Pushing

BOOKMARKS = {
    "last": "names the last contact of this page",
    "next": "names the first contact of the next page",
    "repeat": "names the last contact of this page, and the next page repeats it",
    "opaque": "names nothing, and has characters that must be percent-encoded",
}
STALE = {
    "on": "the listing continues where the contact would be",
    "400": "status 400",
    "404": "status 404",
    "first": "the first page again",
    "empty": "an empty page without a bookmark",
}
TOTALS = {
    "exact": "the size of the listing, on every page",
    "missing": "on no page",
    "first-missing": "on every page but the first",
    "collapse": "half the size of the listing, from its middle on",
}
LOSE = {
    "contacts": "a page of the walk over all contacts",
    "members": "a page of one segment's members",
}


@dataclass(frozen=True)
class Options:
    """How the sandbox behaves. Times are in seconds.

    - `page`: contacts on a page.
    - `empty_end`: the last contacts come with a bookmark, which leads to an empty page.
    - `end_early`: listings end in the middle, without a bookmark.
    - `total_off`: added to every total.
    - `lose`: the listing of which nobody ever sees one page. The bookmark of the page before leads
      past it, and totals still count it. `contacts@3` says which page; otherwise `seed` does. The
      same contacts are lost each time, so reading again does not help, unless `lose_once`.
    - `churn`: changes of the account for each answer, on average.
    - `clock_skew`: how far the API's clock is ahead of this machine's.
    - `date`: whether answers say what time it is.
    - `record`: whether to remember what was served.
    - `pushing`: where email events are pushed to, if anywhere.
    - `hook_shape` and `hook_wait`: what REST hooks are sent, and the time between two tries.
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
