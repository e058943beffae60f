"""The packages: which of them may import which others, and what is allowed at module level."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tap_autopilot"

# The arrows between rooms. Data flows from the API to stdout; imports run from the front door down.
GROUND = {
    "amounts",
    "arguments",
    "exceptions",
    "files",
    "logs",
    "redaction",
    "rfc3339",
    "setting_facts",
    "settings",
    "urls",
}  # what every room may import
ARROWS = {
    "front": {"api", "digests", "protocol", "pushed", "run", "sources", "streams"},
    "run": {"api", "digests", "front", "protocol", "pushed", "rows", "sources", "streams"},
    "pushed": {"api", "collector", "protocol", "rows", "sources", "streams"},
    "protocol": {"rows", "sources", "streams"},
    "streams": {"rows"},
    "rows": set(),
    "sources": {"api", "rows"},
    "api": {"front"},
    "digests": set(),
    "collector": {"api"},
    "sandbox": set(),
}
FROM_THE_FRONT = {"config"}  # all that other rooms may take from the front door
# All that the collector may take from the API's client: how to talk HTTP at all.
FROM_THE_API = {"api.connection", "api.environment", "api.failures", "api.retry", "api.watchdog"}
# All that the tap may take from the collector.
FROM_THE_COLLECTOR = {"collector.database", "collector.names", "collector.reader"}
LIBRARIES = {
    "requests": {"api", "collector", "sandbox"},
    "urllib3": {"api", "collector"},
    "singer": {"run"},
    "argparse": {"front", "ground", "collector", "sandbox"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


OURS = {f"tap_autopilot.{name_of(path)}" for path in MODULES}


def room_of(module: str) -> str:
    """The room of a module, given its name after `tap_autopilot.`."""
    first = module.split(".")[0]
    return "ground" if first in GROUND else first if first in ARROWS else "front"


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        yield from modules_of(node)


def modules_of(node: ast.AST) -> Iterator[str]:
    """What an import statement imports; nothing for any other node."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from [name for name in names if name in OURS] or [node.module or ""]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_follow_the_arrows(path: Path) -> None:
    room = room_of(name_of(path))
    for imported in imports(path):
        if imported.startswith("tap_autopilot."):
            module = imported.removeprefix("tap_autopilot.")
            other = room_of(module)
            if room == "ground":
                assert other == "ground", imported
            elif other not in (room, "ground"):
                assert other in ARROWS[room], imported
                if other == "front":
                    assert module in FROM_THE_FRONT, imported
                if room == "collector":
                    assert module in FROM_THE_API, imported
                if other == "collector":
                    assert module in FROM_THE_COLLECTOR, imported
        else:
            library = imported.split(".")[0]
            assert room in LIBRARIES.get(library, {room}), imported


def test_arrows_run_one_way_only() -> None:
    """Apart from the settings, which every room gets from the front door."""

    def below(room: str) -> set[str]:
        direct = ARROWS[room] - {"front"}
        return direct.union(*(below(one) for one in direct))

    for room in ARROWS:
        assert room not in below(room)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_happens_at_import(path: Path) -> None:
    allowed = (
        ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Assign,
        ast.AnnAssign, ast.If,
    )  # fmt: skip
    for node in ast.parse(path.read_text()).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        last_call = path.name == "__main__.py" and isinstance(node, ast.Expr)
        assert docstring or last_call or isinstance(node, allowed), ast.unparse(node)


def test_no_import_goes_in_a_circle() -> None:
    """Imports in functions count, too; those that only type checkers see do not."""
    needs = {
        name_of(path).removesuffix(".__init__"): {
            name.removeprefix("tap_autopilot.")
            for node in at_run_time(ast.parse(path.read_text()))
            for name in modules_of(node)
        }
        for path in MODULES
    }
    TopologicalSorter(needs).prepare()


def at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """What a module contains, apart from what only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from at_run_time(node)
