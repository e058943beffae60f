"""What a release is built from, and with, and what it must not remove, and its archives."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from tap_autopilot.sandbox.account import Account
from tests.conftest import Serve, Tap
from tests.invariants import Run, check
from tools.released import RECORD, broken, contract

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
RELEASED = json.loads(RECORD.read_text(encoding="utf-8"))
PINNED = (ROOT / ".github/release.txt").read_text()

# The first versions without published vulnerabilities, as of PyPI's advisories. The wheels of psycopg
# before 3.3.5 contain libpq 18.0 (CVE-2025-12818) and OpenSSL 3.5.4 (CVE-2025-15467), or older.
SAFE = {"psycopg": "3.3.5", "requests": "2.33.0", "setuptools": "83.0.0", "urllib3": "2.8.0"}


def jobs(name: str) -> dict[str, Any]:
    workflow = yaml.safe_load((ROOT / ".github/workflows" / name).read_text())
    found: dict[str, Any] = workflow["jobs"]
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_to_a_commit(path: Path) -> None:
    uses = re.findall(r"uses: (\S+)(.*)", path.read_text())
    assert uses
    for action, comment in uses:
        assert action.startswith("./") or re.fullmatch(r"[\w/.-]+@[0-9a-f]{40}", action), action
        assert action.startswith("./") or re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action


def test_only_what_is_pinned_by_hash_builds_the_package() -> None:
    build = jobs("release.yml")["build"]
    assert build["permissions"] == {"contents": "read"}
    script = "\n".join(step.get("run", "") for step in build["steps"])
    (install,) = re.findall(r".*\bpip\b.*", script)
    for option in ("--require-hashes", "--only-binary :all:", "--no-deps"):
        assert option in install
    assert "build --no-isolation" in script
    assert "make " not in script
    uploads = [name for name, job in jobs("release.yml").items() if "upload-artifact" in str(job)]
    assert uploads == ["build"]


def test_only_what_the_build_uploaded_is_published() -> None:
    """Any job may upload under any name, so what is published is named by its number."""
    found = jobs("release.yml")
    (upload,) = [one["id"] for one in found["build"]["steps"] if "upload" in one.get("uses", "")]
    number = f"${{{{ steps.{upload}.outputs.artifact-id }}}}"
    assert found["build"]["outputs"] == {"artifact": number}
    for name in ("publish", "announce"):
        job = found[name]
        (download,) = [step for step in job["steps"] if "download" in step.get("uses", "")]
        assert download["with"] == {
            "artifact-ids": "${{ needs.build.outputs.artifact }}",
            "path": "dist/",
            "merge-multiple": True,
        }
        assert "build" in job["needs"]


def test_everything_that_builds_has_a_version_and_hashes() -> None:
    entries = re.split(r"\n(?=\S)", re.sub(r"(?m)^#.*\n", "", PINNED).strip())
    names = set()
    for entry in entries:
        match = re.match(r"([\w.-]+)==[\w.]+ \\\n    --hash=sha256:[0-9a-f]{64}", entry)
        assert match, entry
        names.add(match[1])
    assert names >= {"build", "setuptools", "twine"}


def test_only_the_jobs_that_publish_may_write() -> None:
    for name, job in jobs("release.yml").items():
        rights = {right for right, level in job["permissions"].items() if level == "write"}
        expected = {"publish": {"id-token", "attestations"}, "announce": {"contents"}}
        assert rights == expected.get(name, set()), name
    assert set(jobs("release.yml")["publish"]["needs"]) == {"test", "check", "build"}


def test_no_dependency_may_be_a_version_with_published_vulnerabilities() -> None:
    setup = (ROOT / "setup.py").read_text() + (ROOT / "pyproject.toml").read_text()
    floors = [
        Requirement(one) for one in re.findall(r'"([A-Za-z][\w.-]*(?:\[\w+\])?>=[^"]+)"', setup)
    ]
    assert {one.name for one in floors} >= SAFE.keys()
    for floor in floors:
        version = Version(str(floor.specifier).partition(">=")[2].split(",")[0])
        assert version >= Version(SAFE.get(floor.name, "0")), floor


# What was released


def test_nothing_that_was_released_is_missing() -> None:
    """A change that fails this test needs a new major version."""
    assert broken(RELEASED, contract()) == []


def test_the_record_is_for_this_major_version() -> None:
    assert RELEASED["version"].split(".")[0] == contract()["version"].split(".")[0]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("streams", "lists"), None, "stream lists"),
        (("streams", "lists", "key"), ["title"], "lists: key ['list_id']"),
        (("streams", "contacts", "replication_key"), None, "contacts: replication_key updated_at"),
        (("streams", "contacts", "columns", "email"), None, "contacts.email: null string"),
        (("streams", "contacts", "columns", "created_at"), "null string",
         "contacts.created_at: null string date-time"),
        (("streams", "contacts", "columns", "custom_fields[].kind"), None,
         "contacts.custom_fields[].kind: null string"),
        (("settings", "api_url"), None, "setting api_url: null string"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(path: tuple[str, ...], value: Any, said: str) -> None:
    now = copy.deepcopy(RELEASED)
    part = now
    for name in path[:-1]:
        part = part[name]
    if value is None and path[-1] != "replication_key":
        del part[path[-1]]
    else:
        part[path[-1]] = value
    assert broken(RELEASED, now) == [said]


def test_additions_break_nothing() -> None:
    before = copy.deepcopy(RELEASED)
    del before["streams"]["lists"], before["streams"]["contacts"]["columns"]["email"]
    del before["settings"]["start_date"]
    assert broken(before, RELEASED) == []


# The wheel and the source archive

FOLDERS = (
    "tap_autopilot", "schemas", "docs", "dbt", "benchmarks", "setup.py", "pyproject.toml", "MANIFEST.in",
    "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "sample_config.json",
    "meltano.yml",
)  # fmt: skip
REPOSITORY = "somebody/tap-autopilot"


def build(folder: Path, *options: str, repository: str = "") -> Path:
    """Build from a copy, to leave nothing in the checkout; returns the source archive."""
    source = folder / "source"
    source.mkdir()
    subprocess.run(["cp", "-r", *(str(ROOT / name) for name in FOLDERS), source], check=True)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", folder, source],
        check=True,
        capture_output=True,
        env={**os.environ, "GITHUB_REPOSITORY": repository},
    )
    return next(folder.glob("*.tar.gz"))


def test_the_archives_run_outside_the_checkout(
    tmp_path: Path, tap: Tap, serve: Serve, catalog_text: str
) -> None:
    """The wheel is built from the source archive, as in a release."""
    archive = build(tmp_path)
    wheel = next(tmp_path.glob("*.whl"))
    installed = tmp_path / "installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
         "--target", installed, wheel],
        check=True,
        capture_output=True,
    )  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", archive, wheel],
        check=True,
        capture_output=True,
    )
    for name in ("tap_autopilot/py.typed", "tap_autopilot/schemas/contacts.json"):
        assert (installed / name).is_file()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    config = tap.file("config.json", tap.config(serve(Account(contacts=120))))
    environment = {**os.environ, "PYTHONPATH": str(installed)}

    def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "tap_autopilot", *arguments],
            cwd=elsewhere, env=environment, capture_output=True, check=True,
        )  # fmt: skip

    assert json.loads(run("--discover").stdout) == json.loads(catalog_text)
    done = run("--config", config)
    assert len(check(Run(0, done.stdout, done.stderr.decode())).rows("contacts")) == 120
    check_documentation(archive)


def described(archive: Path) -> tuple[set[str], str]:
    """The names in a source archive, and its metadata."""
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
        metadata = file.extractfile(f"{archive.name.removesuffix('.tar.gz')}/PKG-INFO")
        assert metadata is not None
        return names, metadata.read().decode()


def check_documentation(archive: Path) -> None:
    """The source archive has the documentation, but links to no repository."""
    names, metadata = described(archive)
    linked = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / "README.md").read_text())
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= set(linked)
    assert {link for link in linked if not (ROOT / link).is_dir()} <= names
    assert not any("/target/" in name or name.endswith(".pyc") for name in names)
    assert "Project-URL" not in metadata
    assert "github.com" not in metadata.replace("github.com/MeltanoLabs", "")


def test_a_release_links_to_its_repository(tmp_path: Path) -> None:
    _, metadata = described(build(tmp_path, "--sdist", repository=REPOSITORY))
    version = metadata.partition("\nVersion: ")[2].split()[0]
    assert f"Project-URL: Source, https://github.com/{REPOSITORY}\n" in metadata
    links = re.findall(r"(!?)\[[^]]*\]\(([^)]+)\)", metadata)
    pictures = [link for mark, link in links if mark]
    assert len(pictures) >= 4
    raw = f"https://raw.githubusercontent.com/{REPOSITORY}/v{version}/"
    assert all(link.startswith(raw) for link in pictures)
    assert all(link.startswith("https://") for _, link in links)
    assert f"(https://github.com/{REPOSITORY}/blob/v{version}/docs/monitoring.md)" in metadata


def test_the_release_names_its_repository_in_the_security_policy(tmp_path: Path) -> None:
    workflow = (ROOT / ".github/workflows/release.yml").read_text()
    (command,) = re.findall(r"run: (sed .*SECURITY\.md)", workflow)
    policy = tmp_path / "SECURITY.md"
    policy.write_text((ROOT / "SECURITY.md").read_text())
    environment = {**os.environ, "GITHUB_REPOSITORY": REPOSITORY}
    subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, check=True)
    assert f"`gh attestation verify FILE --repo {REPOSITORY}`" in policy.read_text()
