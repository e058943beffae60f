"""The dbt package on real databases: every number equals the one computed in Python."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.documents import iso
from tap_autopilot.sandbox.mail import all_occurrences, track_call
from tests import in_process
from tests.collector.conftest import ROOT
from tests.conftest import Serve, Tap
from tests.pushed_store import PushedStore
from tests.recording import Sandbox
from tests.targets.answers import Answers, Night, event_of
from tests.targets.conftest import ENVIRONMENT, Pipeline, Postgres, program
from tests.test_selection import choose

pytestmark = pytest.mark.targets

DBT = ROOT / ".venv-dbt/bin"
WAREHOUSES = ROOT / ".venv-dbt-warehouses/bin"
DUCKDB = ROOT / "tools/duckdb_file.py"
MODELS = [
    one
    for path in sorted((ROOT / "dbt/models").rglob("*.yml"))
    for one in yaml.safe_load(path.read_text()).get("models", ())
]
# Not the zone of the tables: a model that forgets its zone is off by most of a day.
ELSEWHERE = {"TZ": "Pacific/Auckland", "PGTZ": "Pacific/Auckland"}
SCHEMA = json.loads((ROOT / "schemas/contacts.json").read_text())["properties"]
NESTED = [name for name, one in SCHEMA.items() if {"array", "object"} & set(one["type"])]
Rows = dict[str, list[dict[str, Any]]]


class Project:
    """A user's dbt project, with the configuration that docs/answers.md shows."""

    def __init__(self, folder: Path, output: dict[str, Any]) -> None:
        self.folder = folder
        packages, project = re.findall(
            r"```yaml\n(.*?)```", (ROOT / "docs/answers.md").read_text(), re.DOTALL
        )[:2]
        repository = _repository(folder / "repository")
        (folder / "packages.yml").write_text(
            re.sub(r"git: \S+", f"git: {json.dumps(str(repository))}", packages)
        )
        (folder / "dbt_project.yml").write_text(
            "name: warehouse\nversion: 1.0.0\nprofile: warehouse\n" + project
        )
        profile = {"warehouse": {"target": "it", "outputs": {"it": {"threads": 2, **output}}}}
        (folder / "profiles.yml").write_text(yaml.safe_dump(profile))

    def dbt(self, *arguments: str) -> str:
        """Run dbt, for which every warning is an error."""
        done = subprocess.run(
            [DBT / "dbt", "--warn-error", "--no-use-colors", *arguments],
            cwd=self.folder,
            env={**ENVIRONMENT, **ELSEWHERE, "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout[-5000:]
        return done.stdout

    def build(self, schema: str, **variables: str) -> str:
        """Build and test all models from a schema."""
        self.dbt("deps")
        given = json.dumps({"autopilot_schema": schema, **variables})
        said = self.dbt("build", "--select", "autopilot", "--vars", given)
        done = re.search(r"PASS=(\d+) WARN=0 ERROR=0 SKIP=0", said)
        assert done, said
        assert int(done[1]) > len(MODELS) + 30, "the package's tests run too"
        return said


def _repository(folder: Path) -> Path:
    """The package in a repository of its own, with the tag that the docs name."""
    folder.mkdir()
    subprocess.run(["cp", "-r", ROOT / "dbt", folder], check=True)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", "-C", str(folder)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"], ["tag", "v1.0.0"]):
        subprocess.run([*git, *command], check=True)
    return folder


class Living:
    """The sample account, its collector's store, and what was served on each night."""

    def __init__(self, folder: Path) -> None:
        self.account = Account(lists=6, segments=4, members=100)
        self.store = PushedStore(folder / "events.db")
        self.settings = {"collector_database": self.store.path, "digests": str(folder / "digests")}
        self.calls: dict[str, Any] = {}
        self.missed = 0
        self.nights: list[Night] = []
        self._rng = random.Random(1)
        self._told: set[str] = set()
        for number, email in enumerate(("Twin@Example.com ", "twin@example.com", "", " "), 1):
            self.account.create({"contact_id": f"person_0{number}", "Email": email,
                                 "created_at": "2017-01-01T00:00:00Z"})  # fmt: skip
        for days in (1, 89, 91):
            at = int((time.time() - days * 86_400) * 1000)
            event = {f"batchdelivery_A_{at}-0b2c3d4e-5f60-7a8b-9c0d-1e2f3a4b5c6d": at}
            self.account.create({
                "contact_id": f"person_{days}", "Email": f"{days}@Recent.example",
                "created_at": "2017-01-01T00:00:00Z", "mail_received": event, "mail_opened": event,
            })  # fmt: skip

    def push(self) -> None:
        """What happened since is pushed, but the collector misses some of it."""
        new = [one for one in all_occurrences(self.account) if one.message_id not in self._told]
        self._told |= {one.message_id for one in new}
        caught = [one for one in new if self._rng.random() > 0.1]
        self.missed += len(new) - len(caught)
        self._send(*(track_call(self.account.seed, one) for one in caught))

    def push_odd_ones(self) -> None:
        """Pushes about nobody, about people who share an email, and about no message."""
        some = [one for one in all_occurrences(self.account) if one.kind in ("delivered", "opened")]
        ages: list[Any] = []
        for number, one in enumerate(some[:12]):
            told = some[5] if number == 7 else one  # two unknown people, one message
            call = track_call(self.account.seed, told)
            call |= {"messageId": f"odd {number}", "timestamp": iso(datetime.now(timezone.utc))}
            call["context"] = {"traits": {"email": (
                "TWIN@example.com", "stranger@Nowhere.example", "Stranger@nowhere.example ",
            )[number % 3]}}  # fmt: skip
            if number >= 9:
                call["properties"] = {"event": one.kind}
            if number in (5, 7, 8):
                call["context"] = {"traits": {"plan": "free"}}
                call["anonymousId"] = "some-device" if number < 8 else "Stranger@Nowhere.example"
            ages.append(call)
        self._send(*ages)

    def _send(self, *calls: Any) -> None:
        self.calls |= {call["messageId"]: call for call in calls}
        self.store.track(*calls)

    def a_day_goes_by(self) -> None:
        self.account.move_on(1)
        gone = [one for one in self.nights[-1].contacts if one not in self.account]
        assert len(gone) > 10
        self._send(*(  # somebody who is gone opens a message, and only the email says who
            {"type": "track", "event": "Email Opened", "messageId": f"late {one}",
             "timestamp": "2017-02-02T00:00:00Z",
             "context": {"traits": {"email": self.nights[-1].contacts[one]["Email"]}},
             "properties": {}} for one in gone[:3]
        ))  # fmt: skip


def two_nights(living: Living, into: Pipeline, serve: Serve, **how: Any) -> None:
    """Load two nights. `how` has the catalog, or settings."""
    state = None
    living.push()
    living.push_odd_ones()
    for night in range(2):
        if night:
            living.a_day_goes_by()
            living.push()
        state = into.run(serve(living.account), state=state, **how)
        living.nights.append(Night.of(living.account))
    assert living.missed > 100


def check(found: Rows, living: Living, wanted: Rows) -> None:
    """Compare all rows and columns."""
    for model, rows in wanted.items():
        names = list(rows[0])
        assert sorted(names) == sorted(found[model][0]), model
        assert Counter(_line(row, names) for row in found[model]) == Counter(
            _line(row, names) for row in rows
        ), model
    told = wanted["autopilot__contacts"]
    assert {row["engagement"] for row in told} == {"active", "lapsed", "never"}
    assert {row["is_reachable"] for row in told} == {True, False}
    sent = in_process.run(Sandbox(living.account)).rows("contacts")
    assert {row["contact_id"] for row in sent} == living.nights[-1].contacts.keys()
    stored = {row["contact_id"]: row for row in found["stg_autopilot__contacts"]}
    assert stored.keys() == {row["contact_id"] for row in sent}
    for row in sent:
        names = [name for name in row if name != "additional_fields"]
        here = stored[row["contact_id"]]
        assert _line(here, names) == _line(row, names)
        assert _doubles(here["additional_fields"]) == _doubles(row["additional_fields"])


def _doubles(value: Any) -> Any:
    """A value with all numbers as doubles: databases write 1e308 as an integer."""
    return json.loads(json.dumps(value), parse_int=float)


def _line(row: dict[str, Any], names: list[str]) -> tuple[Any, ...]:
    return tuple(_plain(row[name]) for name in names)


def _plain(value: Any) -> Any:
    """Times as text, in UTC."""
    if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d", value):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        moment = value.astimezone(timezone.utc) if value.tzinfo else value
        return moment.isoformat(timespec="milliseconds")[:23]
    return value


def check_events(rows: list[dict[str, Any]], answers: Answers) -> None:
    """Compare the events, and what the pushed ones say."""
    names = ["event", "occurred_at", "person", "email", "email_id"]
    wanted = [
        (
            one.kind,
            one.at,
            answers.person(one),
            one.email,
            answers.ids[one.key] if one.key else None,
        )
        for one in answers.events
    ]
    assert Counter(_line(row, names) for row in rows) == Counter(
        tuple(map(_plain, one)) for one in wanted
    )
    by_id = {row["id"]: row for row in rows}
    assert len(by_id) == len(rows)
    for call in answers.calls or ():
        row, said = by_id[call["messageId"]], call["properties"]
        if event_of(call).kind not in answers.left_out:
            for name in ("email_name", "email_subject", "campaign_id", "campaign_name",
                         "transactional", "link_id", "link_url"):  # fmt: skip
                assert row[name] == said.get(name)


def columns() -> dict[str, list[str]]:
    return {model["name"]: [one["name"] for one in model["columns"]] for model in MODELS}


def test_postgres_with_marks_of_another_name(
    tap: Tap, serve: Serve, postgres: Postgres, tmp_path_factory: Any
) -> None:
    living = Living(tap.folder)
    into = postgres.pipeline("tap_autopilot")
    two_nights(living, into, serve, **living.settings, deleted_at_column="gone_at")
    marked = postgres.query("select 1 from tap_autopilot.contacts where gone_at is not null")
    assert len(marked) > 10
    found = build_in_postgres(
        postgres,
        tmp_path_factory.mktemp("dbt"),
        "tap_autopilot",
        autopilot_deleted_at_column="gone_at",
    )
    answers = Answers(living.nights, living.calls.values())
    check_events(found.pop("stg_autopilot__email_events"), answers)
    check(found, living, answers.tables())


def test_postgres_without_collector_and_digests(
    tap: Tap, serve: Serve, postgres: Postgres, catalog: Any, tmp_path_factory: Any
) -> None:
    """Some tables are not loaded at all; what needs them is null."""
    living = Living(tap.folder)
    for stream in ("email_bounced", "email_replied"):
        choose(catalog, stream, selected=False)
    two_nights(living, postgres.pipeline("plain"), serve, catalog=catalog)
    answers = Answers(living.nights, None, has_changes=False, left_out=("bounced", "replied"))
    wanted = answers.tables()
    assert wanted.pop("autopilot__journeys") == []
    found = build_in_postgres(postgres, tmp_path_factory.mktemp("dbt"), "plain")
    assert found.pop("autopilot__journeys") == []
    check_events(found.pop("stg_autopilot__email_events"), answers)
    check(found, living, wanted)


def build_in_postgres(postgres: Postgres, folder: Path, schema: str, **variables: str) -> Rows:
    project = Project(folder, {"type": "postgres", "schema": "answers", **postgres.parts})
    project.build(schema, **variables)
    found = {model: postgres.query(f"select * from answers.{model}") for model in columns()}
    for model, rows in found.items():
        assert not rows or list(rows[0]) == columns()[model]
    return found


def test_duckdb_also_with_the_sql_of_other_warehouses(
    tap: Tap, serve: Serve, tmp_path_factory: Any
) -> None:
    living = Living(tap.folder)
    folder = tmp_path_factory.mktemp("jsonl")
    into = Pipeline(tap, program("jsonl"), destination_path=str(folder), do_timestamp_file=False)
    two_nights(living, into, serve, **living.settings)
    database = folder / "warehouse.duckdb"
    subprocess.run([DBT / "python", DUCKDB, "load", database, folder], check=True)
    project = Project(tmp_path_factory.mktemp("dbt"), {"type": "duckdb", "path": str(database)})
    project.build("tap_autopilot")
    for warehouse in ("snowflake", "bigquery", "redshift"):
        done = subprocess.run(
            [WAREHOUSES / "python", ROOT / "tests/targets/warehouses.py", warehouse,
             project.folder, database],
            cwd=project.folder, env={**ENVIRONMENT, **ELSEWHERE}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-5000:]
    answers = Answers(living.nights, living.calls.values())
    for schema in ("main", "snowflake", "bigquery", "redshift"):
        found = read_duckdb(database, schema)
        check_events(found.pop("stg_autopilot__email_events"), answers)
        check(found, living, answers.tables())
    for sql in re.findall(
        r"```sql\n(.*?);\n```", (ROOT / "docs/answers.md").read_text(), re.DOTALL
    ):
        assert len(query(database, sql)[0]) > 5


def test_a_wrong_schema_is_told(tmp_path: Path) -> None:
    project = Project(tmp_path, {"type": "duckdb", "path": str(tmp_path / "warehouse.duckdb")})
    said = project.build("elsewhere")
    assert "no tables of tap-autopilot in warehouse.elsewhere" in said
    assert "autopilot_schema" in said
    rows = query(tmp_path / "warehouse.duckdb", *(f"select * from main.{one}" for one in columns()))
    assert rows == [[]] * len(MODELS)


def test_make_answers_shows_every_final_model(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.answers",
         Path(sys.executable).with_name("tap-autopilot"), program("jsonl"), DBT, tmp_path / "output"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert re.search(r"PASS=\d+ WARN=0 ERROR=0 SKIP=0", done.stdout)
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 100
    for model in columns():
        if model.startswith("autopilot__"):
            place = next(number for number, line in enumerate(lines) if f"({model})" in line)
            head = lines.index("", place) + 1  # below the question and what explains it
            assert all(line.startswith("  ") for line in lines[head : head + 4]), model


def query(database: Path, *queries: str) -> list[list[dict[str, Any]]]:
    """The rows of each query."""
    done = subprocess.run(
        [DBT / "python", DUCKDB, "query", database],
        input="\n".join(map(json.dumps, queries)), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def read_duckdb(database: Path, schema: str) -> Rows:
    queries = [f"select * from {schema}.{model}" for model in columns()]
    found = dict(zip(columns(), query(database, *queries), strict=True))
    for model, rows in found.items():
        assert list(rows[0]) == columns()[model]
    for row in found["stg_autopilot__contacts"]:
        row.update({name: json.loads(row[name]) for name in NESTED if row[name]})
    return found
