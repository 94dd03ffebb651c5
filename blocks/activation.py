"""Activations by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

__all__ = ["Act", "Gate", "QuickGELU", "ReLU2", "activation"]

Act: TypeAlias = Literal[
    "gelu", "gelu-tanh", "quick-gelu", "silu", "relu", "relu2", "hardswish", "none"
]
Gate: TypeAlias = Literal["sigmoid", "hardsigmoid"]


class QuickGELU(nn.Module):
    """``x * sigmoid(1.702 x)``, CLIP's approximation of GELU; any shape -> the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ReLU2(nn.Module):
    """``relu(x) ** 2``; any shape -> the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x).square()


_MODULES: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu-tanh": lambda: nn.GELU("tanh"),
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "none": nn.Identity,
    "quick-gelu": QuickGELU,
    "relu": nn.ReLU,
    "relu2": ReLU2,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
}


def activation(name: Act | Gate) -> nn.Module:
    """Return a new module for an activation's name; ``gelu`` is the exact, erf form."""
    return _MODULES[name]()
