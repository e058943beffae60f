"""An HTTP receiver that stores what Autopilot pushes, and the store that the tap reads."""
