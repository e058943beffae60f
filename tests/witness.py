"""Checks the tap's claims against what its sandbox served and what existed during the run.

The rules are those of `sources/completeness.py`. The sandbox is the witness, so a tap that believes
its own mistakes is caught as well.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tap_autopilot.sandbox.account import (
    CONTACTS,
    LISTS,
    SEGMENTS,
    Account,
    members_of_list,
    members_of_segment,
    whose_members,
)
from tap_autopilot.sandbox.paging import listing_of
from tap_autopilot.streams import STREAMS
from tests.recording import Served, existed_throughout

if TYPE_CHECKING:
    from tests.invariants import Run

Key = tuple[str, ...]

KEYS = {
    name: STREAMS[name].key_properties
    for name in ("contacts", "lists", "smart_segments", "smart_segments_contacts", "lists_contacts")
}
PLAIN = {"contacts": CONTACTS, "lists": LISTS, "smart_segments": SEGMENTS}
MEMBERS = "smart_segments_contacts"
UNHARMED = ("", "drip")  # faults that still let a response arrive
PARTIAL = ("digests",)  # settings with which a run does not send every row


def check_served(run: Run) -> None:
    """Every row was served to this run and, with exit 0, everything served became a row."""
    if not run.is_witnessed:
        return
    for stream in KEYS.keys() & run.selected:
        pages = _feeding(stream, run.served)
        rows = {_key(stream, row) for row in run.rows(stream) if not row.get(_mark(run))}
        if stream == "lists_contacts":  # pages are recorded only by contact
            rows = {key[1:] for key in rows}
        if not any(page.nameless for page in pages):
            invented = rows - _served_keys(stream, pages)
            assert not invented, f"{stream}: rows that were never served: {_some(invented)}"
        if run.code == 0 and stream != "lists_contacts" and _sends_all(run, stream):
            dropped = _served_keys(stream, filter(_arrived, pages)) - rows
            assert not dropped, f"{stream}: served, but not a row: {_some(dropped)}"


def check_complete(runs: Sequence[Run]) -> None:
    """What existed throughout was sent, or the shortage was admitted.

    `runs` are one pass: a run without a state, and the runs that resumed it.
    """
    first, last = runs[0], runs[-1]
    if not all(run.is_witnessed for run in runs) or first.given:
        return
    account = first.account
    assert all(run.account is account for run in runs), "the runs are over several accounts"
    if account.changes != len(account.log):
        return  # the account was changed outside these runs
    committed = [run.committed(after) for run, after in zip(runs, [*runs[1:], None], strict=True)]
    for stream in last.selected & KEYS.keys():
        if not _sends_all(last, stream, full_table=False):
            continue
        sent = {_key(stream, one["record"]) for rows in committed for one in rows
                if one["stream"] == stream}  # fmt: skip
        existed = _existed(account, stream, runs)
        if last.code == 0 and not last.killed and existed - sent:
            _check_confession(runs, stream, existed, existed - sent)
    for number, run in enumerate(runs):
        for message in run.of("ACTIVATE_VERSION"):
            _check_version(runs[: number + 1], committed, message["stream"], message["version"])


def check_tombstones(run: Run) -> None:
    """A tombstone has only a key and a time, and is never for what existed throughout the pass."""
    deleted: dict[str, set[Key]] = defaultdict(set)
    keys = {message["stream"]: message["key_properties"] for message in run.of("SCHEMA")}
    for message in run.of("RECORD"):
        row, stream = message["record"], message["stream"]
        if row.get(_mark(run)):
            filled = {name for name, value in row.items() if value is not None}
            assert filled == {*keys[stream], _mark(run)}, f"{stream}: a tombstone with {filled}"
            deleted[stream].add(tuple(row[name] for name in keys[stream]))
    assert not deleted or run.settings.get("digests"), "tombstones without digests"
    if not run.is_witnessed or run.account.changes != len(run.account.log):
        return
    for stream, gone in deleted.items():
        if run.given and _bookmark_of(run.given, stream, "progress"):
            continue  # when the pass began is unknown here
        if stream in KEYS:
            wrong = gone & _existed(run.account, stream, [run])
        elif stream == "custom_fields":
            wrong = gone & {(field["name"],) for field in run.account.custom_fields}
        else:  # a contact that stays keeps all of its events
            there = {_clean(one) for (one,) in _existed(run.account, "contacts", [run])}
            wrong = {key for key in gone if unquote(key[0].split(":")[1]) in there}
        assert not wrong, f"{stream}: tombstones for existing rows: {_some(wrong)}"


def check_bookmarks(runs: Sequence[Run]) -> None:
    """A Singer bookmark never moves past the start of the pass on the API's clock."""
    first, last = runs[0], runs[-1]
    if not (first.is_witnessed and first.requests and last.of("STATE")):
        return
    sandbox = first.sandbox
    assert sandbox is not None
    if not sandbox.options.date and sandbox.options.clock_skew:
        return  # the tap cannot know the API's clock
    for stream, name in last.replication_keys.items():
        new = last.state["bookmarks"].get(stream, {}).get(name)
        old = _bookmark_of(first.given, stream, name)
        if new is not None and new != old:
            moment = datetime.fromisoformat(new.replace("Z", "+00:00"))
            began = first.requests[0].clock
            assert moment <= began, f"{stream}: the bookmark {new} is after the start, {began}"


def _check_version(
    runs: Sequence[Run], committed: Sequence[list[dict[str, Any]]], stream: str, version: int
) -> None:
    """ACTIVATE_VERSION deletes rows that were not sent, so all that existed throughout must be."""
    if any(run.settings.get("check_totals", True) is False for run in runs):
        return
    wrote = [
        number
        for number, run in enumerate(runs)
        if any(message.get("version") == version for message in run.of("RECORD", stream))
    ]
    since = min([*wrote, len(runs) - 1]) if stream in KEYS else 0  # the email tables may be empty
    window = runs[since:]
    account = window[0].account
    if stream in KEYS:
        existed = _existed(account, stream, window)
        rows = {
            _key(stream, one["record"])
            for messages in [*committed[since : len(runs) - 1], runs[-1].of("RECORD")]
            for one in messages
            if one["stream"] == stream and one.get("version") == version
        }
        missing = existed - rows
    elif stream == "custom_fields":
        fields: set[Key] = {(field["name"],) for field in account.custom_fields}
        missing = fields - {(row["name"],) for run in window for row in run.rows(stream)}
    else:  # the email tables: every contact must have been served
        missing = _existed(account, "contacts", window) - (
            _served_keys("contacts", [p for run in window for p in _feeding(stream, run.served)])
        )
    assert not missing, f"{stream}: ACTIVATE_VERSION would delete existing rows: {_some(missing)}"


def _check_confession(
    runs: Sequence[Run], stream: str, existed: set[Key], missing: set[Key]
) -> None:
    """Exit 0 with rows missing needs a small shortage, a warning, and an unmoved bookmark."""
    last = runs[-1]
    what = f"{stream}: {len(missing)} of {len(existed)} missing at exit 0"
    assert last.sandbox is not None
    options = last.sandbox.options
    if last.settings.get("check_totals", True) is False:
        return
    assert not last.of("ACTIVATE_VERSION", stream), f"{what}, with ACTIVATE_VERSION"
    name = last.replication_keys.get(stream)
    if name:
        new = _bookmark_of(last.state, stream, name)
        assert new is None, f"{what}, and its bookmark moved to {new}"
    warnings = [line for line in last.log if line.startswith("WARNING")]
    assert warnings, f"{what}, without a warning"
    if options.totals in ("missing", "first-missing", "collapse"):
        return  # without totals there are no numbers to name
    by_listing: dict[str, set[str]] = defaultdict(set)
    for key in missing:
        listing = members_of_segment(key[0]) if stream == MEMBERS else PLAIN.get(stream, CONTACTS)
        by_listing[listing].add(key[-1])
    start, end = runs[0].log_window[0], last.log_window[1]
    for listing, lost in by_listing.items():
        size = len(existed_throughout(last.account, listing, start, end))
        churned = sum(len(one.ids) for one in last.account.log[start:end] if one.listing == listing)
        most = max(size * 0.01, options.page + churned)
        assert len(lost) <= most, f"{what}: too much for exit 0"
        counts = _counts(listing, [page for run in runs for page in run.served])
        assert any(_names(line, counts) for line in warnings), f"{what}: no warning has the numbers"


def _counts(listing: str, served: Sequence[Served]) -> set[int]:
    """How many distinct ids were read: overall, per walk, and by all walks of that kind."""
    walks: list[set[str]] = [set()]
    for page in served:
        if page.listing == listing:
            if page.asked is None:
                walks.append(set())
            walks[-1].update(page.ids)
    kind = {(page.listing, one) for page in served if page.listing.startswith(f"{SEGMENTS}/")
            for one in page.ids}  # fmt: skip
    return {len(set().union(*walks)), len(kind), *map(len, walks)}


def _names(line: str, counts: set[int]) -> bool:
    """Whether a line has one of the counts and a larger number."""
    numbers = [int(one) for one in re.findall(r"\d+", re.sub(r"(?<=\d)[,_](?=\d{3})", "", line))]
    return any(one in counts and other > one for one in numbers for other in numbers)


def _existed(account: Account, stream: str, runs: Sequence[Run]) -> set[Key]:
    """The keys of everything that existed from the first response of some runs to the last."""
    since, until = runs[0].log_window[0], runs[-1].log_window[1]

    def throughout(listing: str) -> set[str]:
        return existed_throughout(account, listing, since, until)

    if stream in PLAIN:
        return {(one,) for one in throughout(PLAIN[stream])}
    if stream == "lists_contacts":
        return {
            (one, member)
            for one in throughout(LISTS)
            for member in throughout(members_of_list(one))
        }
    return {
        (one, member)
        for one in throughout(SEGMENTS) - _refused_segments(runs)
        for member in throughout(members_of_segment(one))
    }


def _refused_segments(runs: Iterable[Run]) -> set[str]:
    """The segments whose first page was a 404, so that they count as having no members."""
    refused = [
        listing_of(request.path)
        for run in runs
        for request in run.requests
        if request.status == 404
    ]
    firsts = [whose_members(asked[0]) for asked in refused if asked and asked[1] is None]
    return {one for kind, one in firsts if kind == "smart_segments"}


def _sends_all(run: Run, stream: str, *, full_table: bool = True) -> bool:
    """Whether a run without a state sends every row of a stream."""
    filtered = stream == "contacts" and "start_date" in run.settings
    if full_table and (run.given or stream in run.replication_keys):
        return False
    return not filtered and not any(run.settings.get(name) for name in PARTIAL)


def _bookmark_of(state: Any, stream: str, name: str) -> Any:
    """A stream's Singer bookmark in a state of any shape; None if it has none."""
    try:
        return state["bookmarks"][stream][name]
    except (TypeError, KeyError):
        return None


def _feeding(stream: str, served: Iterable[Served]) -> list[Served]:
    if stream == MEMBERS:
        return [page for page in served if page.listing.startswith(f"{SEGMENTS}/")]
    return [page for page in served if page.listing == PLAIN.get(stream, CONTACTS)]


def _mark(run: Run) -> str:
    """The column that marks tombstones."""
    return str(run.settings.get("deleted_at_column", "_sdc_deleted_at"))


def _served_keys(stream: str, pages: Iterable[Served]) -> set[Key]:
    """The keys in a stream's pages; for `lists_contacts`, only the contacts."""
    return {
        (_clean(whose_members(page.listing)[1]), _clean(one))
        if stream == MEMBERS
        else (_clean(one),)
        for page in pages
        for one in page.ids
    }


def _key(stream: str, row: Mapping[str, Any]) -> Key:
    return tuple(row[name] for name in KEYS[stream])


def _arrived(page: Served) -> bool:
    return page.delivered and page.fault in UNHARMED


def _clean(text: str) -> str:
    """An id as the tap writes it."""
    return text.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _some(keys: set[Key]) -> str:
    return f"{len(keys)}, such as {', '.join(map(str, sorted(keys)[:3]))}"
