"""Layers run one after the other, those that can be fused as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .activation import in_place
from .fast import hooked, reusable
from .linear import is_linear, project

__all__ = ["Layer", "run"]

Layer: TypeAlias = Callable[[Tensor], Tensor]
"""What a chain runs: a module, or the call of one that replaced a linear layer."""


def run(layers: Sequence[Layer], x: Tensor) -> Tensor:
    """Run layers one after the other; the input is never modified."""
    index = 0
    while index < len(layers):
        layer = layers[index]
        index += 1
        if is_linear(layer) and not hooked(layer) and not torch.compiler.is_compiling():
            act = None
            if index < len(layers) and reusable(x, layer.weight, layer.bias):
                act = _elementwise(layers[index])
                index += act is not None
            x = project(layer, x, act)
        else:
            x = layer(x)
    return x


def _elementwise(layer: Layer) -> nn.Module | None:
    """Return the activation that a layer consists of, if it has no hooks and works in place."""
    act: object = layer
    # Not of subclasses, which may compute something else.
    if (
        isinstance(layer, nn.Module)
        and vars(type(layer)).get("norm_then_act", False)
        and type(layer.norm) is nn.Identity
    ):
        if hooked(layer) or hooked(layer.norm):
            return None
        act = layer.act
    return act if isinstance(act, nn.Module) and in_place(act) and not hooked(act) else None
