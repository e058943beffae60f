"""Digests and a collector on a disk that loses power, or has no room left."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tap_autopilot.collector.database import open_reader
from tap_autopilot.collector.sqlite import SqliteStore
from tests.collector.conftest import Collector
from tests.conftest import COMMAND, Serve, Tap
from tests.digests import Nights, warned
from tests.replica import difference
from tests.test_digests import account

# Whatever is on disk for certain: each file as it was when it was last synced.
SYNCED = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int copied(const char *name, int descriptor) {
    int (*sync)(int) = (int (*)(int)) dlsym(RTLD_NEXT, name);
    int result = sync(descriptor);
    char link[64], path[4096], copy[8192], part[8192], block[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return result;
    path[length] = 0;
    snprintf(copy, sizeof copy, "%s/%s", getenv("SYNCED"), strrchr(path, '/') + 1);
    snprintf(part, sizeof part, "%s/part", getenv("SYNCED"));
    int to = open(part, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (to < 0) return result;
    off_t at = 0;
    for (ssize_t n; (n = pread(descriptor, block, sizeof block, at)) > 0; at += n)
        if (write(to, block, n) != n) abort();
    close(to);
    rename(part, copy);  // the process may be killed at any moment
    return result;
}

int fsync(int descriptor) { return copied("fsync", descriptor); }
int fdatasync(int descriptor) { return copied("fdatasync", descriptor); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The above, to be loaded into a process."""
    compiler = shutil.which("cc")
    if compiler is None or not Path("/proc/self/fd").is_dir():
        pytest.skip("needs a C compiler and Linux")
    path = tmp_path_factory.mktemp("library") / "synced.so"
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(path), "-ldl"]
    subprocess.run(command, input=SYNCED.encode(), check=True)
    return path


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    found = account()
    found.change("a", {"Company": "As before"})
    return Nights(tmp_path, found)


def started(command: list[str], library: Path, synced: Path) -> subprocess.Popen[bytes]:
    """A command whose files are copied into a new folder whenever it syncs them."""
    synced.mkdir()
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "LD_PRELOAD": str(library), "SYNCED": str(synced)},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "undo"),
    [
        (("change", "a", {"Company": "Another"}), ("change", "a", {"Company": "As before"})),
        (("create", {"contact_id": "e", "Company": "New"}), ("delete", "e")),
        (("delete", "a"), ("create", {"contact_id": "a", "Company": "As before"})),
    ],
    ids=["changed", "created", "deleted"],
)
def test_rows_that_were_sent_before_the_power_went_out(
    tap: Tap, serve: Serve, nights: Nights, library: Path, change: Any, undo: Any
) -> None:
    sandbox = serve(nights.account, page=1)
    settings = {"api_url": sandbox.url}  # the same for the nights, which send nothing there
    nights.night(settings=settings)
    getattr(nights.account, change[0])(*change[1:])
    synced = nights.path.parent / "synced"
    config = {"digests": str(nights.path), "retry_timeout": 0.2}
    arguments = tap.arguments(sandbox, catalog=None, state=nights.replica.state, config=config)
    process = started([*COMMAND, *arguments], library, synced)
    assert process.stdout is not None
    stored = 0
    for line in process.stdout:
        message = json.loads(line)
        if message["type"] == "RECORD" and message["stream"] != "membership_changes":
            nights.replica.store(message)
            stored += 1
            process.kill()
    process.wait()
    process.stdout.close()
    assert stored
    for path in (nights.path, nights.path.with_name("digests-wal")):
        if (synced / path.name).exists():
            shutil.copy(synced / path.name, path)
    getattr(nights.account, undo[0])(*undo[1:])
    for _ in range(2):
        run = nights.night(settings=settings)
        assert run.code == 0
        assert not warned(run, "sent again")
    assert not difference(nights.replica, nights.full_load())


def test_what_a_collector_acknowledged_outlives_a_power_cut(library: Path, tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    synced, state = tmp_path / "synced", tmp_path / "state.json"
    process = started(collector.command(), library, synced)
    assert process.stdout is not None
    collector.url = process.stdout.readline().decode().split()[-1]
    for number in range(60):
        body = {"messageId": str(number), "event": "Email Opened"}
        assert collector.post("/v1/track", body).status_code == 200
        if number == 29:
            with open_reader(collector.database) as reader:
                position = {"collected": [reader.store_id, 10, reader.fingerprint(10)]}
            state.write_text(json.dumps({"bookmarks": {"email_opened": position}}))
            assert "Pruned 10 events" in collector.run("--prune", "--state", str(state)).stdout
    process.kill()
    process.wait()
    process.stdout.close()
    collector.database = str(synced / "events.db")
    (synced / "events.db-journal").unlink()  # as in the folder, which was synced
    SqliteStore(collector.database).close()  # as the next start does
    events = collector.events()
    assert [event.seq for event in events] == list(range(1, 61))
    stored = [json.loads(event.body)["messageId"] for event in events if not event.pruned]
    assert stored == [str(number) for number in range(60 - len(stored), 60)]
    assert len(stored) >= 50


def test_a_full_disk_ends_the_run_and_harms_nothing(tap: Tap, serve: Serve, nights: Nights) -> None:
    sandbox = serve(nights.account, page=20)
    settings = {"api_url": sandbox.url}
    nights.night(settings=settings)
    for number in range(100):
        nights.account.create({"contact_id": f"e{number}", "Company": "New"})
    config = {"digests": str(nights.path), "retry_timeout": 0.2}
    arguments = tap.arguments(sandbox, catalog=None, state=nights.replica.state, config=config)
    size = nights.path.stat().st_size
    run = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )  # fmt: skip
    assert run.returncode == 1
    last = run.stderr.decode().splitlines()[-1]
    assert f"CRITICAL Cannot use the digests file {nights.path}: " in last
    nights.replica.take([json.loads(line) for line in run.stdout.splitlines()], also=10**6)
    rest = nights.night(settings=settings)
    assert rest.code == 0
    assert not warned(rest, "sent again")
    assert not difference(nights.replica, nights.full_load())
