"""JSON log lines, read by Meltano's parsers, which differ from version to version."""

from __future__ import annotations

import importlib
import logging
import sys
import types
from typing import Any

import pytest

from tap_autopilot.sandbox.account import Account
from tests.collector.conftest import ROOT
from tests.conftest import Serve, Tap

pytestmark = pytest.mark.targets

PARSERS = ROOT / ".venv-meltano/parsers"  # see the Makefile
VERSIONS = sorted(path.name for path in PARSERS.glob("4.*"))


def parser(version: str) -> Any:
    """The parser of one version: only its two modules, without Meltano's dependencies."""
    name = f"meltano_{version.replace('.', '_')}"
    package = types.ModuleType(name)
    package.__path__ = [str(PARSERS / version / "meltano/core/logging")]
    sys.modules[name] = package
    return importlib.import_module(f"{name}.parsers").SingerSDKLogParser()


def test_the_parsers_are_those_of_the_makefile() -> None:
    """From before and after stream_name became optional."""
    assert f"MELTANOS := {' '.join(VERSIONS)}\n" in (ROOT / "Makefile").read_text()
    required = {"stream_name" in parser(version).required_fields for version in VERSIONS}
    assert required == {True, False}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_line_is_read(tap: Tap, serve: Serve, version: str) -> None:
    sandbox = serve(Account(contacts=250), "/contacts@2:503", "/lists@1:400")
    run = tap.call(sandbox, log_format="json")
    assert run.code == 1
    read = [parser(version).parse(line) for line in run.log]
    assert None not in read
    assert {logging.INFO, logging.WARNING, logging.CRITICAL} <= {one.level for one in read}
    points = [one.extra["metric_info"] for one in read if one.message == "METRIC"]
    counts = {
        one["tags"]["stream"]: one["value"] for one in points if one["metric"] == "record_count"
    }
    assert counts["contacts"] == 250
    assert read[-1].extra["report"]["exit_code"] == 1
