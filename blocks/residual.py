"""A chain of blocks with a skip connection."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

from torch import Tensor, nn

from .core.activation import keeps_nothing
from .core.block import Block, Blocks, walk
from .core.chain import Chain
from .core.errors import GridError, SpecError
from .core.fast import hooked, reusable
from .core.feature import Feature
from .core.linear import Linear
from .core.packed import forward_packed, pack_module
from .core.packing import Packing
from .depthwise import DepthwiseConv
from .norm_act import FRESH_NORMS, NormActModule

__all__ = ["Residual", "ResidualModule"]


_PROBE = 720  # a side that all common strides divide


class Residual(Block):
    """Add a chain's output to its input, ``x + body(x)``; ``(b, h, w, c) -> (b, h, w, c)``.

    Keys: ``body.<i>.`` for the i-th block of the body.

    Attributes:
        body: The blocks; the feature that leaves them must equal the one that enters.
    """

    needs_grid: ClassVar[bool] = False  # its body may

    body: Blocks

    def flow(self, x: Feature) -> Feature:
        self._check_body(x)
        if x.tokens is None:
            # Unknown sides always compare equal: check the body with known ones.
            with contextlib.suppress(GridError):  # a body made for one grid
                self._check_body(x.replace(grid=(_PROBE, _PROBE)))
        return x

    def _check_body(self, x: Feature) -> None:
        y = walk(self.body, x, ".body")[-1].y
        if y != x:
            raise SpecError(
                f"its body ends with {y}, its skip carries {x}", expected="the same on both sides"
            )

    def build(self, x: Feature) -> nn.Module:
        return ResidualModule(Chain.of(walk(self.body, x, ".body")))


class ResidualModule(nn.Module):
    """``x + body(x)``; ``(b, h, w, c) -> (b, h, w, c)``.

    Raises:
        GridError: The body changes the shape, which broadcasting would hide.
    """

    by_size = True
    tp_styles: ClassVar[dict[str, str]] = {}

    def __init__(self, body: Chain) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self._add(x, self.body(x))

    def pack(self, images: Packing) -> tuple[Packing, Any]:
        return pack_module(self.body, images, "body")

    def forward_packed(self, x: Tensor, index: Any) -> Tensor:
        """``(rows, c) -> (rows, c)``."""
        return self._add(x, forward_packed(self.body, x, index))

    def _add(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the body's output to its input."""
        if y.shape != x.shape:
            raise GridError(f"a residual's body made {tuple(y.shape)} of {tuple(x.shape)}")
        if x.dtype == y.dtype and reusable(x, y) and _owns_its_output(self.body):
            return y.add_(x)
        return x + y


# Modules whose output is a new tensor, which nothing else holds.
_FRESH = (DepthwiseConv, Linear, nn.Linear)


def _owns_its_output(body: nn.Module) -> bool:
    """Return whether a body's output is a new tensor that nothing else holds."""
    if type(body) is not Chain:  # wrapped, or replaced
        return False
    last = body[-1]
    if type(last) is NormActModule:
        fresh = type(last.norm) in FRESH_NORMS and keeps_nothing(last.act)
    else:
        fresh = type(last) in _FRESH
    return fresh and not hooked(body) and not any(map(hooked, last.modules()))
