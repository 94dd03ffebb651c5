"""Blocks rewritten in operations that a runtime computes correctly for every grid."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..blocks.patch_merge import PatchMergeModule
from ..blocks.pool import AdaptiveAvgPool, BilinearPool

__all__ = [
    "IntervalPool",
    "LinearPool",
    "SlicedMerge",
    "TanhGELU",
    "with_exact_gelus",
    "with_exact_pools",
    "with_sliced_merges",
]


class IntervalPool(nn.Module):
    """`AdaptiveAvgPool` as gathers and sums; ``(b, h, w, c) -> (b, h', w', c)``.

    ONNX has no adaptive pooling: PyTorch's exporter writes an average pool whose window fits the
    traced grid, and is silently wrong for any other. A matrix product would spread NaNs and
    infinities, because zero times those is NaN.
    """

    averages = True  # as in `AdaptiveAvgPool`, so that it too can run before linear layers

    def __init__(self, pool: AdaptiveAvgPool) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        stride = self.pool.stride or 1
        rows, columns = self.pool.size or (h // stride, w // stride)
        return _interval_means(_interval_means(x, 1, rows), 2, columns)


class LinearPool(nn.Module):
    """`BilinearPool` as gathers and sums; ``(b, h, w, c) -> (b, h', w', c)``.

    ONNX can resize to a given size, but PyTorch's exporter writes the ratio of the traced size,
    which rounds other sides down.
    """

    averages = True

    def __init__(self, pool: BilinearPool) -> None:
        super().__init__()
        self.stride = pool.stride

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
        self.merge = merge

    def forward(self, x: Tensor) -> Tensor:
        (p, q), (h, w) = self.merge.size, x.shape[1:3]
        if self.merge.odd == "pad":
            rows, columns = (h + p - 1) // p, (w + q - 1) // q
            x = F.pad(x, (0, 0, 0, q - 1, 0, p - 1))
        else:
            rows, columns = h // p, w // q
        tokens = [x[:, i::p, j::q][:, :rows, :columns] for i in range(p) for j in range(q)]
        y = torch.cat(tokens, 3)
        if self.merge.order == "chw":
            y = y.index_select(3, torch.arange(y.shape[3]).view(p * q, -1).t().flatten())
        return y.transpose(1, 2) if self.merge.transpose else y


class TanhGELU(nn.Module):
    """``GELU("tanh")`` written out; any shape -> the same shape.

    XNNPACK computes every GELU by erf, up to 5e-4 beside this one.
    """

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def with_exact_gelus(module: nn.Module) -> nn.Module:
    """Return a copy in which `TanhGELU` stands for ``GELU("tanh")``; weights are shared."""
    return _rewritten(
        module, {nn.GELU: lambda act: TanhGELU() if act.approximate == "tanh" else act}
    )


def with_exact_pools(module: nn.Module) -> nn.Module:
    """Return a copy in which pools are gathers and sums; weights are shared."""
    return _rewritten(module, {AdaptiveAvgPool: IntervalPool, BilinearPool: LinearPool})


def with_sliced_merges(module: nn.Module) -> nn.Module:
    """Return a copy in which windows are merged by `SlicedMerge`; weights are shared."""
    return _rewritten(module, {PatchMergeModule: SlicedMerge})


def _rewritten(module: nn.Module, rewrites: Mapping[type, Callable[[Any], nn.Module]]) -> nn.Module:
    tensors = chain(module.parameters(), module.buffers())
    module = copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if rewrite := rewrites.get(type(child)):
                setattr(parent, name, rewrite(child))
    return module
