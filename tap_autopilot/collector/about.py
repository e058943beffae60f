"""--about: the collector's settings, for people and for tools."""

from __future__ import annotations

import json

from tap_autopilot import __version__
from tap_autopilot.collector.config import CollectorConfig
from tap_autopilot.setting_facts import setting_facts, settings_as_markdown, settings_as_text

NAME = "tap-autopilot-collector"
DESCRIPTION = "HTTP receiver that stores what Autopilot pushes."


def about(form: str | None) -> str:
    """The settings as "text", the default, "json" or "markdown"."""
    settings = setting_facts(CollectorConfig)
    if form == "json":
        facts = {"name": NAME, "description": DESCRIPTION, "version": __version__}
        return json.dumps({**facts, "settings": settings}, indent=2)
    if form == "markdown":
        return "\n".join(settings_as_markdown(settings))
    title = f"{NAME} {__version__}: {DESCRIPTION}"
    return "\n".join([title, "", *settings_as_text(settings)])
