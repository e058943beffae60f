"""Makes rows from pushed events: Segment's calls, REST hooks and Activity Streams."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from tap_autopilot.rfc3339 import rfc3339
from tap_autopilot.rows.names import Names, compile_pick
from tap_autopilot.rows.shape import compile_shape
from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.times import as_datetime, from_epoch
from tap_autopilot.rows.values import ADDITIONAL, Row, Schema, as_key, as_text, converter
from tap_autopilot.streams import EMAILS
from tap_autopilot.streams.pushed import ContactEvents

CALL = {"userId": "user_id", "anonymousId": "anonymous_id"}
TRAITS = {"email": "context_traits_email", "contact_id": "context_traits_contact_id"}
PROPERTIES = {
    **TRAITS,  # used if missing from the traits
    **{name: name for name in (
        "email_id", "email_name", "email_subject", "campaign_id", "campaign_name", "transactional",
        "link_id", "link_url",
    )},
}  # fmt: skip
TIMES = {
    "timestamp": "timestamp",
    "sentAt": "sent_at",
    "originalTimestamp": "original_timestamp",
    "receivedAt": "received_at",
}
EARLIEST = datetime(2000, 1, 1, tzinfo=timezone.utc)
YEAR = timedelta(days=365)


class Pushed(NamedTuple):
    """One pushed event, as a document: `id` is unique, and the same on every run.

    `received_at` is in epoch milliseconds, `name` is the event's name in its body or URL. `body` is
    any JSON that is not nested too deeply. If `pruned`, too little is left to make a row. `cleaned`
    counts characters removed or replaced.
    """

    seq: int
    id: str
    received_at: int
    name: str
    body: Any
    pruned: bool
    cleaned: int


def compile_rows(
    table: str, schema: Schema, selected: Schema, tally: Tally
) -> Callable[[Iterable[Pushed]], list[Row]]:
    """A function from a table's pushed events to its rows: each event is one.

    The rows of email tables have all columns of `schema`, the others only the `selected` ones.
    """
    if table in EMAILS:
        make = compile_email(schema, selected, table, tally)
    elif table == ContactEvents.name:
        make = compile_contact_event(schema, selected, tally)
    else:
        make = compile_activity(selected)
    return lambda events: list(map(make, events))


def compile_email(
    schema: Schema, selected: Schema, table: str, tally: Tally | None = None
) -> Callable[[Pushed], Row]:
    """A function from a `track` call about an email to a row with all columns of `schema`.

    Fields without a column, and values that do not fit their column, stay in place within
    `additional_fields`, unless their column is not `selected`.
    """
    columns = schema["properties"]
    dropped = columns.keys() - selected["properties"].keys()
    event_text = EMAILS[table].event_text
    blank = dict.fromkeys(columns) | {"event": table, "event_text": event_text}
    take_call = _compile_take(columns, CALL | TIMES, dropped, tally)
    take_traits = _compile_take(columns, TRAITS, dropped, tally)
    take_properties = _compile_take(columns, PROPERTIES, dropped, tally)

    def make(pushed: Pushed) -> Row:
        row = blank.copy()
        call = pushed.body if pushed.body.__class__ is dict else {}
        rest = take_call(row, call)
        rest.pop("type", None)
        if rest.get("event") == event_text:
            del rest["event"]
        context = rest.get("context")
        if context.__class__ is dict and "traits" in context:
            traits = take_traits(row, context["traits"])
            rest["context"] = {**context, "traits": traits}
            if traits == {}:
                del rest["context"]["traits"]
        if "traits" in rest:
            rest["traits"] = take_traits(row, rest["traits"])
        if "properties" in rest:
            rest["properties"] = take_properties(row, rest["properties"])
        for name in ("context", "traits", "properties"):
            if name in rest and rest[name] in (None, {}):
                del rest[name]
        row["id"] = pushed.id
        given = rest.pop("messageId", None)
        if given not in (None, "") and as_key(given) != pushed.id and "id" not in dropped:
            rest["messageId"] = given
        if row["received_at"] is None:
            row["received_at"] = from_epoch(pushed.received_at)
        if row["timestamp"] is None:
            row["timestamp"] = _happened(row, pushed.received_at)
        if rest:
            row[ADDITIONAL] = rest
        return row

    return make


def _compile_take(
    columns: Mapping[str, Schema],
    wanted: Mapping[str, str],
    dropped: Container[str],
    tally: Tally | None,
) -> Callable[[Row, Any], Any]:
    """A function that moves an object's fields, in any spelling, to a row; it returns the rest."""
    converters = {
        name: converter(columns[column], columns[column]) for name, column in wanted.items()
    }
    names = Names(converters, ())

    def take(row: Row, fields: Any) -> Any:
        if fields.__class__ is not dict:
            return fields
        rest: Row = {}
        for name, value in fields.items():
            field, convert = names[name]
            if convert is None:
                rest[name] = value
                continue
            column = wanted[field]
            if row[column] is not None:
                rest[name] = value
            elif convert is as_text and value.__class__ is str:
                row[column] = value or None
            elif value is not None and value != "":
                try:
                    row[column] = convert(value)
                except ValueError:
                    if column not in dropped:
                        rest[name] = value
                        if tally is not None:
                            tally.count_misfit(column)
        return rest

    return take


def _happened(row: Row, collected_at: int) -> str:
    """When an event happened, from its other times, by Segment's rule for skewed clocks.

    Zero times, and clocks that are years ahead, are ignored. `collected_at`, in epoch
    milliseconds, is when the collector received the event.
    """
    collected = as_datetime(collected_at)
    assert collected is not None
    plausible: dict[str, datetime] = {}
    for name in ("original_timestamp", "sent_at", "received_at"):
        moment = as_datetime(row[name])
        if moment is not None and EARLIEST <= moment <= collected + YEAR:
            plausible[name] = moment
    match plausible:
        case {"original_timestamp": original, "sent_at": sent, "received_at": received}:
            if abs(received - sent) < YEAR:
                return rfc3339(received - (sent - original))
    return next((str(row[name]) for name in plausible), from_epoch(collected_at))


def compile_contact_event(
    schema: Schema, selected: Schema, tally: Tally
) -> Callable[[Pushed], Row]:
    """A function from the delivery of a REST hook to a row.

    A delivery either names its contact or contains the whole contact.
    """
    ours = ("id", "received_at")
    inner = {name: part for name, part in schema["properties"].items() if name not in ours}
    chosen = {name: part for name, part in selected["properties"].items() if name not in ours}
    shape = compile_shape(
        {**schema, "properties": inner}, {**selected, "properties": chosen}, (), tally
    )
    pick = compile_pick(("contact", "contact_id", "email"))
    blank = dict.fromkeys(selected["properties"])

    def make(pushed: Pushed) -> Row:
        row = blank.copy()
        body = pushed.body if pushed.body.__class__ is dict else {"value": pushed.body}
        shaped = shape(body) or {}
        tally.count_misfits(shaped)
        row |= shaped
        contact = pick(pick(body).get("contact"))
        fallback = {"event": pushed.name, **contact}
        for column in ("event", "contact_id", "email"):
            if column in row and not row[column]:
                row[column] = as_key(fallback.get(column))
        return row | _stamps(pushed, blank)

    return make


def compile_activity(selected: Schema) -> Callable[[Pushed], Row]:
    """A function from an event of an Activity Stream to a row that keeps all of it."""
    blank = dict.fromkeys(selected["properties"])

    def make(pushed: Pushed) -> Row:
        row = blank.copy()
        body = pushed.body
        if "event" in row:
            row["event"] = pushed.name or None
        if ADDITIONAL in row:
            row[ADDITIONAL] = body if body.__class__ is dict else {"value": body}
        return row | _stamps(pushed, blank)

    return make


def _stamps(pushed: Pushed, columns: Mapping[str, Any]) -> Row:
    stamps = {"id": pushed.id, "received_at": from_epoch(pushed.received_at)}
    return {name: value for name, value in stamps.items() if name in columns}
