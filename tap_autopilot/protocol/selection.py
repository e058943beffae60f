"""Selection: which streams and columns a catalog asks for.

Columns and types always come from the bundled schemas; only the selection is taken from a catalog.
A catalog from another tool or an older version is therefore harmless.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tap_autopilot.exceptions import UserError
from tap_autopilot.protocol.catalog import (
    FULL_TABLE,
    INCREMENTAL,
    LOG_BASED,
    Breadcrumb,
    replication_methods,
)
from tap_autopilot.protocol.schemas import nested_columns, with_nested_as_text
from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.values import Row, as_json, type_of
from tap_autopilot.streams import STREAMS, MakeRows, Stream
from tap_autopilot.streams.pushed import COLLECTOR_DATABASE, log_of

LOG = logging.getLogger(__name__)

MAX_LENGTH = "maxLength"
AUTOMATIC = {"inclusion": "automatic"}

Metadata = Mapping[Breadcrumb, Mapping[str, Any]]


@dataclass(frozen=True)
class Selected:
    """A selected stream: its whole schema, the selected part of it, and how it is replicated.

    If `log_based`, only a collector's store feeds it, and only what is new there is read.
    """

    stream: type[Stream]
    schema: Mapping[str, Any]
    part: Mapping[str, Any]
    incremental: bool
    nested_as_text: bool = False
    log_based: bool = False

    @property
    def name(self) -> str:
        """The name of the stream, and of its table."""
        return self.stream.name

    @functools.cached_property
    def sent(self) -> Mapping[str, Any]:
        """The schema of the rows that are sent."""
        return with_nested_as_text(self.part) if self.nested_as_text else self.part

    def compile(self, tally: Tally) -> MakeRows:
        """A function from the documents of a page to the rows to send."""
        make = self.stream.compile(self.schema, self.part, tally)
        return (lambda *page: map(self.as_sent, make(*page))) if self.nested_as_text else make

    def as_sent(self, rows: list[Row]) -> list[Row]:
        """Rows of the selected part, their nested values turned into text if so configured."""
        if not self.nested_as_text:
            return rows
        for column in nested_columns(self.part):
            for row in rows:
                if row[column] is not None:
                    row[column] = as_json(row[column])
        return rows


def select(
    catalog: Any,
    ours: Mapping[str, Any],
    settings: Container[str] = (),
    *,
    nested_as_text: bool = False,
) -> list[Selected]:
    """The selected streams, in registry order; without a catalog, all of them.

    `ours` is the catalog as discovered now, with nested columns; only the selection and the
    `maxLength` of text columns are taken from the given catalog. `settings` are the names of the
    settings that were given.

    Raises UserError for anything that is not a catalog, or needs a setting that is missing.
    """
    ours = dict(_entries(ours))
    requested = ours if catalog is None else dict(_entries(catalog))
    _check_streams(requested, ours)
    chosen = []
    for name, entry in ours.items():
        if name in requested:
            table = _selected(
                STREAMS[name], entry, requested[name], settings, nested_as_text=nested_as_text
            )
            if table is not None:
                chosen.append(table)
    if not chosen:
        LOG.warning(
            "No stream is selected, so there is nothing to do. To select one, set"
            ' "selected": true in the metadata of its empty breadcrumb in the catalog, or in'
            ' Meltano: meltano select tap-autopilot "*" "*"'
        )
    return chosen


def _check_streams(requested: Mapping[str, Mapping[str, Any]], ours: Mapping[str, Any]) -> None:
    """Warn of unknown streams. Raises UserError if a setting is missing, or none is known."""
    for name, entry in requested.items():
        if name in ours:
            continue
        setting = STREAMS[name].setting if name in STREAMS else None
        if setting is None:
            LOG.warning("The catalog has an unknown stream %r; ignored.", name)
        elif _selects(_choices(name, entry).get((), {})):
            raise UserError(
                f"Stream {name} needs the setting {setting}; set it or deselect {name}."
            )
    if requested and not requested.keys() & ours.keys():
        raise UserError(f"The catalog contains none of this tap's streams: {', '.join(ours)}.")


def _selected(
    stream: type[Stream],
    ours: Mapping[str, Any],
    entry: Mapping[str, Any],
    settings: Container[str],
    *,
    nested_as_text: bool,
) -> Selected | None:
    """A stream as the entry of a catalog asks for it; None if it does not."""
    defaults = _by_breadcrumb(ours["metadata"])
    choices = {**defaults, **_choices(stream.name, entry)}
    if not _is_selected(choices, (), defaults):
        return None
    _warn_of_unknown(stream.name, choices, defaults)
    method = _method(stream, entry, choices[()])
    if method == INCREMENTAL:
        defaults["properties", str(stream.replication_key)] = AUTOMATIC
    if method == LOG_BASED:
        if COLLECTOR_DATABASE not in settings:
            raise UserError(
                f"Stream {stream.name} is LOG_BASED in the catalog, which needs the setting"
                f" {COLLECTOR_DATABASE}; set it or choose another replication method."
            )
        stream = log_of(stream)
    part = _prune(ours["schema"], choices, defaults)
    is_incremental, is_log_based = method == INCREMENTAL, method == LOG_BASED
    table = Selected(stream, ours["schema"], part, is_incremental, nested_as_text, is_log_based)
    _limit(table.sent, entry)
    return table


def is_selected(catalog: Any, ours: Mapping[str, Any], name: str) -> bool:
    """Whether a stream is selected. Raises UserError for an invalid catalog; logs nothing."""
    entry = dict(_entries(ours))[name]
    requested = {name: entry} if catalog is None else dict(_entries(catalog))
    if name not in requested:
        return False
    defaults = _by_breadcrumb(entry["metadata"])
    return _is_selected({**defaults, **_choices(name, requested[name])}, (), defaults)


def _entries(catalog: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    streams = catalog.get("streams") if isinstance(catalog, dict) else None
    if not isinstance(streams, list):
        raise UserError('The catalog has no "streams"; create one with --discover.')
    for entry in streams:
        name = None
        if isinstance(entry, dict):
            name = entry.get("tap_stream_id") or entry.get("stream")
        if not isinstance(name, str):
            raise UserError('A stream in the catalog has no "tap_stream_id".')
        yield name, entry


def _choices(name: str, entry: Mapping[str, Any]) -> Metadata:
    """A catalog entry's selection by breadcrumb, including older formats."""
    choices: dict[Breadcrumb, dict[str, Any]] = {}
    schema = entry.get("schema")
    if isinstance(schema, dict):
        choices.update(_legacy(schema))
    if "selected" in entry:
        choices[()] = {"selected": entry["selected"]}
    try:
        metadata = _by_breadcrumb(entry.get("metadata") or [])
        for breadcrumb, values in metadata.items():
            choices[breadcrumb] = {**choices.get(breadcrumb, {}), **values}
    except (TypeError, KeyError, AttributeError):
        raise UserError(
            f"The metadata of stream {name} in the catalog is not a list of breadcrumbs with"
            " metadata; create a new catalog with --discover."
        ) from None
    for breadcrumb, values in choices.items():
        if values.get("selected", True) is None:  # as some tools write if nothing was chosen
            del values["selected"]
        if not isinstance(values.get("selected", True), bool):
            where = ".".join(map(str, (name, *breadcrumb)))
            raise UserError(f'"selected" of {where} in the catalog is neither true nor false.')
    return choices


def _warn_of_unknown(name: str, choices: Metadata, defaults: Metadata) -> None:
    """Warn about deselected columns that do not exist; their names may be misspelled."""
    for breadcrumb in choices.keys() - defaults.keys():
        if choices[breadcrumb].get("selected") is False:
            column = ".".join(map(str, breadcrumb))
            LOG.warning("%s: the catalog deselects %s, which does not exist.", name, column)


def _method(stream: type[Stream], entry: Mapping[str, Any], choice: Mapping[str, Any]) -> str:
    """The replication method that a catalog asks for, in an entry's metadata or next to it."""
    method = choice.get("replication-method") or entry.get("replication_method") or FULL_TABLE
    key = choice.get("replication-key") or entry.get("replication_key") or stream.replication_key
    methods = replication_methods(stream)
    if method in methods and (method != INCREMENTAL or key == stream.replication_key):
        return str(method)
    by = {INCREMENTAL: f"INCREMENTAL by {stream.replication_key}"}
    LOG.warning(
        "%s: the catalog asks for %s%s, but the stream supports %s; using FULL_TABLE.",
        stream.name,
        method,
        f" by {key or 'any column'}" if method == INCREMENTAL else "",
        " or ".join(by.get(supported, supported) for supported in methods),
    )
    return FULL_TABLE


def _by_breadcrumb(metadata: Any) -> dict[Breadcrumb, dict[str, Any]]:
    return {tuple(entry["breadcrumb"]): entry["metadata"] for entry in metadata}


def _legacy(schema: Mapping[str, Any], above: Breadcrumb = ()) -> dict[Breadcrumb, dict[str, Any]]:
    """The `selected` flags inside a schema, by breadcrumb."""
    choices = {above: {"selected": schema["selected"]}} if "selected" in schema else {}
    if isinstance(schema.get("items"), dict):
        choices.update(_legacy(schema["items"], (*above, "items")))
    properties = schema.get("properties")
    if isinstance(properties, dict):
        for name, part in properties.items():
            if isinstance(part, dict):
                choices.update(_legacy(part, (*above, "properties", name)))
    return choices


def _is_selected(choices: Metadata, breadcrumb: Breadcrumb, defaults: Metadata) -> bool:
    return defaults[breadcrumb]["inclusion"] == "automatic" or _selects(choices[breadcrumb])


def _selects(choice: Mapping[str, Any]) -> bool:
    """Whether metadata selects what it describes, unless that is automatic."""
    if choice.get("inclusion") == "unsupported":
        return False
    selected: bool = choice.get("selected", choice.get("selected-by-default", True))
    return selected


def _prune(
    schema: Mapping[str, Any], choices: Metadata, defaults: Metadata, above: Breadcrumb = ()
) -> dict[str, Any]:
    """The part of a schema that is selected."""
    pruned = dict(schema)
    if "items" in schema:
        pruned["items"] = _prune(schema["items"], choices, defaults, (*above, "items"))
    if "properties" in schema:
        pruned["properties"] = {
            name: _prune(part, choices, defaults, (*above, "properties", name))
            for name, part in schema["properties"].items()
            if _is_selected(choices, (*above, "properties", name), defaults)
        }
    return pruned


def _limit(sent: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
    """Add the `maxLength` of text columns in a catalog's entry, for targets that need it."""
    schema = entry.get("schema")
    their_columns = schema.get("properties") if isinstance(schema, dict) else None
    for name, column in sent["properties"].items():
        their_column = their_columns.get(name) if isinstance(their_columns, dict) else None
        length = their_column.get(MAX_LENGTH) if isinstance(their_column, dict) else None
        is_text = "format" not in column and type_of(column) == "string"
        if is_text and type(length) is int and length > 0:
            column[MAX_LENGTH] = length
