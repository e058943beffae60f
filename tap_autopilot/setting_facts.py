"""The settings of a program, as --about shows them."""

from __future__ import annotations

import dataclasses
import json
import typing
from datetime import datetime
from typing import Any

from tap_autopilot.settings import OneOf, Settings

_JSON_TYPES = {bool: "boolean", float: "number", int: "integer"}


def setting_facts(settings: type[Settings]) -> dict[str, Any]:
    """A JSON schema of the settings, with their titles, defaults and environment variables."""
    properties, required = {}, []
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        metadata, hint = field.metadata, hints[field.name]
        json_type = _json_type(hint)
        entry: dict[str, Any] = {
            "type": [json_type, "null"],
            **({"format": "date-time"} if datetime in typing.get_args(hint) else {}),
            "title": label(field.name),
            "description": metadata["description"],
            "secret": metadata["secret"],
            "env": settings.variable(field.name),
        }
        if field.default is dataclasses.MISSING:
            required.append(field.name)
            entry["type"] = json_type
        elif field.default not in (None, ()):
            entry["default"] = _plain(field.default)
        if isinstance(metadata["read"], OneOf):
            entry["enum"] = list(metadata["read"].choices)
        properties[field.name] = entry
    return {"type": "object", "properties": properties, "required": required}


def _json_type(hint: Any) -> str:
    """The JSON type of a setting, given the type of its value."""
    parts = typing.get_args(hint) or (hint,)
    if typing.get_origin(hint) is tuple:
        return "array" if parts[-1] is ... else "string"  # "string": a host and a port
    return _JSON_TYPES.get(parts[0], "string")


def label(name: str) -> str:
    """A setting's human-readable name: "API key"."""
    words = name.replace("_", " ").replace("api", "API").replace("url", "URL")
    return words[0].upper() + words[1:]


def settings_as_text(facts: dict[str, Any]) -> list[str]:
    """Two lines for each setting."""
    lines = ["Settings"]
    for name, setting in facts["properties"].items():
        json_type = setting["type"] if isinstance(setting["type"], str) else setting["type"][0]
        secret = "secret" if setting["secret"] else ""
        notes = filter(None, [json_type, secret, _default(name, facts), setting["env"]])
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
