"""Measurements beside the peers; `make bench` runs them."""

import tests  # noqa: F401  # drops the settings that the shell has for real runs
