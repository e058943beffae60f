"""Bar charts of the results, as SVG."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from xml.sax.saxutils import escape

# Each picture brings its own background, so that it is readable on any page.
STYLE = """<style>
.page{fill:#ffffff} text{fill:#24292f} .ours{fill:#1a7f64} .theirs{fill:#8c959f}
@media (prefers-color-scheme:dark){
.page{fill:#0d1117} text{fill:#e6edf3} .ours{fill:#3fb98f} .theirs{fill:#6e7681}
}
</style>"""
BAR, GAP, LEFT, WIDTH, RIGHT = 18, 16, 210, 420, 70  # pixels


@dataclass(frozen=True)
class Bars:
    """A group of bars: seconds for each name. Bars named in `ours` are highlighted."""

    title: str
    values: dict[str, float]
    ours: frozenset[str] = frozenset()


def draw(groups: Iterable[Bars], footer: str) -> str:
    """An SVG of the groups, one below the other."""
    parts: list[str] = []
    y = 10
    for group in groups:
        parts.append(_text(10, y + 14, group.title, bold=True))
        y += 24
        for name, value in group.values.items():
            length = max(2, round(WIDTH * value / max(group.values.values())))
            kind = "ours" if name in group.ours else "theirs"
            parts.append(_text(LEFT - 8, y + 12, name, end=True))
            parts.append(
                f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{length}" height="{BAR - 4}"'
                ' rx="2"/>'
            )
            parts.append(_text(LEFT + length + 6, y + 12, f"{value:.1f} s"))
            y += BAR
        y += GAP
    parts.append(_text(10, y + 8, footer))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {y + 20}"'
        f' font-family="sans-serif" font-size="12">\n{STYLE}\n<rect class="page" width="100%"'
        ' height="100%" rx="6"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _text(x: int, y: int, text: str, *, bold: bool = False, end: bool = False) -> str:
    style = ' font-weight="bold"' if bold else ""
    anchor = ' text-anchor="end"' if end else ""
    return f'<text x="{x}" y="{y}"{style}{anchor}>{escape(text)}</text>'
