"""Only what changed: new and changed rows, and tombstones for deleted rows."""

from __future__ import annotations

import hashlib
import logging
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import msgspec

from tap_autopilot.api.client import Api, Client
from tap_autopilot.digests.digests import Digests, Start
from tap_autopilot.exceptions import RunError, Unreachable, UserError
from tap_autopilot.protocol.messages import encoded, record_lines
from tap_autopilot.protocol.progress import Progress
from tap_autopilot.protocol.resuming import Remembered
from tap_autopilot.protocol.selection import Selected
from tap_autopilot.protocol.state import Pass
from tap_autopilot.rfc3339 import rfc3339
from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.values import Row
from tap_autopilot.run.sending import Sending
from tap_autopilot.sources.listings import LISTINGS, Walk, fetch
from tap_autopilot.streams.membership_changes import (
    JOINED,
    LEFT,
    MEMBERSHIPS,
    MembershipChanges,
    membership_change,
)
from tap_autopilot.streams.pushed import EmailMessages

LOG = logging.getLogger(__name__)

DELETED_AT_SCHEMA = {"type": ["null", "string"], "format": "date-time"}


class Changes(Sending):
    """Sends only what the target does not have, as far as the digests know."""

    def __init__(self, api: Api, path: str, tallies: Mapping[str, Tally]) -> None:
        super().__init__(tallies)
        config = api.config
        self._api = api
        self._digests = Digests(path, config.account)
        self._deleted_at = config.deleted_at_column
        self._tables: dict[str, Selected] = {}
        self._shapes: dict[str, bytes] = {}
        self._memberships: Selected | None = None
        (not_deleted,) = encoded([{config.deleted_at_column: None}])
        self._not_deleted = b"," + not_deleted[1:]  # the end of a row

    def load(
        self, position: Any, selected: Sequence[Selected], versioned: Collection[str]
    ) -> Remembered:
        """Read the file as of the state's position; returns what it remembers."""
        digests = self._digests
        digests.load(position)
        # Pushed events are new by their position; only a row of email_messages may change again.
        every = {
            table.name: table
            for table in selected
            if not table.log_based or table.name == EmailMessages.name
        }
        self._memberships = every.pop(MembershipChanges.name, None)
        self._tables = every
        if self._memberships is not None and not every.keys() & set(MEMBERSHIPS):
            LOG.warning(
                "%s: none of the tables whose changes it shows is selected.", MembershipChanges.name
            )
        self._shapes = {
            name: self._shape(table, has_version=name in versioned) for name, table in every.items()
        }
        tables = digests.confirmed()
        reshaped = {
            table.name
            for table in tables
            if self._shapes.get(table.name, table.shape) != table.shape
        }
        if reshaped:
            LOG.warning(
                "%s: columns or settings changed, so all rows are sent again.",
                ", ".join(sorted(reshaped)),
            )
        known = [table for table in tables if table.name not in reshaped]
        return Remembered(
            versions={table.name: table.born for table in tables},
            known={table.name for table in known},
            filled={table.name for table in known if table.filled},
            under_way={table.name for table in known if table.began is not None},
        )

    def _shape(self, table: Selected, *, has_version: bool) -> bytes:
        """A digest of what a table's rows look like."""
        shape = msgspec.json.encode([table.stream.key_properties, self.schema(table), has_version])
        return hashlib.blake2b(shape, digest_size=8).digest()

    def start(self, progress: Progress) -> None:
        """Note in the file which passes start and which resume.

        A file in doubt is emptied, but not by a run that cannot read, for example for a wrong key,
        nor by one that reads nothing from the API and so cannot fill it again.
        """
        if self._digests.distrust is not None:
            walks = [walk for walk, _ in progress.walks()]
            others = self._digests.at_stake - self._tables.keys()
            if others and not walks:
                raise UserError(
                    f"{self._digests.distrust}. Only a run that reads the API may start it over:"
                    f" check api_key, digests and --state, or select {', '.join(sorted(others))}."
                )
            self._check_account(walks)
            LOG.warning("%s: everything is sent again.", self._digests.distrust)
        now = int(datetime.now(timezone.utc).timestamp() * 1000)
        self._digests.start(
            {
                name: Start(shape, progress.pass_of(name).version or now, progress.is_resumed(name))
                for name, shape in self._shapes.items()
            }
        )

    def _check_account(self, walks: Sequence[Walk]) -> None:
        """Check that a run over these listings, if any, can read the account at all.

        Any listing will do, because one that always fails must not hold up the others. Raises
        TapError if none can be read.
        """
        client = Client(self._api)
        errors: list[RunError] = []
        for walk in dict.fromkeys([*walks, *LISTINGS]) if walks else ():
            try:
                fetch(client, walk)
            except Unreachable:
                raise
            except RunError as error:
                error.__traceback__ = error.__context__ = None  # they hold the response
                errors.append(error)
            else:
                return
            finally:
                client.forget()
        if errors:
            raise errors[0]

    def schema(self, table: Selected) -> dict[str, Any]:
        """A table's schema with the column that marks deleted rows."""
        columns = {
            **table.sent["properties"],
            self._deleted_at: DELETED_AT_SCHEMA,
        }
        return {**table.sent, "properties": columns}

    def save(self) -> list[Any]:
        """Write to the file what is sent; returns the position in it."""
        self._digests.flush()
        return self._digests.position

    def pushed(self, name: str, rows: Sequence[Row], fetched_at: datetime) -> list[bytes]:
        """The RECORD messages for pushed events, which are new by their position in the store."""
        if name == EmailMessages.name:
            return self.records(name, rows, None, fetched_at)
        self.tallies[name].rows += len(rows)
        return record_lines(name, self._present(encoded(rows)), None, fetched_at)

    def records(
        self, name: str, rows: Sequence[Row], version: int | None, fetched_at: datetime
    ) -> list[bytes]:
        """The RECORD messages for the rows of a page that the target does not have."""
        self._digests.note_start(name, _iso(fetched_at))
        if not rows:
            self.tallies[name].count_sent(rows)  # drops notes on rows that are not sent
            return []
        keys = self._keys(name, rows)
        texts = encoded(rows)
        differ = self._digests.compare(name, keys, texts)
        self.tallies[name].count_sent([rows[at] for at, _ in differ])
        self.tallies[name].unchanged += len(rows) - len(differ)
        if not differ:
            return []
        sent = self._present([texts[at] for at, _ in differ])
        messages = record_lines(name, sent, version, fetched_at)
        joined = [keys[at] for at, is_new in differ if is_new]
        return messages + self._membership_changes(name, joined, JOINED, fetched_at)

    def tombstones(self, name: str, version: int | None) -> Iterator[list[bytes]]:
        """Tombstones, in batches, for the rows that a whole pass did not see."""
        for keys in self._digests.bury(name):
            now = datetime.now(timezone.utc)
            blank = dict.fromkeys(self._tables[name].sent["properties"])
            deleted = {self._deleted_at: _iso(now)}
            rows = [{**blank, **self._key_of(name, key), **deleted} for key in keys]
            self.tallies[name].rows += len(rows)
            self.tallies[name].deleted += len(rows)
            left = self._membership_changes(name, keys, LEFT, now)
            yield record_lines(name, encoded(rows), version, now) + left

    def end(self, name: str, current: Pass, *, whole: bool) -> bool:
        """End a pass; returns whether the version of its rows has yet to be announced."""
        if name not in self._tables:  # pushed events that need no digests
            return False
        announces = super().end(name, current, whole=whole)
        announces = announces and not self._digests.table(name).activated
        self._digests.end(name, settled=whole, filled=current.has_all_rows, activated=announces)
        return announces

    def withheld(self, _current: Pass) -> str | None:
        """None, because tombstones tell the target of every deletion."""
        return None

    def close(self) -> None:
        """Close the file."""
        self._digests.close()

    def _present(self, rows: Iterable[bytes]) -> list[bytes]:
        """Rows with a null in the column that marks deleted rows."""
        return [row[:-1] + self._not_deleted for row in rows]

    def _key(self, name: str) -> tuple[str, ...]:
        stream = self._tables[name].stream
        return stream.sorted_by or stream.key_properties

    def _keys(self, name: str, rows: Sequence[Row]) -> list[str]:
        """The rows' keys, each as one text."""
        columns = self._key(name)
        values = map(operator.itemgetter(*columns), rows)
        return [*values] if len(columns) == 1 else [text.decode() for text in encoded(values)]

    def _key_of(self, name: str, key: str) -> Row:
        """The key columns of a row, given its key."""
        columns = self._key(name)
        values = [key] if len(columns) == 1 else msgspec.json.decode(key)
        return dict(zip(columns, values, strict=True))

    def _membership_changes(
        self, name: str, keys: Sequence[str], change: str, extracted: datetime
    ) -> list[bytes]:
        """The RECORD messages for members who joined or left; none in the first pass."""
        known = self._digests.table(name)
        if self._memberships is None or name not in MEMBERSHIPS or not known.settled:
            return []
        selected = self._memberships.sent["properties"]
        seen_at, seen_in = known.began or _iso(extracted), f"{known.born}.{known.passes}"
        rows = []
        for key in keys:
            row = membership_change(name, self._key_of(name, key), change, seen_at, seen_in)
            rows.append({column: row[column] for column in selected})
        self.tallies[MembershipChanges.name].rows += len(rows)
        return record_lines(MembershipChanges.name, self._present(encoded(rows)), None, extracted)


def _iso(moment: datetime) -> str:
    return rfc3339(moment, "microseconds")
