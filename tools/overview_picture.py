"""Draw what a projector does, for the top of the README, in light and in dark.

python tools/overview_picture.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from mobilevlm import Feature, Plan, plan_projector
from mobilevlm.compare.drawing import THEMES, Theme

DOCS = Path(__file__).parents[1] / "docs"
PICTURES = {"light": DOCS / "overview.svg", "dark": DOCS / "overview-dark.svg"}

# In pixels, on a phone of this width; elsewhere the picture is as large or larger.
WIDTH, MARGIN, FONT, LINE = 360, 8, 11.5, 15
BOX, BOX_HEIGHT, GAP = 96, 58, 28
TOKEN, DEEP = 3, 1 / 90  # of a token's side, and of the depth for each channel
FLOOR = 182  # on which features stand
CHIP_HEIGHT, CHIP_PAD = 22, 7
SANS = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
MONO_WIDTH = 0.602 * 11  # of a letter


def plan() -> Plan:
    return plan_projector("ldp", 1024, 2048, grid=(24, 24))


def picture(theme: str) -> str:
    """Return the picture as SVG, with the shapes of `plan`."""
    found, colours = plan(), THEMES[theme]
    before, after = found.steps[0].x, found.steps[-1].y
    chips, height = chain([row.name for row in found.rows], colours)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" font-family="{SANS}" font-size="{FONT}">',
            f'<rect width="{WIDTH}" height="{height}" fill="{colours.paper}"/>',
            *boxes(len(found.rows), colours),
            *feature(before, edge(0) + GAP / 2, colours.grey, colours),
            *feature(after, edge(1) + GAP / 2, colours.families[0], colours),
            *chips,
            "</svg>\n",
        ]
    )


def edge(box: int) -> float:
    """Return where a box ends on the right."""
    return MARGIN + BOX + box * (BOX + GAP)


def boxes(blocks: int, colours: Theme) -> Iterator[str]:
    accent = colours.families[0]
    for number, (lines, below) in enumerate(
        [
            (("Vision", "encoder"), "image in"),
            (("Projector", "ldp"), f"{blocks} blocks"),
            (("Language", "model"), "text out"),
        ]
    ):
        ours, x = number == 1, edge(number) - BOX
        line = f'stroke="{accent if ours else colours.grey}" stroke-width="{2 if ours else 1}"'
        yield (
            f'<rect x="{x}" y="{MARGIN}" width="{BOX}" height="{BOX_HEIGHT}" rx="6" '
            f'fill="{colours.paper}" {line}/>'
        )
        ink = accent if ours else colours.ink
        yield text(x + BOX / 2, MARGIN + 19, lines[0], ink, bold=True)
        yield text(x + BOX / 2, MARGIN + 33, lines[1], ink, bold=True)
        yield text(x + BOX / 2, MARGIN + 49, below, colours.grey)
        if number:
            y, tip = MARGIN + BOX_HEIGHT / 2, x - 3
            yield (
                f'<path d="M{x - GAP + 3} {y}H{tip}m-6 -4l6 4l-6 4" fill="none" '
                f'stroke="{colours.ink}" stroke-width="1.5"/>'
            )


def feature(x: Feature, middle: float, colour: str, colours: Theme) -> Iterator[str]:
    """Draw tokens as the squares of a slab, which is as deep as they have channels."""
    rows, columns = x.grid
    assert rows is not None
    assert columns is not None
    w, h, d = columns * TOKEN, rows * TOKEN, round(x.channels * DEEP)
    left, top = round(middle - (w + d) / 2), FLOOR - h
    yield (
        f'<path d="M{middle} {MARGIN + BOX_HEIGHT / 2 + 8}V{top - d - 4}" fill="none" '
        f'stroke="{colours.grey}" stroke-dasharray="2 3"/>'
    )
    yield (
        f'<path d="M{left} {top}l{d} {-d}h{w}l{-d} {d}zM{left + w} {top}l{d} {-d}v{h}l{-d} {d}z" '
        f'fill="{colour}" fill-opacity="0.25" stroke="{colour}"/>'
    )
    lines = "".join(f"M{left + i * TOKEN} {top}v{h}" for i in range(columns + 1))
    lines += "".join(f"M{left} {top + i * TOKEN}h{w}" for i in range(rows + 1))
    yield (
        f'<path d="M{left} {top}h{w}v{h}h{-w}z" fill="{colour}" fill-opacity="0.45"/>'
        f'<path d="{lines}" fill="none" stroke="{colour}" stroke-width="0.6"/>'
    )
    shape = f"{rows} \u00d7 {columns} \u00d7 {x.channels}"
    tokens = f"{rows * columns} tokens, {x.channels} wide"
    # As far apart as they can be: they are wider than what they stand below.
    side = middle + (-1 if middle < WIDTH / 2 else 1) * 20
    yield text(side, FLOOR + 19, shape, colours.ink, bold=True)
    yield text(side, FLOOR + 19 + LINE, tokens, colours.grey)


def chain(names: list[str], colours: Theme) -> tuple[list[str], float]:
    """Draw a chain of blocks in lines, and return with it where it ends."""
    x, y = float(MARGIN), FLOOR + 70.0
    drawn = [
        text(
            MARGIN, y - 10, "Every projector is a list of blocks. This one:", colours.grey, "start"
        )
    ]
    for number, name in enumerate(names, 1):
        width = round(len(name) * MONO_WIDTH + 2 * CHIP_PAD)
        if x + width > WIDTH - MARGIN:
            x, y = MARGIN, y + CHIP_HEIGHT + 6
        drawn += [
            f'<rect x="{x}" y="{y}" width="{width}" height="{CHIP_HEIGHT}" rx="4" '
            f'fill="none" stroke="{colours.families[0]}"/>',
            f'<text x="{x + CHIP_PAD}" y="{y + 15}" fill="{colours.ink}" font-family="{MONO}" '
            f'font-size="11">{escape(name)}</text>',
        ]
        x += width + 14
        if number < len(names):
            drawn.append(text(x - 7, y + 15, "\u203a", colours.grey))
    return drawn, y + CHIP_HEIGHT + MARGIN


def text(
    x: float, y: float, words: str, colour: str, anchor: str = "middle", *, bold: bool = False
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x}" y="{y}" fill="{colour}" text-anchor="{anchor}"{weight}>'
        f"{escape(words)}</text>"
    )


if __name__ == "__main__":
    for theme, path in PICTURES.items():
        path.write_text(picture(theme), "utf-8")
