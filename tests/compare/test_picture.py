"""The picture of a comparison: all of it is there, apart, legible, and the same each time."""

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import compare_picture
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from mobilevlm import SpecError, compare_projectors
from mobilevlm.compare import Comparison, Cost
from mobilevlm.compare.drawing import THEMES, draw
from mobilevlm.compare.labels import Box, place_labels
from mobilevlm.compare.layout import Axis
from mobilevlm.compare.picture import plot
from mobilevlm.registry.requirements import install_command

ROOT = Path(__file__).parents[2]
PHONE = 360
LM = {"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 24}
FEW = ["ldp", "mlp2x_gelu", "internvl", "c-abstractor"]


@cache
def some() -> tuple[Cost, ...]:
    return compare_projectors(FEW, 1024, 2048, grid=(24, 24)).rows


@cache
def chosen() -> Comparison:
    return compare_picture.comparison()


def made(count: int, name: str = "{family}", seed: int = 0) -> Comparison:
    """Rows of as many families, with tokens as they are common and costs of all sizes."""
    families = list(json.loads((ROOT / "projectors/zoo/index.json").read_text("utf-8")))
    chosen, row = random.Random(seed), some()[0]
    rows = []
    for number in range(count):
        family = families[number] if number < len(families) else f"document-{number}"
        tokens = chosen.choice([36, 64, 144, 144, 144, 145, 156, 256, 576, 576])
        macs = int(10 ** chosen.uniform(8, 10.5))
        said = name.format(family=family, number=number)
        rows.append(replace(row, name=said, family=family, tokens_out=tokens, macs_run=macs))
    return Comparison(tuple(rows))


CASES: dict[str, Callable[[], Comparison]] = {
    "page": chosen,
    "one": lambda: Comparison(some()[:1]),
    "two alike": lambda: Comparison((some()[0], replace(some()[0], name="other", family="other"))),
    "sixty": lambda: made(60),
    "sixty alike": lambda: Comparison(
        tuple(replace(row, tokens_out=144, macs_run=10**9) for row in made(60).rows)
    ),
    "long names": lambda: made(12, "a-document-of-mine-{number}(queries=64, depth=4, kind='x')"),
    "sixty long names": lambda: made(60, "{family}-of-mine-{number}(queries=64, kind='x')"),
    "grids": lambda: compare_projectors(FEW, 1024, 2048, grid=[(24, 24), (16, 16), (12, 36)]),
    "packed": lambda: compare_projectors(
        FEW, 1024, 2048, grid=[(24, 24), (16, 16), (12, 36)], packed=True
    ),
    "language model": lambda: compare_projectors(FEW, 1024, 2048, grid=(24, 24), lm=LM),
    "refused": lambda: compare_projectors(
        ["identity", "step3", "ldpnetv2", "h-reducer", "ldp"], 1024, 2048, grid=(15, 15)
    ),
    "no cost": lambda: compare_projectors(["identity", "linear", "ldp"], 64, 64, grid=(12, 12)),
}


SLOW = {"sixty", "sixty long names"}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES],
    ids=str,
)
def case(request: pytest.FixtureRequest) -> tuple[Comparison, Figure]:
    comparison = CASES[request.param]()
    figure = draw(comparison)
    figure.canvas.draw()
    return comparison, figure


def texts(figure: Figure) -> dict[Text, Bbox]:
    """Return the texts that are drawn, with what they cover."""
    return {
        text: text.get_window_extent()
        for text in figure.findobj(Text)
        if isinstance(text, Text) and text.get_visible() and text.get_text()
    }


def markers(figure: Figure) -> list[Line2D]:
    [axes] = figure.axes
    return [line for line in axes.lines if line.get_marker() not in ("None", None)]


def cost(row: Cost) -> int:
    return row.macs_run + (row.prefill_macs or 0)


def bare(text: str) -> str:
    """Return a text without what is left out, or where it is broken."""
    return re.sub(r"[\s(),;]+", "", text)


Case = tuple[Comparison, Figure]


def test_no_text_lies_on_another(case: Case) -> None:
    for (one, box), (other, its) in combinations(texts(case[1]).items(), 2):
        common = Bbox.intersection(box, its)
        # Lines of one label stand close: the boxes of their letters may touch.
        apart = common is None or min(common.width, common.height) < 0.12 * box.height
        assert apart, (one.get_text(), other.get_text())


def test_nothing_leaves_the_figure(case: Case) -> None:
    _, figure = case
    for text, box in texts(figure).items():
        assert figure.bbox.containsx(box.x0), text.get_text()
        assert figure.bbox.containsx(box.x1), text.get_text()
        assert figure.bbox.containsy(box.y0), text.get_text()
        assert figure.bbox.containsy(box.y1), text.get_text()
    [axes] = figure.axes
    for line in markers(figure):
        assert axes.bbox.contains(*axes.transData.transform(line.get_xydata()[0]))


def test_each_row_is_drawn_where_it_belongs(case: Case) -> None:
    comparison, figure = case
    drawn = sorted((line.get_label(), *line.get_xydata()[0]) for line in markers(figure))
    lowest = min((cost(row) for row in comparison.rows if cost(row)), default=0)
    assert drawn == sorted(
        (row.name, row.tokens_out, cost(row) or lowest / 2) for row in comparison.rows
    )


def test_each_row_is_named(case: Case) -> None:
    """Beside its marker or, if a number stands there, below the axes after that number."""
    comparison, figure = case
    said = bare("".join(text.get_text() for text in texts(figure)))
    assert [row.name for row in comparison.rows if bare(row.name) not in said] == []


def test_no_label_lies_on_a_marker(case: Case) -> None:
    _, figure = case
    [axes] = figure.axes
    labels = {text: box for text, box in texts(figure).items() if text in axes.texts}
    assert labels
    for line in markers(figure):
        x, y = axes.transData.transform(line.get_xydata()[0])
        for text, box in labels.items():
            assert not box.contains(x, y), (text.get_text(), line.get_label())


def test_families_have_markers_of_their_own(case: Case) -> None:
    comparison, figure = case
    families = {row.name: row.family or row.name for row in comparison.rows}
    looks: dict[str, set[object]] = {}
    for line in markers(figure):
        hollow = to_rgb(line.get_markerfacecolor()) == to_rgb(figure.get_facecolor())
        look = (line.get_marker(), line.get_fillstyle(), hollow)
        looks.setdefault(families[str(line.get_label())], set()).add(look)
    assert all(len(each) == 1 for each in looks.values())
    assert len(set.union(*looks.values())) == len(looks) == len({*families.values()})


def test_a_line_joins_the_pareto_front(case: Case) -> None:
    comparison, figure = case
    [axes] = figure.axes
    curves = [line for line in axes.lines if line.get_linestyle() == "-" and line.get_zorder() == 2]
    joined = {(x, y) for line in curves for x, y in line.get_xydata()}
    lowest = min((cost(row) for row in comparison.rows if cost(row)), default=0)
    assert joined == {(row.tokens_out, cost(row) or lowest / 2) for row in comparison.pareto()}
    assert len(curves) == len({row.grids for row in comparison.pareto()})


def test_it_can_be_read_on_a_phone(case: Case) -> None:
    _, figure = case
    width = figure.get_figwidth() * 72
    for text in texts(figure):
        assert text.get_fontsize() * PHONE / width > 10
    [axes] = figure.axes
    assert 1 <= len(axes.get_xticks()) <= 7
    assert 3 <= len(axes.get_yticks()) <= 7


def test_the_title_says_the_setting() -> None:
    row = some()[0]
    wide = replace(row, grids=((12, 36),))
    packed = replace(row, grids=((24, 24), (24, 24), (12, 36)), packed=True)
    settings = {(row,): "24x24", (wide,): "12x36", (row, wide): "2 grids", (packed,): "3 images"}
    for rows, setting in settings.items():
        written = [text.get_text() for text in draw(Comparison(rows)).texts]
        assert f"Tokens against cost, 1024 \u2192 2048 on {setting}" in written


@pytest.mark.parametrize("theme", THEMES.values(), ids=list(THEMES))
def test_colours_have_contrast(theme: object) -> None:
    def light(colour: str) -> float:
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)
        ]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear)) + 0.05

    paper, ink, grey, _, families = vars(theme).values()
    for colour in (ink, grey, *families):
        one, other = sorted([light(colour), light(paper)])
        assert other / one >= 4.5, colour


def spread(count: int) -> tuple[list[list[tuple[float, float]]], list[tuple[float, float]]]:
    chosen = random.Random(count)
    spots = [[(chosen.uniform(10, 290), chosen.uniform(10, 290))] for _ in range(count)]
    return spots, [(chosen.uniform(15, 60), 12.0) for _ in range(count)]


FRAME: Box = (0, 0, 300, 300)


@pytest.mark.parametrize("count", [1, 8, 25])
def test_labels_find_free_places_in_the_frame(count: int) -> None:
    spots, sizes = spread(count)
    places = place_labels(spots, sizes, FRAME, 9)
    assert all(place.free for place in places)
    for place, (width, height) in zip(places, sizes, strict=True):
        left, bottom, right, top = place.box
        assert (right - left, top - bottom) == pytest.approx((width, height))
        assert left >= 0
        assert bottom >= 0
        assert right <= 300 + 1e-9
        assert top <= 300 + 1e-9
    boxes = [Bbox.from_extents(*place.box) for place in places]
    for one, other in combinations(boxes, 2):
        common = Bbox.intersection(one, other)
        assert common is None or min(common.width, common.height) < 1e-9
    assert places == place_labels(spots, sizes, FRAME, 9)


def test_a_label_that_finds_no_free_place_says_so() -> None:
    spots, sizes = [[(150.0, 150.0)], [(150.0, 156.0)]], [(290.0, 290.0)] * 2
    places = place_labels(spots, sizes, FRAME, 9)
    assert not any(place.free or place.clear for place in places)


def test_a_label_leaves_a_curve_visible() -> None:
    curve = [(150.0 + step, 100.0) for step in range(150)]
    [free] = place_labels([[(150, 100)]], [(50, 12)], FRAME, 9)
    [beside] = place_labels([[(150, 100)]], [(50, 12)], FRAME, 9, curve)
    assert free.box[0] > 150
    assert beside.box[2] < 150


def test_a_label_stands_beside_no_other_marker() -> None:
    """Between two markers, it could belong to either."""
    [label, _] = place_labels([[(100, 100)], [(162, 100)]], [(50, 12), (20, 12)], FRAME, 9)
    assert label.box[2] < 100
    assert label.clear


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ([1e9], [3e8, 1e9, 3e9]),
        ([4e8, 5e10], [3e8, 1e9, 3e9, 1e10, 3e10]),
        ([7e7, 5e10], [1e8, 1e9, 1e10]),
        ([1, 1e6], [1, 1e3, 1e6]),
        ([5e7, 9e7], [2e7, 5e7, 1e8, 2e8]),
    ],
)
def test_round_values_are_marked(values: list[float], steps: list[float]) -> None:
    assert Axis.around(values, 300, least=10).steps() == pytest.approx(steps)


def test_the_picture_of_the_page_is_up_to_date(tmp_path: Path) -> None:
    """To the byte by the versions of `constraints.txt`; numbers within a tenth of a point."""
    for theme, path in compare_picture.PICTURES.items():
        chosen().plot(tmp_path / path.name, theme=theme)
        found, expected = (each.read_text("utf-8") for each in (tmp_path / path.name, path))
        number = r"-?\d+(?:\.\d+)?"
        assert re.sub(number, "0", found) == re.sub(number, "0", expected), REDRAW
        pairs = zip(re.findall(number, found), re.findall(number, expected), strict=True)
        assert all(abs(float(a) - float(b)) < 0.1 for a, b in pairs), REDRAW
    page = (ROOT / "docs" / "choose.md").read_text("utf-8")
    [described] = re.findall(r"!\[(.*?)\]\(compare\.svg\)", page)
    assert [row.name for row in chosen().pareto() if row.family not in described] == []


REDRAW = "run: python tools/compare_picture.py"


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_picture_is_the_same_whenever_and_however_it_is_drawn(
    tmp_path: Path, suffix: str
) -> None:
    comparison, path = Comparison(some()), tmp_path / f"compare{suffix}"
    comparison.plot(path)
    first = path.read_bytes()
    with mpl.rc_context({"font.size": 40, "axes.facecolor": "red", "savefig.dpi": 17}):
        comparison.plot(path)  # over its own
    assert path.read_bytes() == first
    comparison.plot(path, theme="dark")
    assert path.read_bytes() != first


def said(call: Callable[[], object]) -> str:
    with pytest.raises(SpecError) as caught:
        call()
    return str(caught.value)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    comparison = Comparison(some())
    for name, found in {"a.gif": "the suffix '.gif'", "a": "no suffix"}.items():
        path = tmp_path / name
        assert said(lambda path=path: comparison.plot(path)) == (
            f"{path}: {found}; expected .png, .svg or .pdf. Name it compare.png, say."
        )
    theirs = tmp_path / "theirs.png"
    theirs.write_bytes(b"a photograph")
    assert said(lambda: comparison.plot(theirs)) == (
        f"{theirs}: already there, and nothing in it says that this library wrote it; expected a "
        "new file or an earlier result. Name another; replace=True replaces it, and what it holds "
        "is lost."
    )
    assert theirs.read_bytes() == b"a photograph"
    comparison.plot(theirs, replace=True)
    assert theirs.read_bytes().startswith(b"\x89PNG")
    missing = tmp_path / "missing" / "a.png"
    assert said(lambda: comparison.plot(missing)) == (
        f"{missing}: cannot be written: No such file or directory"
    )
    blue: Any = "blue"
    assert said(lambda: plot(comparison, tmp_path / "a.png", theme=blue)) == (
        "theme: 'blue'; expected light or dark"
    )


@pytest.mark.slow
def test_without_matplotlib_all_but_the_picture_is_there(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['matplotlib'] = None\n"
        "from mobilevlm import compare_projectors\n"
        "found = compare_projectors(['linear'], 32, 48, grid=(2, 2))\n"
        "print(found.rows[0].tokens_out)\n"
        "try: found.plot('a.png')\n"
        "except ImportError as error: print(type(error).__name__, error, sep=': ')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert run.stdout == (
        "4\n"
        "MatplotlibMissing: mobilevlm.compare: matplotlib cannot be imported: import of matplotlib "
        f"halted; None in sys.modules. Run: {install_command('plot')}\n"
    )
    assert list(tmp_path.iterdir()) == []
