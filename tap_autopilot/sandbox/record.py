"""The record of requests that the sandbox received and pages that it served."""

from __future__ import annotations

import json
import urllib.parse
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from tap_autopilot.sandbox.account import LISTS, SEGMENTS
from tap_autopilot.sandbox.documents import HUGE


@dataclass(frozen=True)
class Request:
    """A request, with the API's time and the length of the account's log when it arrived."""

    at: float  # on this machine's monotonic clock
    method: str
    path: str
    headers: dict[str, str]
    status: int
    clock: datetime  # the API's
    changes: int  # the length of the account's log


class Page(NamedTuple):
    """One page of a listing.

    `lost` are the ids that it skips; `nameless` is the number of documents without an id.
    """

    body: bytes
    ids: tuple[str, ...]
    total: int | None = None
    bookmark: str | None = None
    lost: tuple[str, ...] = ()
    nameless: int = 0


@dataclass
class Served:
    """A page of a listing, as served to the client.

    `request` is the request's index among the sandbox's requests, and `fault` the fault that struck
    the response, if any. The page is `delivered` if the client had not hung up when it was sent.
    """

    listing: str
    ids: tuple[str, ...]
    total: int | None
    bookmark: str | None
    lost: tuple[str, ...]
    nameless: int
    at: datetime  # on the API's clock
    request: int
    asked: str | None  # the bookmark in the request
    fault: str = ""
    delivered: bool = False

    @property
    def whole(self) -> bool:
        """Whether the response reached the client intact."""
        return self.delivered and not self.fault


def listing_of(target: str) -> tuple[str, str | None] | None:
    """The listing that a path asks for, and the bookmark in the path; None for any other path."""
    path = target.partition("?")[0].removeprefix("/v1").split("/")
    match [urllib.parse.unquote(part, errors="surrogateescape") for part in path]:
        case ["", "lists" | "smart_segments" | "contacts" as one]:
            return f"/{one}", None
        case ["", "lists" | "smart_segments" | "contacts" as one, bookmark]:
            return None if bookmark == "custom_fields" else (f"/{one}", bookmark)
        case ["", "list" | "smart_segments" as kind, one, "contacts"]:
            return f"/{kind}/{one}/contacts", None
        case ["", "list" | "smart_segments" as kind, one, "contacts", bookmark]:
            return f"/{kind}/{one}/contacts", bookmark
    return None


def parse_page(listing: str, body: bytes) -> Page | None:
    """Parse a response that was not made from an account; None if it is not a listing."""
    field, key = {LISTS: ("lists", "list_id"), SEGMENTS: ("segments", "segment_id")}.get(
        listing, ("contacts", "contact_id")
    )
    try:
        answer = json.loads(body)
        documents = answer[field]
        ids = [one.get(key) if isinstance(one, dict) else None for one in documents]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    named = tuple(one for one in ids if isinstance(one, str) and one)
    total, bookmark = answer.get("total_contacts"), answer.get("bookmark")
    return Page(
        body,
        named,
        total if type(total) is int else None,
        bookmark if isinstance(bookmark, str) else None,
        nameless=len(ids) - len(named),
    )


def as_json(value: Any) -> bytes:
    """A value as the API would write it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        body = text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can carry
        body = json.dumps(value, separators=(",", ":")).encode()
    return body.replace(f'"{HUGE}"'.encode(), HUGE.encode())
