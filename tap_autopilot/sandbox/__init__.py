"""A stand-in for the Autopilot API with an invented account, on this machine only."""
