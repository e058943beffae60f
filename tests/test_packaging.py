"""The wheel and the source archive work outside the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tap_autopilot.sandbox.account import Account
from tests.conftest import Serve, Tap
from tests.invariants import Run, check

ROOT = Path(__file__).parents[1]
FOLDERS = (
    "tap_autopilot", "schemas", "docs", "dbt", "benchmarks", "setup.py", "pyproject.toml", "MANIFEST.in",
    "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "sample_config.json",
    "meltano.yml",
)  # fmt: skip
REPOSITORY = "somebody/tap-autopilot"


def build(kind: str, folder: Path, repository: str = "") -> Path:
    """Build from a copy, to leave nothing in the checkout."""
    source = folder / "source"
    source.mkdir()
    subprocess.run(["cp", "-r", *(str(ROOT / name) for name in FOLDERS), source], check=True)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", folder, source],
        check=True,
        capture_output=True,
        env={**os.environ, "GITHUB_REPOSITORY": repository},
    )
    return next(folder.glob("*.whl" if kind == "wheel" else "*.tar.gz"))


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_the_archives_run_outside_the_checkout(
    kind: str, tmp_path: Path, tap: Tap, serve: Serve, catalog_text: str
) -> None:
    archive = build(kind, tmp_path)
    installed = tmp_path / "installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
         "--no-build-isolation", "--target", installed, archive],
        check=True,
        capture_output=True,
    )  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", archive],
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
    if kind == "sdist":
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
    _, metadata = described(build("sdist", tmp_path, REPOSITORY))
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
