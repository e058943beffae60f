"""What an unchanged night costs with digests, compared with the same run without.

    python -m benchmarks.digests [--contacts 20000] [--rounds 5]

Each night is a pair of runs over all tables of one account. On a first night everything is new.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple


class Cost(NamedTuple):
    """CPU seconds and peak MiB of one process."""

    seconds: float
    mebibytes: float


def run(folder: Path, url: str, **settings: Any) -> tuple[Cost, Any, int]:
    """Run the tap once. Returns what it cost, its last STATE, and the number of rows."""
    config = {"api_key": "sandbox", "api_url": url, "max_requests_per_second": 10_000, **settings}
    (folder / "config.json").write_text(json.dumps(config))
    state = folder / "state.json"
    arguments = ["--config", str(folder / "config.json")]
    if "digests" in settings and state.exists():
        arguments += ["--state", str(state)]
    out = folder / "out"
    with out.open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", "tap_autopilot", *arguments],
            stdout=stdout, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    rows, last = 0, b""
    with out.open("rb") as lines:
        for line in lines:
            rows += line.startswith(b'{"type":"RECORD"')
            last = line if line.startswith(b'{"type":"STATE"') else last
    cost = Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
    return cost, json.loads(last)["value"], rows


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.digests", description=__doc__)
    parser.add_argument("--contacts", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    members = args.contacts // 20
    size = [f"--contacts={args.contacts}", "--segments=10", f"--members={members}"]
    with (
        tempfile.TemporaryDirectory() as temporary,
        subprocess.Popen(
            [sys.executable, "-m", "tap_autopilot.sandbox", "--port", "0", *size],
            stdout=subprocess.PIPE, text=True,
        ) as sandbox,
    ):  # fmt: skip
        assert sandbox.stdout is not None
        url = ""
        while not url:
            found = re.search(r"http://\S+/v1", sandbox.stdout.readline())
            url = found[0] if found else ""
        folder = Path(temporary)
        path, state_file = folder / "digests", folder / "state.json"
        firsts: list[float] = []
        others: list[float] = []
        more: list[float] = []
        total = 0
        for is_first in [True] * args.rounds + [False] * args.rounds:
            if is_first:
                for file in folder.glob("digests*"):
                    file.unlink()
                state_file.unlink(missing_ok=True)
            plain, _, _ = run(folder, url)
            ours, state, rows = run(folder, url, digests=str(path))
            state_file.write_text(json.dumps(state))
            assert bool(rows) is is_first
            total = total or rows
            (firsts if is_first else others).append(ours.seconds / plain.seconds)
            more.append(ours.mebibytes - plain.mebibytes)
            which = "first" if is_first else "unchanged"
            print(f"{which} night: {ours}, without digests {plain}", file=sys.stderr, flush=True)
        print(
            f"- a run without changes takes {statistics.median(others):.2f} times the CPU time"
            f" (median of {args.rounds}), and the first run {statistics.median(firsts):.2f} times",
            f"- the file takes {path.stat().st_size / total:.0f} bytes per row, of {total:,} rows",
            f"- it takes {statistics.median(more):.0f} MiB more memory",
            sep="\n",
        )
        sandbox.terminate()


if __name__ == "__main__":
    main()
