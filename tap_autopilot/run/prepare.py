"""What a run decides before it reads: which streams, what to send of them, and from where."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tap_autopilot.api.client import Api
from tap_autopilot.config import Config
from tap_autopilot.exceptions import UserError
from tap_autopilot.protocol.catalog import discover
from tap_autopilot.protocol.progress import Progress
from tap_autopilot.protocol.resuming import HAS_START_DATE, Terms, withheld_deletions
from tap_autopilot.protocol.selection import Selected, is_selected, select
from tap_autopilot.protocol.state import State
from tap_autopilot.rows.tally import Tally
from tap_autopilot.run.sending import Sending
from tap_autopilot.sources.custom_fields import read_definitions
from tap_autopilot.streams import DIGESTS

if TYPE_CHECKING:
    from tap_autopilot.pushed.events import PushedEvents

LOG = logging.getLogger(__name__)


def selected_streams(config: Config, catalog: Any, api: Api) -> list[Selected]:
    """The selected streams. Custom fields are only requested if they become columns.

    Raises UserError for a catalog or a setting that does not fit them.
    """
    settings = config.given_names()
    discovered = discover(settings=settings)
    if config.custom_fields_as_columns and is_selected(catalog, discovered, "contacts"):
        discovered = discover(read_definitions(api), settings=settings)
    selected = select(catalog, discovered, settings, nested_as_text=config.nested_as_text)
    columns = {column.lower() for table in selected for column in table.schema["properties"]}
    if config.digests is not None and config.deleted_at_column.lower() in columns:
        raise UserError("deleted_at_column is the name of another column; choose a new name.")
    return selected


def sending(api: Api, selected: Sequence[Selected]) -> Sending:
    """The way of sending that the settings ask for."""
    tallies = {table.name: Tally(table.name) for table in selected}
    if api.config.digests is None:
        return Sending(tallies)
    from tap_autopilot.run.changes import Changes  # only imported with digests

    return Changes(api, api.config.digests, tallies)


def pushed_events(
    config: Config, selected: Sequence[Selected], tallies: Mapping[str, Tally]
) -> PushedEvents | None:
    """The events in the collector's store, if the settings name one."""
    if config.collector_database is None:
        return None
    from tap_autopilot.pushed.events import PushedEvents  # only imported with a store

    return PushedEvents(config.collector_database, selected, tallies, config.start_date)


def start_passes(
    config: Config,
    state: State,
    selected: Sequence[Selected],
    pushed: PushedEvents | None,
    sends: Sending,
) -> Progress:
    """Start or resume the passes, given what the state says and what the target has."""
    store = pushed.store if pushed else None
    withheld = withheld_deletions(selected, state, config.start_date, has_store=store is not None)
    deletes = config.emit_activate_version_messages or config.digests is not None
    if deletes and HAS_START_DATE in withheld.values():
        LOG.info("%s, so deleted rows stay in contacts and the email tables.", HAS_START_DATE)
    versioned = {table.name for table in selected} - withheld.keys()
    if not config.emit_activate_version_messages:
        versioned = set()
    remembered = sends.load(state.digests_position, selected, versioned)
    terms = Terms(config.start_date, withheld, versioned, store, remembered, config.account)
    read = [table for table in selected if DIGESTS not in table.stream.sources]
    progress = Progress(state, read, terms)
    sends.start(progress)
    return progress
