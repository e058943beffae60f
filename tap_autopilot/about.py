"""--about: the tap's settings and streams, for people and for tools."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from typing import Any

from tap_autopilot import __version__
from tap_autopilot.config import Config
from tap_autopilot.protocol.catalog import replication_methods
from tap_autopilot.settings import OneOf
from tap_autopilot.streams import STREAMS

NAME = "tap-autopilot"
CAPABILITIES = (
    "about", "activate-version", "catalog", "discover", "log-based", "properties", "state",
    "structured-logging",
)  # fmt: skip
PYTHON = "Programming Language :: Python :: "
_JSON_TYPES: dict[str, dict[str, Any]] = {
    "string": {"type": ["string", "null"]},
    "date_iso8601": {"type": ["string", "null"], "format": "date-time"},
    "number": {"type": ["number", "null"]},
    "integer": {"type": ["integer", "null"]},
    "boolean": {"type": ["boolean", "null"]},
}


def python_versions() -> list[str]:
    """The Python versions that the installed package is tested with, such as "3.12"."""
    try:
        classifiers = importlib.metadata.metadata(NAME).get_all("Classifier") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [one.removeprefix(PYTHON) for one in classifiers if one.startswith(f"{PYTHON}3.")]


def about(form: str | None) -> str:
    """Settings and streams as "text", the default, "json" or "markdown"."""
    facts = _facts()
    if form == "json":
        return json.dumps(facts, indent=2)
    return _markdown(facts) if form == "markdown" else _text(facts)


def label(name: str) -> str:
    """A setting's human-readable name: "API key"."""
    words = name.replace("_", " ").replace("api", "API").replace("url", "URL")
    return words[0].upper() + words[1:]


def _facts() -> dict[str, Any]:
    properties, required = {}, []
    for field in dataclasses.fields(Config):
        metadata = field.metadata
        entry: dict[str, Any] = {
            **_JSON_TYPES[metadata["kind"]],
            "title": label(field.name),
            "description": metadata["description"],
            "secret": metadata["secret"],
            "env": Config.variable(field.name),
        }
        if field.default is dataclasses.MISSING:
            required.append(field.name)
            entry["type"] = metadata["kind"]
        elif field.default is not None:
            entry["default"] = _plain(field.default)
        if isinstance(metadata["read"], OneOf):
            entry["enum"] = list(metadata["read"].choices)
        properties[field.name] = entry
    return {
        "name": NAME,
        "description": "Singer tap for Autopilot (autopilothq).",
        "version": __version__,
        "supported_python_versions": python_versions(),
        "capabilities": list(CAPABILITIES),
        "settings": {"type": "object", "properties": properties, "required": required},
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


def _plain(default: Any) -> Any:
    """A whole number as an integer, whatever the setting's type; anything else unchanged."""
    return int(default) if isinstance(default, float) and default.is_integer() else default


def _default(name: str, setting: dict[str, Any], required: list[str]) -> str:
    if name in required:
        return "required"
    default = setting.get("default", "")
    return default if isinstance(default, str) else json.dumps(default)


def _replication(stream: dict[str, Any]) -> str:
    words = {"FULL_TABLE": "full", "LOG_BASED": "log-based",
             "INCREMENTAL": f"incremental by `{stream['replication_key']}`"}  # fmt: skip
    *others, last = (words[method] for method in stream["replication_methods"])
    return f"{', '.join(others)}, or {last}" if others else last


def _description(stream: dict[str, Any]) -> str:
    setting = stream["setting"]
    return f"{stream['description']} Needs `{setting}`." if setting else stream["description"]


def _text(facts: dict[str, Any]) -> str:
    settings = facts["settings"]
    lines = [f"{facts['name']} {facts['version']}: {facts['description']}"]
    lines += ["", f"Python: {', '.join(facts['supported_python_versions'])}"]
    lines += [f"Capabilities: {', '.join(facts['capabilities'])}", "", "Settings"]
    for name, setting in settings["properties"].items():
        default = _default(name, setting, settings["required"])
        kind = setting["type"] if isinstance(setting["type"], str) else setting["type"][0]
        secret = "secret" if setting["secret"] else ""
        notes = filter(None, [kind, secret, default, setting["env"]])
        lines += [f"  {name} ({', '.join(notes)})", f"      {setting['description']}"]
    lines += ["", "Streams"]
    for stream in facts["streams"]:
        keys = ", ".join(stream["key_properties"])
        lines.append(f"  {stream['name']} (key {keys}; {_replication(stream).replace('`', '')})")
        lines.append(f"      {_description(stream)}")
    return "\n".join(lines)


def _markdown(facts: dict[str, Any]) -> str:
    settings = facts["settings"]
    lines = ["| setting | default | description |", "| --- | --- | --- |"]
    for name, setting in settings["properties"].items():
        default = _default(name, setting, settings["required"])
        text = isinstance(setting.get("default"), str)
        shown = f"`{default}`" if text else default
        lines.append(f"| `{name}` | {shown} | {setting['description']} |")
    lines += ["", "| stream | key | replication | description |", "| --- | --- | --- | --- |"]
    for stream in facts["streams"]:
        keys = ", ".join(f"`{key}`" for key in stream["key_properties"])
        lines.append(
            f"| `{stream['name']}` | {keys} | {_replication(stream)} | {_description(stream)} |"
        )
    return "\n".join(lines)
