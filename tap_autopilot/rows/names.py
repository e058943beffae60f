"""Field names: every spelling of a column's name fills that column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

MAX_NAMES = 10_000  # names without a column to remember; documents may have any number
MAX_SPELLINGS = 20  # of a column, besides its own; further ones are fields without a column
MAX_LENGTH = 200  # characters; longer names have no column, and are not remembered

Convert = Callable[[Any], Any]


def plain(name: str) -> str:
    """What all spellings of a name have in common: FirstName, first_name, firstName."""
    return name.replace("_", "").lower()


class Names(dict[str, Any]):
    """Maps a field's name, in any spelling, to its column and conversion; resolved once per name.

    (name, None) stands for a field without a column, (None, None) for a deselected field. `shared`
    has the spellings of each column that was seen in more than one. A column's own spelling always
    counts: otherwise an odd document, or event, could take the column from all that follow.
    """

    def __init__(self, converters: Mapping[str, Convert], deselected: Iterable[str]) -> None:
        super().__init__()
        self.shared: dict[str, list[str]] = {}
        self._spellings: dict[str, list[str]] = {}
        self._room = dict.fromkeys(converters, MAX_SPELLINGS)  # for other spellings of each column
        self._unknown = 0
        self._columns: dict[str, tuple[Any, Any]] = dict.fromkeys(
            map(plain, deselected), (None, None)
        )
        self._columns |= {
            plain(column): (column, convert) for column, convert in converters.items()
        }

    def contested(self, document: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
        """The columns for which a document has several fields, with the names of those fields.

        Fields with a value come first, then the column's own spelling.
        """
        contested = []
        for column, spellings in self.shared.items():
            if sum(map(document.__contains__, spellings)) > 1:
                names = [name for name in spellings if name in document]
                names.sort(key=lambda name: (document[name] in (None, ""), name != column, name))
                contested.append((column, names))
        return contested

    def __missing__(self, name: str) -> tuple[Any, Any]:
        if len(name) > MAX_LENGTH:
            return name, None
        column, convert = entry = self._columns.get(plain(name), (name, None))
        if convert is None:
            self._unknown += 1
            if self._unknown <= MAX_NAMES:
                self[name] = entry
            return entry
        if name != column:
            if not self._room[column]:
                return name, None
            self._room[column] -= 1
        self[name] = entry
        spellings = self._spellings.setdefault(column, [])
        spellings.append(name)
        if len(spellings) > 1:
            self.shared[column] = spellings
        return entry


def compile_pick(columns: Iterable[str]) -> Callable[[Any], dict[str, Any]]:
    """A function from a document to its fields that match `columns` in any spelling.

    Empty values such as null, "" or {} are left out. If a field comes in several spellings, maps
    and arrays are merged; otherwise the column's own spelling wins, unless it is false or 0.
    """
    wanted = {plain(column): column for column in columns}
    known: set[str] = set()
    spellings: list[tuple[str, str]] = []
    learned: set[str] = set()
    room = dict.fromkeys(wanted.values(), MAX_SPELLINGS)  # for other spellings of each column

    def learn(names: Iterable[str]) -> None:
        for name in names:
            if len(name) > MAX_LENGTH:
                continue
            column = wanted.get(plain(name))
            if column is not None and name not in learned and (room[column] or name == column):
                room[column] -= name != column
                learned.add(name)
                spellings.append((name, column))
                spellings.sort(key=lambda pair: (pair[0] != pair[1], pair))
            if len(known) < MAX_NAMES:
                known.add(name)

    def pick(document: Any) -> dict[str, Any]:
        picked: dict[str, Any] = {}
        if document.__class__ is dict:
            if not document.keys() <= known:
                learn(document)
            for name, column in spellings:
                if name in document:
                    value = document[name]
                    if column in picked:
                        picked[column] = _joined(picked[column], value)
                    elif value or value == 0:
                        picked[column] = value
        return picked

    return pick


def _joined(first: Any, second: Any) -> Any:
    if first.__class__ is dict and second.__class__ is dict:
        return {**second, **first}
    if first.__class__ is list and second.__class__ is list:
        return [*first, *second]
    return first or second
