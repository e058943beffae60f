"""The wheel and the source archive work outside the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tap_autopilot.sandbox.account import Account
from tests.conftest import Serve, Tap
from tests.invariants import Run, check

ROOT = Path(__file__).parents[1]
FOLDERS = ("tap_autopilot", "schemas", "setup.py", "pyproject.toml", "README.md", "LICENSE")


def build(kind: str, folder: Path) -> Path:
    """Build from a copy, to leave nothing in the checkout."""
    source = folder / "source"
    source.mkdir()
    subprocess.run(["cp", "-r", *(str(ROOT / name) for name in FOLDERS), source], check=True)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", folder, source],
        check=True,
        capture_output=True,
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


def test_a_plain_checkout_runs(tmp_path: Path, catalog_text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tap_autopilot", "--discover"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode() == catalog_text
