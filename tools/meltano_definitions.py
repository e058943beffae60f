"""The tap's definitions for Meltano, generated from `--about`.

`docs/meltano/tap-autopilot.yml` is ready for Meltano's hub, which wants everything sorted by name.
`python -m tools.meltano_definitions --write` updates the files; a test fails if they are outdated.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tap_autopilot.about import about
from tap_autopilot.setting_facts import label

ROOT = Path(__file__).parents[1]

PLUGIN = {
    "description": "Marketing automation (autopilothq)",
    "executable": "tap-autopilot",
    "label": "Autopilot",
    "name": "tap-autopilot",
    "namespace": "tap_autopilot",
    "pip_url": "tap-autopilot>=1.0",
    "variant": "singer-io",
}
# Facts that only the hub needs; `quality` is the hub's present rating.
HUB = {
    "domain_url": "https://autopilotapp.com/",
    "keywords": ["api", "marketing automation"],
    "logo_url": "/assets/logos/extractors/autopilot.png",
    "maintenance_status": "active",
    "quality": "bronze",
}

# Not "decimal": Meltano cannot write the config if such a setting has a value.
KINDS = {"string": "string", "number": "integer", "integer": "integer", "boolean": "boolean"}


def definition() -> dict[str, Any]:
    """The part of the plugin's definition that depends on the tap."""
    facts = json.loads(about("json"))
    settings = facts["settings"]
    return {
        "capabilities": sorted(facts["capabilities"]),
        "settings": [_setting(name, one) for name, one in sorted(settings["properties"].items())],
        "settings_group_validation": [sorted(settings["required"])],
    }


def hub_definition() -> dict[str, Any]:
    """The whole definition, in the hub's format."""
    versions = json.loads(about("json"))["supported_python_versions"]
    return {**PLUGIN, **HUB, **definition(), "supported_python_versions": versions}


def _setting(name: str, facts: dict[str, Any]) -> dict[str, Any]:
    found = {
        "name": name,
        "label": facts["title"],
        "kind": _kind(facts),
        "description": facts["description"],
    }
    if facts["secret"]:
        found["sensitive"] = True
    if "default" in facts:
        found["value"] = facts["default"]
    if "enum" in facts:
        found["options"] = [{"label": label(one), "value": one} for one in facts["enum"]]
    return found


def _kind(facts: dict[str, Any]) -> str:
    if facts.get("format") == "date-time":
        return "date_iso8601"
    if "enum" in facts:
        return "options"
    kind = facts["type"]
    return KINDS[kind if isinstance(kind, str) else kind[0]]


def yaml(value: Any, indent: str = "") -> Iterator[str]:
    """The lines of a map in YAML, with sorted keys. Lists contain maps, lists or text."""
    for key, part in sorted(value.items()):
        if not isinstance(part, list):
            yield f"{indent}{key}: {_scalar(part)}"
            continue
        yield f"{indent}{key}:"
        for item in part:
            if isinstance(item, dict):
                first, *rest = yaml(item, f"{indent}  ")
                yield f"{indent}- {first.strip()}"
                yield from rest
            else:
                shown = f"[{', '.join(item)}]" if isinstance(item, list) else _scalar(item)
                yield f"{indent}- {shown}"


def _scalar(value: Any) -> str:
    plain = isinstance(value, str) and value.replace("-", "").replace("_", "").isalpha()
    return str(value) if plain else json.dumps(value, ensure_ascii=False)


def files() -> dict[Path, str]:
    """The files with the definition, and the text each should have."""
    plugin, project = ROOT / "docs/meltano/tap-autopilot.yml", ROOT / "meltano.yml"
    head = plugin.read_text(encoding="utf-8").partition("\n")[0]
    before, _, rest = project.read_text(encoding="utf-8").partition("      capabilities:")
    after = rest.partition("  loaders:\n")[2]
    indented = "".join(f"{line}\n" for line in yaml(definition(), "      "))
    return {
        plugin: "\n".join([head, *yaml(hub_definition())]) + "\n",
        project: f"{before}{indented}  loaders:\n{after}",
    }


def main() -> int:
    """Update the files with --write; otherwise return 1 if any is out of date."""
    outdated = {path: text for path, text in files().items() if path.read_text("utf-8") != text}
    for path, text in outdated.items():
        if "--write" in sys.argv:
            path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
    return int(bool(outdated) and "--write" not in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
