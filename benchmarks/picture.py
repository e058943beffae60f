"""The picture of the results: one group of bars an account, one bar a tap, as SVG."""

from __future__ import annotations

from typing import Any

COLOURS = {
    "tap-autopilot": "#1a7f64",
    "floor": "#b0b7bf",
    "0.3.0": "#c26a3d",
    "0.3.0 unlimited": "#d9a066",
    "singer-sdk": "#5b6fb5",
}
GROUPS = (("wide", "cpu", "CPU seconds"), ("far", "wall", "seconds"), ("deep", "wall", "seconds"))
BAR, GAP, LEFT, WIDTH = 18, 34, 150, 560


def draw(results: dict[str, Any]) -> str:
    """An SVG of the groups that were measured; shorter is better."""
    parts: list[str] = []
    y = 10
    for name, figure, unit in GROUPS:
        result = results["scenarios"].get(name)
        if result is None:
            continue
        taps = {tap: figures[figure] for tap, figures in result["taps"].items()}
        parts.append(_text(10, y + 14, f"{name}: {result['what']}, in {unit}", bold=True))
        y += 26
        for tap, value in taps.items():
            length = max(2, round((WIDTH - 60) * value / max(taps.values())))
            parts.append(_text(LEFT - 8, y + 13, tap, end=True))
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{length}" height="{BAR - 4}" rx="2"'
                f' fill="{COLOURS[tap]}"/>'
            )
            parts.append(_text(LEFT + length + 6, y + 12, f"{value:.1f}"))
            y += BAR
        y += GAP - BAR
    parts.append(_text(10, y + 12, f"{results['date']}, {results['machine']}; shorter is better"))
    height = y + 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 40} {height}"'
        f' font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%"'
        f' fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _text(x: int, y: int, text: str, *, bold: bool = False, end: bool = False) -> str:
    style = ' font-weight="bold"' if bold else ""
    anchor = ' text-anchor="end"' if end else ""
    return f'<text x="{x}" y="{y}" fill="#24292f"{style}{anchor}>{text}</text>'
