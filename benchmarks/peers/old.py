"""Runs tap-autopilot 0.3.0 against a given URL; with `unlimited`, without its rate limiter."""

import sys

import tap_autopilot

url, limit, *arguments = sys.argv[1:]
tap_autopilot.BASE_URL = url
if limit == "unlimited":
    tap_autopilot.request = tap_autopilot.request.__wrapped__.__wrapped__
sys.argv[1:] = arguments
tap_autopilot.main()
