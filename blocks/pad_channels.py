"""Channels of zeros after the others."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from .core.block import Block
from .core.feature import MAX_WIDTH, Feature

__all__ = ["PadChannels", "PadChannelsModule"]


class PadChannels(Block):
    """Append channels of zeros; ``(b, h, w, c) -> (b, h, w, c + count)``.

    For a table of embeddings of which some belong to no image feature. Source:
    `Ovis2Model.get_image_features` of transformers. No keys.

    Attributes:
        count: How many channels there are more.
    """

    needs_grid: ClassVar[bool] = False

    count: Annotated[int, Field(ge=1, le=MAX_WIDTH)]

    def flow(self, x: Feature) -> Feature:
        return x.replace(channels=x.channels + self.count)

    def build(self, x: Feature) -> nn.Module:
        return PadChannelsModule(self.count)


class PadChannelsModule(nn.Module):
    """Zeros after the last channel; ``(..., c) -> (..., c + count)``."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, self.count))

    def extra_repr(self) -> str:
        return f"{self.count}"
