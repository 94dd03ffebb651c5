"""Multiplication by a constant."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from .block import Block
from .feature import Feature

__all__ = ["Scale", "ScaleModule"]


class Scale(Block):
    """Multiply by a constant; the shape is unchanged.

    Attributes:
        by: A number, or ``root-channels`` for the square root of the width, as Gemma does.
    """

    needs_grid: ClassVar[bool] = False

    by: Annotated[float, Field(ge=-1e6, le=1e6)] | Literal["root-channels"]

    def build(self, x: Feature) -> nn.Module:
        return ScaleModule(x.channels**0.5 if isinstance(self.by, str) else self.by)


class ScaleModule(nn.Module):
    """``factor * x``; any shape -> the same shape."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def extra_repr(self) -> str:
        return f"{self.factor}"
