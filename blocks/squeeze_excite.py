"""Squeeze-and-excitation: scale every channel by a gate computed from all of them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .core.activation import Act, Gate, activation
from .core.block import Block
from .core.feature import Channels, Feature
from .core.packing import Packing
from .core.segments import Segments, mean, segments

__all__ = ["SqueezeExcite", "SqueezeExciteModule", "make_divisible"]


def make_divisible(width: int) -> int:
    """Round a width to a multiple of 8, never losing more than a tenth (MobileNetV3).

    >>> make_divisible(6), make_divisible(512), make_divisible(11)
    (8, 512, 16)
    """
    rounded = max(8, (width + 4) // 8 * 8)
    return rounded if 10 * rounded >= 9 * width else rounded + 8


class SqueezeExcite(Block):
    """Scale each channel by ``gate(fc2(act(fc1(mean over the grid))))``; shape unchanged.

    Source: Hu et al., "Squeeze-and-Excitation Networks", 2018. Keys: ``fc1.weight`` (mid, c),
    ``fc1.bias``, ``fc2.weight`` (c, mid), ``fc2.bias``.

    Attributes:
        mid: The inner width; None is a quarter of the channels, rounded as in MobileNetV3.
        act: The activation between the two layers.
        gate: What turns the result into a scale.
    """

    mid: Channels | None = None
    act: Act = "relu"
    gate: Gate = "hardsigmoid"

    def flow(self, x: Feature) -> Feature:
        return x.raster()

    def build(self, x: Feature) -> nn.Module:
        mid = self.mid or make_divisible(x.channels // 4)
        return SqueezeExciteModule(x.channels, mid, self.act, self.gate)


class SqueezeExciteModule(nn.Module):
    """Channel gates from the grid's mean; ``(b, h, w, c) -> (b, h, w, c)``."""

    by_size = True
    tp_styles: ClassVar[dict[str, str]] = {"fc1": "colwise", "fc2": "rowwise"}

    def __init__(self, channels: int, mid: int, act: Act, gate: Gate) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, mid)
        self.act = activation(act)
        self.fc2 = nn.Linear(mid, channels)
        self.gate = activation(gate)

    def forward(self, x: Tensor) -> Tensor:
        return x * self._scale(_mean(x).flatten(1, 2))[:, None]

    def pack(self, images: Packing) -> tuple[Packing, Segments]:
        return images, segments(images)

    def forward_packed(self, x: Tensor, index: Segments) -> Tensor:
        """``(rows, c) -> (rows, c)``."""
        return x * F.embedding(index.image, self._scale(mean(x, index)))

    def _scale(self, mean: Tensor) -> Tensor:
        """Return the gates of each image; ``(..., c) -> (..., c)``."""
        scale: Tensor = self.gate(self.fc2(self.act(self.fc1(mean))))
        return scale


def _mean(x: Tensor) -> Tensor:
    """Average a feature over its grid; ``(b, h, w, c) -> (b, 1, 1, c)``."""
    if torch.compiler.is_compiling():  # an export must not freeze the window's size
        return x.mean((1, 2), keepdim=True)
    # A pool on the channels-last view gives the same and is several times as fast.
    return F.avg_pool2d(x.permute(0, 3, 1, 2), x.shape[1:3]).permute(0, 2, 3, 1)
