"""A Singer tap for Autopilot (autopilothq)."""

__version__ = "1.0.0"
