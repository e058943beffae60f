"""The structure: which module may import which, and what may stand at module level."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tap_autopilot"

# What each module imports of the others. Data flows from the client to the writer, imports from
# the command line down; no arrow points up.
PICTURE = {
    "__init__": set(),
    "__main__": {"cli"},
    "cli": {"about", "client", "config", "custom_fields", "discover", "exceptions", "logs", "messages",
            "streams", "sync", "trial"},
    "about": {"config", "streams"},
    "trial": {"client", "config", "documents", "pace", "walks"},
    "config": {"exceptions"},
    "exceptions": set(),
    "logs": set(),
    "custom_fields": {"client", "documents", "exceptions", "schemas"},
    "discover": {"schemas", "streams"},
    "selection": {"discover", "exceptions", "streams"},
    "sync": {"client", "config", "custom_fields", "discover", "exceptions", "logs", "messages",
             "selection", "shape", "state", "streams", "tally", "terminal", "walks", "window"},
    "terminal": {"logs"},
    "state": {"documents", "shape", "streams", "walks", "window"},
    "walks": {"client", "documents", "exceptions"},
    "client": {"config", "deadline", "exceptions", "logs", "pace", "retry"},
    "deadline": set(),
    "documents": {"exceptions"},
    "pace": set(),
    "retry": set(),
    "messages": {"exceptions"},
    "schemas": set(),
    "shape": {"tally"},
    "tally": set(),
    "window": set(),
    "streams": {"streams"},
    "streams.base": {"shape", "tally", "window"},
    "streams.contacts": {"shape", "streams", "tally", "window"},
    "streams.emails": {"shape", "streams", "tally", "window"},
    "streams.lists": {"shape", "streams", "tally", "window"},
    "streams.smart_segments": {"shape", "streams", "tally", "window"},
}  # fmt: skip


def modules(folder: Path = PACKAGE) -> dict[str, Path]:
    found = {}
    for path in folder.rglob("*.py"):
        name = ".".join(path.relative_to(folder).with_suffix("").parts)
        if not name.startswith("sandbox."):
            found[name.removesuffix(".__init__")] = path
    return found


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "tap_autopilot":
            yield from (f"tap_autopilot.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def ours(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("tap_autopilot.")}


def test_imports_follow_the_picture() -> None:
    found = {name: ours(path) for name, path in modules().items()}
    assert found == PICTURE


def test_the_sandbox_and_the_tap_know_nothing_of_each_other() -> None:
    for path in (PACKAGE / "sandbox").glob("*.py"):
        assert ours(path) <= {"sandbox"}
    assert not any("sandbox" in known for known in PICTURE.values())


@pytest.mark.parametrize(
    ("library", "users"),
    [
        ("requests", {"client", "deadline"}),
        ("urllib3", {"client", "deadline"}),
        ("singer", {"sync"}),
        ("argparse", {"cli"}),
        ("threading", {"client", "pace", "sync", "walks"}),
    ],
)
def test_a_concern_stays_where_it_belongs(library: str, users: set[str]) -> None:
    found = {
        name
        for name, path in modules().items()
        if any(one.split(".")[0] == library for one in imports(path))
    }
    assert found == users


@pytest.mark.parametrize("path", modules().values(), ids=modules())
def test_nothing_happens_at_import(path: Path) -> None:
    allowed = (
        ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Assign, ast.AnnAssign, ast.If,
    )  # fmt: skip
    for node in ast.parse(path.read_text()).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        last_call = path.name == "__main__.py" and isinstance(node, ast.Expr)
        assert docstring or last_call or isinstance(node, allowed), ast.unparse(node)
