"""Records the figures that the README and the docs quote, and writes them there.

    python -m benchmarks.figures                  # write what is recorded
    python -m benchmarks.figures soak             # first run these: names, `soak`, `bench` or `all`
    python -m benchmarks.figures "kills --kills 50" churn

A figure is what its program prints to stdout. `figures.json` has it with its command, its date and
the Git tree of the code that was measured; `git rev-parse REVISION:tap_autopilot` prints a
revision's tree. In Markdown, a comment says which figures come next, and how they are shown:

    <!-- figures: kills churn, quoted -->
    <!-- end of figures -->

They are `quoted`, or shown as `printed`, or only their `list` or their tables (`table`) are. Those
that were never recorded are left out.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "benchmarks/figures.json"
CODE = "tap_autopilot"
WIDTH = 100
PROGRAMS = {
    "kills": "tests.soak.kills",
    "churn": "tests.soak.churn",
    "nights": "tests.soak.nights",
    "histories": "tests.soak.histories",
    "collector-kills": "tests.soak.collector --kills 1000",
    "tap": "benchmarks .venv-bench",
    "digests": "benchmarks.digests",
    "pipeline": "benchmarks.pipeline .venv-bench/ours .venv-target-postgres",
    "collector": "benchmarks.collector",
    "strangers": "benchmarks.strangers",
    "door": "benchmarks.door",
    "store": "benchmarks.store",
}
SOAK = ("kills", "churn", "nights", "histories", "collector-kills")
GROUPS = {
    "soak": SOAK,
    "bench": tuple(name for name in PROGRAMS if name not in SOAK),
    "all": tuple(PROGRAMS),
}
BLOCK = re.compile(
    r"<!-- figures: (?P<names>[a-z -]+), (?P<how>quoted|printed|list|table) -->\n"
    r".*?<!-- end of figures -->",
    re.DOTALL,
)


@dataclass(frozen=True)
class Figure:
    """What a program printed, and for which code."""

    command: str
    code: str
    date: str
    output: str

    def __str__(self) -> str:
        """Where it comes from."""
        return f"`{self.command}`, code `{self.code[:10]}`, {self.date}"


def recorded() -> dict[str, Figure]:
    """The recorded figures by name."""
    return {name: Figure(**parts) for name, parts in json.loads(RECORDED.read_text()).items()}


def written(text: str, figures: dict[str, Figure]) -> str:
    """Markdown with the figures that it names."""

    def block(match: re.Match[str]) -> str:
        chosen = [figures[name] for name in match["names"].split() if name in figures]
        lines = quoted(chosen) if match["how"] == "quoted" else shown(chosen, match["how"])
        start, end = match[0].splitlines()[0], match[0].splitlines()[-1]
        return "\n".join([start, *lines, end])

    return BLOCK.sub(block, text)


def quoted(figures: Iterable[Figure]) -> list[str]:
    """The lines of figures, each as a paragraph of a quotation with its origin."""
    lines: list[str] = []
    for figure in figures:
        text = f"{figure.output.strip()} ({figure})"
        lines += [">"] if lines else []
        lines += wrapped(text, "> ", "> ")
    return lines


def shown(figures: Iterable[Figure], how: str) -> list[str]:
    """The lines of figures as printed, or of their lists or tables, each with its origin."""
    lines: list[str] = []
    for figure in figures:
        lines += [*part(figure.output.strip("\n"), how), "", *wrapped(f"{figure}."), ""]
    return lines[:-1]


def part(output: str, how: str) -> list[str]:
    """What to show of an output, as Markdown."""
    lines = output.splitlines()
    if how == "printed":
        return ["```text", *lines, "```"]
    if how == "list":
        items = [line for line in lines if line.startswith("- ")]
        return [line for item in items for line in wrapped(item, "", "  ")]
    tables = "\n".join(line if line.startswith("|") else "" for line in lines)
    return re.sub("\n{3,}", "\n\n", tables).strip().splitlines()


def wrapped(text: str, first: str = "", rest: str = "") -> list[str]:
    """A paragraph as lines."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )


def code() -> str:
    """The Git tree of the code. Raises SystemExit if the code differs from what is committed."""
    if git("status", "--porcelain", "--", CODE):
        raise SystemExit(f"{CODE} has changes; commit them first, so that figures can name them.")
    return git("rev-parse", f"HEAD:{CODE}")


def git(*arguments: str) -> str:
    """What a Git command prints."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def record(name: str, options: list[str]) -> None:
    """Run a program and record what it prints. Raises SystemExit if it fails."""
    parts = shlex.split(PROGRAMS[name])
    fixed = list(itertools.takewhile(lambda part: not part.startswith("--"), parts))
    arguments = ["-m", *(fixed + options if options else parts)]
    measured, started = code(), time.monotonic()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    took = f"{name}: {(time.monotonic() - started) / 60:.1f} min"
    if done.returncode or code() != measured:
        raise SystemExit(f"{took}, exit code {done.returncode}; not recorded.\n{done.stdout}")
    print(took, done.stdout, sep="\n", file=sys.stderr)
    today = datetime.now(timezone.utc).date().isoformat()
    found = Figure(shlex.join(["python", *arguments]), measured, today, done.stdout)
    figures = {name: asdict(figure) for name, figure in recorded().items()} | {name: asdict(found)}
    ordered = {name: figures[name] for name in PROGRAMS if name in figures}
    RECORDED.write_text(json.dumps(ordered, indent=1) + "\n")


def documents() -> list[Path]:
    """The Markdown files that may quote figures."""
    return [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "benchmarks/README.md"]


def main() -> None:
    """Record figures, and write all that are recorded."""
    for argument in sys.argv[1:]:
        name, *options = shlex.split(argument)
        for one in GROUPS.get(name, (name,)):
            record(one, options)
    figures = recorded()
    for path in documents():
        path.write_text(written(path.read_text(), figures))


if __name__ == "__main__":
    main()
