"""The tap's settings in Meltano's definitions, written from `Config`.

`python -m tests.definitions --write` updates the files; a test fails where they are out of date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tap_autopilot.about import about

ROOT = Path(__file__).parents[1]

# Not Meltano's decimal: it cannot write the configuration of one that is set.
KINDS = {"string": "string", "number": "integer", "integer": "integer", "boolean": "boolean"}


def definition() -> str:
    """The part of a plugin's definition that follows from the tap, in YAML."""
    facts = json.loads(about("json"))
    lines = [f"capabilities: [{', '.join(facts['capabilities'])}]", "settings_group_validation:"]
    lines += [f"  - [{', '.join(facts['settings']['required'])}]", "settings:"]
    for name, setting in facts["settings"]["properties"].items():
        lines += [f"  - name: {name}", f"    label: {setting['title']}"]
        lines += [f"    kind: {_kind(setting)}"]
        if setting["secret"]:
            lines.append("    sensitive: true")
        if "default" in setting:
            value = json.dumps(setting["default"]).removesuffix(".0")
            lines.append(f"    value: {value}")
        lines.append(f"    description: {json.dumps(setting['description'], ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _kind(setting: dict[str, Any]) -> str:
    if setting.get("format") == "date-time":
        return "date_iso8601"
    kind = setting["type"]
    return KINDS[kind if isinstance(kind, str) else kind[0]]


def files() -> dict[Path, str]:
    """The files that hold the definition, as they should be."""
    plugin, project = ROOT / "docs/meltano/tap-autopilot.yml", ROOT / "meltano.yml"
    head = plugin.read_text(encoding="utf-8").partition("capabilities:")[0]
    before, _, rest = project.read_text(encoding="utf-8").partition("      capabilities:")
    after = rest.partition("  loaders:\n")[2]
    indented = "".join(f"      {line}\n" for line in definition().splitlines())
    return {plugin: head + definition(), project: f"{before}{indented}  loaders:\n{after}"}


def main() -> int:
    """Update the files with --write; otherwise 1 if one is out of date."""
    outdated = {path: text for path, text in files().items() if path.read_text("utf-8") != text}
    for path, text in outdated.items():
        if "--write" in sys.argv:
            path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
    return int(bool(outdated) and "--write" not in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
