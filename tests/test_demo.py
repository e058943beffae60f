"""`make run`: one page that a newcomer wants to read."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tap_autopilot.sandbox.demo import _show_rates

BIN = Path(sys.executable).parent
TARGET = """#!{python}
import json, sys
folder = json.load(open(sys.argv[2]))["destination_path"]
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "RECORD":
        with open(f"{{folder}}/{{message['stream']}}.jsonl", "a") as file:
            file.write(json.dumps(message["record"]) + "\\n")
print("WARNING the target's", file=sys.stderr)
sys.exit({code})
"""


def demo(folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    target = folder / "target"
    target.write_text(TARGET.format(python=sys.executable, code=code))
    target.chmod(0o755)
    return subprocess.run(
        [sys.executable, "-m", "tap_autopilot.sandbox.demo", BIN / "tap-autopilot", target, "output"],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "TAP_AUTOPILOT_DIGESTS": "digests"},
    )  # fmt: skip


def test_it_fits_on_a_page_and_shows_nothing_alarming(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    (output / "contacts.jsonl").write_text("{}\n")
    (output / "mine").write_text("kept")
    done = demo(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) < 70
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 100
    assert "WARNING" not in done.stdout
    complete = re.search(r"^Complete: ([\d,]+) rows in 16 tables", done.stdout, re.MULTILINE)
    assert complete is not None
    shown = re.findall(r"\b[a-z_]+ +([\d,]+)(?=     [a-z]|$)", done.stdout, re.MULTILINE)
    assert len(shown) == 16
    total = sum(int(count.replace(",", "")) for count in shown)
    assert total == int(complete[1].replace(",", ""))
    received = re.search(r"and (\d+) contact changes", done.stdout)
    loaded = re.search(r"contact_events +(\d+)", done.stdout)
    assert received is not None
    assert loaded is not None
    assert int(received[1]) <= int(loaded[1])
    for name in ("contacts.jsonl", "events.db", "tap.log", "target.log", "target.json"):
        assert (output / name).exists()
    assert (output / "mine").read_text() == "kept"
    assert not (tmp_path / "digests").exists(), "that is a setting of real runs"


def test_a_target_that_fails_is_shown(tmp_path: Path) -> None:
    done = demo(tmp_path, 3)
    assert done.returncode == 3
    assert done.stderr.startswith("WARNING the target's\n")
    assert "Next" not in done.stdout


def test_rates_are_shares_of_the_delivered_emails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contact = {"contact_id": "b", "email": "B@example.com"}
    (tmp_path / "contacts.jsonl").write_text(json.dumps(contact))
    people: dict[str, list[str | None]] = {
        "delivered": ["a", "b"],
        "opened": ["a", None, "c"],
        "clicked": ["c"],
    }
    ids = {"delivered": f"batchdelivery_{'0' * 49}A", "opened": f"batchcampaign_{'0' * 49}a"}
    for kind, contacts in people.items():
        rows = [
            {
                "campaign_name": "J",
                "email_id": ids.get(kind, "m"),
                "context_traits_contact_id": contact,
                "context_traits_email": "b@example.com",
            }
            for contact in contacts
        ]
        (tmp_path / f"email_{kind}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _show_rates(tmp_path)
    assert capsys.readouterr().out.splitlines()[1].split() == ["J", "2", "100%", "0%"]


@pytest.mark.parametrize("package", ["tests", "benchmarks"])
def test_no_measurement_touches_the_files_of_real_runs(package: str) -> None:
    shown = subprocess.check_output(
        [sys.executable, "-c", f"import os, {package}; print(*os.environ)"],
        env={**os.environ, "TAP_AUTOPILOT_DIGESTS": "digests"}, text=True,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert "TAP_AUTOPILOT" not in shown
