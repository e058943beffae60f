"""A sandbox that waits for the test in the middle of a run."""

from __future__ import annotations

import threading

from tap_autopilot.sandbox.account import Account
from tests.conftest import KEY, PATIENCE
from tests.lying_pager import Options
from tests.recording import Sandbox


class HeldSandbox(Sandbox):
    """Responds to nothing from one page of contacts on, until `released` is set."""

    def __init__(self, account: Account, *, page: int) -> None:
        super().__init__(account, Options(api_key=KEY))
        self.released = threading.Event()
        self._bookmark = account.contact_ids[(page - 1) * 100 - 1]

    def answer(self, method: str, target: str, headers: dict[str, str]) -> tuple[int, bytes]:
        if target.endswith(self._bookmark):
            self.released.wait(PATIENCE)
        return super().answer(method, target, headers)
