"""The demo behind `make run`: the tap loads the sample account into a target.

Meanwhile a collector receives what the account pushes, and the tap reads both.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.options import Options
from tap_autopilot.sandbox.pushes import Pushing
from tap_autopilot.sandbox.server import Sandbox

PATIENCE = 60.0  # seconds
REQUESTS = 40
WIDE = 44  # terminal columns


def main(tap: str, target: str, output: str) -> int:
    """Pipe `tap`, reading the sandbox, into `target`, which writes to the folder `output`."""
    folder = Path(output)
    folder.mkdir(exist_ok=True)
    for old in (*folder.glob("*.jsonl"), *folder.glob("events.db*")):
        old.unlink()
    store, key, token = folder / "events.db", secrets.token_hex(8), secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as temporary, _collector(tap, store, key, token) as url:
        pushing = Pushing(tracking=f"{url}/v1", write_key=key, rate=0)
        # The account changes while it is read, as real accounts do.
        with Sandbox(Account(), Options(churn=1.0, pushing=pushing)) as sandbox:
            print(f"A sandbox serves the sample account, which keeps changing, at {sandbox.url}.")
            _register_hooks(tap, url, token, sandbox.url)
            if not _push(sandbox):
                print("The collector did not receive all events in time.", file=sys.stderr)
                return 1
            emails, hooks = len(sandbox.truth.pushed), len(sandbox.hooks.deliveries)
            print(
                f"A collector at {url} received {emails:,} email events and {hooks} hook"
                " deliveries.\n"
            )
            code, streams = _sync(tap, target, folder, Path(temporary), sandbox.url, store)
    if code:
        return code
    print("\nLoaded:\n")
    _show_tables(folder, streams)
    print("\nOne contact, without null columns:\n")
    _show_contact(folder)
    print("\nOpen and click rates by journey and subject, which the API alone does not have:\n")
    _show_rates(folder)
    print(
        "\nTo load your own account, use its API key:\n\n"
        '  echo \'{"api_key": "<your API key>"}\' > config.json\n'
        f"  {tap} --config config.json | {target}\n"
    )
    return 0


@contextmanager
def _collector(tap: str, store: Path, key: str, token: str) -> Iterator[str]:
    """Run a collector on loopback; yields its URL."""
    settings = {"WRITE_KEYS": key, "HOOK_TOKENS": token, "DATABASE": str(store),
                "LISTEN": "127.0.0.1:0", "MIN_FREE_MB": "0"}  # fmt: skip
    variables = {f"TAP_AUTOPILOT_COLLECTOR_{name}": value for name, value in settings.items()}
    with subprocess.Popen(  # noqa: S603
        [f"{tap}-collector"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **variables},
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def _register_hooks(tap: str, url: str, token: str, api_url: str) -> None:
    settings = {"HOOK_TOKENS": token, "API_KEY": "sandbox", "API_URL": api_url}
    variables = {f"TAP_AUTOPILOT_COLLECTOR_{name}": value for name, value in settings.items()}
    subprocess.run(  # noqa: S603
        [f"{tap}-collector", "--register-hooks", url],
        stdout=subprocess.DEVNULL,
        check=True,
        env={**os.environ, **variables},
    )


def _push(sandbox: Sandbox) -> bool:
    """Let the account change for a while; False if the collector did not receive every push."""
    for _ in range(REQUESTS):  # something changes before each response
        requests.get(f"{sandbox.url}/lists", headers={"autopilotapikey": "sandbox"}, timeout=10)
    deadline = time.monotonic() + PATIENCE
    while not all(one.outcome for one in list(sandbox.hooks.deliveries)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return sandbox.pusher is not None and sandbox.pusher.wait(PATIENCE)


def _sync(
    tap: str, target: str, folder: Path, temporary: Path, api_url: str, store: Path
) -> tuple[int, list[str]]:
    """Discover, then sync into the folder. Returns the exit code and the names of the streams."""
    config, catalog, target_config = (
        temporary / f"{name}.json" for name in ("config", "catalog", "target")
    )
    settings = {"api_url": api_url, "api_key": "sandbox", "collector_database": str(store)}
    config.write_text(json.dumps(settings))
    target_config.write_text(
        json.dumps({"destination_path": str(folder), "do_timestamp_file": False})
    )
    print("$ tap-autopilot --config config.json --discover > catalog.json")
    with catalog.open("wb") as file:
        subprocess.run([tap, "--config", config, "--discover"], stdout=file, check=True)  # noqa: S603
    streams = [entry["stream"] for entry in json.loads(catalog.read_text())["streams"]]
    print(
        "$ tap-autopilot --config config.json --catalog catalog.json | target-jsonl\n", flush=True
    )
    arguments: list[str | Path] = [tap, "--config", config, "--catalog", catalog]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as reading:  # noqa: S603
        writing = subprocess.run(  # noqa: S603
            [target, "--config", target_config],
            stdin=reading.stdout,
            capture_output=True,
            check=False,
        )
    if reading.returncode or writing.returncode:
        sys.stderr.buffer.write(writing.stderr)
    return reading.returncode or writing.returncode, streams


def _rows(folder: Path, stream: str) -> Iterator[dict[str, Any]]:
    file = folder / f"{stream}.jsonl"
    if file.exists():
        with file.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _show_tables(folder: Path, streams: list[str]) -> None:
    width = max(map(len, streams))
    print(f"  {'stream':{width}}  {'rows':>6}  file")
    for stream in streams:
        count = sum(1 for _ in _rows(folder, stream))
        print(f"  {stream:{width}}  {count:>6,}  {folder / f'{stream}.jsonl' if count else ''}")


def _show_contact(folder: Path) -> None:
    for column, value in next(_rows(folder, "contacts")).items():
        if value is not None:
            text = json.dumps(value, ensure_ascii=False)
            print(f"  {column:22} {text if len(text) <= 72 else text[:71] + '…'}")


def _show_rates(folder: Path) -> None:
    """The share of recipients who opened each message, and the share who clicked."""
    people: dict[tuple[str, str], dict[str, set[tuple[str, str]]]] = {}
    for stream in ("email_delivered", "email_opened", "email_clicked"):
        for row in _rows(folder, stream):
            if row["campaign_name"] and row["email_subject"]:
                counts = people.setdefault(
                    (row["campaign_name"], row["email_subject"]), defaultdict(set)
                )
                person = row["context_traits_contact_id"] or row["context_traits_email"].lower()
                counts[stream].add((person, row["email_id"]))
    print(f"  {'journey':22} {'subject':{WIDE}} {'delivered':>9} {'opened':>7} {'clicked':>7}")
    for (journey, subject), counts in sorted(people.items()):
        delivered = len(counts["email_delivered"])
        if delivered:
            opened, clicked = (
                min(len(counts[name]) / delivered, 1) for name in ("email_opened", "email_clicked")
            )
            name, about = _fit(journey, 22), _fit(subject, WIDE)
            print(f"  {name} {about} {delivered:>9,} {opened:>7.0%} {clicked:>7.0%}")


def _fit(text: str, width: int) -> str:
    """Pad or cut text to a width in terminal columns; some characters take two."""
    columns = 0
    for place, character in enumerate(text):
        columns += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if columns > width - (place < len(text) - 1):
            taken = text[:place]
            return _fit(taken + "…", width)
    return text + " " * (width - columns)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
