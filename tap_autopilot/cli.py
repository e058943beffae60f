"""The command line: arguments, exit codes, and the last line on stderr."""

from __future__ import annotations

import argparse
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tap_autopilot import logs
from tap_autopilot.arguments import Parser, did_you_mean, shown_file, shown_name
from tap_autopilot.exceptions import Stopped, TapError, UserError
from tap_autopilot.files import check_owner, database_files, guard_descriptors, is_same
from tap_autopilot.run import signals
from tap_autopilot.run.report import Report

if TYPE_CHECKING:
    from tap_autopilot.config import Config
    from tap_autopilot.protocol.state import State

LOG = logging.getLogger(__name__)

STDOUT = 1


EXAMPLES = """examples, with the key in TAP_AUTOPILOT_API_KEY:
  tap-autopilot --test
  tap-autopilot --state state.json | target-jsonl --config target.json > states

--about describes the settings and streams. Documentation: https://pypi.org/project/tap-autopilot/"""


def _parser() -> Parser:
    parser = Parser(
        "tap-autopilot",
        "Singer tap for Autopilot (autopilothq). Writes contacts, lists, smart segments, their"
        " members and email events to stdout, for any Singer target.",
        prefix="TAP_AUTOPILOT_",
        show=_print,
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add("-s", "--state", metavar="FILE", help="file with the last STATE, to resume from")
    add("--catalog", metavar="FILE", help="file with the catalog, as printed by --discover")
    add("-p", "--properties", metavar="FILE", dest="catalog", help="old name of --catalog")
    add(
        "--select", "--streams", action="append", metavar="STREAMS", dest="select",
        help="comma-separated streams to read, instead of a catalog",
    )  # fmt: skip
    add(
        "--full-refresh", action="append", metavar="STREAMS",
        help="comma-separated streams to start over, whatever the state says; the others resume",
    )  # fmt: skip
    add("-q", "--quiet", action="store_true", help="hide the live progress in a terminal")
    add = parser.modes.add_argument
    add(
        "-d", "--discover", action="store_true",
        help="print the catalog; needs no API key, except for custom_fields_as_columns",
    )  # fmt: skip
    add("--test", action="store_true", help="check the settings and the key, and estimate a run")
    parser.add_about("all settings and streams")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    guard_descriptors()
    logs.set_up(form=os.environ.get("TAP_AUTOPILOT_LOG_FORMAT"))
    report = Report()
    # The sync handles signals itself. An exception would not do: an import might swallow it.
    signals.install(lambda number, _: signals.end_now(Stopped(number), report.end))
    try:
        args = _parser().parse(arguments)
        if args.about:
            _about(args)
        elif args.discover:
            _discover(args)
        elif args.test:
            _test(args)
        else:
            _sync(args, report)
    except TapError as error:
        return _last_words(str(error), error.exit_code, report)
    except Exception as error:
        logs.log_bug(error)
        return _last_words(
            f"An unexpected {type(error).__name__} ended the run. This is a bug: please report the"
            " lines above. No data is lost; run again with the last STATE.",
            TapError.exit_code,
            report,
        )
    signals.ignore()
    logs.sum_up()
    extra = report.end(None, 0)
    if extra:
        LOG.info("%s", report.complete(extra["report"]), extra=extra)
    return 0


def _last_words(text: str, exit_code: int, report: Report) -> int:
    signals.ignore()
    logs.sum_up()
    text = logs.printable(text)
    LOG.critical("%s", text, extra=report.end(text, exit_code))
    return exit_code


def _print(text: str) -> None:
    from tap_autopilot.protocol.messages import Writer

    Writer(STDOUT).write([text.encode(), b"\n"])


def _about(args: argparse.Namespace) -> None:
    from tap_autopilot.about import about

    _print(about(args.format))


def _discover(args: argparse.Namespace) -> None:
    from tap_autopilot.config import Config
    from tap_autopilot.protocol.catalog import discover
    from tap_autopilot.protocol.messages import Writer
    from tap_autopilot.settings import boolean

    definitions: list[Any] = []
    given = Config.gather(args.config)

    def is_on(name: str) -> bool:
        try:
            return boolean(given.get(name))
        except ValueError:  # a sync reports it; discovery needs no valid settings
            return False

    if is_on("custom_fields_as_columns"):  # the only setting that needs the key and the network
        from tap_autopilot.api.client import Api
        from tap_autopilot.sources.custom_fields import read_definitions

        definitions = read_definitions(Api(_config(given)))
    catalog = discover(
        definitions,
        settings={name for name, value in given.items() if value},
        nested_as_text=is_on("nested_as_text"),
    )
    Writer(STDOUT).write([json.dumps(catalog, indent=2).encode(), b"\n"])


def _test(args: argparse.Namespace) -> None:
    from tap_autopilot.check import check
    from tap_autopilot.config import Config

    config = _config(Config.gather(args.config))
    catalog, _ = _inputs(args, config)
    _print(check(config, catalog))


def _config(given: dict[str, Any]) -> Config:
    """The settings, checked. Sets up logging accordingly."""
    from tap_autopilot.config import Config

    secrets = _secrets(given)
    logs.set_up(secrets, form=given.get("log_format"))
    config = Config.from_mapping(given)
    logs.set_up([config.api_key, *secrets], config.log_level, config.log_format)
    return config


def _secrets(given: dict[str, Any]) -> list[str]:
    """The secrets in settings that have not been checked yet."""
    from tap_autopilot.settings import passwords, proxy_passwords

    database = str(given.get("collector_database", ""))
    return [str(given.get("api_key", "")).strip(), *passwords(database), *proxy_passwords()]


def _named(names: list[str], option: str) -> list[str]:
    """The streams that an option names."""
    from tap_autopilot.streams import STREAMS

    chosen = [name.strip() for name in ",".join(names).split(",") if name.strip()]
    unknown = [name for name in chosen if name not in STREAMS]
    choice = f"choose from {', '.join(STREAMS)}"
    if unknown:
        mistakes = [shown_name(name) + did_you_mean(name, STREAMS) for name in unknown]
        raise UserError(f"{option} has unknown streams: {', '.join(mistakes)}; {choice}.")
    if not chosen:
        raise UserError(f"{option} has no streams; {choice}.")
    return chosen


def _check_files(args: argparse.Namespace, config: Config) -> None:
    """Raise UserError if a file that the tap writes is also something else, or someone else's."""
    others = _files(args, config.collector_database)
    for setting, path in (("digests", config.digests), ("report_file", config.report_file)):
        if path is None:
            continue
        check_owner(Path(path))
        for other in others:
            if is_same(path, other):
                raise UserError(f"{setting} and {shown_file(str(other))} must be different files.")
        others += database_files(path)


def _files(args: argparse.Namespace, *databases: str | None) -> list[str | Path]:
    """The files of a run: stdout, those that the arguments name, and those of the databases."""
    files = ["/dev/stdout", *filter(None, (*args.config, args.catalog, args.state))]
    return files + [path for name in filter(None, databases) for path in database_files(name)]


def _check_refresh(args: argparse.Namespace, config: Config) -> None:
    """Raise UserError if single streams cannot start over."""
    if not args.state:
        raise UserError("--full-refresh needs --state; without a state, every stream starts over.")
    if config.digests:
        raise UserError(
            "--full-refresh cannot be combined with digests; delete that file to send everything"
            " again."
        )


def _inputs(args: argparse.Namespace, config: Config) -> tuple[Any, State]:
    """The catalog (None if none was given) and the state. Raises UserError."""
    from tap_autopilot.protocol.state import read_state  # takes a while to import
    from tap_autopilot.settings import read_json

    _check_files(args, config)
    if args.select and args.catalog:
        raise UserError("--select and --catalog cannot be combined.")
    catalog = None if args.catalog is None else read_json(args.catalog, "catalog")
    if args.catalog and catalog is None:
        raise UserError(f"The catalog file {args.catalog} is empty; create one with --discover.")
    if args.select is not None:
        names = _named(args.select, "--select")
        catalog = {"streams": [{"tap_stream_id": name, "selected": True} for name in names]}
    state = None if args.state is None else read_json(args.state, "state")
    if args.state and state is None:
        LOG.info("The state file %s is empty; starting from the beginning.", args.state)
    before = read_state(state)
    if args.full_refresh is not None:
        _check_refresh(args, config)
        refreshed = _named(args.full_refresh, "--full-refresh")
        LOG.info("Starting over: %s.", ", ".join(refreshed))
        before.start_over(refreshed)
    return catalog, before


def _sync(args: argparse.Namespace, report: Report) -> None:
    from tap_autopilot.config import Config

    files = _files(args)
    report.expect(os.environ.get(Config.variable("report_file")), files)
    given = Config.gather(args.config)  # if this fails, the report uses only the environment
    report.expect(given.get("report_file"), files, _secrets(given))
    config = _config(given)
    files = _files(args, config.collector_database, config.digests)
    report.expect(config.report_file, files, _secrets(given))
    report.check()
    catalog, state = _inputs(args, config)

    from tap_autopilot.run.sync import sync

    is_shown = os.isatty(STDOUT)
    try:
        sync(config, catalog, state, STDOUT, report, quiet=args.quiet or is_shown)
    finally:
        if is_shown:
            LOG.warning(
                "stdout is a terminal, so the rows were only shown; to load them, pipe them into a"
                " target, such as: tap-autopilot | target-jsonl"
            )
