"""From a row of the table to a module that takes and gives features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..blocks.core.adapt import adapt
from ..blocks.core.errors import SpecError
from ..registry import printable
from .load import zeta_nn
from .table import Layout, Row, Scalar, Sides

__all__ = ["TAKES", "Call", "enter", "leave", "make"]

TAKES: dict[Layout, Literal["tokens", "map"]] = {
    "tokens": "tokens",
    "lines": "tokens",
    "map": "map",
    "video": "map",
}


def enter(layout: Layout, x: Tensor) -> Tensor:
    """Give a module what it takes: of tokens ``(b, n, c)``, or of a map ``(b, c, h, w)``."""
    if layout == "lines":
        return x.transpose(1, 2).contiguous()
    if layout == "video":
        return x.unsqueeze(2)
    return x


def leave(layout: Layout, y: Tensor) -> Tensor:
    """Undo `enter` on what the module gives."""
    if layout == "lines":
        return y.transpose(1, 2)
    if layout == "video":
        return y.squeeze(2)
    return y


@dataclass(frozen=True)
class Call:
    """How a module is called, once tokens or a map are there for it.

    Attributes:
        layout: What it takes.
        inputs: How many times.
        first: Whether it gives a tuple, whose first is the feature.
        out: The width that it has to give.
        sides: What it has to make of a side of the grid.
    """

    layout: Layout
    inputs: int
    first: bool
    out: int
    sides: Sides

    def __call__(self, forward: Callable[..., Any], x: Tensor) -> Tensor:
        """``(b, n, c) -> (b, n, d)`` or ``(b, c, h, w) -> (b, d, h', w')``.

        Raises:
            SpecError: The module gives something else.
        """
        y = forward(*[enter(self.layout, x)] * self.inputs)
        y = leave(self.layout, y[0] if self.first else y)
        if TAKES[self.layout] == "map":
            said = (x.shape[0], self.out, *map(self.sides, x.shape[2:]))
        else:
            said = (*x.shape[:2], self.out)
        if y.shape != said:
            raise SpecError(
                f"it makes {tuple(y.shape)} of {tuple(x.shape)}",
                "zeta",
                str(said),
                "With its defaults it does: change the options back.",
            )
        return y


def make(row: Row, options: Mapping[str, Scalar], in_: int, out: int) -> nn.Module:
    """Build a module of Zeta's for a width, and adapt it to features.

    On the meta device, where a plan builds it before anything is allocated, it is run once as well:
    many a value is only refused by what is computed with it.

    Raises:
        ZetaError: Zetascale cannot be imported.
        SpecError: The module refuses its arguments; the cause is chained.
    """
    name = f"zeta.nn.{row.module}"
    cls = getattr(zeta_nn(name), row.module)
    arguments = {**options, **dict.fromkeys(row.widths, in_)}
    if row.out is not None:
        arguments[row.out] = out
    sides = row.resize(options)
    call = Call(row.layout, row.inputs, row.first, out, sides)
    try:
        module: nn.Module = adapt(cls(**arguments), TAKES[row.layout], call=call)
        if torch.get_default_device().type == "meta":
            side = max(8, sides.dilation * (sides.kernel - 1) + 1)
            with torch.no_grad():
                module(torch.empty(1, side, side, in_))
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        fault = error
        if not isinstance(fault, SpecError):
            said = printable(" ".join(str(error).split()))  # einops gives the cause on line two
            fault = SpecError(f"{type(error).__name__}: {said}")
        hint = f"Its signature is {row.signature}."
        raise SpecError(fault.found, f"{name}({given})", fault.expected, hint) from error
    return module
