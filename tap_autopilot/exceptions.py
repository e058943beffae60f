"""The errors, by how to recover from them.

TapError
├── UserError              the user must fix something: exit 2
│   └── InUse              another collector uses the store (collector.store)
├── RunError               the run failed; a later run may succeed: exit 1
│   ├── Refused            the API refused one request, and a retry would not help
│   │   └── Outdated       its bookmark, if it has one, may be outdated
│   │       └── Gone       what it asked for, such as a segment, may have been deleted
│   ├── Unreachable        the API does not respond at all
│   ├── NotTried           a walk was cancelled before it began (sources.pool)
│   ├── Unavailable        nothing can be stored right now (collector.store)
│   └── StoreLost          the collector must restart (collector.store)
└── Stopped                a signal asked the run to end: exit 128 + signal

Retryable                  one attempt at a request failed; never leaves the client
└── StaleConnection        the server had closed the connection (api.connection)
Oversized                  a response is too large to process; never leaves the client

Any other exception stays in the module that raises it, or is a ValueError that its caller handles.
"""

from __future__ import annotations

import signal


class TapError(Exception):
    """An anticipated failure of the run, or of part of it. Its text is one line for the user."""

    exit_code = 1


class UserError(TapError):
    """Wrong usage, configuration, catalog, state file or API key."""

    exit_code = 2


class RunError(TapError):
    """The run failed; another run may succeed."""


class Refused(RunError):
    """A 4xx response that a retry would not change. `status` is the HTTP status."""

    def __init__(self, status: int, text: str, exit_code: int = RunError.exit_code) -> None:
        super().__init__(text)
        self.status = status
        self.exit_code = exit_code


class Outdated(Refused):
    """A status with which the API may reject the path of something deleted, or its bookmark."""


class Gone(Outdated):
    """Status 404: the path is wrong, or of a deleted segment."""


class Unreachable(RunError):
    """The API does not respond to any walk, so no walk can continue."""


class Stopped(TapError):
    """A signal asked the run to end."""

    def __init__(self, number: int) -> None:
        super().__init__(
            f"Stopped by {signal.Signals(number).name}; to resume, run again with the last STATE"
            " that the target printed."
        )
        self.exit_code = 128 + number


class Retryable(Exception):
    """An attempt failed, but a retry may succeed.

    `wait` is how many seconds the server asked for; `throttled` is whether the status was 429.
    """

    def __init__(self, text: str, wait: float | None = None, *, throttled: bool = False) -> None:
        super().__init__(text)
        self.wait = wait
        self.throttled = throttled


class Oversized(Exception):
    """A response is more than can be processed. The text says why, without a path or full stop."""
