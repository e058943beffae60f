"""The docs are accurate: the messages they quote are the tap's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tap_autopilot.pushed.rows import PROPERTIES, TRAITS
from tools import meltano_definitions

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCE = "\n".join(path.read_text() for path in (ROOT / "tap_autopilot").rglob("*.py"))
SAID = re.sub(r'"\s*\n\s*f?"', "", SOURCE)  # joins adjacent literals
SAID = re.sub(r"status \{\w+\}", "status 401 status 403 status 404", SAID)
PROGRAMS = [f"see {name} --help" for name in ("tap-autopilot", "tap-autopilot-collector")]
SAID = SAID.replace("see {self.prog} --help", " ".join(PROGRAMS))


def quoted(path: Path) -> list[str]:
    cells = re.findall(r"^\| (`.+?`(?:, `.+?`)*) \|", path.read_text(), re.MULTILINE)
    assert cells
    return [piece for cell in cells for piece in re.findall("`(.+?)`", cell)]


@pytest.mark.parametrize("piece", quoted(DOCS / "troubleshooting.md"))
def test_troubleshooting_quotes_real_messages(piece: str) -> None:
    assert piece in SAID


def test_every_error_is_in_troubleshooting() -> None:
    """Some part of the text of every UserError and RunError."""
    pieces = quoted(DOCS / "troubleshooting.md")
    texts = re.findall(
        r'(?:UserError|RunError|Unreachable|Refused)\(\s*(?:status,\s*)?f?"([^"]{20,})"', SAID
    )
    assert len(texts) > 8
    missing = [text for text in texts if not any(piece in text for piece in pieces)]
    assert set(missing) <= {
        text for text in missing if text.startswith(("GET {", "{failure}", "{lost}"))
    }, missing


def test_the_meltano_definitions_are_up_to_date() -> None:
    """To update them: python -m tools.meltano_definitions --write."""
    for path, text in meltano_definitions.files().items():
        assert path.read_text() == text, path.name


def test_the_tested_targets_are_those_of_the_makefile() -> None:
    """With the same versions; the tests of the targets use the settings on the page."""
    makefile, page = ((ROOT / path).read_text() for path in ("Makefile", "docs/targets.md"))
    installed = re.findall(r"^PACKAGES_\w+ := ([\w-]+)==([\d.]+)", makefile, re.MULTILINE)
    installed += re.findall(r"^PACKAGES_\w+ := \S+/([\w-]+)@(\w{7})", makefile, re.MULTILINE)
    rows = [
        (name, cells.partition(" |")[0])
        for name, cells in re.findall(r"^\| `([\w-]+)`[^|]*\| (.*)", page, re.MULTILINE)
        if "avoid" not in cells
    ]
    assert len(rows) >= 12
    assert {name for name, _ in rows} == {name for name, _ in installed}
    for name, version in installed:
        assert any(one == name and version in told for one, told in rows), (name, version)


def test_every_link_works() -> None:
    for path in DOCS.rglob("*.md"):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_each_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for path in [*DOCS.glob("*.md"), DOCS / "nightly.sh"]:
        assert f"docs/{path.name}" in readme


def test_the_example_of_an_event_names_what_the_tap_reads() -> None:
    example = re.search(r"client\.track\(.*?\n\)", (DOCS / "senders.md").read_text(), re.DOTALL)
    assert example is not None
    assert (
        set(re.findall(r'"(\w+)":', example[0])) - {"traits"} <= PROPERTIES.keys() | TRAITS.keys()
    )
