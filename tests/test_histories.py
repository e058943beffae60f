"""Histories in which settings change and states go back; `make soak` plays many.

States are merged as Meltano merges them: the STATE of a full refresh, and that of an interrupted
run, into the state before. A full refresh starts without a state, so it does not know what is in it.
"""

from __future__ import annotations

from typing import Any

import hypothesis

from tests import in_process
from tests.soak.happenings import FIRST_SETTINGS, HISTORY, TABLES, Night
from tests.soak.histories import live

BROKEN_OFF = Night(kill_after=2)
RESTORED = [*[Night(pushes=1)] * 3, Night(accident="older store", pushes=2)]


@hypothesis.settings(max_examples=6)
@hypothesis.given(FIRST_SETTINGS, HISTORY)
@hypothesis.example(
    {}, [Night(kill_after=1), Night(full_refresh=("lists_contacts",), kill_after=3)]
)
@hypothesis.example({}, [Night(setting=("digests", True)), Night(full_refresh=TABLES), Night()])
@hypothesis.example({}, [Night(setting=("without", "company")), BROKEN_OFF,
                     Night(setting=("without", ""))])  # fmt: skip
@hypothesis.example({}, [Night(setting=("digests", True)), BROKEN_OFF, Night(setting=("digests", False)),
                     Night(changes=(("delete", "a"),))])  # fmt: skip
@hypothesis.example({}, [Night(setting=("digests", True)), Night(setting=("digests", False), kill_after=2),
                     Night(setting=("digests", True), changes=(("delete", "a"),))])  # fmt: skip
@hypothesis.example({}, [Night(setting=("digests", True)),
                     Night(changes=(("create", "k"),), full_refresh=TABLES, elsewhere=True),
                     Night(changes=(("delete", "k"),))])  # fmt: skip
@hypothesis.example({"digests": True}, [Night(), BROKEN_OFF,
                                        Night(setting=("tables", ("lists",)), thrown_away=True),
                                        Night(setting=("tables", TABLES))])  # fmt: skip
@hypothesis.example({"digests": True}, [Night(), BROKEN_OFF,
                                        Night(setting=("without", "company"), thrown_away=True),
                                        Night(setting=("without", ""))])  # fmt: skip
@hypothesis.example({"digests": True}, [Night(), BROKEN_OFF,
                                        Night(setting=("without", "company"), thrown_away=True),
                                        Night()])  # fmt: skip
@hypothesis.example({}, [Night(pushes=1, kill_after=2), Night(setting=("store", "one"))])
@hypothesis.example({"store": "one", "email_opened": "INCREMENTAL"}, RESTORED)
@hypothesis.example({"store": "one", "email_opened": "LOG_BASED"}, RESTORED)
@hypothesis.example({}, [BROKEN_OFF, Night(setting=("custom_fields_as_columns", True))])
@hypothesis.example({}, [Night(), BROKEN_OFF,
                     Night(setting=("contacts", "INCREMENTAL"), changes=(("change", "a"),)),
                     Night(accident="older state", setting=("contacts", "FULL_TABLE"))])  # fmt: skip
@hypothesis.example({}, [BROKEN_OFF, Night(full_refresh=TABLES), Night(changes=(("change", "a"),))])
def test_no_history_leaves_the_target_wrong(settings: dict[str, Any], nights: list[Night]) -> None:
    with in_process.in_parts(1 if len(nights) % 2 else 1000):
        live(nights, **settings)
