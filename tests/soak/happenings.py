"""What may happen in a history: nights on which settings change, runs are interrupted, files are lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

TABLES = ("contacts", "lists", "smart_segments", "smart_segments_contacts", "lists_contacts",
          "email_opened")  # fmt: skip
LETTERS = "abcdefghijkl"  # the contacts
OPTIONAL_COLUMNS = ("company", "phone")

SETTINGS: dict[str, list[Any]] = {
    "digests": [False, True],
    "store": ["", "one", "two"],
    "contacts": ["FULL_TABLE", "INCREMENTAL"],
    "email_opened": ["FULL_TABLE", "INCREMENTAL", "LOG_BASED"],
    "without": ["", *OPTIONAL_COLUMNS],  # a deselected column
    "tables": [TABLES, ("contacts",), ("lists_contacts", "lists"), TABLES[2:4], TABLES[4:]],
    "start_date": ["", "2020-01-03T00:00:00Z"],
    "custom_fields_as_columns": [False, True],
}
ACCIDENTS = ("older target", "no digests file", "older digests file", "older store", "older state")


@dataclass(frozen=True)
class Night:
    """What happens before a run, and in it.

    A `full_refresh` reads these tables without the state, and its STATE is merged into the old one.
    A run from `elsewhere`, another shell say, has neither digests nor a store.
    The `failing` request and all later ones fail; after `kill_after` pages the run is killed. The
    target gets the first `keep` messages, and of those after the last STATE only `unconfirmed`.
    """

    changes: tuple[tuple[str, str], ...] = ()
    pushes: int = 0
    setting: tuple[str, Any] | None = None
    accident: str = ""
    full_refresh: tuple[str, ...] | None = None
    elsewhere: bool = False
    thrown_away: bool = False
    failing: int | None = None
    kill_after: int = -1
    keep: int | None = None
    unconfirmed: int = 0

    def __repr__(self) -> str:
        """Only what differs from a quiet night."""
        told = [f"{name}={value!r}" for name, value in vars(self).items() if value != QUIET[name]]
        return f"Night({', '.join(told)})"


QUIET = {name: one.default for name, one in Night.__dataclass_fields__.items()}


def rarely(unusual: st.SearchStrategy[Any], usual: Any, share: int) -> st.SearchStrategy[Any]:
    """The usual value, but once in `share` times another."""
    choices = [st.just(usual)] * (share - 1) + [unusual]
    return st.sampled_from(choices).flatmap(lambda choice: choice)


NIGHTS = st.builds(
    Night,
    changes=st.lists(
        st.tuples(st.sampled_from(["change", "delete", "create", "join", "leave", "enlist"]),
                  st.sampled_from(LETTERS)),
        max_size=4,
    ).map(tuple),
    pushes=st.sampled_from([0, 0, 1, 2]),
    setting=rarely(
        st.sampled_from([(name, value) for name, values in SETTINGS.items() for value in values]),
        None, 3,
    ),
    accident=rarely(st.sampled_from(ACCIDENTS), "", 8),
    full_refresh=rarely(st.sampled_from(SETTINGS["tables"]), None, 4),
    elsewhere=rarely(st.just(True), False, 6),
    thrown_away=rarely(st.just(True), False, 8),
    failing=rarely(st.integers(1, 9), None, 3),
    kill_after=rarely(st.integers(1, 9), -1, 3),
    keep=rarely(st.integers(0, 60), None, 4),
    unconfirmed=st.sampled_from([0, 0, 3, 99]),
)  # fmt: skip


# What people and Meltano do: refresh another table of the same listing while a pass is interrupted,
# and refresh everything from another shell, without the files that the usual job has.
REFRESHED = st.tuples(
    st.sampled_from(SETTINGS["tables"][1:]), st.integers(1, 3), st.integers(2, 5)
).map(lambda drawn: [Night(kill_after=drawn[1]), Night(full_refresh=drawn[0], kill_after=drawn[2])])
FROM_ELSEWHERE = st.sampled_from("kl").map(
    lambda letter: [
        Night(pushes=1),
        Night(changes=(("create", letter),), full_refresh=TABLES, elsewhere=True),
        Night(changes=(("delete", letter),)),
    ]
)
HISTORY = st.lists(
    st.one_of(
        NIGHTS.map(lambda night: [night]),
        NIGHTS.map(lambda night: [night]),
        REFRESHED,
        FROM_ELSEWHERE,
    ),
    min_size=2,
    max_size=8,
).map(lambda parts: [night for part in parts for night in part])
FIRST_SETTINGS = st.fixed_dictionaries(
    {name: st.sampled_from(values) for name, values in SETTINGS.items() if name != "tables"}
)
