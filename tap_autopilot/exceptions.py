"""The errors, by what can be done about them.

TapError
├── UserError        the user must fix something: exit 2
├── RunError         the run failed, a later one may not: exit 1
│   ├── Refused      the API said no to one request, and would again
│   └── Unreachable  nothing at all can be read from the API
└── Stopped          a signal asked the run to end: exit 128 + signal

Retryable            one try of a request failed in a way that may pass; never leaves the client
"""

from __future__ import annotations


class TapError(Exception):
    """A foreseen end of the run, or of a part of it. Its text is one line for the user."""

    exit_code = 1


class UserError(TapError):
    """Wrong usage, configuration, catalog, state file or API key."""

    exit_code = 2


class RunError(TapError):
    """What was wrong may be over when the tap is run again."""


class Refused(RunError):
    """An answer of 4xx, for good. `status` is the HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        if status == 403:
            self.exit_code = UserError.exit_code


class Unreachable(RunError):
    """The API answers nothing to any walk, so that none can go on."""


class Stopped(TapError):
    """A signal asked the run to end."""

    def __init__(self, signal_number: int, name: str) -> None:
        super().__init__(f"Stopped by {name}; run again with the last STATE to resume.")
        self.exit_code = 128 + signal_number


class Retryable(Exception):
    """A try that failed in a way that may pass.

    `wait` is what the server asked for, in seconds; `throttled` tells a 429 from the rest.
    """

    def __init__(self, text: str, wait: float | None = None, *, throttled: bool = False) -> None:
        super().__init__(text)
        self.wait = wait
        self.throttled = throttled
