"""The demo behind `make answers`: the dbt package's answers for the sample account.

The tap loads two nights of the account into files, which DuckDB reads; dbt builds and tests the
models, and each final model's most telling rows are printed.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.demo import columns, fit, push, run_collector, sync
from tap_autopilot.sandbox.documents import NOW
from tap_autopilot.sandbox.options import Options
from tap_autopilot.sandbox.pushes import Pushing
from tap_autopilot.sandbox.server import Sandbox

ROOT = Path(__file__).parents[1]
DUCKDB = Path(__file__).with_name("duckdb_file.py")
NIGHTS = 2
WIDEST = 34  # column


MESSAGES = """
    select email_subject as subject, campaign_name as journey, delivered, open_rate as opened,
        click_rate as clicked, unsubscribed as unsub
    from autopilot__messages where delivered >= 20 order by click_rate"""
QUESTIONS = {
    "Which journeys work? (autopilot__journeys)": """
        select campaign_name as journey, messages, delivered, open_rate as opened,
            click_rate as clicked, click_to_open_rate as "of opened", unsubscribed as unsub,
            marked_as_spam as spam
        from autopilot__journeys order by click_rate desc""",
    "Which messages got clicks? (autopilot__messages)": f"{MESSAGES} desc limit 4",
    "And which did not?": f"{MESSAGES} limit 4",
    """Is a list decaying? (autopilot__groups)
Active members opened or clicked within 90 days, lapsed ones earlier, the others never;
joined and left are counts of the last 30 days.""": """
        select title as list, members, reachable, active, lapsed, never,
            joined_last_30_days as joined, left_last_30_days as left
        from autopilot__groups where kind = 'list'
        order by joined - "left", lapsed * 1.0 / members desc""",
    "Who has lapsed, but used to click, and can still be reached? (autopilot__contacts)": """
        select email as contact, delivered, opened, clicked,
            strftime(last_opened_at, '%Y-%m-%d') as "last opened", list_count as lists,
            segment_count as segments
        from autopilot__contacts where engagement = 'lapsed' and is_reachable
        order by clicked desc, opened desc, last_opened_at desc limit 6""",
    "Where does mail bounce or land in spam? (autopilot__domains)": """
        select domain, delivered, bounced, bounce_rate as rate, marked_as_spam as spam,
            complaint_rate as "spam rate"
        from autopilot__domains order by complaint_rate desc, bounce_rate desc limit 5""",
    "Which days were the busiest? (autopilot__days)": """
        select day, delivered, opened, clicked, bounced, unsubscribed as unsub
        from autopilot__days order by delivered desc, day desc limit 5""",
}


def main(tap: str, target: str, dbt: str, output: str) -> int:
    """Load the sample account and print the answers. `dbt` is the folder of dbt's programs."""
    folder = Path(output) / "answers"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.is_file():
            old.unlink()
    database = folder / "warehouse.duckdb"
    print(
        f"The tap loads the sample account on {NIGHTS} nights; it changes in between.", flush=True
    )
    code = _load(tap, target, folder)
    if code:
        return code
    python = f"{dbt}/python"
    subprocess.run([python, DUCKDB, "load", database, folder], check=True)  # noqa: S603
    print("$ dbt build", flush=True)
    done = _build(dbt, folder, database)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        return done.returncode
    print(done.stdout.rstrip().rpartition("\n")[2].partition("  ")[2])
    for question, sql in QUESTIONS.items():
        _show(question, _query(python, database, sql))
    print(f"\nThe models are in {database}. For your own tables, see docs/answers.md.")
    return 0


def _load(tap: str, target: str, folder: Path) -> int:
    store, key = folder / "events.db", secrets.token_hex(8)
    with (
        tempfile.TemporaryDirectory() as temporary,
        run_collector(tap, store, key, secrets.token_hex(16)) as url,
        Sandbox(
            Account(),
            Options(churn=1.0, pushing=Pushing(tracking=f"{url}/v1", write_key=key, rate=0)),
        ) as sandbox,
    ):
        for _ in range(NIGHTS):
            if not push(sandbox):
                return 1
            digests = f"{temporary}/digests"
            code = sync(tap, target, folder, sandbox.url, store, DIGESTS=digests)
            if code:
                return code
    return 0


def _build(dbt: str, folder: Path, database: Path) -> subprocess.CompletedProcess[str]:
    output = {"type": "duckdb", "path": str(database.resolve()), "threads": 2}
    # The account's present is long ago. This puts the boundary of `active` 90 days before that.
    active_days = (datetime.now(timezone.utc) - NOW).days + 90
    profile = {"autopilot": {"target": "sample", "outputs": {"sample": output}}}
    (folder / "profiles.yml").write_text(json.dumps(profile))
    return subprocess.run(  # noqa: S603
        [
            f"{dbt}/dbt", "--no-use-colors", "--no-send-anonymous-usage-stats", "build",
            "--project-dir", ROOT / "dbt", "--profiles-dir", folder, "--profile", "autopilot",
            "--target-path", (folder / "target").resolve(), "--log-path", folder.resolve(),
            "--vars", json.dumps({"autopilot_active_days": active_days}),
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip


def _query(python: str, database: Path, sql: str) -> list[dict[str, Any]]:
    done = subprocess.run(  # noqa: S603
        [python, DUCKDB, "query", database],
        input=json.dumps(sql) + "\n",
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def _show(question: str, rows: list[dict[str, Any]]) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    title, _, note = question.partition("\n")
    print(f"\n{bold}{title}{plain}\n{note}\n" if note else f"\n{bold}{title}{plain}\n")
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [min(WIDEST, max(map(columns, column))) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(line, widths, rows[0].values(), strict=True)
        texts = (
            fit(text, width) if isinstance(example, str) else text.rjust(width)
            for text, width, example in cells
        )
        print("  " + "  ".join(texts).rstrip())


def _cell(value: str | int | float | None) -> str:
    """A value as text. All fractions are rates."""
    if isinstance(value, float):
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else value or "–"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
