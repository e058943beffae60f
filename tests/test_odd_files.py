"""What is named as a file but is none, or is far too large, ends in one line."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot import files
from tap_autopilot.exceptions import UserError
from tap_autopilot.sandbox.account import Account
from tap_autopilot.settings import read_json
from tests.conftest import Serve, Tap
from tests.invariants import check


@pytest.mark.parametrize("kind", ["config", "state", "catalog"])
def test_a_file_is_read_only_up_to_a_size(tap: Tap, kind: str) -> None:
    with (tap.folder / "large.json").open("wb") as sparse:
        sparse.truncate(files.MAX_SIZE + 1)
    run = check(tap.run("-c", tap.file("c.json", tap.config()), f"--{kind}", "large.json"))
    assert run.code == 2
    assert run.log == [f"CRITICAL Cannot read the {kind} file large.json: larger than 10 MB."]


def test_a_pipe_without_a_writer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"the state file .*pipe: no end after 0\.1 s\.$"):
        read_json(str(tmp_path / "pipe"), "state")


def test_a_pipe_is_read_to_its_end() -> None:
    reader, writer = os.pipe()
    settings = {"user_agent": "é" * 100_000}

    def write() -> None:
        with os.fdopen(writer, "w", encoding="utf-8") as pipe:
            json.dump(settings, pipe, ensure_ascii=False)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert read_json(f"/dev/fd/{reader}", "config") == settings
    finally:
        os.close(reader)
        thread.join()


@pytest.mark.parametrize(
    "odd", ["/proc/self/mem", "/dev/zero", "/", "/dev/null/digests", "no/such"]
)
def test_digests_that_cannot_be_a_file_are_one_line(tap: Tap, odd: str) -> None:
    run = check(tap.call(digests=odd))
    assert run.code == 2
    assert f"he digests file {odd}" in run.last_words
    assert len(run.log) == 1


@pytest.mark.parametrize("name", [":memory:", "file:digests?mode=memory", "a?b#c%41"])
def test_digests_of_any_name_are_a_file(tap: Tap, serve: Serve, name: str) -> None:
    state: Any = {}
    for rows in (3, 0):
        options = ["--state", tap.file("state.json", state), "--select", "contacts"]
        run = check(tap.call(serve(Account(contacts=3)), *options, digests=name))
        assert run.code == 0
        assert len(run.rows("contacts")) == rows
        state = run.of("STATE")[-1]


@pytest.mark.parametrize("setting", ["digests", "report_file"])
@pytest.mark.parametrize("options", [(), ("--test",)])
def test_an_address_is_no_file_and_its_password_is_not_shown(
    tap: Tap, setting: str, options: tuple[str, ...]
) -> None:
    settings = {setting: "postgresql://u:s3cret-of-the-test@db/x"}
    run = check(tap.call(None, *options, **settings))
    assert run.code == 2
    assert run.log == [f"CRITICAL Invalid config: {setting} must be a file, not an address."]


@pytest.mark.parametrize("kind", ["state", "catalog"])
def test_the_name_of_a_file_cannot_be_empty(tap: Tap, kind: str) -> None:
    """As from `--catalog "$CATALOG"` with a misspelt variable; without one, all columns are sent."""
    run = check(tap.call(None, f"--{kind}", ""))
    assert run.code == 2
    assert f"Cannot read the {kind} file" in run.last_words
