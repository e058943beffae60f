"""The command line of the collector: arguments, exit codes, and the last line of stderr."""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from tap_autopilot import logs
from tap_autopilot.amounts import amount
from tap_autopilot.arguments import Parser
from tap_autopilot.collector import commands
from tap_autopilot.collector.about import NAME, about
from tap_autopilot.collector.backup import backup
from tap_autopilot.collector.config import CollectorConfig
from tap_autopilot.collector.database import open_reader, open_store
from tap_autopilot.collector.reader import shown
from tap_autopilot.collector.store import Store, Unavailable
from tap_autopilot.exceptions import RunError, Stopped, TapError, UserError
from tap_autopilot.files import guard_descriptors
from tap_autopilot.settings import proxy_passwords

if TYPE_CHECKING:
    from tap_autopilot.collector.hooks import Hooks

LOG = logging.getLogger(__name__)

WAIT_FOR_STORE = 3.0  # seconds to wait for a command that is using the store, such as --check

EXAMPLES = """examples, with the secrets in the environment:
  tap-autopilot-collector --database events.db
  tap-autopilot-collector --database events.db --prune --state state.json

--about describes the settings. Documentation: https://pypi.org/project/tap-autopilot/"""


def _parser() -> Parser:
    parser = Parser(
        NAME,
        "HTTP receiver that stores what Autopilot pushes, for tap-autopilot to read.",
        prefix=CollectorConfig.prefix,
        show=_show,
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add("--database", metavar="FILE", help="overrides the setting `database`")
    add("--listen", metavar="HOST:PORT", help="overrides the setting `listen`")
    add(
        "--state",
        metavar="FILE",
        help="for --prune: file with the last STATE that the target printed",
    )
    add = parser.modes.add_argument
    add("--check", action="store_true", help="test the store with a write, and exit")
    add("--stats", action="store_true", help="print statistics about the store, as JSON")
    add(
        "--prune", action="store_true",
        help="delete the bodies of events that have been loaded, according to --state",
    )  # fmt: skip
    add("--backup", metavar="FILE", help="copy a SQLite store, even while it is in use")
    add(
        "--erase", metavar="WHO",
        help="remove every event of a person, given by email address or contact id",
    )  # fmt: skip
    add("--forget-destination", metavar="NAME", help="forget the progress of a former destination")
    add(
        "--register-hooks", metavar="URL",
        help="register Autopilot's REST hooks; URL is the public URL of the collector",
    )  # fmt: skip
    add("--unregister-hooks", metavar="URL", help="remove the hooks registered for this URL")
    parser.add_about("all settings")
    return parser


class _Signaled(BaseException):
    """A signal during --backup, which deletes its draft; nothing may handle it on the way."""

    def __init__(self, number: int) -> None:
        self.number = number


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    guard_descriptors()
    logs.set_up(form=os.environ.get("TAP_AUTOPILOT_COLLECTOR_LOG_FORMAT"), app=NAME)
    _on_signals(_stop)
    try:
        _run(_parser().parse(arguments))
    except _Signaled as signaled:
        _stop(signaled.number, None)
    except Unavailable as error:
        return _end(f"Cannot write to the store: {error.in_full}.", error.exit_code)
    except TapError as error:
        return _end(str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001
        logs.log_bug(error)
        return _end(
            f"An unexpected {type(error).__name__} ended the collector; acknowledged events are"
            " stored. Please report the lines above.",
            TapError.exit_code,
        )
    return 0


def _stop(number: int, _: object) -> NoReturn:
    """Exit immediately; once the server runs, it handles signals itself."""
    logs.write_last(f"Stopped by {signal.Signals(number).name}.")
    os._exit(Stopped(number).exit_code)


def _on_signals(handle: Callable[[int, object], NoReturn]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def _interrupt(number: int, _: object) -> NoReturn:
    raise _Signaled(number)


def _end(text: str, code: int) -> NoReturn:
    """Log why, and exit without waiting for threads and pending requests."""
    LOG.critical("%s", text)
    os._exit(code)


def _run(args: argparse.Namespace) -> None:
    if args.about:
        _show(about(args.format))
        return
    given = CollectorConfig.gather(args.config)
    overrides = {"database": args.database, "listen": args.listen}
    given |= {name: value for name, value in overrides.items() if value is not None}
    logs.set_up(form=given.get("log_format"), app=NAME)
    config = CollectorConfig.from_mapping(given)
    hidden = [*config.secrets, *proxy_passwords()]
    logs.set_up(hidden, config.log_level, config.log_format, app=NAME)
    if args.state is not None and not args.prune:
        raise UserError("--state is only for --prune.")
    has_destinations = given.get("destinations") not in (None, "")
    destinations = config.destinations if has_destinations else None
    if args.stats:
        with open_reader(config.database) as reader:
            _show(json.dumps(reader.stats(), indent=2))
    elif args.prune:
        _print(commands.prune(config.database, args.state, destinations))
    elif args.erase is not None:
        _print(commands.erase(config.database, args.erase))
    elif args.forget_destination is not None:
        _print(commands.forget(config.database, args.forget_destination, destinations))
    elif args.backup is not None:
        _on_signals(_interrupt)
        _print(backup(config.database, args.backup))
    elif args.register_hooks is not None:
        count = _hooks(config, args.register_hooks).register()
        _print(f"{amount(count, 'hook')} registered.")
    elif args.unregister_hooks is not None:
        count = _hooks(config, args.unregister_hooks).remove()
        _print(f"{amount(count, 'hook')} removed.")
    elif args.check:
        _check(config, open_store(config.database, WAIT_FOR_STORE))
    else:
        config.require_secrets(secrets.token_urlsafe(24))
        _serve(config, open_store(config.database, WAIT_FOR_STORE))


def _print(line: str) -> None:
    _show(logs.printable(line))


def _show(text: str) -> None:
    try:
        print(text + "\n", end="", flush=True)  # at once, or `--stats | head` might end in between
    except OSError as problem:  # whoever read it is gone, or its disk is full
        raise RunError(f"Cannot write to stdout: {problem.strerror}.") from None


def _hooks(config: CollectorConfig, url: str) -> Hooks:
    from tap_autopilot.collector.hooks import Hooks  # takes longer to import than the rest

    return Hooks(config, url, _print)


def _serve(config: CollectorConfig, store: Store) -> None:
    try:
        from tap_autopilot.collector.server import serve
    except ImportError as problem:
        raise UserError(
            f"{problem.name} is missing: pip install 'tap-autopilot[collector]'."
        ) from None
    serve(config, store)
    os._exit(0)  # a destination that hangs must not delay the exit


def _check(config: CollectorConfig, store: Store) -> None:
    name = shown(config.database)
    with open_reader(config.database) as reader:
        probed, read, stats = store.probe(), reader.probed, reader.stats()
    if read < probed:
        raise UserError(f"What was written to the store {name} cannot be read back.")
    free = store.free_bytes()
    if free is not None and free >> 20 < config.min_free_mb:
        raise UserError(
            f"The disk of {name} has {free >> 20} MB left, less than min_free_mb"
            f" ({config.min_free_mb})."
        )
    store.close()
    events = amount(stats["events"], "event")
    _print(f"The store {name} works: {events}, id {stats['store_id']}.")
    if not config.accepts_senders:
        LOG.warning("No secrets are set yet; the collector needs at least one to start.")
