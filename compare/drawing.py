"""The figure of a comparison: tokens against cost, so that it can be read on a phone."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, product, zip_longest
from typing import TYPE_CHECKING, Any, Literal

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.textpath import text_to_path

from ..projectors.table import short_count
from ..registry import printable
from .layout import Layout, arrange

if TYPE_CHECKING:
    from .comparison import Comparison
    from .cost import Cost

__all__ = ["THEMES", "Theme", "draw", "render"]

# In points. A phone shows the width in 360 pixels, and so a font of 11 points in 10.
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 389, 54, 8, 70, 52
_FONT, _LINE, _CLOSE, _MARKER = 11, 15, 12.5, 9.5
_DPI = 200
# Shapes, with the sizes that make them look alike large.
_SHAPES = {"o": 1, "s": 0.95, "^": 1.1, "D": 0.8, "v": 1.1, "P": 1.1, "X": 1.1, "*": 1.3}
_SHAPES |= {"<": 1.1, ">": 1.1, "h": 1.1}
_FILLS = ("full", "none", "left", "bottom", "right", "top")


@dataclass(frozen=True)
class Theme:
    """Colours, each but the grid's with a contrast of at least 4.5 to the paper.

    Those of families differ for colour-blind readers too; but families are told by their markers.
    """

    paper: str
    ink: str
    grey: str
    grid: str
    families: tuple[str, ...]


_LIGHT = ("#0072b2", "#b34a00", "#00795a", "#a8427f", "#7a5c00", "#4b4fa8")
_DARK = ("#56b4e9", "#f0883e", "#2fc79b", "#e38cc0", "#e6c229", "#a5a8f5")
THEMES = {
    "light": Theme("#ffffff", "#1f2328", "#59636e", "#d8dee4", _LIGHT),
    "dark": Theme("#0d1117", "#f0f6fc", "#9198a1", "#30363d", _DARK),
}


# Whatever the user's own settings are.
_SETTINGS: list[Any] = [
    "default",
    {
        "font.family": "DejaVu Sans",  # which comes with matplotlib
        "font.size": _FONT,
        "svg.hashsalt": "mobilevlm",
        "text.hinting": "none",
        "text.parse_math": False,
    },
]


@style.context(_SETTINGS)
def render(
    comparison: Comparison,
    theme: Literal["light", "dark"],
    suffix: str,
    metadata: Mapping[str, str | None],
) -> bytes:
    """Draw a comparison and return the file.

    Args:
        comparison: The comparison, of one row or more.
        theme: The colours.
        suffix: The format's suffix.
        metadata: What the file says of itself.
    """
    file = io.BytesIO()
    draw(comparison, theme).savefig(file, format=suffix[1:], metadata=metadata)
    return file.getvalue()


@style.context(_SETTINGS)
def draw(comparison: Comparison, theme: Literal["light", "dark"] = "light") -> Figure:
    """Draw tokens out against cost, on logarithmic axes.

    Args:
        comparison: The comparison, of one row or more.
        theme: The colours.
    """
    colours = THEMES[theme]
    layout = arrange(comparison, _measure, (_WIDTH - _LEFT - _RIGHT, 390), _MARKER + 1, _CLOSE)
    below = _below(comparison, layout)
    bottom = _BOTTOM + _LINE * len(below)
    height = bottom + layout.y.length + _TOP
    figure = _figure(height, colours)
    x, y, w, h = _LEFT, bottom, layout.x.length, layout.y.length
    axes = figure.add_axes((x / _WIDTH, y / height, w / _WIDTH, h / height))
    _draw_axes(axes, layout, colours)
    _draw_points(axes, layout, comparison.rows, colours)
    _draw_labels(axes, layout, colours)
    _write(figure, 12, height - 26, _title(comparison.rows), colours.ink, fontweight="bold")
    what = "MACs of the projector as run"
    if comparison.rows[0].prefill_macs is not None:
        what = "MACs of projector and prefill"
    _write(figure, 12, height - _TOP + 15, what, colours.grey)
    _write(figure, x + w / 2, bottom - 32, "tokens out", colours.grey, ha="center")
    for line, columns in enumerate(below):
        for place, text in zip((12, _WIDTH / 2 + 6), columns, strict=False):
            _write(figure, place, bottom - _BOTTOM - _LINE * (line + 0.5), text, colours.grey)
    return figure


def _figure(height: float, colours: Theme) -> Figure:
    figure = Figure((_WIDTH / 72, height / 72), _DPI, facecolor=colours.paper)
    FigureCanvasAgg(figure)
    return figure


def _measure(text: str, bold: bool) -> float:
    font = FontProperties(size=_FONT, weight=_weight(bold))
    return float(text_to_path.get_text_width_height_descent(text, font, False)[0])


def _weight(bold: bool) -> str:
    return "bold" if bold else "normal"


def _draw_axes(axes: Axes, layout: Layout, colours: Theme) -> None:
    x, y = layout.x, layout.y
    axes.set(facecolor=colours.paper, xscale="log", yscale="log")
    axes.set(xlim=(x.low, x.high), ylim=(y.low, y.high))
    tokens = x.apart([point.x for point in layout.points], 34)
    costs = y.steps()
    axes.set_xticks(tokens, [f"{value:,}" for value in tokens])
    axes.set_yticks(costs, [short_count(round(value)) for value in costs])
    axes.minorticks_off()
    axes.grid(color=colours.grid, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=5, labelcolor=colours.grey)
    axes.spines[:].set_visible(False)


def _draw_points(axes: Axes, layout: Layout, rows: Sequence[Cost], colours: Theme) -> None:
    for front in layout.fronts:
        along = [point.x for point in front], [point.y for point in front]
        axes.plot(*along, color=colours.ink, lw=1.4, zorder=2)
    halo = [withStroke(linewidth=3, foreground=colours.paper)]
    families = dict.fromkeys(row.family or row.name for row in rows)
    looks = zip(cycle(product(_FILLS, _SHAPES)), cycle(colours.families), strict=False)
    look = dict(zip(families, looks, strict=False))
    for point in layout.points:
        (fill, shape), colour = look[point.row.family or point.row.name]
        axes.plot(
            point.x,
            point.y,
            shape,
            color=colour,
            fillstyle="full" if fill == "none" else fill,
            markerfacecolor=colours.paper if fill == "none" else colour,
            markerfacecoloralt=colours.paper,
            markersize=_MARKER * _SHAPES[shape],
            markeredgewidth=1.3,
            path_effects=halo,
            label=point.row.name,
            zorder=3,
        )


def _draw_labels(axes: Axes, layout: Layout, colours: Theme) -> None:
    scale = layout.x.length, layout.y.length
    backed = {"facecolor": colours.paper, "edgecolor": "none", "pad": 0}
    for label in layout.labels:
        if label.place.leader:
            (x, y), (u, v) = label.place.leader
            ends = (x / scale[0], u / scale[0]), (y / scale[1], v / scale[1])
            line = Line2D(*ends, color=colours.grey, lw=0.8, transform=axes.transAxes, zorder=2.5)
            axes.add_line(line)
        left, _, right, top = label.place.box
        x = {"left": left + 1, "right": right - 1, "center": (left + right) / 2}[label.side]
        for number, (text, bold) in enumerate(label.lines):
            axes.text(
                x / scale[0],
                (top - _CLOSE * (number + 0.78)) / scale[1],
                text,
                color=colours.ink,
                ha=label.side,
                va="baseline",
                fontweight=_weight(bold),
                transform=axes.transAxes,
                bbox=backed,
                zorder=2.8,
            )


def _title(rows: Sequence[Cost]) -> str:
    stack = rows[0].plan.stack
    images = {row.images for row in rows}
    where = rows[0].images
    if len(images) > 1:
        where = f"{len(images)} grids"
    elif rows[0].packed:
        where = f"{len(rows[0].grids)} images"
    return f"Tokens against cost, {stack.in_} \u2192 {stack.out} on {where}"


def _below(comparison: Comparison, layout: Layout) -> list[tuple[str, ...]]:
    """Return the lines below the axes, each of one column or two."""
    text = "Line and bold names: the Pareto front; lower left is better."
    if comparison.rows[0].prefill_macs is not None:
        text = "Line and bold names: the Pareto front of tokens and MACs of the projector alone."
    lines = textwrap.wrap(text, 60)
    if comparison.refused:
        names = ", ".join(dict.fromkeys(printable(each.name) for each in comparison.refused))
        lines += textwrap.wrap(f"Refused: {names}", 60)
    found: list[tuple[str, ...]] = [(line,) for line in lines]
    if layout.key:
        entries = [f"{number}  {name}" for number, name in enumerate(layout.key, 1)]
        found.append(())
        if max(_measure(entry, False) for entry in entries) > _WIDTH / 2 - 24:
            return found + [(line,) for entry in entries for line in textwrap.wrap(entry, 54)]
        half = (len(entries) + 1) // 2
        found += zip_longest(entries[:half], entries[half:], fillvalue="")
    return found


def _write(figure: Figure, x: float, y: float, text: str, colour: str, **how: Any) -> None:
    figure.text(x / _WIDTH, y / (figure.get_figheight() * 72), text, color=colour, **how)
