"""Pooling: fewer tokens, the same channels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from .block import Block
from .depthwise import Stride
from .errors import GridError, SpecError
from .feature import MAX_SIDE, Feature
from .spec import shown

__all__ = ["AdaptiveAvgPool", "Pool", "WindowPool"]

Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


def _listed(size: Any) -> Any:
    if not isinstance(size, list | tuple):
        raise SpecError(shown(size), expected="two numbers, [h, w]")
    return size


Size = Annotated[tuple[Side, Side], Field(strict=False), BeforeValidator(_listed)]


class Pool(Block):
    """Pool the grid: square windows (``avg``, ``max``) or to a fixed grid (``adaptive``).

    Windows: ``(b, h, w, c) -> (b, h // s, w // s, c)``, or rounded up with `ceil`; a window cut off
    by the border counts only what it holds. Adaptive: ``(b, h, w, c) -> (b, size[0], size[1], c)``
    by averages over windows that cover the grid; never more tokens than there were.

    Attributes:
        mode: ``avg``, ``max``, or ``adaptive`` (average).
        stride: For windows: their side s, and their step.
        ceil: For windows: keep those cut off by the border; otherwise they are dropped.
        size: For ``adaptive``: the output grid (h, w).
    """

    mode: Literal["avg", "max", "adaptive"] = "avg"
    stride: Stride | None = None
    ceil: bool = False
    size: Size | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Pool:
        wanted, other = ("size", "stride") if self.mode == "adaptive" else ("stride", "size")
        if getattr(self, wanted) is None:
            raise SpecError(f"mode {self.mode!r} needs {wanted!r}")
        if getattr(self, other) is not None:
            raise SpecError(f"mode {self.mode!r} takes no {other!r}", hint=f"Use {wanted!r}.")
        if self.mode == "adaptive" and self.ceil:
            raise SpecError("mode 'adaptive' takes no 'ceil'")
        return self

    def flow(self, x: Feature) -> Feature:
        x.raster()
        if self.size is not None:
            _check_pooling(x.grid, self.size)
            return x.replace(grid=self.size)
        stride = self.stride or 1
        if not self.ceil and any(side and side < stride for side in x.grid):
            raise GridError(
                f"a grid of {x.grid[0]}x{x.grid[1]} holds no window of {stride}x{stride}",
                hint="Set ceil=True to keep windows cut off by the border.",
            )
        return x.resize(lambda side: -(-side // stride) if self.ceil else side // stride)

    def build(self, x: Feature) -> nn.Module:
        if self.size is not None:
            return AdaptiveAvgPool(self.size)
        return WindowPool(self.mode, self.stride or 1, self.ceil)


def _check_pooling(grid: tuple[int | None, int | None], size: tuple[int, int]) -> None:
    for have, want in zip(grid, size, strict=True):
        if have is not None and have < want:
            raise GridError(
                f"a grid of {grid[0]}x{grid[1]} cannot be pooled to {size[0]}x{size[1]}",
                expected="no more tokens each way than there are",
            )


class WindowPool(nn.Module):
    """Average or maximum of s x s windows; ``(b, h, w, c) -> (b, h', w', c)``."""

    def __init__(self, mode: str, stride: int, ceil: bool) -> None:
        super().__init__()
        self.mode = mode
        self.stride = stride
        self.ceil = ceil

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        if self.mode == "max":
            y = F.max_pool2d(x, self.stride, ceil_mode=self.ceil)
        else:
            y = F.avg_pool2d(x, self.stride, ceil_mode=self.ceil, count_include_pad=False)
        return y.permute(0, 2, 3, 1)

    def extra_repr(self) -> str:
        return f"{self.mode}, stride={self.stride}, ceil={self.ceil}"


class AdaptiveAvgPool(nn.Module):
    """Averages over windows that cover the grid; ``(b, h, w, c) -> (b, *size, c)``.

    Raises:
        GridError: The grid is smaller than `size`: that would repeat tokens, not pool them.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        _check_pooling((x.shape[1], x.shape[2]), self.size)
        y = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), self.size)
        return y.permute(0, 2, 3, 1)

    def extra_repr(self) -> str:
        return f"size={self.size}"
