"""The tests, without the settings that the shell has for real runs, such as a digests file."""

import os

for name in [name for name in os.environ if name.startswith("TAP_AUTOPILOT_")]:
    del os.environ[name]
