"""`python -m benchmarks PEERS`: compare this tap with its peers on the same sandbox.

PEERS is a folder with a virtual environment for each peer (`make bench` creates them). The taps
take turns, each as a whole process, start-up included, measured by the operating system. Ratios are
medians of per-round ratios. If all that it shows was measured, `results.svg` is drawn anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.picture import Bars, draw
from tap_autopilot.sandbox import server
from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.options import Options
from tap_autopilot.sandbox.wire import Response

HERE = Path(__file__).parent
ROOT = HERE.parent
KEY = "sandbox"
FOUR = "contacts,lists,smart_segments,smart_segments_contacts"  # what the peers implement


@dataclass(frozen=True)
class Scenario:
    """An account, how its API behaves, which taps read it, and in how many rounds.

    `account` says what the account has besides contacts, segments and members, and `settings` what
    this tap is told besides where the API is.
    """

    name: str
    what: str
    contacts: int
    segments: int
    members: int
    latency: float = 0.0
    limit: float = 0.0
    account: Mapping[str, bool] = field(default_factory=lambda: {"odd": False})
    settings: Mapping[str, float] = field(default_factory=dict)
    one_core: bool = False  # the sandbox has the others
    peers: tuple[str, ...] = ()
    rounds: int = 1


UNLIMITED = {"max_requests_per_second": 10_000}
ODD = {"odd": True, "strict": True}  # the peers cannot parse the others
SDK = ("singer-sdk", "singer-sdk unchecked")
SCENARIOS = (
    Scenario("far", "20,000 contacts, 10 segments of 1,000, 100 ms a response", 20_000, 10, 1_000,
             latency=0.1, peers=("floor", "singer-sdk", "0.3.0")),
    Scenario("deep", "2,000 contacts, 60 segments of 500, 100 ms a response", 2_000, 60, 500,
             latency=0.1, peers=("tuned", "floor", "singer-sdk", "0.3.0")),
    Scenario("wide", "20,000 contacts, 10 segments of 1,000, one contact in eight odd", 20_000,
             10, 1_000, account=ODD, settings=UNLIMITED, peers=("floor", *SDK), rounds=5),
    Scenario("one core", "wide, on one core", 20_000, 10, 1_000,
             account=ODD, settings=UNLIMITED, one_core=True, peers=("floor", *SDK), rounds=5),
    Scenario("plain", "wide, without odd contacts", 20_000, 10, 1_000, settings=UNLIMITED,
             peers=("floor", *SDK, "0.3.0 unlimited"), rounds=5),
    Scenario("tables", "20,000 contacts and all tables made from them", 20_000, 0, 0,
             settings=UNLIMITED, peers=("all tables",), rounds=5),
    Scenario("limit 5", "1,000 contacts, 30 segments of 500, 5 requests a second, 429 above", 1_000,
             30, 500, limit=5, peers=("0.3.0",)),
    Scenario("limit 20", "2,000 contacts, 30 segments of 2,000, 100 ms, 20 requests a second",
             2_000, 30, 2_000, latency=0.1, limit=20, settings={"max_requests_per_second": 100}),
    Scenario("limit 50", "2,000 contacts, 60 segments of 2,000, 100 ms, 50 requests a second",
             2_000, 60, 2_000, latency=0.1, limit=50, settings={"max_requests_per_second": 200}),
    Scenario("10,000", "10,000 contacts, to compare memory", 10_000, 0, 0, settings=UNLIMITED,
             rounds=3),
    Scenario("huge", "1,000,000 contacts", 1_000_000, 0, 0, settings=UNLIMITED),
)  # fmt: skip
PICTURED = ("far", "deep", "wide")  # first what users get without any settings
TUNED = {**UNLIMITED, "concurrency": 16}


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


Results = dict[str, dict[str, dict[str, float]]]  # by scenario, tap and figure


def commands(peers: Path, folder: Path, url: str, scenario: Scenario) -> dict[str, list[str]]:
    """The command of each tap, by name. Each is installed the way its users install it."""
    settings = {"api_key": KEY, "api_url": url}
    ours, tuned, old = folder / "ours.json", folder / "tuned.json", folder / "old.json"
    ours.write_text(json.dumps({**settings, **scenario.settings}))
    tuned.write_text(json.dumps({**settings, **TUNED}))
    old.write_text(json.dumps({"api_key": KEY, "start_date": "2010-01-01T00:00:00Z"}))
    sdk = folder / "sdk.json"
    sdk.write_text(json.dumps(settings))
    tap = str(peers / "ours/bin/tap-autopilot")
    old_command = [str(peers / "old/bin/python"), str(HERE / "peers/old.py"), url]
    sdk_command = [str(peers / "sdk/bin/python"), str(HERE / "peers/sdk_tap.py")]
    sdk_command += ["--config", str(sdk)]
    old_options = ["-c", str(old), "-p", str(_old_catalog(old_command, old, folder))]
    return {
        "tap-autopilot": [tap, "-c", str(ours), "--select", FOUR],
        "tuned": [tap, "-c", str(tuned), "--select", FOUR],
        "all tables": [tap, "-c", str(ours)],
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
    sizes = {one: getattr(scenario, one) for one in ("contacts", "segments", "members")}
    account = Account(**sizes, **scenario.account)
    options = Options(latency=scenario.latency, requests_per_second=scenario.limit)
    with Sandbox(account, options) as sandbox:
        by_name = commands(peers, folder, sandbox.url, scenario)
        if scenario.rounds > 1:
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


def lines_of(results: Results) -> list[str]:
    """What the results say, in a list."""

    def ratio(scenario: str, tap: str, figure: str = "cpu") -> float:
        return results[scenario][tap][f"{figure} ratio"]

    whats = {one.name: f"- {one.what} (*{one.name}*" for one in SCENARIOS}
    lines = []
    for name in ("far", "deep"):
        if name in results:
            walls = {tap: figures["wall"] for tap, figures in results[name].items()}
            line = (
                f"{whats[name]}, default settings): {walls['tap-autopilot']:.1f} s; the floor takes"
                f" {walls['floor']:.1f} s, the SDK's tap {walls['singer-sdk']:.1f} s, 0.3.0"
                f" {walls['0.3.0']:.1f} s"
            )
            if "tuned" in walls:
                line += (
                    "; with `concurrency` 16 and a higher `max_requests_per_second`, this one"
                    f" takes {walls['tuned']:.1f} s"
                )
            lines.append(line)
    for name in ("wide", "one core", "plain"):
        if name in results:
            old = results[name].get("0.3.0 unlimited")
            lines.append(
                f"{whats[name]}): this tap takes {1 / ratio(name, 'floor'):.2f} times the CPU time"
                f" of the floor; the SDK's takes {ratio(name, 'singer-sdk'):.1f} times as much as"
                f" this one, {ratio(name, 'singer-sdk unchecked'):.1f} times without its checks"
                + (f", 0.3.0 {old['cpu ratio']:.1f} times" if old else "")
            )
    if "tables" in results:
        times = ratio("tables", "all tables")
        lines.append(
            f"{whats['tables']}): this takes {times:.2f} times the CPU time of contacts alone"
        )
    limits = [name for name in results if name.startswith("limit")]
    if limits:
        shares = ", ".join(f"{results[name]['tap-autopilot']['used']:.0%}" for name in limits)
        names = ", ".join(f"*{name}*" for name in limits)
        lines.append(f"- {names}: this tap uses {shares} of what the API allows")
    if {"10,000", "huge"} <= results.keys():
        few, many = (results[name]["tap-autopilot"]["memory"] for name in ("10,000", "huge"))
        lines.append(f"- memory: {few:.0f} MiB for 10,000 contacts, {many:.0f} MiB for 1,000,000")
    return lines


def table(results: Results) -> list[str]:
    """The results as a Markdown table."""
    lines = [
        (
            "| account | tap | CPU s | wall s | peak MiB | requests | throttled | CPU, times ours "
            "| wall, times ours |"
        ),
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name, taps in results.items():
        for tap, figures in taps.items():
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
    return lines


def picture(results: Results) -> str:
    """The wall-clock times of the scenarios in PICTURED, as SVG."""
    whats = {scenario.name: scenario.what for scenario in SCENARIOS}
    groups = [
        Bars(
            f"{name}: {whats[name]}",
            {tap: figures["wall"] for tap, figures in results[name].items()},
            frozenset({"tap-autopilot", "tuned"}),
        )
        for name in PICTURED
    ]
    today = datetime.now(timezone.utc).date()
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    return draw(groups, f"{today}, {machine}; elapsed time, shorter is better")


def main() -> None:
    """Run the scenarios and print the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("peers", type=Path)
    parser.add_argument("--only", nargs="*", default=[one.name for one in SCENARIOS])
    args = parser.parse_args()
    peers = args.peers.absolute()
    install(peers / "ours")
    results: Results = {}
    with tempfile.TemporaryDirectory() as temporary:
        for scenario in SCENARIOS:
            if scenario.name not in args.only:
                continue
            measures: dict[str, list[Measure]] = {}
            for name, one in compete(scenario, peers, Path(temporary)):
                measures.setdefault(name, []).append(one)
                print(f"{scenario.name:10} {name:16} {asdict(one)}", file=sys.stderr, flush=True)
            results[scenario.name] = summary(measures)
    print(*lines_of(results), "", *table(results), sep="\n")
    if results.keys() >= set(PICTURED):
        (HERE / "results.svg").write_text(picture(results))


def install(environment: Path) -> None:
    """Install the code beside this file into a virtual environment, as users do."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    pip = [str(environment / "bin/pip"), "install", "--quiet", "--force-reinstall", "--no-deps"]
    subprocess.run([*pip, str(ROOT)], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
