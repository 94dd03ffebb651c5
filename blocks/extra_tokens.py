"""Extra tokens before or after those of the image."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from .core.block import Block
from .core.errors import SpecError
from .core.feature import Feature

__all__ = ["ExtraTokens", "ExtraTokensModule", "MeanTokenModule"]


class ExtraTokens(Block):
    """Add tokens before or after the image's; ``(b, h, w, c) -> (b, 1, h*w + count, c)``.

    The result is a sequence: the grid is lost. Keys: ``tokens`` (count, c), if learned.

    Attributes:
        at: Where they stand: ``begin`` or ``end``.
        count: How many there are.
        kind: ``learned``: the same for every image; ``mean``: one token, the mean of the image's,
            as in Florence-2.
    """

    needs_grid: ClassVar[bool] = False
    mixes_tokens: ClassVar[bool] = True  # each packed image gets its own

    at: Literal["begin", "end"]
    count: Annotated[int, Field(ge=1, le=4096)] = 1
    kind: Literal["learned", "mean"] = "learned"

    @model_validator(mode="after")
    def _one_mean(self) -> ExtraTokens:
        if self.kind == "mean" and self.count != 1:
            raise SpecError(
                f"kind 'mean' is one token, not {self.count}", hint="Leave out 'count'."
            )
        return self

    def flow(self, x: Feature) -> Feature:
        n = x.tokens
        return x.replace(grid=(1, None if n is None else n + self.count), layout="sequence")

    def build(self, x: Feature) -> nn.Module:
        if self.kind == "mean":
            return MeanTokenModule(self.at)
        return ExtraTokensModule(x.channels, self.at, self.count)


class ExtraTokensModule(nn.Module):
    """Learned tokens joined to the image's; ``(b, h, w, c) -> (b, 1, h*w + count, c)``."""

    def __init__(self, channels: int, at: str, count: int) -> None:
        super().__init__()
        self.at = at
        self.count = count
        self.channels = channels
        self.tokens = nn.Parameter(torch.empty(count, channels))
        nn.init.trunc_normal_(self.tokens, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1, 2)
        return _join(self.tokens.to(x.dtype).expand(x.shape[0], -1, -1), x, self.at)

    def extra_repr(self) -> str:
        return f"{self.at}, {self.count} of {self.channels}"


class MeanTokenModule(nn.Module):
    """The image's mean joined to its tokens; ``(b, h, w, c) -> (b, 1, h*w + 1, c)``."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1, 2)
        return _join(x.mean(1, keepdim=True), x, self.at)

    def extra_repr(self) -> str:
        return self.at


def _join(extra: Tensor, x: Tensor, at: str) -> Tensor:
    """``(b, k, c), (b, n, c) -> (b, 1, n + k, c)``."""
    return torch.cat([extra, x] if at == "begin" else [x, extra], 1).unsqueeze(1)
