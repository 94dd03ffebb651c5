"""A chain of modules, run in the order that costs least."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

from .activation import in_place
from .fast import enabled, hooked, reusable
from .linear import call_linear, is_linear, project

__all__ = ["Chain", "Layer", "order", "run", "run_in_order"]

Layer: TypeAlias = Callable[[Tensor], Tensor]
"""What a chain runs: a module, or the call of one that replaced a linear layer."""


class Chain(nn.Sequential):
    """Modules in a row; ``(b, h, w, c) -> (b, h', w', d)``.

    It differs from `nn.Sequential` in the order in which it runs: an average pool goes before the
    linear layers that it follows. The mean of a linear layer's outputs is the layer's output of the
    mean, so the result is the same, with fewer tokens to multiply. Modules and keys stay in place.

    The order is decided when the chain is built. A call only checks that it still holds, because
    modules may be replaced or hooked afterwards, and the fast forms may be off.
    """

    def __init__(self, *modules: Any) -> None:
        super().__init__(*modules)
        built = list(self)
        # Places in the chain: where linear layers were built, in which order the modules run,
        # and which of them run earlier or later than written.
        self._linear = frozenset(i for i, module in enumerate(built) if is_linear(module))
        self._order = tuple(_order(built, lambda module: False))
        self._moved = tuple(i for place, i in enumerate(self._order) if place != i)

    def forward(self, x: Tensor) -> Tensor:
        layers = self.layers()
        return run([layers[i] for i in self.order()] if self._moved else layers, x)

    def order(self) -> Sequence[int]:
        """Return the places of the modules, in the order in which they run now."""
        if not self._moved:
            return range(len(self))
        modules = list(self)
        holds = (
            enabled()
            and len(modules) == len(self._order)
            and all(
                (is_linear(modules[i]) if i in self._linear else _averages(modules[i]))
                and not hooked(modules[i])
                for i in self._moved
            )
        )
        return self._order if holds else order(modules)

    def layers(self) -> list[Layer]:
        """Return what to run, in the order written."""
        modules = list(self)
        layers: list[Layer] = [*modules]
        linear: Iterable[int] = self._linear
        if len(modules) != len(self._order):  # edited: the places are no longer those at build
            linear = [i for i, module in enumerate(modules) if _resembles_linear(module)]
        for i in linear:
            if not is_linear(modules[i]):
                layers[i] = partial(call_linear, modules[i])
        return layers


def _resembles_linear(module: nn.Module) -> bool:
    """Return whether a module has the widths of a linear layer, as its replacements do."""
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def order(modules: Sequence[Layer]) -> list[int]:
    """Return the order that costs least, as places in a chain, for the modules as they are now.

    A module with a true attribute `averages` makes each output token a mean of input tokens, with
    weights that sum to one, and never more tokens: it may change places with a linear layer. A
    module with hooks stays in its place.
    """
    return _order(modules, hooked) if enabled() else list(range(len(modules)))


def _order(modules: Sequence[Layer], fixed: Callable[[nn.Module], bool]) -> list[int]:
    found: list[int] = []
    for index, module in enumerate(modules):
        place = len(found)
        if _averages(module) and not fixed(module):
            while place and is_linear(other := modules[found[place - 1]]) and not fixed(other):
                place -= 1
        found.insert(place, index)
    return found


def _averages(module: Layer) -> TypeGuard[nn.Module]:
    return isinstance(module, nn.Module) and getattr(module, "averages", False)


def run_in_order(modules: Sequence[Layer], x: Tensor) -> Tensor:
    """Run modules in the order that costs least; the input is never modified."""
    return run([modules[index] for index in order(modules)], x)


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
