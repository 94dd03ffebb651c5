"""The identity block."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from .core.block import Block
from .core.feature import Feature

__all__ = ["Identity"]


class Identity(Block):
    """Return the feature unchanged; ``(b, h, w, c) -> (b, h, w, c)``."""

    needs_grid: ClassVar[bool] = False

    def build(self, x: Feature) -> nn.Module:
        return nn.Identity()
