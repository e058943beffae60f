"""States that tools merge into older ones, although settings changed or files were left behind.

Meltano merges the STATE of a full refresh, and that of an interrupted run, into the state it had. A
full refresh starts without a state, so it cannot know what the older state holds.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.faults import Fault, Faults
from tests import in_process
from tests.conftest import Serve, Tap
from tests.invariants import Run
from tests.lying_pager import Options
from tests.recording import Sandbox
from tests.replica import Replica, merge_states
from tests.test_selection import choose


def test_a_filtered_pass_merged_over_a_whole_one_deletes_nothing(tap: Tap, serve: Serve) -> None:
    account = Account(contacts=250)
    whole = tap.sync(serve(account, "/contacts@2-:405"))
    filtered = tap.sync(serve(account, "/contacts@2-:405"), start_date="2016-06-01")
    state = merge_states(whole.state, filtered.state)
    rest = tap.sync(serve(account), state=state, start_date="2016-06-01")
    assert rest.code == 0
    assert not rest.of("ACTIVATE_VERSION", "contacts")


class Story:
    """Runs of one account, whose rows and states reach one target.

    The state of each run is merged into the previous one. A full refresh starts without it.
    """

    def __init__(self, account: Account, catalog: Any) -> None:
        self.account, self.catalog = account, catalog
        self.target = Replica()
        self.state: Any = None

    def run(
        self, *faults: str, streams: Any = None, full_refresh: bool = False, **settings: Any
    ) -> Run:
        """One run of some streams."""
        catalog = {"streams": [one for one in self.catalog["streams"]
                               if streams is None or one["stream"] in streams]}  # fmt: skip
        options = Options(page=4, faults=Faults(map(Fault.parse, faults)))
        state = None if full_refresh else self.state
        sandbox = Sandbox(self.account, options)
        run = in_process.run(sandbox, state=state, catalog=catalog, **settings)
        assert run.code == (1 if faults else 0), run.stderr
        self.target.take(run.messages)
        self.state = merge_states(self.state, run.state)
        return run

    def rows(self, stream: str) -> set[str]:
        return {key[-1] for key in self.target.rows[stream]}

    def companies(self) -> set[Any]:
        return {row.get("company") for row in self.target.rows["contacts"].values()}


def change(story: Story, contact_id: str, company: str) -> None:
    now = datetime.now(timezone.utc).isoformat()
    story.account.change(contact_id, {"Company": company, "updated_at": now})


@pytest.fixture
def digests(tmp_path: Path) -> str:
    """A digests file, not there yet, in a folder of its own."""
    (tmp_path / "kept").mkdir()
    return str(tmp_path / "kept" / "digests")


@pytest.fixture
def story(catalog: Any) -> Story:
    return Story(Account(contacts=34, segments=2, members=9), catalog)


def warnings(run: Run, text: str) -> list[str]:
    return [line for line in run.log if line.startswith("WARNING") and text in line]


def test_an_interrupted_full_refresh_of_an_incremental_table_continues(story: Story) -> None:
    choose(story.catalog, "contacts", replication_method="INCREMENTAL")
    story.run(streams=["contacts"])
    story.target = Replica()  # the table was dropped, hence the full refresh
    story.run("/contacts@3-:500", streams=["contacts"], full_refresh=True)
    story.run(streams=["contacts"])
    assert story.rows("contacts") == set(story.account.contact_ids)


def test_custom_fields_get_their_columns_in_all_rows(story: Story) -> None:
    story.run("/contacts@3-:500", streams=["contacts"])
    run = story.run(streams=["contacts"], custom_fields_as_columns=True)
    assert len(run.rows("contacts")) == len(story.account.contact_ids)


def test_an_incremental_table_with_more_columns_says_that_old_rows_lack_them(story: Story) -> None:
    choose(story.catalog, "contacts", replication_method="INCREMENTAL")
    choose(story.catalog, "contacts", "properties", "company", selected=False)
    story.run(streams=["contacts"])
    choose(story.catalog, "contacts", "properties", "company", selected=True)
    run = story.run(streams=["contacts"])
    assert warnings(run, "contacts: the selected columns changed")
    assert not warnings(story.run(streams=["contacts"]), "columns")


def test_rows_sent_between_the_halves_of_a_full_pass_survive_it(story: Story) -> None:
    story.run("/contacts@4-:500", streams=["contacts"])
    choose(story.catalog, "contacts", replication_method="INCREMENTAL")
    state = story.state
    story.run(streams=["contacts"])
    story.state = state  # the target stored the rows, and was killed before it confirmed them
    choose(story.catalog, "contacts", replication_method="FULL_TABLE")
    story.run(streams=["contacts"])
    assert story.rows("contacts") == set(story.account.contact_ids)


def test_what_one_run_completed_is_read_again_after_another_run_has_ended(story: Story) -> None:
    story.run("/contacts@3-:500", streams=["contacts", "lists"])
    whole = story.run(streams=["contacts"], full_refresh=True)
    assert whole.code == 0
    assert len(story.run(streams=["contacts", "lists"]).rows("lists")) == len(story.account.lists)
