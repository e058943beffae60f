"""A fake Autopilot API with a made-up account, on loopback only."""
