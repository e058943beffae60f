"""What the two command lines have in common, and which arguments a message may show.

An API key typed in the wrong place must not end up in a log. So a message shows only what can't be
a key: words in lower case, existing files, and what looks like a file name.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from tap_autopilot import __version__
from tap_autopilot.exceptions import UserError

FORMATS = ("text", "json", "markdown")
NOT_SHOWN = "(not shown)"
WIDTH = 78  # of paragraphs in the help

_NAME = re.compile(r"[a-z*][a-z_*-]{0,29}")  # no digits and no capitals, unlike keys
_OPTION = re.compile(rf"--{_NAME.pattern}(?==|$)|-[A-Za-z]")
_FILE = re.compile(r"[\w ./~-]*\w\.(?:json|jsonl|txt|ya?ml|db|sqlite)")
_PLAIN_PATH = re.compile(r"(?:[a-z_.-]{0,29}/)*[a-z_.-]{1,30}")


def shown_name(name: str) -> str:
    """The name of a stream, or a pattern, for a message, unless it may be a secret."""
    return name if _NAME.fullmatch(name) else NOT_SHOWN


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Which of the `names` a misspelt name may stand for: " (did you mean contacts?)", or ""."""
    near = difflib.get_close_matches(name, names, 1, cutoff=0.7)
    return f" (did you mean {near[0]}?)" if near else ""


def shown_file(path: str) -> str:
    """A file's name for a message, unless there is no such file and the name may be a secret."""
    is_plain = _FILE.fullmatch(path) or _PLAIN_PATH.fullmatch(path)
    return path if is_plain or os.path.lexists(path) else NOT_SHOWN


class Parser(argparse.ArgumentParser):
    """A command line with the options that both programs have; `show` prints to stdout.

    `prefix` is what the program's environment variables begin with; `epilog` ends the help as it
    is. Of the options in `modes`, only one may be given.
    """

    def __init__(
        self,
        prog: str,
        description: str,
        *,
        prefix: str,
        show: Callable[[str], None],
        epilog: str = "",
    ) -> None:
        super().__init__(
            prog=prog,
            usage="%(prog)s [option ...]",
            allow_abbrev=False,
            description=textwrap.fill(description, WIDTH),
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.show = show
        self.modes = self.add_mutually_exclusive_group()
        self.add_argument(
            "-c", "--config", action="append", default=[], metavar="FILE",
            help="JSON settings file; repeatable, later files win. ENV stands for the environment"
            f" variables {prefix}…; without it, they fill in what the files leave out",
        )  # fmt: skip

    def add_about(self, described: str) -> None:
        """Add --about, --format and --version, which come last in --help."""
        add = self.add_argument
        self.modes.add_argument("--about", action="store_true", help=f"describe {described}")
        add("--format", choices=FORMATS, help="format of --about; default: text")
        add("--version", action=_Version, nargs=0, help="print the version")

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """The arguments, parsed; None for those of this process. Raises UserError."""
        args, unknown = self.parse_known_args(arguments)
        if unknown:
            misspelt = [match[0] for word in unknown if (match := _OPTION.match(word))]
            known = self._option_string_actions
            options = [f"{option}{did_you_mean(option, known)}" for option in misspelt]
            self.error(f"unrecognized arguments: {', '.join(options or map(shown_file, unknown))}")
        if args.format and not args.about:
            self.error("--format needs --about")
        return args

    def error(self, message: str) -> NoReturn:
        """Raise UserError, without the values that argparse quotes."""
        problem = re.split("['\"]", message)[0].rstrip(": ")
        raise UserError(f"{problem}; see {self.prog} --help.")

    def print_help(self, *_: object) -> None:
        """Print the help."""
        self.show(self.format_help().rstrip())


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        assert isinstance(parser, Parser)
        parser.show(f"{parser.prog} {__version__}")
        parser.exit()
