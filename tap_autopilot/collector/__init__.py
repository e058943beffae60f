"""An HTTP receiver that puts on disk what Autopilot pushes, and the store that the tap reads."""
