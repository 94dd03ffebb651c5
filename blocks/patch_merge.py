"""Patch merging (space to depth): a window of tokens becomes one wide token."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from torch import Tensor, nn
from torch.nn import functional as F

from .core.block import Block
from .core.errors import GridError
from .core.feature import Feature, Grid
from .core.packing import Packing
from .core.window import Windows, take, windows

__all__ = ["PatchMerge", "PatchMergeModule", "Window"]


def _window_pair(size: Any) -> Any:
    return (size, size) if type(size) is int else size


_Side = Annotated[int, Field(ge=1, le=64)]
Window = Annotated[
    tuple[_Side, _Side],
    Field(strict=False),
    BeforeValidator(_window_pair, json_schema_input_type=_Side | tuple[_Side, _Side]),
]


class PatchMerge(Block):
    """Concatenate each window's tokens on channels; ``(b, h, w, c) -> (b, h/p, w/q, p*q*c)``.

    Also called pixel unshuffle, space to depth, patch merger. A convolution whose kernel is
    as large as its stride is this with order ``chw``, then a pointwise layer.

    Attributes:
        size: The window (p, q); one number for both.
        order: The order of the window's values in the wide token: ``hwc`` (token after token, as in
            Idefics3, InternVL, Qwen) or ``chw`` (channel after channel, as in `F.unfold`, Mistral3
            and convolutions).
        odd: What to do with a side that is not a multiple of the window's: ``refuse`` it, ``pad``
            it with zeros below and to the right, or ``drop`` the remainder.
        transpose: Return the windows column by column, as InternVL's first version did.
    """

    size: Window = (2, 2)
    order: Literal["hwc", "chw"] = "hwc"
    odd: Literal["refuse", "pad", "drop"] = "refuse"
    transpose: bool = False

    def flow(self, x: Feature) -> Feature:
        (h, w), (p, q) = x.raster().grid, self.size
        sides = [
            None if side is None else _merged(side, step, x.grid, self)
            for side, step in ((h, p), (w, q))
        ]
        grid = (sides[1], sides[0]) if self.transpose else (sides[0], sides[1])
        return x.replace(grid=grid, channels=p * q * x.channels)

    def build(self, x: Feature) -> nn.Module:
        return PatchMergeModule(self.size, self.order, self.odd, transpose=self.transpose)


def _merged(side: int, step: int, grid: tuple[int | None, int | None], merge: PatchMerge) -> int:
    if side % step and merge.odd == "refuse":
        raise GridError(
            f"a grid of {grid[0]}x{grid[1]} does not divide into windows of "
            f"{merge.size[0]}x{merge.size[1]}",
            hint="If it was trained so, say odd='pad' or odd='drop': an option of some names, and "
            "of the block in any document, which spec_of writes.",
        )
    merged = -(-side // step) if merge.odd == "pad" else side // step
    if not merged:
        raise GridError(
            f"a grid of {grid[0]}x{grid[1]} holds no window of {merge.size[0]}x{merge.size[1]}"
        )
    return merged


class PatchMergeModule(nn.Module):
    """Merge windows in one copy; ``(b, h, w, c) -> (b, h/p, w/q, p*q*c)``."""

    def __init__(self, size: Grid, order: str, odd: str, *, transpose: bool = False) -> None:
        super().__init__()
        self.size = size
        self.order = order
        self.odd = odd
        self.transpose = transpose

    def forward(self, x: Tensor) -> Tensor:
        """Merge the windows of a batch of equal grids."""
        p, q = self.size
        if self.odd == "pad":
            x = F.pad(x, (0, 0, 0, -x.shape[2] % q, 0, -x.shape[1] % p))
        elif self.odd == "drop":
            x = x[:, : x.shape[1] // p * p, : x.shape[2] // q * q]
        b, h, w, c = x.shape
        x = x.view(b, h // p, p, w // q, q, c)
        rows, columns = (3, 1) if self.transpose else (1, 3)
        inner = (2, 4, 5) if self.order == "hwc" else (5, 2, 4)
        return x.permute(0, rows, columns, *inner).flatten(3)

    def pack(self, images: Packing) -> tuple[Packing, Windows]:
        return windows(images, self.size, ceil=self.odd == "pad", transpose=self.transpose)

    def forward_packed(self, x: Tensor, index: Windows) -> Tensor:
        """Merge the windows of packed images of different sizes."""
        y = take(x, index)
        if self.order == "chw":
            y = y.transpose(1, 2)
        return y.flatten(1)

    def extra_repr(self) -> str:
        """Show the options in ``repr``."""
        return f"{self.size}, {self.order}, odd={self.odd}, transpose={self.transpose}"
