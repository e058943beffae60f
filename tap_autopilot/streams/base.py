"""What all streams have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, ClassVar

from tap_autopilot.rows.changed import Window
from tap_autopilot.rows.shape import Row, compile_shape
from tap_autopilot.rows.tally import Tally

Rows = Callable[[list[Any]], list[Row]]
Schema = Mapping[str, Any]


class Stream:
    """A table: which walk feeds it, its key, and how the walk's documents become rows.

    A subclass is its fields, a docstring and at most `compile`.
    """

    name: ClassVar[str]
    walk: ClassVar[str]  # the kind of the walks that feed it
    key_properties: ClassVar[tuple[str, ...]]
    replication_key: ClassVar[str | None] = None  # where it can be replicated incrementally
    look_back: ClassVar[timedelta] = timedelta(0)  # behind its bookmark, for rows that come late
    reads: ClassVar[tuple[str, ...]] = ()  # the fields of a document that are all it needs

    @classmethod
    def compile(cls, schema: Schema, selected: Schema, tally: Tally, window: Window | None) -> Rows:
        """A function from the documents of a page to rows of the `selected` part of `schema`.

        With a `window`, only to those that it admits. What makes no row is counted in `tally`.
        Where a stream says what it `reads`, its documents hold that and nothing else.
        """
        shape = compile_shape(schema, selected, cls.key_properties, tally)
        return lambda documents: [row for one in documents if (row := shape(one)) is not None]
