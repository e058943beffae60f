"""With digests and a collector's store: new pushes are sent once."""

from __future__ import annotations

from typing import Any

from tests.conftest import Tap
from tests.pushed_store import PushedStore, call
from tests.replica import DELETED_AT
from tests.scripted import Scripted


def test_with_a_collector_only_new_pushes_are_sent_and_events_stay(tap: Tap) -> None:
    (tap.folder / "kept").mkdir()
    store = PushedStore(tap.folder / "kept" / "events.db")
    settings = {"collector_database": store.path, "digests": str(tap.folder / "kept" / "digests")}
    first, second = (
        {"contact_id": one, "mail_opened": {f"m{one}": 1577836800000}} for one in ("p1", "p2")
    )
    state: Any = None

    def night(*contacts: Any) -> dict[str, list[Any]]:
        nonlocal state
        answer = {"contacts": list(contacts), "total_contacts": len(contacts)}
        with Scripted({"/contacts": answer}) as sandbox:
            run = tap.sync(sandbox, state=state, **settings)
        assert run.code == 0, run.stderr
        state = run.state
        names = {one["stream"] for one in run.of("RECORD")}
        return {name: run.rows(name) for name in names}

    store.track(call("pushed"))
    found = night(first, second)
    assert [row["id"] for row in found["email_opened"]] == ["pushed"] + [
        f"email_opened:{one}:m{one}" for one in ("p1", "p2")
    ]
    assert all(row[DELETED_AT] is None for rows in found.values() for row in rows)
    assert night(first, second) == {}
    store.track(call("later", properties={"email_id": "y"}))
    found = night(first)
    assert [row[DELETED_AT] is None for row in found["contacts"]] == [False]
    assert [row["id"] for row in found["email_opened"]] == ["later"]
    assert [row["email_id"] for row in found["email_messages"]] == ["y"]
    assert found.keys() == {"contacts", "email_opened", "email_messages"}
    assert night(first) == {}
    (tap.folder / "kept" / "digests").unlink()
    assert len(night(first)["email_opened"]) == 3, "the whole store, since the file is in doubt"


def test_pushed_events_are_sent_again_until_the_target_has_their_new_columns(tap: Tap) -> None:
    (tap.folder / "kept").mkdir()
    store = PushedStore(tap.folder / "kept" / "events.db")
    store.track(call("pushed"))
    settings = {"collector_database": store.path, "digests": str(tap.folder / "kept" / "digests")}

    def night(state: Any, *metadata: Any) -> tuple[Any, int]:
        catalog = {"streams": [{"tap_stream_id": "email_opened", "metadata": [*metadata]}]}
        with Scripted({"/contacts": {"contacts": [], "total_contacts": 0}}) as sandbox:
            run = tap.sync(sandbox, state=state, catalog=catalog, **settings)
        assert run.code == 0, run.stderr
        return run.state, len(run.rows("email_opened"))

    without = {"breadcrumb": ["properties", "campaign_name"], "metadata": {"selected": False}}
    state, sent = night(None, without)
    assert sent == 1
    assert night(state)[1] == 1, "its STATE is thrown away"
    state, sent = night(state)
    assert sent == 1
    assert night(state)[1] == 0
