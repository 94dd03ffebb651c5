"""The table of Zeta's modules: what was found out by running them, read from `table.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias

__all__ = ["MAX_COUNT", "MAX_SIZE", "Layout", "Option", "Row", "Scalar", "Sides", "Table", "table"]

MAX_COUNT = 256  # of layers, experts, heads: what makes modules
MAX_SIZE = 1 << 16

Scalar: TypeAlias = bool | int | float | str | None
Layout: TypeAlias = Literal["tokens", "lines", "map", "video"]
"""What a module takes: ``tokens`` ``(b, n, c)``, ``lines`` ``(b, c, n)``, a ``map``
``(b, c, h, w)``, or a ``video`` ``(b, c, 1, h, w)`` of one frame."""


@dataclass(frozen=True)
class Option:
    """An argument that a document may set.

    Attributes:
        type: The JSON type.
        default: The module's own default; None also stands for null.
        required: Whether the module has no default for it that works.
        least: The smallest value, of an integer.
        most: The greatest value, of an integer.
        choices: The values, of a string.
    """

    type: Literal["bool", "int", "float", "str"]
    default: Scalar = None
    required: bool = False
    least: int = 0
    most: int = MAX_SIZE
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sides:
    """What becomes of a side of the grid: `times` / `over` as long, then what a convolution leaves.

    >>> Sides(times=2)(7), Sides(over=2)(6), Sides(kernel=3, stride=2, padding=1)(7)
    (14, 3, 4)
    """

    times: int = 1
    over: int = 1
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def __call__(self, side: int) -> int:
        """Return the new side; 0 or less if nothing is left of it."""
        side = side * self.times // self.over
        return (side + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """A module that works as a block, and how to use it as one.

    Attributes:
        module: Its class in ``zeta.nn``.
        signature: Its class's own signature.
        layout: What it takes and gives.
        inputs: How many times the feature is given: three times to an attention of
            ``(query, key, value)``, which so becomes self-attention.
        first: Whether it gives a tuple, whose first is the feature.
        widths: The arguments that are the width of what comes in.
        out: The argument that is the width of what goes out, if there is one.
        ratio: Else the width of what goes out, over that of what comes in.
        sides: A side of the grid that goes out, over one that comes in, which it must divide.
        convolves: Whether a side becomes what a convolution of these arguments leaves.
        mixes_tokens: Whether tokens meet.
        options: The arguments that a document may set.
        example: Values for the required options, which were tried.
        bf16: Whether it runs in bf16.
        idle: How many of its parameters never get a gradient.
    """

    module: str
    signature: str
    layout: Layout
    inputs: int = 1
    first: bool = False
    widths: tuple[str, ...] = ()
    out: str | None = None
    ratio: tuple[int, int] = (1, 1)
    sides: tuple[int, int] = (1, 1)
    convolves: bool = False
    mixes_tokens: bool = False
    options: Mapping[str, Option] = field(default_factory=dict)
    example: Mapping[str, Scalar] = field(default_factory=dict)
    bf16: bool = True
    idle: int = 0

    @property
    def needs_grid(self) -> bool:
        """Whether it reads the grid."""
        return self.mixes_tokens and self.layout in ("map", "video")

    def resize(self, options: Mapping[str, Any]) -> Sides:
        """Return what becomes of a side of the grid."""
        if not self.convolves:
            return Sides(*self.sides)
        return Sides(
            kernel=options["kernel_size"],
            stride=options.get("stride", 1),
            padding=options.get("padding", 0),
            dilation=options.get("dilation", 1),
        )

    @property
    def arguments(self) -> list[str]:
        """The names in its signature."""
        return re.findall(r"[(,] ?(\w+)", self.signature)


@dataclass(frozen=True)
class Table:
    """Every module of ``zeta.nn``: as a block, or with the reason why it is none.

    Attributes:
        version: The version of zetascale that it is the table of.
        blocks: Block name to row.
        others: Class name to its signature and the reason.
    """

    version: str
    blocks: Mapping[str, Row]
    others: Mapping[str, tuple[str, str]]


@cache
def table() -> Table:
    """Read the table."""
    found = json.loads(files(__package__).joinpath("table.json").read_text("utf-8"))
    return Table(
        found["zetascale"],
        {name: _row(**row) for name, row in found["blocks"].items()},
        {name: (other["signature"], other["why"]) for name, other in found["others"].items()},
    )


def _row(options: Mapping[str, Any] | None = None, **row: Any) -> Row:
    """Make a row of its JSON, in which lists stand for tuples."""
    read = {name: Option(**_tuples(option)) for name, option in (options or {}).items()}
    return Row(options=read, **_tuples(row))


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
