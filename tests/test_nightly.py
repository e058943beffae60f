"""docs/nightly.sh, the script for cron, with a small target: successful, failed and interrupted runs."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.sandbox.account import Account
from tests.conftest import KEY, PATIENCE, Serve, Tap, wait_until
from tests.pushed_store import PushedStore
from tests.recording import HeldSandbox, Sandbox

ROOT = Path(__file__).parents[1]
ACCOUNT = Account(contacts=450, segments=2, members=20)
TARGET = """
import json, sys
with open("rows", "a") as rows:
    for line in sys.stdin:
        message = json.loads(line)
        if message["type"] == "RECORD":
            rows.write(message["stream"] + " " + str(list(message["record"].values())[0]) + "\\n")
        elif message["type"] == "STATE":
            rows.flush()
            print(json.dumps(message["value"]), flush=True)
"""


class Nights:
    """The script in its own folder."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap
        self.folder = tap.folder
        shutil.copy(ROOT / "docs/nightly.sh", self.folder)
        (self.folder / "target.py").write_text(TARGET)

    def start(self, sandbox: Sandbox, *job: str, **variables: str) -> subprocess.Popen[str]:
        self.tap.file("config.json", self.tap.config(sandbox, retry_timeout=0.2))
        return subprocess.Popen(
            ["bash", self.folder / "nightly.sh", *job],
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "TAP": f"{sys.executable} -m tap_autopilot",
                "TARGET": f"{sys.executable} target.py",
                **variables,
            },
        )

    def run(self, sandbox: Sandbox, *job: str, **variables: str) -> tuple[int, str]:
        process = self.start(sandbox, *job, **variables)
        out, err = process.communicate(timeout=PATIENCE)
        assert not out
        return process.returncode, err

    @property
    def state(self) -> Any:
        return json.loads((self.folder / "state.json").read_text())

    def contacts(self) -> list[str]:
        lines = (self.folder / "rows").read_text().splitlines()
        return [line.split()[1] for line in lines if line.startswith("contacts ")]


@pytest.fixture
def nights(tap: Tap) -> Nights:
    return Nights(tap)


def test_a_good_night_is_silent_and_leaves_nothing_to_resume(nights: Nights, serve: Serve) -> None:
    """What it writes is for its own user."""
    before = {*nights.folder.rglob("*")}
    assert nights.run(serve(ACCOUNT)) == (0, "")
    assert {it["progress"] for it in nights.state["bookmarks"].values()} == {None}
    assert nights.contacts() == ACCOUNT.contact_ids
    assert not {"states", "state.new"} & {path.name for path in nights.folder.iterdir()}
    written = {*nights.folder.rglob("*")} - before - {nights.folder / "config.json"}
    assert {path.name for path in written} >= {"state.json", "logs", "rows", "lock"}
    assert not [path for path in written if path.stat().st_mode & 0o077]


def test_a_bad_night_says_so_and_the_next_night_resumes(nights: Nights, serve: Serve) -> None:
    code, err = nights.run(serve(ACCOUNT, "/contacts@3-:500"))
    assert code == 1
    assert err.startswith(f"The tap failed with exit code 1. See {nights.folder}/logs/tap-")
    assert "CRITICAL Not complete" in err.splitlines()[-1]
    assert KEY not in err
    assert nights.run(serve(ACCOUNT)) == (0, "")
    assert sorted(nights.contacts()) == sorted(ACCOUNT.contact_ids), "each once"


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_good_night_reports_its_warnings(nights: Nights, serve: Serve, form: str) -> None:
    """Other than those of retries and odd values."""
    variables = {"TAP_AUTOPILOT_LOG_FORMAT": form, "TAP_AUTOPILOT_START_DATE": "2999-01-01"}
    code, err = nights.run(serve(ACCOUNT, "2:503"), **variables)
    assert code == 0
    said, warning = err.splitlines()
    assert said.startswith(f"The tap has warnings. See {nights.folder}/logs/tap-")
    assert "start_date is in the future" in warning


def test_a_target_that_stops_is_named_alone(nights: Nights, serve: Serve) -> None:
    nights.tap.file("target.py", "import sys; sys.exit('ERROR no settings')")
    code, said = nights.run(serve(ACCOUNT, latency=0.3))
    assert code == 1
    assert said.splitlines()[1:] == ["ERROR no settings"]


def test_what_the_target_logs_is_only_mailed_if_it_fails(nights: Nights, serve: Serve) -> None:
    noisy = TARGET.replace(
        "import json, sys", "import json, sys\nprint('WARNING odd', file=sys.stderr)"
    )
    nights.tap.file("target.py", noisy)
    assert nights.run(serve(ACCOUNT)) == (0, "")
    nights.tap.file("target.py", f"{noisy}\nsys.exit('ERROR no room')")
    code, err = nights.run(serve(ACCOUNT))
    assert code == 1
    said, *lines = err.splitlines()
    assert said.startswith(f"The target failed with exit code 1. See {nights.folder}/logs/target-")
    assert lines == ["WARNING odd", "ERROR no room"]
    logged = [path.read_text() for path in (nights.folder / "logs").glob("tap-*")]
    assert logged
    assert "WARNING odd" not in "".join(logged)


def test_a_second_run_at_the_same_time_is_refused(nights: Nights) -> None:
    with HeldSandbox(ACCOUNT, page=4) as sandbox:
        first = nights.start(sandbox)
        wait_until((nights.folder / "states").exists)
        refused = (75, "The previous run is still running.\n")
        assert nights.run(sandbox, PATIENCE="0") == refused
        assert nights.run(sandbox, "events") == (0, ""), "it is skipped"
        sandbox.released.set()
        assert first.wait(PATIENCE) == 0
    assert nights.contacts() == ACCOUNT.contact_ids


def test_the_night_after_a_kill_resumes(nights: Nights, serve: Serve) -> None:
    killed = nights.start(serve(ACCOUNT, "/contacts@4:hang"))
    wait_until(lambda: nights_states(nights).count("\n") > 3)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait(PATIENCE)
    with (nights.folder / "lock").open() as lock:  # wait until all its processes have ended
        fcntl.flock(lock, fcntl.LOCK_EX)
    with (nights.folder / "states").open("a") as states:
        states.write('{"bookmarks": {"contac')  # cut off by the kill
    assert nights.run(serve(ACCOUNT)) == (0, "")
    assert set(nights.contacts()) == set(ACCOUNT.contact_ids)
    assert len(nights.contacts()) < 2 * len(ACCOUNT.contact_ids)


def nights_states(nights: Nights) -> str:
    path = nights.folder / "states"
    return path.read_text() if path.exists() else ""


def test_what_is_no_state_does_not_replace_the_state(nights: Nights, serve: Serve) -> None:
    (nights.folder / "target.py").write_text(f"{TARGET}print('3 tables loaded.')")
    for _ in range(2):
        assert nights.run(serve(ACCOUNT)) == (0, "")
        assert nights.state["walks"]


def test_old_logs_are_deleted(nights: Nights, serve: Serve) -> None:
    logs = nights.folder / "logs"
    logs.mkdir()
    for day in range(10, 20):
        for program in ("tap", "target"):
            (logs / f"{program}-2020-01-{day}T02-15-00.log").write_text("old")
    assert nights.run(serve(ACCOUNT), KEEP="3")[0] == 0
    for program in ("tap", "target"):
        kept = sorted(path.name for path in logs.glob(f"{program}-*"))
        assert len(kept) == 3
        assert kept[:2] == [f"{program}-2020-01-{day}T02-15-00.log" for day in (18, 19)]
    assert "INFO contacts: 450 rows" in max(logs.glob("tap-*")).read_text()


def test_events_are_loaded_between_the_nights(nights: Nights, serve: Serve) -> None:
    store = PushedStore(nights.folder / "events.db")
    variables = {"TAP_AUTOPILOT_COLLECTOR_DATABASE": store.path}
    log = {"stream": "email_opened", "replication_method": "LOG_BASED"}
    nights.tap.file("events.json", {"streams": [log]})
    nights.tap.file("catalog.json", {"streams": [{"stream": "contacts"}]})
    sandbox = serve(ACCOUNT)
    for day in range(2):
        store.track({"type": "track", "event": "Email Opened", "messageId": f"m{day}"})
        before = len(sandbox.requests)
        assert nights.run(sandbox, "events", **variables) == (0, "")
        assert len(sandbox.requests) == before
        assert nights.run(sandbox, **variables) == (0, "")
    rows = (nights.folder / "rows").read_text().splitlines()
    assert [row.split()[1] for row in rows if row.startswith("email_opened")] == ["m0", "m1"]
    assert len(nights.contacts()) == 2 * len(ACCOUNT.contact_ids)
    assert list((nights.folder / "logs-events").iterdir())
