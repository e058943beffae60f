"""The report of a finished run: one JSON object.

It is appended to the file that the settings name, and included in the last log line if logs are
JSON. It contains numbers, names and the CRITICAL line, but no contact data, and never the key.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tap_autopilot import __version__
from tap_autopilot.amounts import amount, duration
from tap_autopilot.exceptions import UserError
from tap_autopilot.files import check_owner, is_same, open_or_create
from tap_autopilot.redaction import redactor
from tap_autopilot.rfc3339 import rfc3339

LOG = logging.getLogger(__name__)

MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


class Report:
    """The report of one run. `facts` returns what the run knows about itself so far."""

    def __init__(self) -> None:
        self.facts: Callable[[], dict[str, Any]] = dict
        self._is_expected = False  # whether there is a run to report
        self._run_id = os.urandom(16).hex()
        self._started_at = datetime.now(timezone.utc)
        self._began = time.monotonic()
        self._file: str | None = None
        self._redact: Callable[[str], str] = str
        self._is_reported = False

    def expect(self, file: Any, inputs: Iterable[str | Path], secrets: Iterable[str] = ()) -> None:
        """Expect a run, with the settings for its report, which are not checked yet.

        Call it again whenever more of them are known. If the `file` is one of those that the run
        reads, or another user may have planted it, nothing is appended to it.
        """
        from tap_autopilot.settings import file_name  # takes a while to import

        self._is_expected, self._file = True, None
        with contextlib.suppress(ValueError, UserError):
            name = file_name(file)
            check_owner(Path(name))
            self._file = name
        if self._file and any(is_same(self._file, other) for other in inputs):
            self._file = None
        self._redact = redactor(*secrets)

    def check(self) -> None:
        """Raise UserError if the file cannot be written."""
        if self._file:
            try:
                os.close(_open(self._file))
            except OSError as problem:
                raise UserError(
                    f"Cannot write the report file {self._file}: {problem.strerror}. Check"
                    " report_file."
                ) from None

    def end(self, message: str | None, exit_code: int) -> dict[str, Any]:
        """End the run: append its report to the file. Returns extra fields for the last log record.

        `message` is the CRITICAL line, if there is one. Only the first call counts. This imports
        nothing, because a signal may have interrupted an import.
        """
        if not self._is_expected or self._is_reported:
            return {}
        self._is_reported = True
        report = {
            "run_id": self._run_id,
            "version": __version__,
            "started_at": rfc3339(self._started_at),
            "ended_at": rfc3339(datetime.now(timezone.utc)),
            "exit_code": exit_code,
            "message": message,
            **self.facts(),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT,
        }
        text = self._redact(json.dumps(report))
        if self._file:
            try:
                _append(self._file, text.encode() + b"\n")
            except OSError as problem:
                LOG.warning("Cannot write the report file %s: %s.", self._file, problem.strerror)
        return {"report": report}

    def complete(self, report: dict[str, Any]) -> str:
        """The last line of a complete run."""
        streams = report["streams"].values()
        rows = sum(stream["rows"] for stream in streams)
        took = duration(time.monotonic() - self._began)
        return f"Complete: {amount(rows, 'row')} in {amount(len(streams), 'table')}, {took}."


def _append(path: str, line: bytes) -> None:
    descriptor = _open(path)
    try:
        written = os.write(descriptor, line)  # one write, because several runs may share the file
        if written < len(line):
            raise OSError(0, f"only {written} of {len(line)} bytes were written")
    finally:
        os.close(descriptor)


def _open(path: str) -> int:
    """Open for appending; a pipe without a reader raises an error instead of blocking."""
    return open_or_create(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK, 0o644)
