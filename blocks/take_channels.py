"""Some of the channels, without the others."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from .core.block import Block
from .core.errors import SpecError
from .core.feature import Channels, Feature

__all__ = ["TakeChannels", "TakeChannelsModule"]


class TakeChannels(Block):
    """Keep channels that stand together; ``(b, h, w, c) -> (b, h, w, count)``.

    For one of several levels of a tower that are joined on channels, in a branch of its own. No
    keys.

    Attributes:
        first: The index of the first channel to keep.
        count: How many are kept.
    """

    needs_grid: ClassVar[bool] = False

    first: Annotated[int, Field(ge=0)] = 0
    count: Channels

    def flow(self, x: Feature) -> Feature:
        end = self.first + self.count
        if end > x.channels:
            raise SpecError(f"channels {self.first} to {end - 1} of {x.channels}")
        return x.replace(channels=self.count)

    def build(self, x: Feature) -> nn.Module:
        return TakeChannelsModule(self.first, self.count)


class TakeChannelsModule(nn.Module):
    """A view of some channels; ``(..., c) -> (..., count)``."""

    def __init__(self, first: int, count: int) -> None:
        super().__init__()
        self.first = first
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return x.narrow(-1, self.first, self.count)

    def extra_repr(self) -> str:
        return f"{self.first}, {self.count}"
