"""Who joined and left lists and segments, as the digests can tell."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import Serve, Tap
from tests.digests import Nights, warned
from tests.test_digests import account


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path, account())


def test_membership_changes_need_a_table_to_follow(nights: Nights) -> None:
    streams = [{"tap_stream_id": "membership_changes"}, {"tap_stream_id": "lists"}]
    run = nights.night(catalog={"streams": streams})
    assert run.code == 0
    assert warned(run, "membership_changes: none of the tables whose changes it shows is selected")


def test_each_membership_change_is_reported_once(nights: Nights) -> None:
    assert not nights.night().of("RECORD", "membership_changes"), "none in the first pass"
    nights.account.join("s", "a")
    nights.account.leave("s", "b")
    nights.account.change("d", {"lists": ["l"]})
    nights.account.delete("a")
    run = nights.run()
    rows = run.rows("membership_changes")
    seen = {(row["table"], row["list_id"], row["segment_id"], row["contact_id"], row["change"])
            for row in rows}  # fmt: skip
    assert seen == {
        ("smart_segments_contacts", None, "s", "b", "left"),
        ("lists_contacts", "l", None, "d", "joined"),
        ("lists_contacts", "l", None, "a", "left"),
    }
    began = run.requests[0].clock - timedelta(seconds=2), run.requests[-1].clock
    for row in rows:
        assert began[0] <= datetime.fromisoformat(row["seen_at"].replace("Z", "+00:00")) <= began[1]
    again = nights.night()  # nothing was stored from the run before
    ids = [sorted(row["id"] for row in one.rows("membership_changes")) for one in (run, again)]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 3
    nights.account.leave("s", "c")
    assert len(nights.night().rows("membership_changes")) == 1
    nights.account.join("s", "c")
    assert nights.night().rows("membership_changes")[0]["id"] not in ids[0]
    assert not nights.night().of("RECORD")


def test_a_doubt_reports_no_membership_changes(nights: Nights) -> None:
    nights.night(page=1, lose="contacts@2")
    assert not nights.night().rows("membership_changes"), "the next pass is the first complete one"
    nights.account.change("a", {"lists": []})
    assert not nights.night(page=1, lose="contacts@3").rows("membership_changes")
    assert [row["change"] for row in nights.night().rows("membership_changes")] == ["left"]


def test_membership_changes_exist_only_with_digests(tap: Tap, serve: Serve) -> None:
    names = {one["stream"] for one in json.loads(tap.run("--discover").stdout)["streams"]}
    assert "membership_changes" not in names
    config = tap.file("config.json", {"digests": "x"})
    found = json.loads(tap.run("--discover", "--config", config).stdout)
    assert {one["stream"] for one in found["streams"]} == names | {"membership_changes"}
    assert not (tap.folder / "x").exists()
    config = tap.file("config.json", tap.config(serve(account())))
    run = tap.run("--config", config, "--select", "membership_changes")
    assert run.code == 2
    assert "membership_changes needs the setting digests" in run.last_words
