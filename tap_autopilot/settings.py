"""Declares settings, reads them from files and the environment, and checks them.

A program declares its settings as fields of a dataclass that inherits from `Settings`, each created
by `setting` with one of the readers below. A reader checks and converts a value, and raises
ValueError saying what the value must be.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar

from tap_autopilot.arguments import NOT_SHOWN, did_you_mean, shown_file, shown_name
from tap_autopilot.exceptions import UserError
from tap_autopilot.files import read_small

LOG = logging.getLogger(__name__)

ENVIRONMENT = "ENV"

# With a scheme, as user:password@host, or as a list of parameters, separated in whatever way.
_ADDRESS = re.compile(
    r"://|^postgres\w*:|(?:^|/)[^:@/]+:[^@]+@"
    r"|(?:^|[\s;,?&])(?:(?:host|hostaddr|port|dbname|user|passfile|service|sslmode|server|user id)"
    r"|\w*(?:passw(?:or)?d|pwd))\s*=",
    re.IGNORECASE,
)
_BOOLEANS = {"true": True, "false": False}

S = TypeVar("S", bound="Settings")


def text(value: Any) -> str:
    """A string that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a non-blank string")
    if "\0" in value or value != value.encode("utf-8", "replace").decode():
        raise ValueError("must be valid text")
    return value.strip()


def store_address(value: Any) -> str:
    """A collector's store: a file, or a postgresql:// URL.

    Other kinds of addresses, which may hold a password, are not taken for file names.
    """
    address = text(value)
    if not address.startswith(("postgresql://", "postgres://")) and _ADDRESS.search(address):
        raise ValueError("must be a file or a postgresql:// URL, not another kind of address")
    return address


def file_name(value: Any) -> str:
    """A file's name: nothing that looks like an address, which may hold a password."""
    name = text(value)
    if _ADDRESS.search(name):
        raise ValueError("must be a file, not an address")
    return name


def boolean(value: Any) -> bool:
    """True or false, or either as a string."""
    if isinstance(value, str):
        value = _BOOLEANS.get(value.strip().lower(), value)
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def number(least: float, most: float, what: str = "number") -> Callable[[Any], float]:
    """A reader of numbers from `least` to `most`, which messages call `what`."""

    def read(value: Any) -> float:
        try:
            parsed = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            parsed = math.nan
        if not least <= parsed <= most:
            raise ValueError(f"must be a {what} from {least:g} to {most:g}")
        return parsed

    return read


def whole_number(least: int, most: int) -> Callable[[Any], int]:
    """A reader of whole numbers from `least` to `most`."""
    what = "whole number"
    read_number = number(least, most, what)

    def read(value: Any) -> int:
        if read_number(value) % 1:
            raise ValueError(f"must be a {what} from {least} to {most}")
        return int(read_number(value))

    return read


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A reader for one of these words, in any case."""

    choices: tuple[str, ...]

    def __call__(self, value: Any) -> str:
        """The word, in lower case."""
        chosen = text(value).lower()
        if chosen not in self.choices:
            raise ValueError(f"must be one of {', '.join(self.choices)}")
        return chosen


def setting(
    read: Callable[[Any], Any],
    description: str,
    *,
    default: Any = dataclasses.MISSING,
    secret: bool = False,
) -> Any:
    """A field of a `Settings` class."""
    metadata = {"read": read, "description": description, "secret": secret}
    return dataclasses.field(default=default, metadata=metadata)


def log_level() -> Any:
    """The field `log_level`, the same in all programs."""
    return setting(
        OneOf(("debug", "info", "warning", "error")),
        "Minimum log level: `debug`, `info`, `warning` or `error`; default `info`.",
        default=None,
    )


def log_format() -> Any:
    """The field `log_format`, the same in all programs."""
    return setting(
        OneOf(("text", "json")),
        "Log format: `text` or `json`; default `text`, or the format that Meltano requests.",
        default=None,
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a program, checked. The names of its environment variables have `prefix`."""

    prefix: ClassVar[str]
    foreign: ClassVar[tuple[str, ...]] = ()  # prefixes of variables that other programs read

    @classmethod
    def from_mapping(cls: type[S], raw: Mapping[str, Any]) -> S:
        """The settings from a parsed file. Raises a UserError that lists all mistakes."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in raw:
            if name not in fields:
                hint = did_you_mean(name, fields)
                LOG.warning("Ignored an unknown setting: %s%s.", shown_name(name), hint)
        values, mistakes = {}, []
        for name, field in fields.items():
            value = raw.get(name)
            if value is None or value == "":
                if field.default is dataclasses.MISSING:
                    variable = cls.variable(name)
                    mistakes.append(
                        f"{name} is missing (set it in a --config file, or as {variable})"
                    )
                continue
            try:
                values[name] = field.metadata["read"](value)
            except ValueError as problem:
                mistakes.append(f"{name} {problem}")
        if mistakes:
            raise UserError(f"Invalid config: {'; '.join(mistakes)}.")
        return cls(**values)

    def given_names(self) -> set[str]:
        """The names of the settings that have a value."""
        names = [field.name for field in dataclasses.fields(self)]
        return {name for name in names if getattr(self, name) is not None}

    @classmethod
    def variable(cls, name: str) -> str:
        """The environment variable for a setting."""
        return f"{cls.prefix}{name.upper()}"

    @classmethod
    def gather(cls, sources: Iterable[str]) -> dict[str, Any]:
        """The settings from files, and from the environment for "ENV"; later sources win.

        If "ENV" is not among the sources, the environment fills in what the files leave out. Raises
        UserError for a file without settings.
        """
        settings: dict[str, Any] = {}
        sources = list(sources)
        for source in sources if ENVIRONMENT in sources else [ENVIRONMENT, *sources]:
            if source == ENVIRONMENT:
                more: Any = cls._environment()
            else:
                more = read_json(source, "config")
                if not isinstance(more, dict):
                    raise UserError(
                        f"The config file {source} must be a JSON object such as"
                        ' {"api_key": "…"}.'
                    )
            settings |= more
        return settings

    @classmethod
    def _environment(cls) -> dict[str, Any]:
        """The settings in the environment."""
        names = {cls.variable(field.name): field.name for field in dataclasses.fields(cls)}
        for variable in os.environ:
            if variable not in names and cls._is_meant_for_us(variable, names):
                name = shown_name(variable.removeprefix(cls.prefix).lower())
                shown = name if name == NOT_SHOWN else cls.variable(name)
                LOG.warning(
                    "Ignored an unknown environment variable: %s%s.",
                    shown, did_you_mean(variable, names),
                )  # fmt: skip
        return {name: os.environ[each] for each, name in names.items() if os.environ.get(each)}

    @classmethod
    def _is_meant_for_us(cls, variable: str, names: Iterable[str]) -> bool:
        """Whether a variable is a setting of this program, perhaps misspelt."""
        for prefix in cls.foreign:
            if variable.startswith(prefix):
                ours = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
                return bool(did_you_mean(variable.removeprefix(prefix), ours))
        return variable.startswith(cls.prefix)


def passwords(url: str) -> list[str]:
    """The passwords in a URL, even an invalid one, both as written and percent-decoded."""
    raw = re.findall(r"://[^:@/]*:([^@]+)@", url) + re.findall(r"[?&]\w*password=([^&]+)", url)
    return [*raw, *map(urllib.parse.unquote, raw)]


def proxy_passwords() -> list[str]:
    """The passwords of the environment's proxies, which such a proxy may quote."""
    proxies = [value for name, value in os.environ.items() if name.lower().endswith("_proxy")]
    return [one for url in proxies for one in passwords(url if "://" in url else f"://{url}")]


def read_json(path: str, what: str) -> Any:
    """The JSON in a file that the user named. Raises UserError if it cannot be read.

    Returns None for an empty file, such as the state file before the first run.
    """
    shown = shown_file(path)
    try:
        content = read_small(path).decode("utf-8-sig")
        return json.loads(content) if content.strip() else None
    except OSError as problem:
        raise UserError(f"Cannot read the {what} file {shown}: {problem.strerror}.") from None
    except (ValueError, RecursionError) as problem:
        detail = advice = ""
        if isinstance(problem, json.JSONDecodeError):
            detail = f" (line {problem.lineno}: {problem.msg})"
            if what == "state" and problem.msg == "Extra data":
                advice = " If it has several STATEs, keep only the last line."
        raise UserError(f"The {what} file {shown} is not valid JSON{detail}.{advice}") from None
