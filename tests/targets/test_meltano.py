"""The tap in a real Meltano project: this repository's, with plugins that are already installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tap_autopilot.about import about
from tap_autopilot.sandbox.account import Account
from tap_autopilot.sandbox.mail import all_occurrences, track_call
from tap_autopilot.streams import EMAILS
from tests.collector.conftest import ROOT
from tests.conftest import KEY, Serve
from tests.pushed_store import PushedStore
from tests.recording import Sandbox
from tests.replica import everything
from tests.targets.conftest import program
from tests.targets.loaded import keys

pytestmark = pytest.mark.targets

ACCOUNT = Account(contacts=450, segments=3, members=150)


class Project:
    """A copy of the project that reads from a sandbox; its hub does not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        text = (ROOT / "meltano.yml").read_text()
        tap = Path(sys.executable).with_name("tap-autopilot")
        for url, name, ours in (
            ("-e .", "tap-autopilot", tap),
            ("target-jsonl", "target-jsonl", program("jsonl")),
        ):
            plugin = f"      pip_url: {url}\n      executable: {name}\n"
            assert plugin in text
            text = text.replace(plugin, f"      executable: {ours}\n")
        (folder / "meltano.yml").write_text(text)
        (folder / "output-meltano").mkdir()

    def meltano(
        self, sandbox: Sandbox, *arguments: str, **settings: Any
    ) -> subprocess.CompletedProcess[str]:
        settings = {"api_key": KEY, "api_url": sandbox.url, "max_requests_per_second": 500,
                    "retry_timeout": 1, **settings}  # fmt: skip
        return subprocess.run(
            [ROOT / ".venv-meltano/bin/meltano", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "MELTANO_HUB_URL": "http://127.0.0.1:9",
                "NO_COLOR": "1",
                **{f"TAP_AUTOPILOT_{name.upper()}": str(one) for name, one in settings.items()},
            },
        )

    def run(self, sandbox: Sandbox, *options: str, fails: bool = False, **settings: Any) -> str:
        """Run the pipeline. Returns what it logs."""
        plugins = ("tap-autopilot", "target-jsonl")
        done = self.meltano(sandbox, "run", *options, *plugins, **settings)
        assert (done.returncode != 0) == fails, done.stderr
        assert KEY not in done.stdout + done.stderr
        return done.stderr

    def stored(self) -> dict[str, list[dict[str, Any]]]:
        return {
            file.stem: [json.loads(line) for line in file.read_text().splitlines()]
            for file in (self.folder / "output-meltano").iterdir()
        }

    def forget(self) -> None:
        shutil.rmtree(self.folder / "output-meltano")
        (self.folder / "output-meltano").mkdir()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_run_an_interrupted_run_and_a_full_refresh(project: Project, serve: Serve) -> None:
    sandbox, broken = serve(ACCOUNT), serve(ACCOUNT, "/contacts@4-:500")
    log = project.run(sandbox)
    assert keys(project.stored()) == everything(ACCOUNT)
    assert "[info     ] tap-autopilot contacts: 450 rows" in log, "read as a structured log"

    project.forget()
    project.run(broken, fails=True)
    assert 0 < len(project.stored()["contacts"]) < 450
    before = len(sandbox.requests)
    project.run(sandbox)
    asked = [one.path for one in sandbox.requests[before:] if one.path.startswith("/v1/contacts")]
    assert asked[0] != "/v1/contacts", "it resumes"
    assert {row["contact_id"] for row in project.stored()["contacts"]} == set(ACCOUNT.contact_ids)

    project.forget()
    project.run(broken, fails=True)
    project.forget()
    project.run(sandbox, "--full-refresh")
    assert keys(project.stored()) == everything(ACCOUNT)

    project.forget()
    project.run(sandbox)
    assert keys(project.stored()) == everything(ACCOUNT), "the interrupted pass is forgotten"


def test_events_are_loaded_between_the_nights(project: Project, serve: Serve) -> None:
    """As docs/collector.md says: two jobs, one pipeline, one state."""
    logs: dict[str, Any] = {
        "_select_filter": '["email_*", "contact_events", "activities"]',
        "_metadata": '{"*": {"replication-method": "LOG_BASED"}}',
    }
    account = Account(contacts=150, segments=1, odd=False)
    pushed = [track_call(account.seed, one) for one in all_occurrences(account)]
    store = PushedStore(project.folder / "events.db")
    sandbox = serve(account)
    settings: dict[str, Any] = {"collector_database": store.path}
    store.webhook(pushed[:20], at=0)
    project.run(sandbox, **settings)
    store.webhook(pushed, at=0)
    project.forget()
    before = len(sandbox.requests)
    for new in (pushed[20:], []):
        project.run(sandbox, **settings, **logs)
        assert len(sandbox.requests) == before
        rows = [row["id"] for name, rows in project.stored().items()
                if name != "email_messages" for row in rows]  # fmt: skip
        assert sorted(rows) == sorted(one["messageId"] for one in new)
        project.forget()
    project.run(sandbox, **settings)
    stored = project.stored()
    assert len(stored["contacts"]) == 150
    assert {row["id"] for name in EMAILS for row in stored[name]} == {
        one["messageId"] for one in pushed
    }


def test_a_full_refresh_of_another_table_does_not_confuse_an_interrupted_pass(
    project: Project, serve: Serve
) -> None:
    """Meltano merges the state of the full refresh into that of the interrupted run."""

    def select(stream: str) -> dict[str, Any]:
        return {"_select": json.dumps([f"{stream}.*"])}

    sandbox = serve(ACCOUNT)
    project.run(serve(ACCOUNT, "/contacts@2-:500"), **select("contacts"), fails=True)
    first = {row["contact_id"] for row in project.stored()["contacts"]}
    broken = serve(ACCOUNT, "/contacts@4-:500")
    project.run(broken, "--full-refresh", fails=True, **select("lists_contacts"))
    log = project.run(sandbox, **select("contacts"))
    assert "contacts: cannot resume from the state; starting over" in log
    rows = project.stored()["contacts"][len(first) :]
    assert {row["contact_id"] for row in rows} == set(ACCOUNT.contact_ids)


def test_config_test_and_select(project: Project, serve: Serve) -> None:
    sandbox = serve(ACCOUNT)
    assert project.meltano(sandbox, "config", "test", "tap-autopilot").returncode == 0
    assert project.meltano(sandbox, "invoke", "tap-autopilot", "--test").returncode == 0
    wrong = project.meltano(sandbox, "config", "test", "tap-autopilot", api_key="wrong")
    assert wrong.returncode != 0
    elsewhere = sandbox.url.removesuffix("/v1")
    assert project.meltano(
        sandbox, "config", "test", "tap-autopilot", api_url=elsewhere
    ).returncode  # fmt: skip
    shown = project.meltano(sandbox, "config", "list", "tap-autopilot", "--all").stdout
    assert KEY not in shown
    assert "api_key [env: TAP_AUTOPILOT_API_KEY]" in shown
    for choice in (("contacts", "contact_id"), ("contacts", "first_name"), ("lists", "*")):
        assert project.meltano(sandbox, "select", "tap-autopilot", *choice).returncode == 0
    assert "first_name" in project.meltano(sandbox, "select", "tap-autopilot", "--list").stdout
    project.run(sandbox)
    stored = project.stored()
    assert set(stored) == {"contacts", "lists"}
    assert all(set(row) == {"contact_id", "first_name"} for row in stored["contacts"])


def test_text_columns_and_the_undoing_of_a_selection(project: Project, serve: Serve) -> None:
    sandbox = serve(ACCOUNT)
    choose = ("select", "tap-autopilot", "contacts", "custom_fields")
    assert project.meltano(sandbox, *choose, nested_as_text=True).returncode == 0
    project.run(sandbox, nested_as_text=True)
    texts = [row["custom_fields"] for row in project.stored()["contacts"]]
    assert all(json.loads(text) is not None for text in texts if text is not None)
    assert any(texts)
    project.forget()
    assert project.meltano(sandbox, *choose, "--remove").returncode == 0
    log = project.run(sandbox, "--full-refresh")
    assert not project.stored()
    assert 'meltano select tap-autopilot "*" "*"' in log
    path = project.folder / "meltano.yml"
    text, undone = re.subn(r"\n *select: \[\]\n", "\n", path.read_text())
    assert undone == 1
    path.write_text(text)
    project.run(sandbox)
    assert keys(project.stored()) == everything(ACCOUNT)


def test_incremental_replication_set_in_the_project(project: Project, serve: Serve) -> None:
    account = Account(contacts=300, segments=1, odd=False)
    sandbox = serve(account)
    chosen = {"replication-method": "INCREMENTAL", "replication-key": "updated_at"}
    path = project.folder / "meltano.yml"
    definition = yaml.safe_load(path.read_text())
    definition["plugins"]["extractors"][0]["metadata"] = {"contacts": chosen}
    path.write_text(yaml.safe_dump(definition))
    project.run(sandbox)
    account.move_on(1)
    project.forget()
    project.run(sandbox)
    changed = {one for one in account.contact_ids if one in account.changed}
    sent = {row["contact_id"] for row in project.stored()["contacts"]}
    assert changed <= sent
    assert len(sent) <= len(changed) + 1


def loaded(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def test_both_definitions_match_about() -> None:
    facts = json.loads(about("json"))
    project = loaded("meltano.yml")["plugins"]["extractors"][0]
    reference = loaded("docs/meltano/tap-autopilot.yml")
    # not "decimal": Meltano cannot write the config if such a setting has a value
    kinds = {"string": "string", "number": "integer", "integer": "integer", "boolean": "boolean"}
    for definition in (project, reference):
        assert definition["capabilities"] == facts["capabilities"]
        assert [one["name"] for one in definition["settings"]] == sorted(
            facts["settings"]["properties"]
        )
        for one in definition["settings"]:
            setting = facts["settings"]["properties"][one["name"]]
            kind = setting["type"] if isinstance(setting["type"], str) else setting["type"][0]
            wanted = "date_iso8601" if setting.get("format") else kinds[kind]
            assert one["kind"] == ("options" if "enum" in setting else wanted)
            assert [each["value"] for each in one.get("options", [])] == setting.get("enum", [])
            assert one["label"] == setting["title"]
            assert one["description"] == setting["description"]
            assert one.get("sensitive", False) == setting["secret"]
            assert one.get("value") == setting.get("default")


HUB: dict[str, Any] = {  # what the hub requires and Meltano does not know
    "domain_url": str,
    "keywords": list,
    "maintenance_status": ("active", "beta", "development", "inactive", "unknown"),
    "quality": ("gold", "silver", "bronze", "unknown"),
    "supported_python_versions": list,
}
VALIDATE = """
import json, sys
from importlib.resources import files
from jsonschema import Draft202012Validator
schema = json.loads(files("meltano.schemas").joinpath("meltano.schema.json").read_text())
validator = Draft202012Validator(schema)
print(json.dumps([error.message for error in validator.iter_errors(json.load(sys.stdin))]))
"""


def validated(project: Any) -> Any:
    """The errors that Meltano's own JSON schema finds in a project."""
    done = subprocess.run(
        [ROOT / ".venv-meltano/bin/python", "-c", VALIDATE],
        input=json.dumps(project), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_both_definitions_are_valid_and_ready_for_the_hub() -> None:
    reference = loaded("docs/meltano/tap-autopilot.yml")
    ours = {name: reference.pop(name) for name in HUB}
    assert validated(loaded("meltano.yml")) == []
    assert validated({"plugins": {"extractors": [reference]}}) == []
    assert validated({"plugins": {"extractors": [{**reference, "settings": 5}]}}), "it can fail"
    assert {"name", "namespace", "variant"} <= reference.keys()
    for name, wanted in HUB.items():
        value = ours[name]
        assert value in wanted if isinstance(wanted, tuple) else isinstance(value, wanted)
    assert re.fullmatch(r"(3\.\d+ ?)+", " ".join(ours["supported_python_versions"]))
    text = (ROOT / "docs/meltano/tap-autopilot.yml").read_text()
    keys = re.findall(r"^(\w+):", text, re.MULTILINE)
    assert keys == sorted(keys)


def test_the_definition_can_be_added_by_reference(project: Project, serve: Serve) -> None:
    text = (project.folder / "meltano.yml").read_text()
    start, end = text.index("  extractors:"), text.index("  loaders:")
    (project.folder / "meltano.yml").write_text(text[:start] + text[end:])
    reference = ROOT / "docs/meltano/tap-autopilot.yml"
    options = ("--plugin-type", "extractor", "--no-install", "--from-ref", str(reference))
    done = project.meltano(serve(), "add", "tap-autopilot", *options)
    assert done.returncode == 0, done.stderr
    assert "tap-autopilot" in (project.folder / "meltano.yml").read_text()
