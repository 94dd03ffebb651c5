"""A gate on every channel."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mobilevlm import Block, Feature

__all__ = ["Gate", "GateModule"]


class Gate(Block):
    """Scale every channel by a learned, input-dependent gate; ``(b, h, w, c) -> (b, h, w, c)``.

    Attributes:
        bias: Whether the gate adds a learned bias.
    """

    needs_grid: ClassVar[bool] = False  # each token is gated on its own

    bias: bool = True

    def build(self, x: Feature) -> nn.Module:
        """Build the module for the channels of the incoming feature."""
        return GateModule(x.channels, bias=self.bias)


class GateModule(nn.Module):
    """``x * sigmoid(linear(x))`` over the last axis; ``(..., c) -> (..., c)``."""

    def __init__(self, channels: int, *, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Gate every channel."""
        return x * torch.sigmoid(self.linear(x))
