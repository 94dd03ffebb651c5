"""The table of Zeta's modules, read from `table.json`: what running them has shown."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

__all__ = ["MAX_COUNT", "MAX_SIZE", "Layout", "Option", "Row", "Scalar", "Sides", "Table", "table"]

MAX_COUNT = 256  # of layers, experts or heads: of whatever makes submodules
MAX_SIZE = 1 << 16

Scalar: TypeAlias = bool | int | float | str | None
Layout: TypeAlias = Literal["tokens", "lines", "map", "video"]
"""The layout of a module's input: ``tokens`` ``(b, n, c)``, ``lines`` ``(b, c, n)``, a ``map``
``(b, c, h, w)``, or a ``video`` ``(b, c, 1, h, w)`` of one frame."""


@dataclass(frozen=True)
class Option:
    """An argument that a document may set.

    Attributes:
        type: The JSON type.
        default: The module's own default; if it is None, null is allowed too.
        required: Whether a document has to set it.
        least: The smallest integer.
        most: The largest integer.
        choices: The possible strings.
    """

    type: Literal["bool", "int", "float", "str"]
    default: Scalar = None
    required: bool = False
    least: int = 0
    most: int = MAX_SIZE
    choices: tuple[str, ...] = ()

    def accepts(self, value: Any) -> bool:
        """Return whether the value is of the option's type and within its bounds."""
        if value is None and self.default is None and not self.required:
            return True
        if self.type == "int":
            return type(value) is int and self.least <= value <= self.most
        if self.type == "float":
            return type(value) in (int, float) and abs(value) <= sys.float_info.max
        return type(value) is bool if self.type == "bool" else value in self.choices

    @property
    def expected(self) -> str:
        """What `accepts` accepts, in words."""
        if self.type == "int":
            return f"an integer from {self.least} to {self.most}"
        if self.type == "float":
            return "a finite number"
        if self.type == "bool":
            return "true or false"
        return " or ".join(", ".join(map(repr, self.choices)).rsplit(", ", 1))

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of its values."""
        kind = {"bool": "boolean", "int": "integer", "float": "number", "str": "string"}[self.type]
        schema: dict[str, Any] = {"type": kind}
        if self.type == "int":
            schema |= {"minimum": self.least, "maximum": self.most}
        elif self.type == "str":
            schema["enum"] = [*self.choices]
        if not self.required:
            schema["default"] = self.default
            if self.default is None:
                schema["type"] = [kind, "null"]
        return schema


@dataclass(frozen=True)
class Sides:
    """The size of an output side of the grid: scaled by `times` / `over`, then convolved.

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
        """Return the output side; 0 or less if nothing is left."""
        side = side * self.times // self.over
        return (side + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """A module that works as a block, and how to use it as one.

    Attributes:
        module: Its class in ``zeta.nn``.
        signature: The signature of the class.
        layout: The layout of its input and output.
        inputs: How many times it is given the feature: three times for an attention with the
            arguments ``(query, key, value)``, which makes it self-attention.
        first: Whether it returns a tuple, of which the first item is the feature.
        widths: The arguments that are the input width.
        out: The argument that is the output width, if there is one.
        ratio: If there is none: output width / input width.
        sides: Output side / input side of the grid, as two numbers.
        convolves: Whether the output side is that of a convolution with its options.
        mixes_tokens: Whether an output token depends on other tokens.
        options: The arguments that a document may set.
        example: Tested values of the required options.
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
    def takes(self) -> Literal["tokens", "map"]:
        """What `adapt` has to give it."""
        return "map" if self.layout in ("map", "video") else "tokens"

    @property
    def needs_grid(self) -> bool:
        """Whether its output depends on the shape of the grid."""
        return self.mixes_tokens and self.takes == "map"

    def resize(self, options: Mapping[str, Any]) -> Sides:
        """Return how the sides of the grid change."""
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
        """The names of the arguments in its signature."""
        return re.findall(r"[(,] ?(\w+)", self.signature)


@dataclass(frozen=True)
class Table:
    """Every module of ``zeta.nn``: as a block, or with the reason why it is not one.

    Attributes:
        version: The version of zetascale.
        blocks: Block name to row.
        others: Class name to its signature and the reason.
    """

    version: str
    blocks: Mapping[str, Row]
    others: Mapping[str, tuple[str, str]]


@cache
def table() -> Table:
    """Read the table."""
    data = json.loads(Path(__file__).with_name("table.json").read_text("utf-8"))
    return Table(
        data["zetascale"],
        {name: _row(**row) for name, row in data["blocks"].items()},
        {name: (other["signature"], other["why"]) for name, other in data["others"].items()},
    )


def _row(options: Mapping[str, Any] | None = None, **row: Any) -> Row:
    """Make a row from its JSON, in which lists stand for tuples."""
    read = {name: Option(**_tuples(option)) for name, option in (options or {}).items()}
    return Row(options=read, **_tuples(row))


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
