"""The base class of all streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tap_autopilot.rows.changed import ChangedSince
from tap_autopilot.rows.shape import compile_shape
from tap_autopilot.rows.tally import Tally
from tap_autopilot.rows.values import Row

if TYPE_CHECKING:
    from tap_autopilot.rows.matching import Pushes  # only imported with a store

COLLECTED = "collected"  # the source name of a collector's store
DIGESTS = "digests"  # the source name of tables derived from changes in other tables

MANY = 5000  # rows in memory at a time, if a document may become any number of them

Schema = Mapping[str, Any]


MakeRows = Callable[[list[Any], ChangedSince | None, "Pushes | None"], Iterable[list[Row]]]


class Stream:
    """A table: which sources feed it, its key, and how their documents become rows.

    A subclass is these fields and a docstring, with its own `compile` if a document is not exactly
    one row. Of its `sources`, at most one is a listing of the API, the first: a pass resumes at one
    position, and a table has one total.
    """

    name: str
    sources: tuple[str, ...]
    setting: str | None = None  # required for this table
    key_properties: tuple[str, ...]
    sorted_by: tuple[str, ...] = ()  # the order of arrival, if not `key_properties`
    replication_key: str | None = None  # if it can be replicated incrementally
    look_back: timedelta = timedelta(0)  # behind its bookmark, for late rows
    reads: tuple[str, ...] = ()  # the fields of a document, if these are all it needs

    @classmethod
    def compile(cls, schema: Schema, selected: Schema, tally: Tally) -> MakeRows:
        """A function from the documents of a page to rows of the `selected` part of `schema`.

        It makes them in parts of at most MANY, unless each document is only one row. There is
        always at least one part.

        Given a `ChangedSince`, the function makes only the rows that this admits, and notes every
        change; given `Pushes`, it skips events that were also pushed. Documents that cannot become
        rows are counted in the tally. If a stream declares the fields it `reads`, its documents
        contain no other fields.

        Of documents with the same key, only the last becomes a row here. A subclass may make a row
        of each, in their order, so that a target that updates rows keeps the last.
        """
        shape = compile_shape(schema, selected, cls.key_properties, tally)

        def make(documents: list[Any], *_: object) -> Iterator[list[Row]]:
            rows = [row for document in documents if (row := shape(document)) is not None]
            yield [*{tuple(row[key] for key in cls.key_properties): row for row in rows}.values()]

        return make
