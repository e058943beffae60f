"""`python -m benchmarks PEERS OUTPUT`: compare this tap with its peers on the same sandbox.

PEERS is a folder with a virtual environment for each peer (`make bench` creates them), OUTPUT one
for `results.json`, `results.md` and `results.svg`. The taps take turns, each as a whole process,
start-up included, measured by the operating system. Ratios are medians of per-round ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.picture import Bars, draw
from tap_autopilot.sandbox import server
from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.options import Options
from tap_autopilot.sandbox.wire import Response

HERE = Path(__file__).parent
KEY = "sandbox"
FOUR = "contacts,lists,smart_segments,smart_segments_contacts"  # what the peers implement


@dataclass(frozen=True)
class Scenario:
    """An account, how its API behaves, which taps read it, and in how many rounds."""

    name: str
    what: str
    contacts: int
    segments: int
    members: int
    latency: float = 0.0
    limit: float = 0.0
    ceiling: float = 10_000.0
    concurrency: int = 8
    odd: bool = True
    one_core: bool = False  # the sandbox has the others
    peers: tuple[str, ...] = ("floor", "singer-sdk", "singer-sdk unchecked")
    rounds: int = 3


SCENARIOS = (
    Scenario("wide", "20,000 contacts, 10 segments of 1,000", 20_000, 10, 1_000, rounds=5),
    Scenario("one core", "the same, but each tap may use only one core", 20_000, 10, 1_000,
             one_core=True, rounds=5),
    Scenario("plain", "wide without odd contacts", 20_000, 10, 1_000, odd=False,
             peers=("floor", "singer-sdk", "singer-sdk unchecked", "0.3.0 unlimited"), rounds=5),
    Scenario("tables", "20,000 contacts, alone and with all tables made from them", 20_000, 0, 0,
             peers=("all tables",), rounds=5),
    Scenario("chain", "20,000 contacts at 100 ms a response", 20_000, 0, 0, latency=0.1,
             peers=("all tables", "floor"), rounds=1),
    Scenario("far", "wide at 100 ms a response", 20_000, 10, 1_000, latency=0.1, rounds=1),
    Scenario("deep", "2,000 contacts, 60 segments of 500, 100 ms", 2_000, 60, 500, latency=0.1,
             concurrency=16, rounds=1),
    Scenario("throttled", "2,000 contacts, 60 segments of 500, 5 requests a second, 429 above",
             2_000, 60, 500, limit=5, ceiling=20, odd=False, peers=("0.3.0",), rounds=1),
    Scenario("limit 20", "2,000 contacts, 60 segments of 2,000, 100 ms, 20 requests a second",
             2_000, 60, 2_000, latency=0.1, limit=20, ceiling=100, peers=(), rounds=1),
    Scenario("limit 50", "the same at 50 requests a second", 2_000, 60, 2_000, latency=0.1,
             limit=50, ceiling=200, peers=(), rounds=1),
    Scenario("10,000", "10,000 contacts, to compare memory", 10_000, 0, 0, peers=(), rounds=3),
    Scenario("huge", "1,000,000 contacts", 1_000_000, 0, 0, peers=(), rounds=1),
)  # fmt: skip
PICTURED = ("wide", "far", "deep")


@dataclass
class Measure:
    """One run. Times in seconds, memory in MiB, rows a second in the first and the last tenth."""

    exit_code: int
    cpu: float
    wall: float
    memory: float
    rows: int
    requests: int
    throttled: int
    early: float
    late: float
    used: float  # share of the API's limit, once the pace is steady


def commands(peers: Path, folder: Path, url: str, scenario: Scenario) -> dict[str, list[str]]:
    """The command of each tap, by name. Each is installed the way its users install it."""
    settings = {
        "api_key": KEY,
        "api_url": url,
        "max_requests_per_second": scenario.ceiling,
        "concurrency": scenario.concurrency,
    }
    ours, old = folder / "ours.json", folder / "old.json"
    ours.write_text(json.dumps(settings))
    old.write_text(json.dumps({"api_key": KEY, "start_date": "2010-01-01T00:00:00Z"}))
    sdk = folder / "sdk.json"
    sdk.write_text(json.dumps({"api_key": KEY, "api_url": url}))
    ours_command = [str(peers / "ours/bin/tap-autopilot"), "-c", str(ours)]
    old_command = [str(peers / "old/bin/python"), str(HERE / "peers/old.py"), url]
    sdk_command = [str(peers / "sdk/bin/python"), str(HERE / "peers/sdk_tap.py")]
    sdk_command += ["--config", str(sdk)]
    old_options = ["-c", str(old), "-p", str(_old_catalog(old_command, old, folder))]
    return {
        "tap-autopilot": [*ours_command, "--select", FOUR],
        "all tables": ours_command,
        "floor": [str(peers / "floor/bin/python"), str(HERE / "peers/floor.py"), url, KEY],
        "0.3.0": [*old_command, "limited", *old_options],
        "0.3.0 unlimited": [*old_command, "unlimited", *old_options],
        "singer-sdk": sdk_command,
        "singer-sdk unchecked": ["env", "CONFORM=NONE", *sdk_command],
    }


def _old_catalog(old_command: list[str], config: Path, folder: Path) -> Path:
    """A catalog that selects every stream; without one, 0.3.0 reads nothing."""
    found = subprocess.run(
        [*old_command, "limited", "-c", str(config), "--discover"], capture_output=True, check=True
    )
    catalog = json.loads(found.stdout)
    for stream in catalog["streams"]:
        stream["metadata"] = [{"breadcrumb": [], "metadata": {"selected": True}}]
    path = folder / "old-catalog.json"
    path.write_text(json.dumps(catalog))
    return path


class Sandbox(server.Sandbox):
    """A sandbox that remembers when it responded to each request, and with what status."""

    def __init__(self, account: Account, options: Options) -> None:
        super().__init__(account, options)
        self.answered: list[tuple[float, int]] = []

    def respond(self, *request: Any) -> Response:
        """Respond to a request."""
        response = super().respond(*request)
        self.answered.append((time.monotonic(), response.status))
        return response


def measure(command: list[str], sandbox: Sandbox, *, one_core: bool = False) -> Measure:
    """Run a command to completion under stopwatch.py."""
    if one_core:
        command = ["taskset", "--cpu-list", str(max(os.sched_getaffinity(0))), *command]
    del sandbox.answered[:]
    stopwatch = [sys.executable, "-S", str(HERE / "stopwatch.py"), *command]
    done = subprocess.run(stopwatch, capture_output=True, check=True)
    asked = list(sandbox.answered)
    return Measure(
        requests=len(asked),
        throttled=sum(status == 429 for _, status in asked),
        used=_used(sandbox),
        **json.loads(done.stdout),
    )


def _used(sandbox: Sandbox) -> float:
    """The share of the API's limit that was used, from a third to nine tenths of the run."""
    limit = sandbox.options.requests_per_second
    answered = [at for at, status in sandbox.answered if status == 200]
    if not limit or len(answered) < 10:
        return 0.0
    first, whole = answered[0], answered[-1] - answered[0]
    steady = [at for at in answered if first + whole / 3 <= at <= first + whole * 0.9]
    return (len(steady) - 1) / (steady[-1] - steady[0]) / limit


def compete(scenario: Scenario, peers: Path, folder: Path) -> Iterator[tuple[str, Measure]]:
    """Measure the taps in turn, round by round."""
    sizes = {one: getattr(scenario, one) for one in ("contacts", "segments", "members", "odd")}
    account = Account(**sizes)
    options = Options(latency=scenario.latency, requests_per_second=scenario.limit)
    with Sandbox(account, options) as sandbox:
        by_name = commands(peers, folder, sandbox.url, scenario)
        if scenario.contacts < 100_000:
            measure(by_name["tap-autopilot"], sandbox)  # fills the sandbox's cache of pages
        for _ in range(scenario.rounds):
            for name in ("tap-autopilot", *scenario.peers):
                time.sleep(1.1 if scenario.limit else 0)  # let the window of the limit pass
                yield name, measure(by_name[name], sandbox, one_core=scenario.one_core)


def summary(measures: dict[str, list[Measure]]) -> dict[str, dict[str, float]]:
    """Medians for each tap, and medians of its per-round ratios to ours."""
    ours = measures["tap-autopilot"]
    return {
        name: {
            **{
                figure: statistics.median(getattr(one, figure) for one in runs)
                for figure in ("exit_code", "cpu", "wall", "memory", "rows", "requests",
                               "throttled", "early", "late", "used")
            },
            **{
                f"{figure} ratio": statistics.median(
                    getattr(their, figure) / getattr(our, figure)
                    for their, our in zip(runs, ours, strict=True)
                )
                for figure in ("cpu", "wall")
            },
        }
        for name, runs in measures.items()
    }  # fmt: skip


def table(results: dict[str, Any]) -> str:
    """The results as a Markdown table."""
    lines = [
        (
            "| account | tap | CPU s | wall s | peak MiB | requests | throttled | CPU, times ours "
            "| wall, times ours |"
        ),
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name, result in results["scenarios"].items():
        for tap, figures in result["taps"].items():
            failed = "" if figures["exit_code"] == 0 else " (failed)"
            ratios = (
                ("", "")
                if tap == "tap-autopilot" or failed
                else (f"{figures['cpu ratio']:.2f}", f"{figures['wall ratio']:.2f}")
            )
            lines.append(
                f"| {name} | {tap}{failed} | {figures['cpu']:.2f} | {figures['wall']:.2f} "
                f"| {figures['memory']:.0f} | {figures['requests']:.0f} "
                f"| {figures['throttled']:.0f} | {ratios[0]} | {ratios[1]} |"
            )
    return "\n".join(lines) + "\n"


def picture(results: dict[str, Any]) -> str:
    """The wall-clock times of the scenarios in PICTURED that have been measured, as SVG."""
    groups = []
    for name in PICTURED:
        result = results["scenarios"].get(name)
        if result is not None:
            values = {tap: figures["wall"] for tap, figures in result["taps"].items()}
            groups.append(Bars(f"{name}: {result['what']}", values, frozenset({"tap-autopilot"})))
    return draw(groups, f"{results['date']}, {results['machine']}; shorter is better")


def main() -> None:
    """Run the scenarios and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("peers", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", nargs="*", default=[one.name for one in SCENARIOS])
    args = parser.parse_args()
    path = args.output / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    results["date"] = datetime.now(timezone.utc).date().isoformat()
    results["machine"] = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    results.setdefault("scenarios", {})
    with tempfile.TemporaryDirectory() as temporary:
        for scenario in SCENARIOS:
            if scenario.name not in args.only:
                continue
            measures: dict[str, list[Measure]] = {}
            for name, one in compete(scenario, args.peers.absolute(), Path(temporary)):
                measures.setdefault(name, []).append(one)
                print(f"{scenario.name:10} {name:16} {asdict(one)}", flush=True)
            results["scenarios"][scenario.name] = {
                "what": scenario.what,
                "taps": summary(measures),
            }
    measured = results["scenarios"]
    results["scenarios"] = {
        one.name: measured[one.name] for one in SCENARIOS if one.name in measured
    }
    args.output.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    (args.output / "results.md").write_text(table(results))
    (args.output / "results.svg").write_text(picture(results))
    print(table(results))


if __name__ == "__main__":
    main()
