"""Blocks rewritten in operations that a runtime computes correctly for every grid."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..blocks.core.feature import Grid
from ..blocks.patch_merge import PatchMergeModule
from ..blocks.pool import AdaptiveAvgPool, BilinearPool

__all__ = ["IntervalPool", "LinearPool", "SlicedMerge", "with_exact_pools", "with_sliced_merges"]

M = TypeVar("M", bound=nn.Module)


class IntervalPool(nn.Module):
    """`AdaptiveAvgPool` as gathers and sums; ``(b, h, w, c) -> (b, h', w', c)``.

    ONNX has no adaptive pooling: PyTorch's exporter writes an average pool whose window fits the
    traced grid, and is silently wrong for any other. A matrix product would spread NaNs and
    infinities, because zero times those is NaN.
    """

    averages = True  # as in `AdaptiveAvgPool`, so that it too can run before linear layers

    def __init__(self, size: Grid | None, stride: int | None) -> None:
        super().__init__()
        self.size = size
        self.stride = stride or 1

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        rows, columns = self.size or (h // self.stride, w // self.stride)
        return _interval_means(_interval_means(x, 1, rows), 2, columns)


class LinearPool(nn.Module):
    """`BilinearPool` as gathers and sums; ``(b, h, w, c) -> (b, h', w', c)``.

    ONNX can resize to a given size, but PyTorch's exporter writes the ratio of the traced size,
    which rounds other sides down.
    """

    averages = True

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return x
        h, w = x.shape[1:3]
        rows, columns = ((side + self.stride - 1) // self.stride for side in (h, w))
        return _interpolated(_interpolated(x, 1, rows), 2, columns)


def _interval_means(x: Tensor, dim: int, size: int) -> Tensor:
    """Average one axis of a feature over `size` windows that cover it evenly."""
    n = x.shape[dim]
    window = torch.arange(size)[:, None]
    first, end = window * n // size, ((window + 1) * n + size - 1) // size
    longest = (n + size - 1) // size + 1
    token = first + torch.arange(longest)
    inside = token < end
    y = x.index_select(dim, token.clamp(max=n - 1).flatten())
    y = y.view(*x.shape[:dim], size, longest, *x.shape[dim + 1 :])
    after = (1,) * (x.ndim - 1 - dim)
    y = y.masked_fill(~inside.view(size, longest, *after), 0).sum(dim + 1)
    return y / inside.sum(1).view(size, *after).to(x)


def _interpolated(x: Tensor, dim: int, size: int) -> Tensor:
    """Interpolate one axis of a feature at `size` evenly spaced points."""
    n = x.shape[dim]
    step = torch.ones(()) * n / size  # computed first and in fp32, to round as eager does
    points = ((torch.arange(size) + 0.5) * step - 0.5).clamp(min=0)
    low = points.long()
    share = (points - low).view(size, *(1,) * (x.ndim - 1 - dim)).to(x)
    high = (low + 1).clamp(max=n - 1)
    return x.index_select(dim, low) * (1 - share) + x.index_select(dim, high) * share


class SlicedMerge(nn.Module):
    """`PatchMergeModule` as slices side by side; ``(b, h, w, c) -> (b, h/p, w/q, p*q*c)``.

    A view would split a free side h into ``h // 2`` and ``h // (h // 2)``, and a runtime that
    reserves memory for the largest value of each would assume windows as large as the grid.
    """

    def __init__(self, merge: PatchMergeModule) -> None:
        super().__init__()
        self.size = merge.size
        self.order = merge.order
        self.odd = merge.odd
        self.transpose = merge.transpose

    def forward(self, x: Tensor) -> Tensor:
        (p, q), (h, w) = self.size, x.shape[1:3]
        if self.odd == "pad":
            rows, columns = (h + p - 1) // p, (w + q - 1) // q
            x = F.pad(x, (0, 0, 0, q - 1, 0, p - 1))
        else:
            rows, columns = h // p, w // q
        tokens = [x[:, i::p, j::q][:, :rows, :columns] for i in range(p) for j in range(q)]
        y = torch.cat(tokens, 3)
        if self.order == "chw":
            y = y.index_select(3, torch.arange(y.shape[3]).view(p * q, -1).t().flatten())
        return y.transpose(1, 2) if self.transpose else y


def with_exact_pools(module: nn.Module) -> nn.Module:
    """Return a copy in which pools are gathers and sums; weights are shared."""
    module = _rewritten(module, AdaptiveAvgPool, lambda pool: IntervalPool(pool.size, pool.stride))
    return _rewritten(module, BilinearPool, lambda pool: LinearPool(pool.stride))


def with_sliced_merges(module: nn.Module) -> nn.Module:
    """Return a copy in which windows are merged by `SlicedMerge`; weights are shared."""
    return _rewritten(module, PatchMergeModule, SlicedMerge)


def _rewritten(module: nn.Module, kind: type[M], make: Callable[[M], nn.Module]) -> nn.Module:
    memo: dict[int, object] = {
        id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())
    }
    module = copy.deepcopy(module, memo)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, kind):
                setattr(parent, name, make(child))
    return module
