"""The pointwise (1x1) convolution, which is a linear layer on the channels."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from .core.block import Block
from .core.feature import Feature, Width

__all__ = ["Pointwise"]


class Pointwise(Block):
    """Mix the channels of each token; ``(b, h, w, c) -> (b, h, w, out)``.

    A 1x1 convolution is a linear layer on the last axis, and is built as an `nn.Linear`, so that
    tools for LoRA, quantisation and sharding find it; its chain chooses the matrix product. Keys:
    ``weight`` (out, c), ``bias`` (out).

    Attributes:
        out: The output width.
        bias: Whether to add a learned bias.
    """

    needs_grid: ClassVar[bool] = False

    out: Width = "out"
    bias: bool = True

    def flow(self, x: Feature) -> Feature:
        return x.replace(channels=x.width(self.out))

    def build(self, x: Feature) -> nn.Module:
        return nn.Linear(x.channels, x.width(self.out), bias=self.bias)
