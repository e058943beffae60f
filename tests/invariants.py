"""What must hold after every run of the tap, whatever happened during it."""

from __future__ import annotations

import base64
import collections
import functools
import json
import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import msgspec

from tap_autopilot.sandbox.account import Account
from tests.recording import Request, Sandbox, Served
from tests.witness import check_bookmarks, check_complete, check_served, check_tombstones

Message = dict[str, Any]

_TROUBLESHOOTING = (Path(__file__).parents[1] / "docs/troubleshooting.md").read_text()
DOCUMENTED = [  # what the docs quote of messages
    piece
    for pieces in re.findall(r"^\| (`.+?`(?:, `.+?`)*) \|", _TROUBLESHOOTING, re.MULTILINE)
    for piece in re.findall("`(.+?)`", pieces)
]


def untimed(log: str) -> str:
    """A text log without the times at the beginning of its lines."""
    return re.sub(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", "", log, flags=re.MULTILINE)


@dataclass
class Run:
    """A finished run of the command: what it wrote, and how it ended.

    After `watch`, it also knows its sandbox, and is checked against what the sandbox served.
    `given` is the state that it started from; `settings` are its settings beyond the usual ones.
    """

    code: int
    stdout: bytes
    stderr: str
    key: str = ""
    requests: list[Request] = field(default_factory=list)
    killed: bool = False
    sandbox: Sandbox | None = None
    given: Any = None
    settings: dict[str, Any] = field(default_factory=dict)
    served: list[Served] = field(default_factory=list)
    log_window: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.stderr = untimed(self.stderr)

    def watch(self, sandbox: Sandbox, since: int, given: Any = None, settings: Any = None) -> None:
        """Add what the sandbox recorded, from request number `since` on."""
        self.sandbox, self.given, self.settings = sandbox, given, dict(settings or {})
        self.requests = sandbox.requests[since:]
        self.served = [page for page in sandbox.served if page.request >= since]
        self.log_window = sandbox.log_at(since, len(sandbox.requests))

    @property
    def is_witnessed(self) -> bool:
        """Whether a sandbox recorded this run."""
        url = self.sandbox and self.sandbox.url
        return url is not None and self.settings.get("api_url", url) == url

    @property
    def account(self) -> Account:
        assert self.sandbox is not None
        return self.sandbox.account

    @cached_property
    def selected(self) -> set[str]:
        """The streams whose SCHEMA the run wrote."""
        return {message["stream"] for message in self.of("SCHEMA")}

    @cached_property
    def replication_keys(self) -> dict[str, str]:
        """The replication keys of the incremental streams."""
        return {
            message["stream"]: message["bookmark_properties"][0]
            for message in self.of("SCHEMA")
            if message.get("bookmark_properties")
        }

    def committed(self, after: Run | None) -> list[Message]:
        """The RECORDs before the STATE from which the next run, `after`, started."""
        if after is None:
            return self.of("RECORD")
        states = [n for n, one in enumerate(self.messages) if one["type"] == "STATE"]
        given = [n for n in states if self.messages[n]["value"] == after.given] or states
        last = given[-1] if given else 0
        return [one for one in self.messages[:last] if one["type"] == "RECORD"]

    @cached_property
    def messages(self) -> list[Message]:
        lines = self.stdout.split(b"\n")
        last = lines.pop()
        assert self.killed or last == b"", f"a partial last line: {last[-200:]!r}"
        return [_decode(line.decode()) for line in lines]

    @cached_property
    def _by_kind(self) -> dict[tuple[str, str | None], list[Message]]:
        found = collections.defaultdict(list)
        for message in self.messages:
            for stream in {message.get("stream"), None}:
                found[message["type"], stream].append(message)
        return found

    def of(self, kind: str, stream: str | None = None) -> list[Message]:
        return list(self._by_kind.get((kind, stream), ()))

    def rows(self, stream: str) -> list[dict[str, Any]]:
        return [message["record"] for message in self.of("RECORD", stream)]

    @property
    def state(self) -> Any:
        return self.of("STATE")[-1]["value"]

    @property
    def log(self) -> list[str]:
        return self.stderr.splitlines()

    @property
    def last_words(self) -> str:
        return self.log[-1]


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not strict JSON")


_decode = json.JSONDecoder(parse_constant=_refuse).decode


def forms(key: str) -> list[str]:
    """The key in each of five encodings."""
    raw = key.encode()
    return [
        key,
        urllib.parse.quote(key, safe=""),
        base64.b64encode(raw).decode().rstrip("=")[:-1],
        raw.hex(),
        json.dumps(key)[1:-1],
    ]


def check(run: Run) -> Run:
    """Fail if an invariant does not hold for this run."""
    check_messages(run)
    _check_ending(run)
    _check_secrets(run)
    if not run.killed and run.messages:
        _check_counts(run)
    assert all(request.method == "GET" for request in run.requests)
    check_served(run)
    check_complete([run])
    check_bookmarks([run])
    check_tombstones(run)
    return run


def check_together(runs: Sequence[Run]) -> None:
    """Fail if runs that form one pass together break an invariant.

    The first run starts without a state, each of the others from the state of the run before. All
    have been watched and read the same account, though perhaps from several sandboxes.
    """
    check_complete(runs)
    check_bookmarks(runs)


def check_messages(run: Run) -> None:
    """Fail if a message is invalid."""
    columns: dict[str, _Columns] = {}
    for message in run.messages:
        stream = message.get("stream", "")
        if message["type"] == "SCHEMA":
            assert stream not in columns, f"a second SCHEMA of {stream}"
            columns[stream] = _columns(json.dumps(message))
        elif message["type"] == "RECORD":
            columns[stream].check(message["record"])
        else:
            assert message["type"] in ("STATE", "ACTIVATE_VERSION")
    if run.messages and not run.killed:
        assert run.messages[-1]["type"] == "STATE"


@functools.cache
def _columns(message: str) -> _Columns:
    return _Columns(json.loads(message))


class _Columns:
    """Validates the rows of a stream, and remembers valid values for speed."""

    _valid: ClassVar[dict[str, set[bytes]]] = collections.defaultdict(set)  # values by their schema

    def __init__(self, message: Message) -> None:
        schema = message["schema"]
        jsonschema.Draft4Validator.check_schema(schema)
        assert schema.keys() == {"type", "properties"}
        assert schema["type"] == "object"
        self._keys = message["key_properties"]
        self._columns = schema["properties"]
        formats = jsonschema.FormatChecker()
        self._checks = {
            name: (
                jsonschema.Draft4Validator(part, format_checker=formats),
                self._valid[json.dumps(part)],
            )
            for name, part in self._columns.items()
        }

    def check(self, row: dict[str, Any]) -> None:
        assert list(row) == list(self._columns), "columns, or their order"
        assert all(row[key] for key in self._keys), row
        for name, value in row.items():
            validator, valid = self._checks[name]
            text = msgspec.json.encode(value)
            if text not in valid:
                validator.validate(value)
                _check_times(self._columns[name], value)
                assert b"\\u0000" not in text
                valid.add(text)


_TIME = re.compile(r"\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\d(\.\d+)?Z")


def _check_times(schema: dict[str, Any], value: Any) -> None:
    """Check for RFC 3339 in UTC, which an old format checker may not know."""
    if value is None:
        return
    if schema.get("format") == "date-time":
        assert _TIME.fullmatch(value), value
        assert not value.startswith("0000"), value
    for name, part in schema.get("properties", {}).items():
        _check_times(part, value[name])
    for item in value if "items" in schema else ():
        _check_times(schema["items"], item)


def _check_ending(run: Run) -> None:
    critical = [line for line in run.log if line.startswith("CRITICAL")]
    assert "Traceback" not in run.stderr
    assert "Unexpected" not in run.stderr
    assert all(line.isprintable() for line in run.stderr.split("\n")), ascii(run.stderr)
    if run.killed:
        return
    if run.code == 0:
        assert not critical
        if run.messages:
            progress = {name: it["progress"] for name, it in run.state["bookmarks"].items()}
            if not run.requests:  # it may have read logs only, and left other passes alone
                given = (run.given or {}).get("bookmarks", {})
                for name in given:
                    if progress[name] == given[name].get("progress"):
                        del progress[name]
            assert not any(progress.values()), "the state has unfinished progress"
    else:
        assert run.code in (1, 2, 129, 130, 143), run.code
        assert len(critical) == 1, run.stderr
        assert run.last_words == critical[0]
        assert any(piece in critical[0] for piece in DOCUMENTED), "it is not in the docs"


def _check_secrets(run: Run) -> None:
    everything = run.stdout.decode("utf-8", "replace") + run.stderr
    for form in forms(run.key) if run.key else ():
        assert form not in everything, "the key is in the output"
    assert "@example" not in run.stderr, "contact data is in the log"


def _check_counts(run: Run) -> None:
    counted: collections.Counter[str] = collections.Counter()
    for line in run.log:
        metric = re.fullmatch(r"INFO METRIC: (.*)", line)
        if metric:
            point = json.loads(metric[1])
            if point["metric"] == "record_count":
                counted[point["tags"]["stream"]] += point["value"]
    summary = dict(re.findall(r"^INFO (\w+): ([\d,]+) rows?\b", run.stderr, re.MULTILINE))
    for message in run.of("SCHEMA"):
        rows = len(run.rows(message["stream"]))
        assert counted[message["stream"]] == rows
        assert int(summary.get(message["stream"], "0").replace(",", "")) == rows
        assert run.code or message["stream"] in summary
