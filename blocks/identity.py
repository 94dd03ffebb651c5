"""The block that changes nothing."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from .core.block import Block
from .core.feature import Feature

__all__ = ["Identity"]


class Identity(Block):
    """Pass the feature on; ``(b, h, w, c) -> (b, h, w, c)``."""

    needs_grid: ClassVar[bool] = False

    def build(self, x: Feature) -> nn.Module:
        return nn.Identity()
