"""`python -m tap_autopilot.collector` is `tap-autopilot-collector`."""

import sys

from tap_autopilot.collector.cli import main

sys.exit(main())
