"""What all streams have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar

from tap_autopilot.rows.changed import ChangedSince
from tap_autopilot.rows.merge import Pushes
from tap_autopilot.rows.pushed import Pushed
from tap_autopilot.rows.shape import compile_shape
from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.values import Row

COLLECTED = "collected"  # the source that is a collector's store
DIGESTS = "digests"  # that of a table which follows from what happens to others

Schema = Mapping[str, Any]


@dataclass
class Made:
    """What a page's documents became in one table.

    `skipped` counts what could not become a row. `newest` is the newest change among all of the
    documents, for a pass that sends changes only.
    """

    rows: list[Row] = field(default_factory=list)
    skipped: int = 0
    newest: datetime | None = None


Rows = Callable[[list[Any], ChangedSince | None, Pushes | None], Made]
PushedRows = Callable[[list[Pushed]], list[Row]]


class Stream:
    """A table: which sources feed it, its key, and how their documents become rows.

    A subclass is its fields, a docstring and at most `compile`, and `compile_pushed` where a
    collector's store feeds it.
    """

    name: ClassVar[str]
    sources: ClassVar[tuple[str, ...]]
    setting: ClassVar[str | None] = None  # without which there is no such table
    key_properties: ClassVar[tuple[str, ...]]
    sorted_by: ClassVar[tuple[str, ...]] = ()  # its key as rows arrive, if that is another order
    replication_key: ClassVar[str | None] = None  # where it can be replicated incrementally
    look_back: ClassVar[timedelta] = timedelta(0)  # behind its bookmark, for rows that come late
    reads: ClassVar[tuple[str, ...]] = ()  # the fields of a document, if these are all it needs

    @classmethod
    def compile(cls, schema: Schema, selected: Schema, tally: Tally) -> Rows:
        """A function from the documents of a page to rows of the `selected` part of `schema`.

        It only makes the rows that a `ChangedSince` admits, if it is given one, and leaves out what
        has been pushed as well, if it is given `Pushes`. Where a stream says what it `reads`, its
        documents hold that and nothing else.
        """
        shape = compile_shape(schema, selected, cls.key_properties, tally)

        def make(documents: list[Any], *_: object) -> Made:
            rows = [row for one in documents if (row := shape(one)) is not None]
            return Made(rows, skipped=len(documents) - len(rows))

        return make

    @classmethod
    def compile_pushed(cls, schema: Schema, selected: Schema, tally: Tally) -> PushedRows:
        """A function from pushed events to rows of the `selected` part of `schema`."""
        raise NotImplementedError
