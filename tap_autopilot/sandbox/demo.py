"""The demonstration behind `make run`: the sample account, through the tap, into a target."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.options import Options
from tap_autopilot.sandbox.server import Sandbox


def main(tap: str, target: str, output: str) -> int:
    """Run `tap` on the sandbox and `target` on what it writes, into the folder `output`."""
    folder = Path(output)
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.jsonl"):
        old.unlink()
    options = Options(churn=1.0)  # the account changes while it is read, as real ones do
    with Sandbox(Account(), options) as sandbox, tempfile.TemporaryDirectory() as temporary:
        config = Path(temporary, "config.json")
        config.write_text(json.dumps({"api_url": sandbox.url, "api_key": "sandbox"}))
        catalog = Path(temporary, "catalog.json")
        target_config = Path(temporary, "target.json")
        target_config.write_text(
            json.dumps({"destination_path": str(folder), "do_timestamp_file": False})
        )
        print(f"A sandbox serves the sample account at {sandbox.url}, and changes it meanwhile.\n")
        print("$ tap-autopilot --config config.json --discover > catalog.json")
        with catalog.open("wb") as file:
            subprocess.run([tap, "--config", config, "--discover"], stdout=file, check=True)  # noqa: S603
        streams = [entry["stream"] for entry in json.loads(catalog.read_text())["streams"]]
        print("$ tap-autopilot --config config.json --catalog catalog.json | target-jsonl\n")
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
        return reading.returncode or writing.returncode
    print("\nWhat arrived:\n")
    _show(folder, streams)
    print(
        "\nFor your own account, put its API key in place of the sandbox's:\n\n"
        '  echo \'{"api_key": "<your API key>"}\' > config.json\n'
        f"  {tap} --config config.json | {target}\n"
    )
    return 0


def _show(folder: Path, streams: list[str]) -> None:
    width = max(map(len, streams))
    print(f"  {'stream':{width}}  {'rows':>6}  file")
    for stream in streams:
        file = folder / f"{stream}.jsonl"
        rows = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        print(f"  {stream:{width}}  {len(rows):>6}  {file}")
    first = (folder / "contacts.jsonl").open(encoding="utf-8").readline()
    print("\nA contact as it arrived (columns that are null left out):\n")
    for column, value in json.loads(first).items():
        if value is not None:
            text = json.dumps(value, ensure_ascii=False)
            print(f"  {column:22} {text if len(text) <= 72 else text[:71] + '…'}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
