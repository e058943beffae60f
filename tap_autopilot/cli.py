"""The command line: arguments, exit codes, and the last line of stderr."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from tap_autopilot import logs
from tap_autopilot.exceptions import Stopped, TapError, UserError

LOG = logging.getLogger(__name__)

STDIN = 0
STDOUT = 1
STDERR = 2


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import importlib.metadata  # takes a while, and no other run needs it

        try:
            version = importlib.metadata.version("tap-autopilot")
        except importlib.metadata.PackageNotFoundError:
            version = "(not installed)"
        print(f"tap-autopilot {version}")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see tap-autopilot --help.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tap-autopilot",
        allow_abbrev=False,
        description="Singer tap for Autopilot (autopilothq): writes an account's contacts, lists,"
        " smart segments and their members to stdout, for any Singer target.",
    )
    add = parser.add_argument
    add("-c", "--config", metavar="FILE", help="settings, as JSON; see sample_config.json")
    add("-s", "--state", metavar="FILE", help="the last STATE of the run before")
    add("--catalog", metavar="FILE", help="what to read; from --discover, with choices made")
    add("-p", "--properties", metavar="FILE", dest="catalog", help="the old name of --catalog")
    add("-d", "--discover", action="store_true", help="print the catalog; needs no key, no network")
    add("--version", action=_Version, nargs=0, help="show the version and exit")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    _guard_descriptors()
    logs.set_up()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, _stop)
    try:
        args = _parser().parse_args(arguments)
        if args.discover:
            _discover(args)
        else:
            _sync(args)
    except TapError as error:
        return _last_words(str(error), error.exit_code)
    except Exception as error:  # a mistake of ours: where, but not what, which may be anyone's data
        where = "".join(traceback.format_tb(error.__traceback__))
        LOG.error("Unexpected %s at\n%s", type(error).__name__, where)
        return _last_words(
            f"An unexpected {type(error).__name__} ended the run; nothing of it is lost. Please"
            " report the lines above.",
            TapError.exit_code,
        )
    return 0


def _stop(signal_number: int, _: object) -> NoReturn:
    """End at once what comes before the sync, which has a way of its own.

    Not by an exception: there are imports under way that would swallow it.
    """
    stopped = Stopped(signal_number, signal.Signals(signal_number).name)
    os._exit(_last_words(str(stopped), stopped.exit_code))


def _guard_descriptors() -> None:
    """Keep 0, 1 and 2 from being given to a socket or file when they came closed."""
    for descriptor in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            if os.open(os.devnull, os.O_RDONLY) != descriptor:
                raise
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def _last_words(text: str, exit_code: int) -> int:
    LOG.critical("%s", text)
    return exit_code


def _discover(args: argparse.Namespace) -> None:
    from tap_autopilot.discover import discover
    from tap_autopilot.messages import Writer

    raw = _settings(args) if args.config else {}
    custom: dict[str, Any] = {}
    if raw.get("custom_fields_as_columns"):  # else neither a key nor the network is needed
        from tap_autopilot.client import Api
        from tap_autopilot.config import Config
        from tap_autopilot.custom_fields import read_columns

        config = Config.from_mapping(raw)
        logs.set_up(config.api_key)
        custom = read_columns(config, Api(config))
    Writer(STDOUT).write([json.dumps(discover(custom), indent=2).encode(), b"\n"])


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings as they are given, not checked yet."""
    from tap_autopilot.config import read_json

    raw = read_json(args.config, "config")
    if not isinstance(raw, dict):
        raise UserError(
            f'The config file {args.config} is not an object such as {{"api_key": "…"}}.'
        )
    return raw


def _sync(args: argparse.Namespace) -> None:
    from tap_autopilot.config import Config, read_json

    if args.config is None:
        raise UserError("A config file is needed: tap-autopilot --config FILE.")
    config = Config.from_mapping(_settings(args))
    catalog = read_json(args.catalog, "catalog") if args.catalog else None
    if args.catalog and catalog is None:
        raise UserError(f"The catalog file {args.catalog} is empty; make one with --discover.")
    state = read_json(args.state, "state") if args.state else None
    if args.state and state is None:
        LOG.warning("The state file %s is empty; starting from the beginning.", args.state)

    from tap_autopilot.sync import sync  # takes a while to import, and sets up its own logging

    logs.set_up(config.api_key)
    sync(config, catalog, state, STDOUT)


if __name__ == "__main__":
    sys.exit(main())
