"""Multiplication by a constant, and standardisation with stored statistics."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from .core.block import Block
from .core.feature import Feature

__all__ = ["Scale", "ScaleModule", "Standardization"]


class Scale(Block):
    """Multiply by a constant; the shape is unchanged.

    Keys: ``bias`` (c) and ``scale`` (c) where it standardises, none otherwise.

    Attributes:
        by: A number, or ``root-channels`` for the square root of the width, as in Gemma.
        standardize: Then subtract a stored bias from each channel and multiply by a stored scale,
            all in fp32, as in the larger Gemma 4 models. Both are statistics and not trained.
    """

    needs_grid: ClassVar[bool] = False

    by: Annotated[float, Field(ge=-1e6, le=1e6)] | Literal["root-channels"]
    standardize: bool = False

    def build(self, x: Feature) -> nn.Module:
        factor = x.channels**0.5 if isinstance(self.by, str) else self.by
        return Standardization(x.channels, factor) if self.standardize else ScaleModule(factor)


class ScaleModule(nn.Module):
    """``factor * x``; any shape -> the same shape."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def extra_repr(self) -> str:
        return f"{self.factor}"


class Standardization(ScaleModule):
    """``(factor * x - bias) * scale`` in fp32; ``(..., c) -> (..., c)``.

    It subtracts large numbers that are nearly equal, for which 16 bits are too few.
    """

    def __init__(self, channels: int, factor: float) -> None:
        super().__init__(factor)
        self.bias = nn.Parameter(torch.zeros(channels), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(channels), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        y = (y * self.factor - self.bias.to(y.dtype)) * self.scale.to(y.dtype)
        return y.to(x.dtype)
