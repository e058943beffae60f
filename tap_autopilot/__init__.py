"""A Singer tap for Autopilot (autopilothq)."""
