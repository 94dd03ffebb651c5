"""Learned tokens before or after those of the image."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from .block import Block
from .feature import Feature

__all__ = ["ExtraTokens", "ExtraTokensModule"]


class ExtraTokens(Block):
    """Put learned tokens before or after the image's; ``(b, h, w, c) -> (b, 1, h*w + count, c)``.

    The result is a sequence: the grid is lost. Keys: ``tokens`` (count, c).

    Attributes:
        at: Where they stand: ``begin`` or ``end``.
        count: How many they are.
    """

    needs_grid: ClassVar[bool] = False
    mixes_tokens: ClassVar[bool] = True  # packed images get tokens each

    at: Literal["begin", "end"]
    count: Annotated[int, Field(ge=1, le=4096)] = 1

    def flow(self, x: Feature) -> Feature:
        n = x.tokens
        return x.replace(grid=(1, None if n is None else n + self.count), layout="sequence")

    def build(self, x: Feature) -> nn.Module:
        return ExtraTokensModule(x.channels, self.at, self.count)


class ExtraTokensModule(nn.Module):
    """Learned tokens joined to the image's; ``(b, h, w, c) -> (b, 1, h*w + count, c)``."""

    def __init__(self, channels: int, at: str, count: int) -> None:
        super().__init__()
        self.at = at
        self.tokens = nn.Parameter(torch.empty(count, channels))
        nn.init.trunc_normal_(self.tokens, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1, 2)
        extra = self.tokens.to(x.dtype).expand(x.shape[0], -1, -1)
        return torch.cat([extra, x] if self.at == "begin" else [x, extra], 1).unsqueeze(1)

    def extra_repr(self) -> str:
        return "{}, {} of {}".format(self.at, *self.tokens.shape)
