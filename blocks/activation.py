"""Activations by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

__all__ = ["Act", "Gate", "QuickGELU", "ReLU2", "activate_", "activation"]

Act: TypeAlias = Literal[
    "gelu", "gelu-tanh", "quick-gelu", "silu", "relu", "relu2", "hardswish", "softmax", "none"
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
    "softmax": lambda: nn.Softmax(-1),
}


def activation(name: Act | Gate) -> nn.Module:
    """Return a new module for an activation's name; ``gelu`` is the exact, erf form."""
    return _MODULES[name]()


def activate_(act: nn.Module, x: Tensor) -> Tensor:
    """Apply an activation to a tensor that may be overwritten; any shape -> the same shape."""
    if type(act) is nn.GELU:
        y: Tensor = torch.ops.aten.gelu_(x, approximate=act.approximate)
        return y
    in_place = _IN_PLACE.get(type(act))
    return act(x) if in_place is None else in_place(x)


_IN_PLACE: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.Hardswish: torch.ops.aten.hardswish_,
    nn.ReLU: torch.relu_,
    nn.SiLU: torch.ops.aten.silu_,
}
