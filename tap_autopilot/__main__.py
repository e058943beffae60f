"""`python -m tap_autopilot`."""

from __future__ import annotations

import sys

from tap_autopilot.cli import main

sys.exit(main())
