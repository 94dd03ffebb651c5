"""A chain of blocks with a skip around it."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from .block import Block, Blocks, walk
from .errors import SpecError
from .feature import Feature

__all__ = ["Residual", "ResidualModule"]


class Residual(Block):
    """Add a chain's output to its input, ``x + body(x)``; ``(b, h, w, c) -> (b, h, w, c)``.

    Keys: ``body.<i>.`` for the i-th block of the body.

    Attributes:
        body: The blocks; they must give back the feature they are given.
    """

    needs_grid: ClassVar[bool] = False  # it does not; its body may

    body: Blocks

    def flow(self, x: Feature) -> Feature:
        last = walk(self.body, x, ".body")[-1]
        if last.y != x:
            raise SpecError(
                f"its body ends with {last.y}, its skip carries {x}",
                expected="the same on both sides",
            )
        return x

    def build(self, x: Feature) -> nn.Module:
        return ResidualModule(*(step.block.build(step.x) for step in walk(self.body, x, ".body")))


class ResidualModule(nn.Module):
    """``x + body(x)``; ``(b, h, w, c) -> (b, h, w, c)``."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y
