"""The feature without a tensor: its width, its grid and its layout."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from ...registry import quote
from .errors import GridError, SpecError

__all__ = [
    "MAX_WIDTH",
    "Channels",
    "Feature",
    "Grid",
    "Width",
    "check_grid",
    "hides_width",
    "is_width",
]

MAX_WIDTH = 1 << 20
MAX_SIDE = 1 << 16
_WORDS = ("in", "out", "same")

Grid: TypeAlias = tuple[int, int]
"""A token grid as (height, width)."""

Channels: TypeAlias = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
"""A number of channels."""


def _check_width(value: Any) -> Any:
    if isinstance(value, str) and value in _WORDS:
        return value
    if type(value) is not int:
        raise PydanticCustomError("width", "{e}", {"e": "an integer, 'in', 'out' or 'same'"})
    if not 1 <= value <= MAX_WIDTH:
        raise PydanticCustomError("width", "{e}", {"e": f"a width from 1 to {MAX_WIDTH}"})
    return value


_WIDTH = BeforeValidator(_check_width)

Width: TypeAlias = Annotated[
    int | Literal["in", "out", "same"],
    _WIDTH,
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_WIDTH}, {"enum": [*_WORDS]}]}
    ),
]
"""A number of channels: an integer, or ``in``/``out`` (the projector's ends), or ``same``."""


def is_width(field: FieldInfo) -> bool:
    """Return whether a block's field is a `Width`."""
    return _WIDTH in field.metadata


def hides_width(annotation: Any) -> bool:
    """Return whether a `Width` is nested in a type, where it would not be resolved."""
    return _WIDTH in getattr(annotation, "__metadata__", ()) or any(
        hides_width(part) for part in get_args(annotation)
    )


def check_grid(grid: object, where: str = "grid") -> Grid:
    """Return a grid as two integers.

    >>> check_grid([24, 18])
    (24, 18)

    Raises:
        GridError: It is not two integers in range.
    """
    if isinstance(grid, tuple | list) and len(grid) == 2:
        h, w = map(_side, grid)
        if h and w:
            return h, w
    raise GridError(
        f"{quote(grid)} is not a grid", where, f"(height, width), two integers from 1 to {MAX_SIDE}"
    )


def _side(side: object) -> int:
    """Return a side as an int, or 0 if it is not one; NumPy's integers are, booleans are not."""
    if type(side) is not int:
        if isinstance(side, bool) or not hasattr(side, "__index__"):
            return 0
        side = operator.index(side)
    return side if 1 <= side <= MAX_SIDE else 0


@dataclass(frozen=True, kw_only=True)
class Feature:
    """The facts of a feature, a tensor ``(b, h, w, c)``, before there is one.

    Attributes:
        channels: The width c.
        grid: The sides (h, w); a side not known yet is None.
        layout: ``raster`` for a grid, row by row; ``sequence`` for tokens that have lost their
            grid (queries, added tokens), carried as ``(b, 1, n, c)``.
        ends: The projector's input and output width, which the words ``in`` and ``out`` mean.

    Raises:
        SpecError: It has more channels than a `Width` may be.
    """

    channels: int
    grid: tuple[int | None, int | None] = (None, None)
    layout: Literal["raster", "sequence"] = "raster"
    ends: tuple[int, int]

    def __post_init__(self) -> None:
        # Blocks may multiply widths: keep them from growing along a chain without limit.
        if type(self.channels) is int and self.channels > MAX_WIDTH:
            raise SpecError(f"{quote(self.channels)} channels", expected=f"at most {MAX_WIDTH:,}")

    @property
    def tokens(self) -> int | None:
        """The number of tokens h * w, or None while a side is unknown."""
        h, w = self.grid
        return None if h is None or w is None else h * w

    def width(self, width: int | str) -> int:
        """Turn the value of a block's `Width` field into an integer.

        Use it for such fields only: those are written as numbers where a preset is expanded.

        >>> Feature(channels=64, ends=(32, 128)).width("out")
        128
        """
        words = {"in": self.ends[0], "out": self.ends[1], "same": self.channels}
        return words[width] if isinstance(width, str) else width

    def replace(self, **changes: Any) -> Feature:
        """Return a copy of this feature with some attributes changed."""
        return dataclasses.replace(self, **changes)

    def raster(self) -> Feature:
        """Return this feature if it still has its grid.

        Raises:
            SpecError: It is a sequence.
        """
        if self.layout != "raster":
            raise SpecError("it works on a grid, and the tokens have lost theirs")
        return self

    def resize(self, side: Callable[[int], int]) -> Feature:
        """Return this feature with every known side of its grid changed.

        >>> Feature(channels=8, grid=(24, None), ends=(8, 8)).resize(lambda n: n // 2).grid
        (12, None)
        """
        h, w = self.grid
        return self.replace(grid=(None if h is None else side(h), None if w is None else side(w)))

    def __str__(self) -> str:
        sides = (str(side or "?") for side in self.grid)
        grid = str(self.tokens or "?") if self.layout == "sequence" else "x".join(sides)
        return f"{grid} x {self.channels}"
