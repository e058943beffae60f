"""The errors that left streams incomplete."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from tap_autopilot.exceptions import RunError, TapError

LOG = logging.getLogger(__name__)


class Failures:
    """The errors of a run, by the streams that they left incomplete."""

    def __init__(self) -> None:
        self._by_stream: dict[str, list[TapError]] = {}

    def add(self, names: Iterable[str], error: TapError) -> None:
        """Note the error that leaves these streams incomplete."""
        LOG.error("%s", error)
        for name in names:
            self._by_stream.setdefault(name, []).append(error)

    def check(self) -> None:
        """Raise RunError if any stream is incomplete."""
        if not self._by_stream:
            return
        causes: dict[str, list[str]] = {}
        for name, errors in self._by_stream.items():
            more = f" And {len(errors) - 1:,} more" if errors[1:] else ""
            cause = f"{errors[0]}{more}".removesuffix(".")
            causes.setdefault(cause, []).append(name)
        parts = [f"{', '.join(names)} ({cause})" for cause, names in causes.items()]
        problem = RunError(f"Not complete: {'; '.join(parts)}.")
        problem.exit_code = max(
            error.exit_code for errors in self._by_stream.values() for error in errors
        )
        raise problem
