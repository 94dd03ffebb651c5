"""From a row of the table to an `nn.Module` that takes and gives features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks.core.adapt import adapt
from ..blocks.core.errors import SpecError
from ..registry import printable
from .load import zeta_nn
from .table import Layout, Row, Scalar, Sides

__all__ = ["enter", "leave", "make"]


def enter(layout: Layout, x: Tensor) -> Tensor:
    """Bring tokens ``(b, n, c)`` or a map ``(b, c, h, w)`` into a module's layout."""
    if layout == "lines":
        return x.transpose(1, 2).contiguous()
    if layout == "video":
        return x.unsqueeze(2)
    return x


def leave(layout: Layout, y: Tensor) -> Tensor:
    """Undo `enter` on a module's output."""
    if layout == "lines":
        return y.transpose(1, 2)
    if layout == "video":
        return y.squeeze(2)
    return y


def _call(row: Row, out: int, sides: Sides, forward: Callable[..., Any], x: Tensor) -> Tensor:
    """Call a module: ``(b, n, c) -> (b, n, d)`` or ``(b, c, h, w) -> (b, d, h', w')``.

    Args:
        row: The module's row.
        out: The output width.
        sides: The size of the output grid.
        forward: The module's forward.
        x: The input.

    Raises:
        SpecError: The output has another shape.
    """
    y = forward(*[enter(row.layout, x)] * row.inputs)
    y = leave(row.layout, y[0] if row.first else y)
    grid = map(sides, x.shape[2:])
    expected = (x.shape[0], out, *grid) if row.takes == "map" else (*x.shape[:2], out)
    if y.shape != expected:
        found = f"an input of {tuple(x.shape)} gives {tuple(y.shape)}"
        hint = "The defaults give that shape: undo the options that were changed."
        raise SpecError(found, "zeta", str(expected), hint)
    return y


def make(row: Row, options: Mapping[str, Scalar], in_: int, out: int) -> nn.Module:
    """Build a module of Zeta's for a width, and adapt it to features.

    On the meta device, where a plan builds it before anything is allocated, it also runs once: many
    modules refuse a value only when they compute with it.

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
    try:
        module: nn.Module = adapt(cls(**arguments), row.takes, call=partial(_call, row, out, sides))
        if torch.get_default_device().type == "meta":
            side = max(8, sides.dilation * (sides.kernel - 1) + 1)
            with torch.no_grad():
                module(torch.empty(1, side, side, in_))
    except Exception as error:
        found, expected = f"{type(error).__name__}: {' '.join(str(error).split())}", ""
        if isinstance(error, SpecError):
            found, expected = error.found, error.expected
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        hint = f"Its signature is {row.signature}."
        raise SpecError(printable(found), f"{name}({given})", expected, hint) from error
    return module
