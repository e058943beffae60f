"""Logging: lines on stderr in Singer's format, never with a secret or an unprintable character."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import re
import select
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tap_autopilot.files import read_small
from tap_autopilot.redaction import redactor

STDERR = 2
WAIT_FOR_READER = 1.0  # seconds; whoever reads stderr
MAX_LENGTH = 10_000  # characters of a message; the names in it may have any length
MAX_ALIKE = 20  # warnings or errors that differ only in names and numbers
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
OURS = ("tap_autopilot", "requests", "urllib3")  # all loggers that may see the key
METRIC = "METRIC: %s"  # how singer logs a metric, a JSON object
ERASE = "\r\x1b[J"  # to the end of the screen, from the beginning of the cursor's line
TIME = "%Y-%m-%dT%H:%M:%SZ"


class _Text(logging.Formatter):
    """Formats a record, without secrets in any usual encoding, and without unprintable characters.

    Many messages quote other people's text. None of it starts a new line or controls a terminal.
    Except in a terminal, each line begins with the time in UTC.
    """

    converter = staticmethod(time.gmtime)

    def __init__(self, secrets: Iterable[str]) -> None:
        moment = "" if os.isatty(STDERR) else "%(asctime)s "
        super().__init__(f"{moment}%(levelname)s %(message)s", TIME)
        self._redact = redactor(*secrets)

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        message = self.clean(record.message)
        record.message = "\n".join([message, *map(printable, getattr(record, "where", ()))])
        return super().formatMessage(record)

    def clean(self, text: str) -> str:
        """A text without secrets, on one line. It is cut last, or a part of a secret could stay."""
        return printable(self._redact(text))[:MAX_LENGTH]

    def formatException(self, _: object) -> str:  # noqa: N802
        """Nothing: an exception's text may contain personal data."""
        return ""


class _Json(_Text):
    """Formats a record as an object with the fields that Meltano reads from JSON logs.

    Meltano's SDK logs the same fields. Meltano before 4.4 rejects lines without `stream_name`.
    """

    def __init__(self, secrets: Iterable[str], app: str) -> None:
        super().__init__(secrets)
        self._app = app

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        super().formatMessage(record)
        fields: dict[str, Any] = {
            "level": record.levelname.lower(),
            "pid": record.process,
            "logger_name": record.name,
            "ts": record.created,
            "thread_name": record.threadName,
            "app_name": self._app,
            "stream_name": getattr(record, "stream_name", None),
            "message": record.message,
            "extra": {},
        }
        if record.msg == METRIC and isinstance(record.args, tuple):
            point = json.loads(str(record.args[0]))
            fields |= {
                "stream_name": point["tags"].get("stream"),
                "message": "METRIC",
                "metric_info": point,
            }
        if hasattr(record, "report"):
            fields["extra"]["report"] = record.report
        return json.dumps(fields)


class Stderr:
    """Standard error as a text stream that never blocks for long.

    It waits WAIT_FOR_READER for a stalled reader, then drops text until the reader continues.
    """

    def __init__(self) -> None:
        self._wait = WAIT_FOR_READER
        self._torn = False  # in the middle of a line

    def write(self, text: str) -> int:
        """Write as much as possible. Raises OSError if stderr is unusable."""
        left = text.encode("utf-8", "backslashreplace")
        if self._torn:
            left = b"\n" + left
        with _unblocked() as descriptor, contextlib.suppress(BlockingIOError):
            while left and self._is_writable():
                left = left[os.write(descriptor, left[: select.PIPE_BUF]) :]
                self._torn = bool(left)
        return len(text)

    def _is_writable(self) -> bool:
        poll = select.poll()
        poll.register(STDERR, select.POLLOUT)
        ready = bool(poll.poll(self._wait * 1000))
        self._wait = WAIT_FOR_READER if ready else 0
        return ready


@contextlib.contextmanager
def _unblocked() -> Iterator[int]:
    """Stderr. A terminal is opened anew: it may be writable without room for a whole text."""
    try:
        descriptor = os.open(os.ttyname(STDERR), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:  # it is no terminal, or may not be opened
        yield STDERR
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to stderr.

    Of similar warnings and errors, it writes the first MAX_ALIKE and counts the rest. What
    `is_live` it leaves to the live line, if there is one. It writes nothing after a CRITICAL line,
    even for threads that are still running.
    """

    ended = False
    live: Callable[[str], None] | None = None  # how to write above the live lines in a terminal

    def __init__(self) -> None:
        super().__init__(Stderr())
        self._alike: dict[str, int] = {}
        self._first: dict[str, logging.LogRecord] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if self.ended or self._suppresses(record):
            return
        self._write(record)
        self.ended = record.levelno >= logging.CRITICAL

    def _write(self, record: logging.LogRecord) -> None:
        if self.live is not None:
            self.live(self.format(record))
        else:
            super().emit(record)

    def _suppresses(self, record: logging.LogRecord) -> bool:
        """Whether to suppress a record; counts it if it is one of many."""
        if self.live is not None and getattr(record, "is_live", False):
            return True
        if record.levelno not in (logging.WARNING, logging.ERROR):
            return False
        template = _template(record)
        self._first.setdefault(template, record)
        self._alike[template] = self._alike.get(template, 0) + 1
        return self._alike[template] > MAX_ALIKE

    def sum_up(self) -> None:
        """Write how many records were suppressed."""
        for template, count in list(self._alike.items()):
            if count > MAX_ALIKE:
                record = copy.copy(self._first[template])
                text = f"… and {count - MAX_ALIKE:,} more like: {record.getMessage()}"
                record.msg, record.args, record.created = text, (), time.time()
                self._write(record)
        self._alike.clear()


def _template(record: logging.LogRecord) -> str:
    """What similar records have in common: the text without names and numbers."""
    text = str(record.msg)
    if text != "%s":
        return text
    words = record.getMessage().split()  # a pattern of words with digits would take quadratic time
    return " ".join("#" if re.search(r"\d", word) else word for word in words)


def printable(text: str) -> str:
    """A text on one line: what could control a terminal, or reorder what it shows, is escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def clean(text: str) -> str:
    """A text as the log would show it."""
    (handler,) = _handlers()
    assert isinstance(handler.formatter, _Text)
    return handler.formatter.clean(text)


def log_bug(error: BaseException) -> None:
    """Log where an unexpected error occurred, but not its text, which may be personal data."""
    where = "".join(traceback.format_tb(error.__traceback__)).splitlines()
    logger = logging.getLogger(__name__)
    logger.error("Unexpected %s at", type(error).__name__, extra={"where": where})


def set_up(
    secrets: Iterable[str] = (),
    level: str | None = None,
    form: str | None = None,
    *,
    app: str = "tap-autopilot",
) -> None:
    """Log to stderr, HTTP libraries included, without these secrets.

    `level` and `form` ("text" or "json") default to what Meltano asks for, then to INFO and text.
    `app` is the program's name in JSON lines.
    """
    asked_level, asked_form = _asked_by_meltano()
    handler = _Handler()
    is_json = (form or asked_form) == "json"
    handler.setFormatter(_Json(secrets, app) if is_json else _Text(secrets))
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False  # singer-python adds its own handler to the root logger
        logger.setLevel((level or asked_level).upper())
    logging.raiseExceptions = False  # a full or closed stderr must not end the run


def _handlers() -> list[_Handler]:
    """What `set_up` made: one handler, or none before it."""
    ours = logging.getLogger(OURS[0]).handlers
    return [handler for handler in ours if isinstance(handler, _Handler)]


def stderr() -> Stderr:
    """The stream of the log. All share its patience with a stalled reader."""
    (handler,) = _handlers()
    stream: Stderr = handler.stream
    return stream


def sum_up() -> None:
    """Write how many similar warnings and errors were suppressed."""
    for handler in _handlers():
        handler.sum_up()


def write_last(text: str, extra: dict[str, Any] | None = None) -> None:
    """Write a CRITICAL line to stderr, bypassing all locks, because a hung run may hold them."""
    logger = logging.getLogger(OURS[0])
    record = logger.makeRecord(logger.name, logging.CRITICAL, "", 0, text, (), None, extra=extra)
    for handler in _handlers():
        with contextlib.suppress(OSError):
            erase = ERASE if handler.live else ""
            Stderr().write(f"{erase}{handler.format(record)}\n")


def are_json() -> bool:
    """Whether log lines are JSON."""
    return any(isinstance(handler.formatter, _Json) for handler in _handlers())


def at_terminal() -> bool:
    """Whether people watch: the log is text, includes INFO lines, and goes to a terminal."""
    shows_info = logging.getLogger(OURS[0]).isEnabledFor(logging.INFO)
    return shows_info and not are_json() and os.isatty(STDERR)


def write_above(live: Callable[[str], None] | None) -> None:
    """Pass formatted lines to `live` instead of stderr; None switches back to stderr."""
    for handler in _handlers():
        handler.live = live


def _asked_by_meltano() -> tuple[str, str]:
    """The level and format in the logging configuration that Meltano passes to its plugins."""
    path = os.environ.get("SINGER_SDK_LOG_CONFIG")
    level, form = "INFO", "text"
    if path:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            config = json.loads(read_small(path))
            if any("Structured" in one.get("()", "") for one in config["formatters"].values()):
                form = "json"
            if config["root"]["level"] in LEVELS:
                level = config["root"]["level"]
    return level, form
