"""Makes command-line options from the fields of dataclasses."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any


def option(
    default: Any,
    help: str,
    *,
    name: str = "",
    metavar: str | None = None,
    choices: Mapping[str, str] | None = None,
    read: Callable[[str], Any] | None = None,
) -> Any:
    """A field that is also an option, by default `--` and the field's name.

    `choices` are the values and their meanings; `read` converts and checks any other value, and its
    name describes the value in the help. A field that is True by default becomes an option that
    turns it off.
    """
    metadata = {"help": help, "name": name, "metavar": metavar, "choices": choices, "read": read}
    return dataclasses.field(default=default, metadata=metadata)


def add_options(group: argparse._ArgumentGroup, kind: type[Any], prefix: str = "") -> None:
    """Add the options of a dataclass; those without a name of their own have the prefix."""
    for field in _options(kind):
        metadata, default = field.metadata, field.default
        more: dict[str, Any] = {"dest": _dest(kind, field), "default": argparse.SUPPRESS}
        if isinstance(default, bool):
            more["action"] = "store_false" if default else "store_true"
            more["help"] = metadata["help"]
        else:
            number = f"{default:g}" if isinstance(default, float) else default
            shown = f" (default: {number})" if default != "" else ""
            meanings = explain(metadata["choices"] or {})
            more["help"] = ". ".join(filter(None, [metadata["help"], meanings])) + shown
            value = metadata["read"].__name__.upper() if metadata["read"] else "N"
            more["metavar"] = metadata["metavar"] or (None if metadata["choices"] else value)
            more["choices"] = metadata["choices"]
            more["type"] = metadata["read"] or type(default)
        name = metadata["name"] or prefix + field.name.replace("_", "-")
        group.add_argument(f"--{name}", **more)


def values(kind: type[Any], args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says about the fields of a dataclass."""
    arguments = vars(args)
    return {
        field.name: arguments.get(_dest(kind, field), field.default) for field in _options(kind)
    }


def _options(kind: type[Any]) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(kind) if "help" in field.metadata]


def _dest(kind: type[Any], field: dataclasses.Field[Any]) -> str:
    return f"{kind.__name__}.{field.name}"


def explain(choices: Mapping[str, str]) -> str:
    """The choices and their meanings, as text."""
    return "; ".join(f"{name}: {meaning}" for name, meaning in choices.items())


def positive(text: str) -> int:
    """A whole number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def count(text: str) -> int:
    """A whole number from 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return number


def port(text: str) -> int:
    """A port's number, or 0."""
    number = int(text)
    if not 0 <= number < 2**16:
        raise argparse.ArgumentTypeError("must be between 0 and 65535")
    return number


def rate(text: str) -> float:
    """A finite number from 0."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return number


def share(text: str) -> float:
    """A number from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError("must be between 0 and 1")
    return number


def url(text: str) -> str:
    """An HTTP URL."""
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL")
    return text
