"""A chain of blocks with a skip around it."""

from __future__ import annotations

import contextlib
from typing import ClassVar

from torch import Tensor, nn

from .core.activation import keeps_nothing
from .core.block import Block, Blocks, walk
from .core.chain import Chain
from .core.errors import GridError, SpecError
from .core.fast import hooked, reusable
from .core.feature import Feature
from .core.linear import Linear
from .depthwise import DepthwiseConv
from .norm_act import FRESH_NORMS, NormActModule

__all__ = ["Residual", "ResidualModule"]


_PROBE = 720  # divides by all the usual strides


class Residual(Block):
    """Add a chain's output to its input, ``x + body(x)``; ``(b, h, w, c) -> (b, h, w, c)``.

    Keys: ``body.<i>.`` for the i-th block of the body.

    Attributes:
        body: The blocks; they must give back the feature they are given.
    """

    needs_grid: ClassVar[bool] = False  # it does not; its body may

    body: Blocks

    def flow(self, x: Feature) -> Feature:
        self._check(x)
        if x.tokens is None:
            # Unknown sides always look equal: see what becomes of known ones.
            with contextlib.suppress(GridError):  # a body for one grid only
                self._check(x.replace(grid=(_PROBE, _PROBE)))
        return x

    def _check(self, x: Feature) -> None:
        y = walk(self.body, x, ".body")[-1].y
        if y != x:
            raise SpecError(
                f"its body ends with {y}, its skip carries {x}", expected="the same on both sides"
            )

    def build(self, x: Feature) -> nn.Module:
        return ResidualModule(*(step.block.build(step.x) for step in walk(self.body, x, ".body")))


class ResidualModule(nn.Module):
    """``x + body(x)``; ``(b, h, w, c) -> (b, h, w, c)``.

    Raises:
        GridError: The body changes the shape. Broadcasting would hide it.
    """

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = Chain(*body)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        if y.shape != x.shape:
            raise GridError(f"a residual's body made {tuple(y.shape)} of {tuple(x.shape)}")
        if x.dtype == y.dtype and reusable(x, y) and _owns_its_output(self.body):
            return y.add_(x)
        return x + y


# Their output is a new tensor that nobody else has.
_FRESH = (DepthwiseConv, Linear, nn.Linear)


def _owns_its_output(body: nn.Module) -> bool:
    """Return whether what a body gives is a new tensor that nobody else has seen."""
    if type(body) is not Chain:  # wrapped, or replaced
        return False
    last = body[-1]
    if type(last) is NormActModule:
        fresh = type(last.norm) in FRESH_NORMS and keeps_nothing(last.act)
    else:
        fresh = type(last) in _FRESH
    return fresh and not hooked(body) and not any(map(hooked, last.modules()))
