"""The definitions of the account's custom fields."""

from __future__ import annotations

import math
from typing import Any

from tap_autopilot.api.answers import decode_value
from tap_autopilot.api.client import Api, Client
from tap_autopilot.exceptions import Retryable

PATH = "/contacts/custom_fields"


def read_definitions(api: Api) -> list[Any]:
    """The account's custom fields, as the API defines them. Raises what `Client.get` does."""
    answer = Client(api).get(PATH, _decode, shown=PATH, kind="custom_fields", urgency=math.inf)
    return answer.value


def _decode(body: bytes) -> list[Any]:
    """The definitions in an answer: an array, or an object that contains one."""
    answer = decode_value(body)
    if isinstance(answer, dict):
        listed = [value for value in answer.values() if isinstance(value, list)]
        answer = answer.get("custom_fields", listed[0] if listed else None)
    if not isinstance(answer, list):
        raise Retryable("the answer has no custom fields")
    return answer
