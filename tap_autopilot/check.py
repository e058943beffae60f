"""--test: whether the key, files and stores in the settings work, and how long a run takes."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tap_autopilot.amounts import amount, duration
from tap_autopilot.api.client import Api, Client
from tap_autopilot.api.pace import PUBLISHED_RATE
from tap_autopilot.api.parsing import Content
from tap_autopilot.config import Config
from tap_autopilot.digests.file import trouble
from tap_autopilot.exceptions import Gone, UserError
from tap_autopilot.run.prepare import selected_streams
from tap_autopilot.sources.listings import (
    CONTACTS,
    LISTINGS,
    SEGMENTS,
    Walk,
    fetch,
    keys_of,
    members_of,
)

WAIT_FOR_API = 10.0  # seconds; a person is waiting
PAGE = 100  # contacts on a page, as the API documents
MAX_ASKED = 20  # segments


def check(config: Config, catalog: Any) -> str:
    """Try everything that the settings name; returns a report on it and on the account.

    Raises UserError if a file, a store or the catalog cannot be used, and what `Client.get` raises.
    """
    works = ["The API key", *_check_files(config)]
    limits = ("retry_timeout", "request_timeout")
    waits = {name: min(getattr(config, name), WAIT_FOR_API) for name in limits}
    api = Api(dataclasses.replace(config, **waits))
    selected_streams(config, catalog, api)
    account = _measured(api)
    return f"{_list(works)} {'work' if works[1:] else 'works'}. {account.size()}\n{account.cost()}"


def _check_files(config: Config) -> list[str]:
    """The files and stores that the settings name. Raises UserError if one cannot be used."""
    works, mistakes = [], []
    for setting in ("report_file", "digests"):
        path = getattr(config, setting)
        if path is not None:
            works.append(setting)
            if problem := _unwritable(Path(path)):
                mistakes.append(f"Cannot use {setting} {path}: {problem}.")
            elif setting == "digests" and (problem := trouble(Path(path))):
                mistakes.append(f"Cannot use digests: {path} {problem}. Name another file.")
    if config.collector_database is not None:
        from tap_autopilot.pushed.collected import Collected  # only imported with a store

        works.append("collector_database")
        try:
            Collected(config.collector_database).close()
        except UserError as error:
            mistakes.append(f"Cannot use collector_database: {error}")
    if mistakes:
        raise UserError(" ".join(mistakes))
    return works


def _unwritable(path: Path) -> str | None:
    """Why the file cannot be written or created, if it cannot. Creates nothing."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK))
    except FileNotFoundError:
        if not path.parent.is_dir():
            return f"there is no folder {path.parent}"
        return None if os.access(path.parent, os.W_OK | os.X_OK) else "Permission denied"
    except OSError as problem:
        return problem.strerror
    return None


@dataclass(frozen=True)
class _Account:
    """The size of an account: contacts, segments, and the `members` of those that were asked.

    A response `took` so many seconds at least; the run sends at most `rate` requests a second.
    """

    contacts: int
    segments: int
    members: list[int]
    took: float
    rate: float

    def size(self) -> str:
        """How many contacts, segments and members there are."""
        asked = len(self.members)
        text = (
            f"The account has {amount(self.contacts, 'contact')} and"
            f" {amount(self.segments, 'smart segment')}"
        )
        if not self.segments:
            return f"{text}."
        which = "them" if asked == self.segments else f"the first {asked:,} of them"
        return f"{text}, with {amount(sum(self.members), 'member')} in {which}."

    def cost(self) -> str:
        """How many requests a run of all tables takes, and how long."""
        mean = math.ceil(sum(self.members) / max(1, len(self.members)))
        every = self.members + [mean] * (self.segments - len(self.members))
        listings = [*map(_pages, (self.contacts, *every)), *(1 for _ in LISTINGS[1:])]
        requests = sum(listings)
        longest = max(listings) * self.took  # each page names the next one
        guess = "" if len(self.members) == self.segments else ", if the others are as large"
        slow, fast = (
            duration(max(1, requests / rate, longest))
            for rate in (min(PUBLISHED_RATE, self.rate), self.rate)
        )
        text = f"A run of all tables takes about {amount(requests, 'request')}{guess}: {slow}"
        if slow == fast and self.rate > PUBLISHED_RATE:  # bound by the longest listing
            return f"{text}."
        if self.rate <= PUBLISHED_RATE:
            return f"{text} at max_requests_per_second, {self.rate:g}."
        return (
            f"{text} at {PUBLISHED_RATE:g} requests a second, Autopilot's published limit, or"
            f" {fast} at {self.rate:g}, if the API allows that."
        )


def _measured(api: Api) -> _Account:
    """The size of the account, from the first pages of its listings."""
    client = Client(api)
    started = time.monotonic()
    took = []

    def first(walk: Walk) -> Content:
        asked = time.monotonic()
        content = fetch(client, walk).value
        took.append(time.monotonic() - asked)
        return content

    contacts = _size(first(CONTACTS))
    segments = [str(key) for key in keys_of(first(SEGMENTS).documents, SEGMENTS) if key]
    members = []
    for segment in segments[:MAX_ASKED]:
        if time.monotonic() - started > WAIT_FOR_API:
            break
        try:
            members.append(_size(first(members_of(segment))))
        except Gone:  # deleted meanwhile
            members.append(0)
    rate = api.config.max_requests_per_second
    return _Account(contacts, len(segments), members, min(took), rate)


def _size(content: Content) -> int:
    return max(content.total or 0, len(content.documents))


def _pages(size: int) -> int:
    return max(1, math.ceil(size / PAGE))


def _list(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
