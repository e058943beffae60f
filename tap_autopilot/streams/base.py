"""What all streams have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from tap_autopilot.shape import Row


class Stream:
    """A table: which walk feeds it, its key, and how the walk's documents become rows.

    A subclass is its fields, a docstring and at most `rows`.
    """

    name: ClassVar[str]
    walk: ClassVar[str]  # the kind of the walks that feed it
    key_properties: ClassVar[tuple[str, ...]]
    changed: ClassVar[tuple[str, ...]] = ()  # columns that tell when a row changed, best first

    @staticmethod
    def rows(documents: list[Any], shape: Callable[[Any], Row | None]) -> list[Row]:
        """The rows of a page. `shape` makes a row of one document, or None of an unusable one."""
        return [row for document in documents if (row := shape(document)) is not None]
