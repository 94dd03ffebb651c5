"""Adaptive pooling in operations that every runtime computes alike, for every grid."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn

from ..blocks.feature import Grid
from ..blocks.pool import AdaptiveAvgPool

__all__ = ["IntervalPool", "with_exact_pools"]


class IntervalPool(nn.Module):
    """`AdaptiveAvgPool` as two matrix products; ``(b, h, w, c) -> (b, h', w', c)``.

    ONNX has no adaptive pooling: PyTorch's exporter writes an average pool whose window fits the
    traced grid, and is silently wrong for any other.
    """

    averages = True  # as `AdaptiveAvgPool` says, so that it too goes before linear layers

    def __init__(self, size: Grid | None, stride: int | None) -> None:
        super().__init__()
        self.size = size
        self.stride = stride or 1

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        rows, columns = self.size or (h // self.stride, w // self.stride)
        y = torch.matmul(_shares(h, rows).to(x), x.flatten(2)).view(b, rows, w, c)
        return torch.matmul(_shares(w, columns).to(x), y)


def _shares(n: int, size: int) -> Tensor:
    """What each of n tokens gives to each of `size` averages; ``(size, n)``, rows add up to 1."""
    window, token = torch.arange(size)[:, None], torch.arange(n)
    inside = (token >= window * n // size) & (token < ((window + 1) * n + size - 1) // size)
    return inside / inside.sum(1, keepdim=True)


def with_exact_pools(module: nn.Module) -> nn.Module:
    """Return a copy in which adaptive pools are `IntervalPool`s; weights are shared."""
    memo: dict[int, object] = {
        id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())
    }
    module = copy.deepcopy(module, memo)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, AdaptiveAvgPool):
                setattr(parent, name, IntervalPool(child.size, child.stride))
    return module
