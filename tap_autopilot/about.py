"""--about: the tap's settings and streams, for people and for tools."""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

from tap_autopilot import __version__
from tap_autopilot.config import Config
from tap_autopilot.protocol.catalog import replication_methods
from tap_autopilot.setting_facts import setting_facts, settings_as_markdown, settings_as_text
from tap_autopilot.streams import STREAMS

NAME = "tap-autopilot"
CAPABILITIES = (
    "about", "activate-version", "catalog", "discover", "log-based", "properties", "state",
    "structured-logging",
)  # fmt: skip
PYTHON = "Programming Language :: Python :: "


def python_versions() -> list[str]:
    """The Python versions that the installed package is tested with, such as "3.12"."""
    try:
        classifiers = importlib.metadata.metadata(NAME).get_all("Classifier") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    supported = [name for name in classifiers if name.startswith(f"{PYTHON}3.")]
    return [name.removeprefix(PYTHON) for name in supported]


def about(form: str | None) -> str:
    """Settings and streams as "text", the default, "json" or "markdown"."""
    facts = _facts()
    if form == "json":
        return json.dumps(facts, indent=2)
    return _markdown(facts) if form == "markdown" else _text(facts)


def _facts() -> dict[str, Any]:
    return {
        "name": NAME,
        "description": "Singer tap for Autopilot (autopilothq).",
        "version": __version__,
        "supported_python_versions": python_versions(),
        "capabilities": list(CAPABILITIES),
        "settings": setting_facts(Config),
        "streams": [
            {
                "name": name,
                "description": (stream.__doc__ or "").partition("\n")[0],
                "key_properties": list(stream.key_properties),
                "replication_methods": replication_methods(stream),
                "replication_key": stream.replication_key,
                "setting": stream.setting,
            }
            for name, stream in STREAMS.items()
        ],
    }


def _replication(stream: dict[str, Any]) -> str:
    words = {"FULL_TABLE": "full", "LOG_BASED": "log-based",
             "INCREMENTAL": f"incremental by `{stream['replication_key']}`"}  # fmt: skip
    *others, last = (words[method] for method in stream["replication_methods"])
    return f"{', '.join(others)}, or {last}" if others else last


def _description(stream: dict[str, Any]) -> str:
    setting = stream["setting"]
    return f"{stream['description']} Needs `{setting}`." if setting else stream["description"]


def _text(facts: dict[str, Any]) -> str:
    lines = [f"{facts['name']} {facts['version']}: {facts['description']}"]
    lines += ["", f"Python: {', '.join(facts['supported_python_versions'])}"]
    lines += [f"Capabilities: {', '.join(facts['capabilities'])}", ""]
    lines += settings_as_text(facts["settings"])
    lines += ["", "Streams"]
    for stream in facts["streams"]:
        keys = ", ".join(stream["key_properties"])
        lines.append(f"  {stream['name']} (key {keys}; {_replication(stream).replace('`', '')})")
        lines.append(f"      {_description(stream)}")
    return "\n".join(lines)


def _markdown(facts: dict[str, Any]) -> str:
    lines = settings_as_markdown(facts["settings"])
    lines += ["", "| stream | key | replication | description |", "| --- | --- | --- | --- |"]
    for stream in facts["streams"]:
        keys = ", ".join(f"`{key}`" for key in stream["key_properties"])
        lines.append(
            f"| `{stream['name']}` | {keys} | {_replication(stream)} | {_description(stream)} |"
        )
    return "\n".join(lines)
