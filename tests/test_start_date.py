"""start_date skips contacts that were last changed before it, and deletes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Tap
from tests.scripted import Scripted
from tests.test_selection import choose

CONTACTS = [
    {
        "contact_id": "old",
        "created_at": "2015-01-01T00:00:00Z",
        "updated_at": "2015-06-01T00:00:00Z",
    },
    {"contact_id": "equal", "updated_at": "2016-01-01T10:00:00.000+10:00"},
    {"contact_id": "just before", "updated_at": "2015-12-31T23:59:59.999Z"},
    {"contact_id": "updated", "created_at": "2015-01-01T00:00:00Z", "UpdatedAt": 1482221280000},
    {"contact_id": "created", "created_at": "2016-01-01T00:00:00.001Z"},
    {"contact_id": "created before", "created_at": "2015-01-01T00:00:00Z", "updated_at": ""},
    {
        "contact_id": "unfit",
        "created_at": "2015-01-01T00:00:00Z",
        "updated_at": "soon",
        "Name": "x",
    },
    {"contact_id": "unknown"},
]


@pytest.mark.parametrize("selected", [True, False])
def test_contacts_are_judged_by_their_last_change(tap: Tap, catalog: Any, selected: bool) -> None:
    choose(catalog, "contacts", "properties", "updated_at", selected=selected)
    choose(catalog, "contacts", "properties", "created_at", selected=selected)
    answers = {
        "/contacts": {"contacts": CONTACTS, "total_contacts": len(CONTACTS)},
        "/lists": {"lists": [{"list_id": "l"}]},
    }
    with Scripted(answers) as sandbox:
        run = tap.sync(sandbox, start_date="2016-01-01", catalog=catalog)
    assert run.code == 0
    ids = [row["contact_id"] for row in run.rows("contacts")]
    assert ids == ["equal", "updated", "created", "unfit", "unknown"]
    activated = {message["stream"] for message in run.of("ACTIVATE_VERSION")}
    assert activated == {"custom_fields", "lists", "lists_contacts"}
    assert "version" not in run.of("RECORD", "contacts")[0]
