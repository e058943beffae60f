"""A few histories in which settings change and states go back; `make soak` plays many."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st

from tests.histories import NIGHTS, Night, play

BROKEN_OFF = Night(kill_after=2)


@hypothesis.given(st.lists(NIGHTS, min_size=3, max_size=12))
@hypothesis.example([BROKEN_OFF, Night(setting=("tables", ("lists_contacts", "lists")),
                                       full_refresh=True, kill_after=3), Night()])  # fmt: skip
@hypothesis.example([Night(setting=("digests", True)), Night(full_refresh=True), Night()])
@hypothesis.example([Night(setting=("without", "company")), BROKEN_OFF,
                     Night(setting=("without", ""))])  # fmt: skip
@hypothesis.example([Night(setting=("digests", True)), BROKEN_OFF, Night(setting=("digests", False)),
                     Night(changes=(("delete", "a"),))])  # fmt: skip
def test_no_history_leaves_the_target_wrong(nights: list[Night]) -> None:
    play(nights)
