"""`python -m benchmarks.pipeline TAP TARGET`: time loads into PostgreSQL.

TAP and TARGET are the virtual environments of the tap and of meltanolabs-target-postgres, which has
a PostgreSQL server as well (`make bench` creates both). Every run is a pipe of two processes, as in
Meltano. First come loads into empty tables, one for each combination of target settings that
matters; then two nights, with and without the tap's `digests`, between which one contact in a
hundred changes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.picture import Bars, draw
from tap_autopilot.sandbox.account import Account, renamed
from tap_autopilot.sandbox.documents import iso
from tap_autopilot.sandbox.options import Options
from tap_autopilot.sandbox.server import Sandbox

HERE = Path(__file__).parent
SERVER = HERE.parent / "tests/targets/postgres.py"
FAST = {"use_copy": True, "validate_records": False}
LOADS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "use_copy": {"use_copy": True},
    "validate_records: false": {"validate_records": False},
    "both": FAST,
    "both, batch_size_rows: 50000": {**FAST, "batch_size_rows": 50_000},
}


TARGETS: dict[str, dict[str, Any]] = {"defaults": {}, "both": FAST}
SETTINGS = {"defaults": "the default settings", "both": "both settings"}


@dataclass(frozen=True)
class Load:
    """One run of the pipeline. Times in seconds, memory in MiB."""

    wall: float
    tap_cpu: float
    target_cpu: float
    target_memory: float
    rows: int


Loads = dict[str, Load]  # by the settings


@contextmanager
def postgres(python: Path, folder: str) -> Iterator[str]:
    """Run a PostgreSQL server. Yields its address."""
    command = [str(python), str(SERVER), folder]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip().replace("postgresql:", "postgresql+psycopg:")
        process.stdin.close()


class Pipeline:
    """The tap piped into the target, with a state kept from run to run."""

    def __init__(self, tap: Path, target: Path, folder: Path, url: str, server: str) -> None:
        self._tap = tap / "bin/tap-autopilot"
        self._target = target / "bin/target-postgres"
        self._folder = folder
        self._url = url
        self._server = server

    def run(self, schema: str, settings: dict[str, Any], **tap_settings: Any) -> Load:
        """Load into a schema of the database, starting from that schema's last state."""
        state, log = self._folder / f"{schema}.state", self._folder / "log"
        config = {"api_key": "sandbox", "api_url": self._url, "max_requests_per_second": 10_000}
        settings = {"sqlalchemy_url": self._server, "default_target_schema": schema, **settings}
        command = [str(self._tap), "-c", self._file("tap.json", config | tap_settings)]
        command += ["--state", str(state)] if state.exists() else []
        started = time.monotonic()
        with log.open("w") as stderr:
            tap = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr)
            target = subprocess.Popen(
                [str(self._target), "--config", self._file("target.json", settings)],
                stdin=tap.stdout,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
            assert tap.stdout is not None
            assert target.stdout is not None
            tap.stdout.close()
            states = target.stdout.read().decode().splitlines()
            _, tap_status, tap_usage = os.wait4(tap.pid, 0)
            _, target_status, usage = os.wait4(target.pid, 0)
        wall = time.monotonic() - started
        if tap_status or target_status:
            raise SystemExit(log.read_text()[-4000:])
        state.write_text(states[-1])
        return Load(
            wall=wall,
            tap_cpu=tap_usage.ru_utime + tap_usage.ru_stime,
            target_cpu=usage.ru_utime + usage.ru_stime,
            target_memory=usage.ru_maxrss / 1024,
            rows=rows_sent(log.read_text()),
        )

    def _file(self, name: str, value: Any) -> str:
        path = self._folder / name
        path.write_text(json.dumps(value))
        return str(path)


def rows_sent(log: str) -> int:
    """How many rows a complete run sent, from its log."""
    complete = re.search(r"INFO Complete: ([\d,]+) rows? in ", log)
    assert complete, log
    return int(complete[1].replace(",", ""))


def change(account: Account, share: float, night: int) -> None:
    """Change the jobs of a share of the contacts."""
    rng = random.Random(night)
    now = iso(datetime.now(timezone.utc))
    for contact_id in rng.sample(account.contact_ids, int(len(account.contact_ids) * share)):
        account.change(contact_id, renamed(rng) | {"updated_at": now})


def main() -> None:
    """Measure, print the results, and draw `pipeline.svg`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument("tap", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--contacts", type=int, default=20_000)
    args = parser.parse_args()
    loads: Loads = {}
    nights: Loads = {}
    account = Account(contacts=args.contacts, segments=10, members=args.contacts // 20)
    with (
        tempfile.TemporaryDirectory() as temporary,
        postgres(args.target / "bin/python", f"{temporary}/postgres") as server,
        Sandbox(account, Options()) as sandbox,
    ):
        pipeline = Pipeline(args.tap, args.target, Path(temporary), sandbox.url, server)
        for number, (name, settings) in enumerate(LOADS.items()):
            loads[name] = pipeline.run(f"load_{number}", settings)
            print(f"{name:30} {loads[name]}", file=sys.stderr, flush=True)
        for night in ("first night", "second night"):
            for target, settings in TARGETS.items():
                for way, digests in (
                    ("", {}), (", digests", {"digests": f"{temporary}/digests {target}"}),
                ):  # fmt: skip
                    name = f"{night}, {target}{way}"
                    schema = re.sub(r"\W+", "_", f"{target}{way}")
                    nights[name] = pipeline.run(schema, settings, **digests)
                    print(f"{name:36} {nights[name]}", file=sys.stderr, flush=True)
            change(account, 0.01, night=1)
    print(*lines_of(args.contacts, loads, nights), "", *tables(loads, nights), sep="\n")
    (HERE / "pipeline.svg").write_text(picture(args.contacts, loads, nights))


def lines_of(contacts: int, loads: Loads, nights: Loads) -> list[str]:
    """What the results say, in a list."""
    slow, fast = loads["defaults"], loads["both"]
    lines = [
        (
            f"- with `use_copy` and without `validate_records`, loading {contacts:,} contacts takes"
            f" {fast.wall:.0f} s instead of {slow.wall:.0f} s, and the target"
            f" {fast.target_cpu:.0f} s of CPU time instead of {slow.target_cpu:.0f} s"
        )
    ]
    for target in TARGETS:
        whole, changes = (nights[f"second night, {target}{way}"] for way in ("", ", digests"))
        lines.append(
            f"- with `digests`, the second night takes {changes.wall:.1f} s instead of"
            f" {whole.wall:.0f} s, with {SETTINGS[target]} of the target"
        )
    return lines


def tables(loads: Loads, nights: Loads) -> list[str]:
    """The results as Markdown tables."""
    lines = [
        "| target settings | target CPU s | tap CPU s | target MiB | seconds |",
        "| --- | --: | --: | --: | --: |",
    ]
    for name, load in loads.items():
        lines.append(
            f"| {name} | {load.target_cpu:.1f} | {load.tap_cpu:.1f} | {load.target_memory:.0f}"
            f" | {load.wall:.0f} |"
        )
    lines += [
        "",
        "| | seconds | with `digests` | rows | with `digests` |",
        "| --- | --: | --: | --: | --: |",
    ]
    for name in nights:
        if f"{name}, digests" in nights:
            whole, changes = nights[name], nights[f"{name}, digests"]
            lines.append(
                f"| {name} | {whole.wall:.1f} | {changes.wall:.1f} | {whole.rows:,}"
                f" | {changes.rows:,} |"
            )
    return lines


def picture(contacts: int, loads: Loads, nights: Loads) -> str:
    """The wall-clock times, as SVG."""
    changed = frozenset(name for name in nights if "second" in name and "digests" in name)
    groups = [
        Bars(
            f"{contacts:,} contacts and all tables into PostgreSQL",
            {name: load.wall for name, load in loads.items()},
            frozenset({"both"}),
        ),
        Bars(
            "two nights, 1% of the contacts changed",
            {name: load.wall for name, load in nights.items()},
            changed,
        ),
    ]
    today = datetime.now(timezone.utc).date()
    return draw(groups, f"{today}; elapsed time, shorter is better")


if __name__ == "__main__":
    main()
