"""Draws how figures grow, as small SVGs that can be read on light and dark pages."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.catalog import Growth
from benchmarks.figures import Figure

_INK, _PAGE, _GRID, _GUIDE = "#1d2433", "#ffffff", "#dfe4ec", "#8b98ad"
_LINES = ("#3f63c8", "#c2612f", "#2c8a6b")
_DARK = {
    _INK: "#eef2f9",
    _PAGE: "#12161f",
    _GRID: "#364052",
    _GUIDE: "#67758c",
    "#3f63c8": "#7d9bf0",
    "#c2612f": "#ef9a68",
    "#2c8a6b": "#46b18c",
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "managed-sessions",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GUIDE,
    "axes.facecolor": _PAGE,
    "figure.facecolor": _PAGE,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def draw(growth: Growth, figures: Sequence[Figure]) -> str:
    """Return the SVG of a plot: each figure by its scale, what is in proportion, and the limit."""
    with mpl.rc_context(_STYLE):
        canvas = Canvas(figsize=(6.2, 3.1), layout="constrained")
        axes = canvas.subplots()
        unit = ""
        for key, name, colour in zip(growth.keys, growth.names, _LINES, strict=False):
            series = sorted((each for each in figures if each.key == key), key=lambda each: each.scale or 0)
            scales, values = [each.scale or 0 for each in series], [each.value for each in series]
            unit = series[0].unit
            axes.plot(scales, values, color=colour, marker="o", label=name)
            if key == growth.keys[0]:
                straight = [values[0] * scale / scales[0] for scale in scales]
                axes.plot(scales, straight, color=_GUIDE, linestyle="--", linewidth=1, label="in proportion")
        limits = [
            (each.scale or 0, each.limit) for each in figures if each.key == growth.keys[0] and each.limit
        ]
        if limits:
            axes.plot(*zip(*sorted(limits), strict=True), color=_GUIDE, linestyle=":", label="limit")
        axes.set_xlabel(growth.of)
        axes.set_ylabel(unit, rotation=0, ha="right")
        axes.set_title(growth.title, loc="left", fontsize=11)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(sorted({each.scale or 0 for each in figures if each.key in growth.keys}))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.set_ylim(bottom=0.7 * min(each.value for each in figures if each.key in growth.keys))
        axes.minorticks_off()
        axes.grid(visible=True)
        axes.legend(frameon=False, fontsize=9)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        output = io.StringIO()
        canvas.savefig(output, format="svg", metadata={"Date": None, "Creator": None})
    return _themed(output.getvalue(), growth)


def _themed(svg: str, growth: Growth) -> str:
    """Give each colour another one on a dark page, and the picture a name. Drop what only tools read."""
    body = re.sub(r" <metadata>.*?</metadata>\n", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    body = body.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace("xlink:href", "href")
    rules = "\n".join(
        f'    [style*="fill: {light}"] {{ fill: {dark} !important }} '
        f'[style*="stroke: {light}"] {{ stroke: {dark} !important }}'
        for light, dark in _DARK.items()
    )
    style = f"<style>\n  @media (prefers-color-scheme: dark) {{\n{rules}\n  }}\n</style>"
    body = re.sub(r"font-family: [^;\"]+|font: (\d+px)[^;\"]*", lambda found: _font(found[1]), body)
    head, _, rest = body.partition(">")
    title = f"<title>{growth.title}, by {growth.of}</title>"
    lines = (line.rstrip() for line in f'{head} role="img">{title}{style}{rest}'.splitlines())
    return "\n".join(lines) + "\n"


def _font(size: str | None) -> str:
    return f"font: {size} {_FONT}" if size else f"font-family: {_FONT}"
