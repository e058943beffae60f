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
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.demo import fit, push, run_collector
from tap_autopilot.sandbox.documents import NOW
from tap_autopilot.sandbox.options import Options
from tap_autopilot.sandbox.pushes import Pushing
from tap_autopilot.sandbox.server import Sandbox

ROOT = Path(__file__).parents[2]
DUCKDB = Path(__file__).with_name("duckdb_file.py")
NIGHTS = 2


class Column(NamedTuple):
    """A column of a printed table; numbers are aligned to the right."""

    title: str
    width: int
    show: Callable[[dict[str, Any]], str]
    is_number: bool = True


def _text(name: str, title: str, width: int) -> Column:
    return Column(title, width, lambda row: row[name] or "–", is_number=False)


def _number(name: str, title: str, width: int = 9) -> Column:
    return Column(title, width, lambda row: "–" if row[name] is None else f"{row[name]:,}")


def _rate(name: str, title: str, width: int = 7, digits: int = 0) -> Column:
    return Column(title, width, lambda row: "–" if row[name] is None else f"{row[name]:.{digits}%}")


MESSAGE = [
    _text("email_subject", "subject", 34), _text("campaign_name", "journey", 20),
    _number("delivered", "delivered"), _rate("open_rate", "opened"), _rate("click_rate", "clicked"),
    _number("unsubscribed", "unsub.", 6),
]  # fmt: skip
MESSAGES = "from autopilot__messages where delivered >= 20 order by click_rate"
QUESTIONS: list[tuple[str, str, list[Column]]] = [
    (
        "Which journeys work? (autopilot__journeys)",
        "from autopilot__journeys order by click_rate desc",
        [
            _text("campaign_name", "journey", 24), _number("messages", "messages"),
            _number("delivered", "delivered"), _rate("open_rate", "opened"),
            _rate("click_rate", "clicked"), _rate("click_to_open_rate", "of opened", 9),
            _number("unsubscribed", "unsub.", 6), _number("marked_as_spam", "spam", 5),
        ],
    ),
    ("Which messages got clicks? (autopilot__messages)", f"{MESSAGES} desc limit 4", MESSAGE),
    ("And which did not?", f"{MESSAGES} limit 4", MESSAGE),
    (
        """Is a list decaying? (autopilot__groups)
Active members opened or clicked within 90 days, lapsed ones earlier, the others never;
joined and left are counts of the last 30 days.""",
        """from autopilot__groups where kind = 'list'
        order by joined_last_30_days - left_last_30_days, lapsed * 1.0 / members desc""",
        [
            _text("title", "list", 24), _number("members", "members"),
            _number("reachable", "reachable"), _number("active", "active", 7),
            _number("lapsed", "lapsed", 7), _number("never", "never", 7),
            _number("joined_last_30_days", "joined", 7), _number("left_last_30_days", "left", 7),
        ],
    ),
    (
        "Who has lapsed, but used to click, and can still be reached? (autopilot__contacts)",
        """from autopilot__contacts where engagement = 'lapsed' and is_reachable
        order by clicked desc, opened desc, last_opened_at desc limit 6""",
        [
            _text("email", "contact", 28), _number("delivered", "delivered"),
            _number("opened", "opened", 7), _number("clicked", "clicked", 7),
            Column("last opened", 11, lambda row: (row["last_opened_at"] or "–")[:10]),
            _number("list_count", "lists", 6), _number("segment_count", "segments", 8),
        ],
    ),
    (
        "Where does mail bounce or land in spam? (autopilot__domains)",
        "from autopilot__domains order by complaint_rate desc, bounce_rate desc limit 5",
        [
            _text("domain", "domain", 28), _number("delivered", "delivered"),
            _number("bounced", "bounced", 7), _rate("bounce_rate", "rate", 6, 1),
            _number("marked_as_spam", "spam", 7), _rate("complaint_rate", "rate", 6, 2),
        ],
    ),
    (
        "Which days were the busiest? (autopilot__days)",
        "from autopilot__days order by delivered desc, day desc limit 5",
        [
            _text("day", "day", 12), _number("delivered", "delivered"),
            _number("opened", "opened", 7), _number("clicked", "clicked", 7),
            _number("bounced", "bounced", 7), _number("unsubscribed", "unsub.", 6),
        ],
    ),
]  # fmt: skip


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
    for question, sql, columns in QUESTIONS:
        _show(question, _query(python, database, f"select * {sql}"), columns)
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
        files = {name: Path(temporary) / f"{name}.json" for name in ("config", "target", "state")}
        files["config"].write_text(json.dumps({
            "api_url": sandbox.url, "api_key": "sandbox", "collector_database": str(store),
            "digests": str(Path(temporary) / "digests"), "log_level": "error",
        }))  # fmt: skip
        files["target"].write_text(
            json.dumps({"destination_path": str(folder), "do_timestamp_file": False})
        )
        files["state"].touch()
        for _ in range(NIGHTS):
            if not push(sandbox):
                print("The collector did not receive all events in time.", file=sys.stderr)
                return 1
            code = _night(tap, target, files)
            if code:
                return code
    return 0


def _night(tap: str, target: str, files: dict[str, Path]) -> int:
    arguments: list[str | Path] = [tap, "--config", files["config"], "--state", files["state"]]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as reading:  # noqa: S603
        writing = subprocess.run(  # noqa: S603
            [target, "--config", files["target"]],
            stdin=reading.stdout,
            capture_output=True,
            check=False,
        )
    if reading.returncode or writing.returncode:
        sys.stderr.buffer.write(writing.stderr)
        return reading.returncode or writing.returncode
    files["state"].write_bytes(writing.stdout.splitlines()[-1])
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


def _show(question: str, rows: list[dict[str, Any]], columns: list[Column]) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    title, _, note = question.partition("\n")
    print(f"\n{bold}{title}{plain}\n{note}\n" if note else f"\n{bold}{title}{plain}\n")
    print("  " + "  ".join(_cell(column, column.title) for column in columns))
    for row in rows:
        print("  " + "  ".join(_cell(column, column.show(row)) for column in columns))


def _cell(column: Column, text: str) -> str:
    return text.rjust(column.width) if column.is_number else fit(text, column.width)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
