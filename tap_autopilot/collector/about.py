"""--about: the collector's settings, for people and for tools."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from tap_autopilot import __version__
from tap_autopilot.collector.config import CollectorConfig

NAME = "tap-autopilot-collector"


def about(form: str) -> str:
    """The settings as "text", "json" or "markdown"."""
    settings = {field.name: _setting(field) for field in dataclasses.fields(CollectorConfig)}
    if form == "json":
        facts = {
            "name": NAME,
            "description": "HTTP receiver that stores what Autopilot pushes.",
            "version": __version__,
            "settings": {"type": "object", "properties": settings, "required": []},
        }
        return json.dumps(facts, indent=2)
    if form == "markdown":
        lines = ["| setting | default | description |", "| --- | --- | --- |"]
        for name, one in settings.items():
            default = f"`{one['default']}`" if "default" in one else ""
            lines.append(f"| `{name}` | {default} | {one['description']} |")
        return "\n".join(lines)
    lines = [
        f"{NAME} {__version__}: an HTTP receiver that stores what Autopilot pushes",
        "",
        "Settings",
    ]
    for name, one in settings.items():
        notes = [one["type"][0], *["secret"][: one["secret"]]]
        notes += [str(one["default"])] if "default" in one else []
        lines += [f"  {name} ({', '.join([*notes, one['env']])})", f"      {one['description']}"]
    return "\n".join(lines)


def _setting(field: dataclasses.Field[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": [field.metadata["kind"], "null"],
        "description": field.metadata["description"],
        "secret": field.metadata["secret"],
        "env": CollectorConfig.variable(field.name),
    }
    if field.name == "listen":
        found["default"] = ":".join(map(str, field.default))  # type: ignore[arg-type]
    elif field.default not in ((), None):
        whole = isinstance(field.default, float) and field.default.is_integer()
        found["default"] = int(field.default) if whole else field.default  # type: ignore[arg-type]
    return found
