"""The settings of a program, as --about shows them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from tap_autopilot.settings import OneOf, Settings

_TYPES: dict[str, dict[str, Any]] = {
    "string": {"type": ["string", "null"]},
    "date_iso8601": {"type": ["string", "null"], "format": "date-time"},
    "array": {"type": ["array", "null"]},
    "number": {"type": ["number", "null"]},
    "integer": {"type": ["integer", "null"]},
    "boolean": {"type": ["boolean", "null"]},
}


def setting_facts(settings: type[Settings]) -> dict[str, Any]:
    """A JSON schema of the settings, with their titles, defaults and environment variables."""
    properties, required = {}, []
    for field in dataclasses.fields(settings):
        metadata = field.metadata
        entry: dict[str, Any] = {
            **_TYPES[metadata["kind"]],
            "title": label(field.name),
            "description": metadata["description"],
            "secret": metadata["secret"],
            "env": settings.variable(field.name),
        }
        if field.default is dataclasses.MISSING:
            required.append(field.name)
            entry["type"] = metadata["kind"]
        elif field.default not in (None, ()):
            entry["default"] = _plain(field.default)
        if isinstance(metadata["read"], OneOf):
            entry["enum"] = list(metadata["read"].choices)
        properties[field.name] = entry
    return {"type": "object", "properties": properties, "required": required}


def label(name: str) -> str:
    """A setting's human-readable name: "API key"."""
    words = name.replace("_", " ").replace("api", "API").replace("url", "URL")
    return words[0].upper() + words[1:]


def settings_as_text(facts: dict[str, Any]) -> list[str]:
    """Two lines for each setting."""
    lines = ["Settings"]
    for name, setting in facts["properties"].items():
        kind = setting["type"] if isinstance(setting["type"], str) else setting["type"][0]
        secret = "secret" if setting["secret"] else ""
        notes = filter(None, [kind, secret, _default(name, facts), setting["env"]])
        lines += [f"  {name} ({', '.join(notes)})", f"      {setting['description']}"]
    return lines


def settings_as_markdown(facts: dict[str, Any]) -> list[str]:
    """The lines of a table."""
    lines = ["| setting | default | description |", "| --- | --- | --- |"]
    for name, setting in facts["properties"].items():
        default = _default(name, facts)
        shown = f"`{default}`" if isinstance(setting.get("default"), str) else default
        lines.append(f"| `{name}` | {shown} | {setting['description']} |")
    return lines


def _plain(default: Any) -> Any:
    """A default as in a file: a whole number as an integer, an address as text."""
    if isinstance(default, tuple):
        return ":".join(map(str, default))
    return int(default) if isinstance(default, float) and default.is_integer() else default


def _default(name: str, facts: dict[str, Any]) -> str:
    if name in facts["required"]:
        return "required"
    default = facts["properties"][name].get("default", "")
    return default if isinstance(default, str) else json.dumps(default)
