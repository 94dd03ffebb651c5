"""Pooling: fewer tokens, the same channels."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from .core.block import Block
from .core.errors import GridError, SpecError
from .core.fast import reusable
from .core.feature import MAX_SIDE, Feature, Grid
from .core.packing import Packing
from .core.resize import Corners, Cover, average_windows, corners, cover, interpolate
from .core.spec import shown
from .core.window import Windows, average, most_windows, take, windows
from .depthwise import Stride

__all__ = ["AdaptiveAvgPool", "BilinearPool", "GridSize", "Pool", "WindowPool", "pooled"]

Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


def _check_size(size: Any) -> Any:
    if not isinstance(size, list | tuple):
        raise SpecError(shown(size), expected="two numbers, [h, w]")
    return size


GridSize = Annotated[tuple[Side, Side], Field(strict=False), BeforeValidator(_check_size)]


class Pool(Block):
    """Pool the grid: windows (``avg``, ``max``), ``adaptive`` averages or ``bilinear`` scaling.

    ``(b, h, w, c) -> (b, h', w', c)``, never with more tokens. With a stride s, the sides become
    h // s, rounded up with `ceil` and for ``bilinear``. A window cut off by the border counts only
    the tokens it holds.

    Attributes:
        mode: ``avg`` and ``max`` of s x s windows; ``adaptive``: averages over windows that cover
            the grid evenly; ``bilinear``: interpolation, corners not aligned.
        stride: The step s. All modes need it but ``adaptive``, which takes it or `size`.
        ceil: For ``avg`` and ``max``: keep windows cut off by the border; else they are dropped.
        size: For ``adaptive``: the output grid (h, w), for any input.
    """

    mode: Literal["avg", "max", "adaptive", "bilinear"] = "avg"
    stride: Stride | None = None
    ceil: bool = False
    size: GridSize | None = None

    @model_validator(mode="after")
    def _check_mode(self) -> Pool:
        if self.mode == "adaptive":
            if (self.stride is None) == (self.size is None):
                raise SpecError("mode 'adaptive' needs 'stride' or 'size', and not both")
        elif self.stride is None:
            raise SpecError(f"mode {self.mode!r} needs 'stride'")
        elif self.size is not None:
            raise SpecError(f"mode {self.mode!r} takes no 'size'", hint="Use 'stride'.")
        if self.ceil and self.mode in ("adaptive", "bilinear"):
            raise SpecError(f"mode {self.mode!r} takes no 'ceil'")
        return self

    def flow(self, x: Feature) -> Feature:
        x.raster()
        if self.size is not None:
            _check_pooling(x.grid, self.size)
            return x.replace(grid=self.size)
        return pooled(x, self.stride or 1, ceil=self.ceil or self.mode == "bilinear")

    def build(self, x: Feature) -> nn.Module:
        if self.mode == "adaptive":
            return AdaptiveAvgPool(self.size, self.stride)
        if self.mode == "bilinear":
            return BilinearPool(self.stride or 1)
        return WindowPool(self.mode, self.stride or 1, self.ceil)


def pooled(x: Feature, stride: int, *, ceil: bool) -> Feature:
    """Return the feature with its sides divided by a stride, rounded down or up.

    Raises:
        SpecError: It is a sequence.
        GridError: Its grid holds no whole window, and `ceil` is off.
    """
    if ceil:
        return x.raster().resize(lambda side: -(-side // stride))
    if any(side and side < stride for side in x.raster().grid):
        raise GridError(
            f"a grid of {x.grid[0]}x{x.grid[1]} holds no window of {stride}x{stride}",
            hint="Set ceil=True to keep windows cut off by the border.",
        )
    return x.resize(lambda side: side // stride)


def _check_pooling(grid: tuple[int | None, int | None], size: Grid) -> None:
    for have, want in zip(grid, size, strict=True):
        if have is not None and have < want:
            raise GridError(
                f"a grid of {grid[0]}x{grid[1]} cannot be pooled to {size[0]}x{size[1]}",
                expected="an output no larger than the input grid",
            )


class Bags(NamedTuple):
    """Windows as `embedding_bag` takes them.

    Attributes:
        tokens: The rows of their tokens: (m, k), or in one row if windows differ in length.
        start: Then, where each window starts in it.
    """

    tokens: Tensor
    start: Tensor | None


class PoolWindows(NamedTuple):
    """Windows, and the same as bags, except with a budget: a bag's length is not in its shape."""

    windows: Windows
    bags: Bags | None


class WindowPool(nn.Module):
    """Average or maximum of s x s windows; ``(b, h, w, c) -> (b, h', w', c)``."""

    def __init__(self, mode: str, stride: int, ceil: bool) -> None:
        super().__init__()
        self.mode = mode
        self.stride = stride
        self.ceil = ceil
        self.averages = mode == "avg"

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        if self.mode == "max":
            y = F.max_pool2d(x, self.stride, ceil_mode=self.ceil)
        else:
            y = F.avg_pool2d(x, self.stride, ceil_mode=self.ceil, count_include_pad=False)
        return y.permute(0, 2, 3, 1)

    def pack(self, images: Packing) -> tuple[Packing, PoolWindows]:
        after, index = windows(images, (self.stride, self.stride), ceil=self.ceil)
        if self.mode == "max" or images.fixed or torch.compiler.is_compiling():
            return after, PoolWindows(index, None)
        if index.inside is None:
            return after, PoolWindows(index, Bags(index.tokens, None))
        held = index.inside.sum(1)
        return after, PoolWindows(index, Bags(index.tokens[index.inside], held.cumsum(0) - held))

    def forward_packed(self, x: Tensor, index: PoolWindows) -> Tensor:
        inside, bags = index.windows.inside, index.bags
        plain = reusable(x) and forward_ad._current_level < 0
        if self.mode == "max":  # a token outside repeats one inside
            tokens = take(x, index.windows._replace(inside=None))
            if plain:
                return tokens.amax(1)
            # The operator of `forward`, so that of equal tokens or NaNs the same one gets the
            # gradient.
            rows = tokens.transpose(1, 2)[:, :, None]
            return F.max_pool2d(rows, (1, rows.shape[3])).flatten(1)
        # The sum is rounded to the dtype before the division, which is exact only by powers of
        # two; and in fp16 the sum may overflow.
        exact = inside is None and self.stride & (self.stride - 1) == 0
        low = x.dtype == torch.float16 or (x.dtype == torch.bfloat16 and not exact)
        y = x.float() if low else x
        if plain and bags is not None:
            y = F.embedding_bag(bags.tokens, y, bags.start, mode="mean")
        else:  # a bag has no second derivative
            y = average(y, index.windows)
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.mode}, stride={self.stride}, ceil={self.ceil}"


class AdaptiveAvgPool(nn.Module):
    """Averages over windows that cover the grid; ``(b, h, w, c) -> (b, h', w', c)``.

    Args:
        size: The output grid, or None.
        stride: Without `size`, the step s: the output grid is (h // s, w // s).

    Raises:
        GridError: The grid is smaller than `size`, so that tokens would be repeated.
    """

    averages = True
    by_size = True

    def __init__(self, size: Grid | None, stride: int | None) -> None:
        super().__init__()
        self.size = size
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), self._size(*x.shape[1:3]))
        return y.permute(0, 2, 3, 1)

    def pack(self, images: Packing) -> tuple[Packing, Cover]:
        if self.size is None:
            limit = images.rows // (self.stride or 1) ** 2
        else:
            limit = min(images.rows, images.images * math.prod(self.size))
        after = images.after([self._size(*grid) for grid in images.grids], limit)
        return after, cover(images, after)

    def forward_packed(self, x: Tensor, index: Cover) -> Tensor:
        """``(rows, c) -> (m, c)``, at a budget."""
        return average_windows(x, index)

    def _size(self, h: int, w: int) -> Grid:
        """Return the grid that comes out."""
        if self.size is None:
            step = self.stride or 1
            return h // step, w // step
        _check_pooling((h, w), self.size)
        return self.size

    def extra_repr(self) -> str:
        return f"size={self.size}, stride={self.stride}"


class BilinearPool(nn.Module):
    """Bilinear scaling to sides rounded up; ``(b, h, w, c) -> (b, ceil(h/s), ceil(w/s), c)``."""

    averages = True
    by_size = True

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(x.permute(0, 3, 1, 2), size=self._size(*x.shape[1:3]), mode="bilinear")
        return y.permute(0, 2, 3, 1)

    def pack(self, images: Packing) -> tuple[Packing, Corners]:
        limit = most_windows(images, (self.stride, self.stride))
        after = images.after([self._size(*grid) for grid in images.grids], limit)
        return after, corners(images, after)

    def forward_packed(self, x: Tensor, index: Corners) -> Tensor:
        """``(rows, c) -> (m, c)``, at a budget."""
        return interpolate(x, index)

    def _size(self, h: int, w: int) -> Grid:
        """Return the grid that comes out."""
        return -(-h // self.stride), -(-w // self.stride)

    def extra_repr(self) -> str:
        return f"stride={self.stride}"
