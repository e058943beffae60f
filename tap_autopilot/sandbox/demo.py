"""The demo behind `make run`: the tap loads the sample account into a target.

Meanwhile a collector receives what the account pushes, and the tap reads both.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import time
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.options import Options
from tap_autopilot.sandbox.pushes import Pushing
from tap_autopilot.sandbox.server import Sandbox

MAX_WAIT = 60.0  # seconds
REQUESTS = 40
WIDE = 100  # columns of the page
SHOWN = (
    "contact_id", "name", "email", "company", "mailing_city", "mailing_country", "lead_source",
    "unsubscribed", "created_at", "lists", "mail_received", "custom_fields",
)  # fmt: skip
KEY = "sandbox"
PREFIX = "TAP_AUTOPILOT_"


def main(tap: str, target: str, output: str) -> int:
    """Pipe `tap`, reading the sandbox, into `target`, which writes to the folder `output`."""
    folder = Path(output)
    folder.mkdir(exist_ok=True)
    for old in (*folder.glob("*.jsonl"), *folder.glob("events.db*"), *folder.glob("state.json")):
        old.unlink()
    store, key, token = folder / "events.db", secrets.token_hex(8), secrets.token_hex(16)
    with run_collector(tap, store, key, token) as url:
        pushing = Pushing(tracking=f"{url}/v1", write_key=key, rate=0)
        # The account changes while it is read, as real accounts do.
        account = Account()
        with Sandbox(account, Options(churn=1.0, pushing=pushing)) as sandbox:
            _say(f"A sandbox imitates Autopilot's API, with a made-up account, at {sandbox.url}.")
            _register_hooks(tap, url, token, sandbox.url)
            if not push(sandbox):
                return 1
            received = _received(tap, store)
            _say(
                f"A collector at {url} received what the account pushes:\n"
                f"{received['segment']:,} email events and {received['hook']:,} contact changes."
            )
            before = sandbox.responses
            _say(f"\n$ tap-autopilot | target-jsonl --config {folder / 'target.json'}")
            code = sync(tap, target, folder, sandbox.url, store)
            asked = sandbox.responses - before
    if code:
        return code
    print((folder / "tap.log").read_text().splitlines()[-1].partition("INFO ")[2])
    print(
        f"\nRead in {asked} responses, while contacts joined, changed and left. At the end"
        f"\nthe account has {len(account.contact_ids):,} contacts, {len(account.lists)} lists and"
        f" {len(account.segments)} smart segments. Loaded:\n"
    )
    _show_tables(folder)
    print("\nOne contact, with some of its columns:\n")
    _show_contact(folder)
    print("\nRates by journey, which the API alone does not know:\n")
    _show_rates(folder)
    _show_odd(folder)
    print(
        f"\nThe rows are in {folder}/*.jsonl, the pushed events in {store}, and the logs of the two"
        f"\nprograms in {folder}/tap.log and {folder}/target.log.\n\n"
        "Next, your own account. Its key is in Autopilot under Settings > API:\n\n"
        "  read -rs TAP_AUTOPILOT_API_KEY; export TAP_AUTOPILOT_API_KEY  # paste it, then Enter"
        f"\n  {tap} --test\n"
        '  mkdir -p rows; echo \'{"destination_path": "rows"}\' > target.json\n'
        f"  {tap} | {target} --config target.json > states"
    )
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def run_collector(tap: str, store: Path, key: str, token: str) -> Iterator[str]:
    """Run a collector on loopback; yields its URL."""
    settings = {"WRITE_KEYS": key, "HOOK_TOKENS": token, "DATABASE": str(store),
                "LISTEN": "127.0.0.1:0", "MIN_FREE_MB": "0"}  # fmt: skip
    with subprocess.Popen(  # noqa: S603
        [f"{tap}-collector"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=_environment(f"{PREFIX}COLLECTOR_", settings),
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def _environment(prefix: str, settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program with these settings, and none of those meant for real runs."""
    others = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
    return others | {f"{prefix}{name}": value for name, value in settings.items()}


def _register_hooks(tap: str, url: str, token: str, api_url: str) -> None:
    settings = {"HOOK_TOKENS": token, "API_KEY": KEY, "API_URL": api_url}
    subprocess.run(  # noqa: S603
        [f"{tap}-collector", "--register-hooks", url],
        stdout=subprocess.DEVNULL,
        check=True,
        env=_environment(f"{PREFIX}COLLECTOR_", settings),
    )


def _received(tap: str, store: Path) -> dict[str, int]:
    """The number of events in the store, by source."""
    shown = subprocess.check_output([f"{tap}-collector", "--database", store, "--stats"])  # noqa: S603
    counts: dict[str, int] = json.loads(shown)["by_source"]
    return counts


def push(sandbox: Sandbox) -> bool:
    """Let the account change for a while; False if the collector did not receive every push."""
    for _ in range(REQUESTS):  # something changes before each response
        requests.get(f"{sandbox.url}/lists", headers={"autopilotapikey": KEY}, timeout=10)
    deadline = time.monotonic() + MAX_WAIT
    assert sandbox.pusher is not None
    done = sandbox.pusher.wait(MAX_WAIT)
    while done and not all(each.outcome for each in list(sandbox.hooks.deliveries)):
        done = time.monotonic() < deadline
        time.sleep(0.02)
    if not done:
        print("The collector did not receive all events in time.", file=sys.stderr)
    return done


def sync(tap: str, target: str, folder: Path, api_url: str, store: Path, **settings: str) -> int:
    """Sync into the folder, from the state that the last sync left there.

    Returns the exit code; on failure, shows the ends of both logs.
    """
    config, state = folder / "target.json", folder / "state.json"
    config.write_text(json.dumps({"destination_path": str(folder), "do_timestamp_file": False}))
    state.touch()
    settings |= {"API_KEY": KEY, "API_URL": api_url, "COLLECTOR_DATABASE": str(store)}
    tap_log, target_log = folder / "tap.log", folder / "target.log"
    with (
        tap_log.open("wb") as tap_err,
        target_log.open("wb") as target_err,
        subprocess.Popen(  # noqa: S603
            [tap, "--state", state],
            stdout=subprocess.PIPE,
            stderr=tap_err,
            env=_environment(PREFIX, settings),
        ) as reading,
    ):
        writing = subprocess.run(  # noqa: S603
            [target, "--config", config],
            stdin=reading.stdout,
            stdout=subprocess.PIPE,
            stderr=target_err,
            check=False,
        )
    state.write_bytes(b"".join(writing.stdout.splitlines()[-1:]))
    code = reading.returncode or writing.returncode
    if code:
        for log in (target_log, tap_log):
            print(*log.read_text().splitlines()[-5:], sep="\n", file=sys.stderr)
    return code


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    if file.exists():
        with file.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _show_tables(folder: Path) -> None:
    """The tables and their rows, in two columns."""
    counts = dict.fromkeys(re.findall(r"INFO (\w+): 0 rows", (folder / "tap.log").read_text()), 0)
    counts |= {path.stem: sum(1 for _ in _rows(path)) for path in folder.glob("*.jsonl")}
    width = max(map(len, counts))
    cells = [f"{name:{width}} {count:>6,}" for name, count in sorted(counts.items())]
    half = (len(cells) + 1) // 2
    for number in range(half):
        print("  " + "     ".join(cells[number::half]))


def _show_contact(folder: Path) -> None:
    contact = next(_rows(folder / "contacts.jsonl"))
    for column in SHOWN:
        text = json.dumps(contact[column], ensure_ascii=False)
        print(f"  {column:16} {fit(text, WIDE - 19).rstrip()}")


def _show_rates(folder: Path) -> None:
    """The shares of a journey's delivered emails that were opened and clicked."""
    addresses = {
        (row["email"] or "").lower(): row["contact_id"] for row in _rows(folder / "contacts.jsonl")
    }
    journeys: dict[str, dict[str, set[tuple[str, str]]]] = {}
    for stream in ("email_delivered", "email_opened", "email_clicked"):
        for row in _rows(folder / f"{stream}.jsonl"):
            if row["campaign_name"]:
                counts = journeys.setdefault(row["campaign_name"], defaultdict(set))
                address = (row["context_traits_email"] or "").lower()
                person = row["context_traits_contact_id"] or addresses.get(address, address)
                # Contacts and pushes have different ids for a message, with the same end.
                counts[stream].add((person, row["email_id"][-50:].lower()))
    print(f"  {'journey':24} {'delivered':>9} {'opened':>7} {'clicked':>7}")
    for journey, counts in sorted(journeys.items()):
        if delivered := counts["email_delivered"]:
            opened, clicked = (
                len(counts[name] & delivered) / len(delivered)
                for name in ("email_opened", "email_clicked")
            )
            print(f"  {fit(journey, 24)} {len(delivered):>9,} {opened:>7.0%} {clicked:>7.0%}")


def _show_odd(folder: Path) -> None:
    """What the account's odd values are there for."""
    warnings = (folder / "tap.log").read_text(encoding="utf-8").count(" WARNING ")
    odd = [row for row in _rows(folder / "contacts.jsonl") if row["additional_fields"]]
    kept = json.dumps(odd[0]["additional_fields"], ensure_ascii=False)
    print(
        "\nSome values are odd on purpose, because real accounts have such values too: text where"
        f" a number\nbelongs, dates that are not dates, unknown fields. {len(odd)} contacts keep"
        " theirs in additional_fields:\n\n"
        f"  {fit(kept, WIDE - 2).rstrip()}\n\n"
        f"The {warnings} warnings in {folder}/tap.log are about them."
    )


def columns(text: str) -> int:
    """The width of a text in a terminal."""
    return len(text) + sum(unicodedata.east_asian_width(character) in "WF" for character in text)


def fit(text: str, width: int) -> str:
    """Pad or cut text to a width in terminal columns."""
    if columns(text) > width:
        text = text[:width]
        while columns(text) >= width:
            text = text[:-1]
        text += "…"
    return text + " " * (width - columns(text))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
