"""The tree of exceptions in the docs is the tree of classes."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

import tap_autopilot
from tap_autopilot import exceptions


def subclasses(base: type[Exception]) -> Iterator[tuple[str, str, str]]:
    """Each class below this one: its name, its parent's, and its module."""
    for one in base.__subclasses__():
        if one.__module__.startswith("tap_autopilot."):
            yield one.__name__, base.__name__, one.__module__.removeprefix("tap_autopilot.")
            yield from subclasses(one)


def documented() -> Iterator[tuple[str, str, str]]:
    parents = [""]
    for line in (exceptions.__doc__ or "").splitlines():
        match = re.match(r"(?:│   |    |├── |└── )*([A-Z]\w+) {2,}\S|([A-Z]\w+)$", line)
        if match:
            depth = len(re.match(r"[│├└─ ]*", line)[0]) // 4  # type: ignore[index]
            name = match[1] or match[2]
            parents[depth + 1 :] = [name]
            module = re.search(r"\(([a-z_.]+)\)$", line)
            yield name, parents[depth], module[1] if module else "exceptions"


def test_the_tree_of_exceptions_is_complete() -> None:
    for module in pkgutil.walk_packages(tap_autopilot.__path__, "tap_autopilot."):
        if not module.name.startswith("tap_autopilot.sandbox") and "__main__" not in module.name:
            importlib.import_module(module.name)
    roots = [exceptions.TapError, exceptions.Retryable, exceptions.Oversized]
    classes = {(one.__name__, "", "exceptions") for one in roots}
    for root in roots:
        classes |= set(subclasses(root))
    assert sorted(documented()) == sorted(classes)
