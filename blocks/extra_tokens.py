"""Extra tokens before or after those of the image."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from .core.block import Block
from .core.errors import SpecError
from .core.feature import Feature
from .core.packing import Packing, tensor_of
from .core.segments import Segments, mean, segments

__all__ = ["ExtraTokens", "ExtraTokensModule"]


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
        return ExtraTokensModule(x.channels, self.at, self.count, self.kind)


class Placed(NamedTuple):
    """Where the tokens that come out are taken from.

    Attributes:
        rows: Their rows, (m,): first the images', then the others'.
        segments: The tokens of each image, of which a mean is made.
    """

    rows: Tensor
    segments: Segments


class ExtraTokensModule(nn.Module):
    """The image's tokens with others before or after; ``(b, h, w, c) -> (b, 1, h*w + count, c)``.

    Args:
        channels: The width c.
        at: Where the others stand, ``begin`` or ``end``.
        count: How many there are.
        kind: ``learned``, or ``mean`` for the mean of the image's.
    """

    by_size = True

    def __init__(self, channels: int, at: str, count: int, kind: str) -> None:
        super().__init__()
        self.channels = channels
        self.at = at
        self.count = count
        self.tokens: nn.Parameter | None = None
        if kind == "learned":
            self.tokens = nn.Parameter(torch.empty(count, channels))
            nn.init.trunc_normal_(self.tokens, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1, 2)
        if self.tokens is None:
            extra = x.mean(1, keepdim=True)
        else:
            extra = self.tokens.to(x.dtype).expand(x.shape[0], -1, -1)
        return torch.cat([extra, x] if self.at == "begin" else [x, extra], 1).unsqueeze(1)

    def pack(self, images: Packing) -> tuple[Packing, Placed]:
        after = images.after(
            [(1, length + self.count) for length in images.lengths],
            images.rows + images.images * self.count,
        )
        image, _, number = after.places()
        length = tensor_of(images.lengths, images.device)[image]
        # An image's tokens stand from `first` on, the others from `other` on.
        first, other = (self.count, 0) if self.at == "begin" else (0, length)
        own = images.starts()[image] + number - first
        extra = images.rows + (image if self.tokens is None else number - other)
        index = own.where((number >= first) & (number < first + length), extra)
        return after, Placed(images.padded(index, after.rows), segments(images))

    def forward_packed(self, x: Tensor, index: Placed) -> Tensor:
        """``(rows, c) -> (m, c)``."""
        extra = mean(x, index.segments) if self.tokens is None else self.tokens.to(x.dtype)
        return F.embedding(index.rows, torch.cat([x, extra]))

    def extra_repr(self) -> str:
        return f"{self.at}, {self.count} of {self.channels}"
