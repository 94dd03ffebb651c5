"""What stands where in the picture of a comparison, in points, before anything is drawn."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from ..registry import printable
from .labels import Place, Spot, place_labels

if TYPE_CHECKING:
    from .comparison import Comparison
    from .cost import Cost

__all__ = ["Axis", "Label", "Layout", "Measure", "Point", "arrange"]

Measure: TypeAlias = Callable[[str, bool], float]
"""Returns the width of a line of text, in bold or not."""

# Every so many decades, these digits.
_STEPS = ((3, (1,)), (2, (1,)), (1, (1,)), (1, (1, 3)), (1, (1, 2, 5)))
_TOGETHER = 6


@dataclass(frozen=True)
class Point:
    """A row in the picture.

    Attributes:
        row: The row.
        x: Its tokens.
        y: Its cost, or a place below all others for none.
        front: Whether it is on the Pareto front.
    """

    row: Cost
    x: int
    y: float
    front: bool


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis.

    Attributes:
        low: The value at its beginning.
        high: The value at its end.
        length: Its length in points.
    """

    low: float
    high: float
    length: float

    @classmethod
    def around(cls, values: Sequence[float], length: float, *, least: float) -> Axis:
        """Return an axis with some room around values.

        Args:
            values: The values.
            length: The axis' length.
            least: How many times the lowest value the highest is taken to be, at least.
        """
        low, high = min(values), max(values)
        half = max(high / low, least) ** 0.6
        middle = math.sqrt(low * high)
        return cls(middle / half, middle * half, length)

    def at(self, value: float) -> float:
        """Return where a value stands."""
        return self.length * math.log(value / self.low) / math.log(self.high / self.low)

    def steps(self) -> list[float]:
        """Return round values to mark: at least three, if there are, and not many more."""
        first, last = math.ceil(math.log10(self.low)) - 1, math.floor(math.log10(self.high))
        found: list[float] = []
        for stride, digits in _STEPS:
            decades = [each for each in range(first, last + 1) if each % stride == 0]
            values = [digit * 10.0**decade for decade in decades for digit in digits]
            found = [value for value in values if self.low <= value <= self.high]
            if len(found) >= 3:
                break
        return found

    def apart(self, values: Sequence[int], distance: float) -> list[int]:
        """Return which values to mark so that their marks stand apart: the frequent ones first."""
        kept: list[int] = []
        for value, _ in Counter(values).most_common():
            if all(abs(self.at(value) - self.at(other)) >= distance for other in kept):
                kept.append(value)
        return sorted(kept)


@dataclass(frozen=True)
class Label:
    """What stands beside a point, or beside some that are too close to be told apart.

    Attributes:
        lines: Names, or numbers that lead to them; each with whether it is in bold, as it is on the
            Pareto front.
        side: Which side of the text is next to the point: left, right or center.
        place: Where it stands.
    """

    lines: tuple[tuple[str, bool], ...]
    side: str
    place: Place


@dataclass(frozen=True)
class Layout:
    """The points of a picture and what stands around them.

    Attributes:
        x: The axis of tokens.
        y: The axis of costs.
        points: The points, from few tokens to many and from low cost to high.
        labels: Their labels.
        fronts: The points on the Pareto front of each set of images.
        key: The names that labels have numbers for, from 1 on.
    """

    x: Axis
    y: Axis
    points: tuple[Point, ...]
    labels: tuple[Label, ...]
    fronts: tuple[tuple[Point, ...], ...]
    key: tuple[str, ...]

    def at(self, point: Point) -> Spot:
        """Return where a point stands, from the lower left corner of the axes."""
        return self.x.at(point.x), self.y.at(point.y)


def arrange(
    comparison: Comparison, measure: Measure, size: tuple[float, float], marker: float, line: float
) -> Layout:
    """Find a place for everything.

    Labels are names if all of them find a clear place and leave most of the picture free. Otherwise
    those that are not on the Pareto front are numbers; if that is too much too, all are.

    Args:
        comparison: The comparison, of one row or more.
        measure: Measures a line of text.
        size: The width of the axes, and their height for few points.
        marker: The width of a marker.
        line: The height of a line of text.
    """
    points = _points(comparison)
    height = size[1] + 4 * max(0, len(points) - 20)
    x = Axis.around([point.x for point in points], size[0], least=4)
    y = Axis.around([point.y for point in points], height, least=10)
    layout = Layout(x, y, tuple(points), (), _fronts(points), ())
    groups = _groups(layout)
    spots = [[layout.at(point) for point in group] for group in groups]
    curve = _along([[layout.at(point) for point in front] for front in layout.fronts])
    several = len({row.grids for row in comparison.rows}) > 1
    measure = cache(measure)
    named: Callable[[Point], bool]
    for named in (lambda _: True, lambda point: point.front, lambda _: False):
        texts, key = _texts(groups, named, several)
        sizes = [(max(measure(*each) for each in lines) + 2, line * len(lines)) for lines in texts]
        room = x.length * y.length / 3
        if not key and sum(width * height for width, height in sizes) > room:
            continue
        places = place_labels(spots, sizes, (0, 0, x.length, y.length), marker, curve)
        if all(place.clear if not key else place.free for place in places):
            break
    labels = tuple(
        Label(lines, _side(place, own), place)
        for lines, place, own in zip(texts, places, spots, strict=True)
    )
    return replace(layout, labels=labels, key=key)


def _cost(row: Cost) -> int:
    return row.macs_run + (row.prefill_macs or 0)


def _points(comparison: Comparison) -> list[Point]:
    costs = [_cost(row) for row in comparison.rows]
    nothing = min(filter(None, costs), default=2) / 2
    front = {id(row) for row in comparison.pareto()}
    points = [
        Point(row, row.tokens_out, cost or nothing, id(row) in front)
        for row, cost in zip(comparison.rows, costs, strict=True)
    ]
    return sorted(points, key=lambda point: (point.x, point.y))


def _fronts(points: Sequence[Point]) -> tuple[tuple[Point, ...], ...]:
    fronts: dict[object, list[Point]] = {}
    for point in points:
        if point.front:
            fronts.setdefault(point.row.grids, []).append(point)
    return tuple(map(tuple, fronts.values()))


def _groups(layout: Layout) -> list[list[Point]]:
    """Put together the points whose markers nearly cover each other, each with the next ones."""
    groups: list[list[Point]] = []
    for point in layout.points:
        x, y = layout.at(point)
        for group in groups:
            near = (layout.at(other) for other in group)
            if any(math.hypot(x - u, y - v) < _TOGETHER for u, v in near):
                group.append(point)
                break
        else:
            groups.append([point])
    return groups


def _along(lines: Sequence[Sequence[Spot]]) -> list[Spot]:
    """Return spots on lines, a few points from each other."""
    return [
        (a[0] + (b[0] - a[0]) * step / 40, a[1] + (b[1] - a[1]) * step / 40)
        for line in lines
        for a, b in pairwise(line)
        for step in range(41)
    ]


def _texts(
    groups: Sequence[Sequence[Point]], named: Callable[[Point], bool], several: bool
) -> tuple[list[tuple[tuple[str, bool], ...]], tuple[str, ...]]:
    """Return the lines of labels, from high cost to low, and the names that numbers stand for."""
    texts = []
    key: list[str] = []
    for group in groups:
        lines = []
        for point in filter(named, reversed(group)):
            name = _name(point.row, several)
            broken = _broken(name) if len(group) == 1 else textwrap.wrap(name, 30)
            lines += [(line, point.front) for line in broken]
        others = [point for point in group if not named(point)]
        if others:
            first, last = len(key) + 1, len(key) + len(others)
            front = all(point.front for point in others)
            lines.append((f"{first}" if first == last else f"{first}-{last}", front))
            key += [_name(point.row, several) for point in others]
        texts.append(tuple(lines))
    return texts, tuple(key)


def _name(row: Cost, several: bool) -> str:
    name = printable(row.name)
    if several:
        name += f" ({row.images})"
    return name if _cost(row) else f"{name} (0 MACs)"


def _broken(name: str) -> list[str]:
    """Break a name into short lines, what stands in brackets apart.

    >>> _broken("c-abstractor(queries=64) (24x24)")
    ['c-abstractor', 'queries=64', '24x24']
    """
    parts = name.removesuffix(")").replace(") (", "(").split("(")
    return [line for part in parts for line in textwrap.wrap(part.strip(), 22)]


def _side(place: Place, spots: Sequence[Spot]) -> str:
    left, _, right, _ = place.box
    if left >= max(x for x, _ in spots):
        return "left"
    return "right" if right <= min(x for x, _ in spots) else "center"
