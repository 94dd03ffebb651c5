"""A chain of modules, run in the order that costs least."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

from ..norm_act import NormActModule
from .activation import in_place
from .fast import enabled, hooked, reusable
from .linear import call_linear, is_linear, project

__all__ = ["Chain", "Link", "order", "run", "run_in_order"]

Link: TypeAlias = Callable[[Tensor], Tensor]
"""What a chain runs: a module, or the call of one that was put in a linear layer's place."""


class Chain(nn.Sequential):
    """Modules in a row; ``(b, h, w, c) -> (b, h', w', d)``.

    An `nn.Sequential` in all but how it runs: a pool goes before the linear layers that it
    follows, for the mean of a layer's outputs is the layer's output of the mean, and what reduces
    tokens should come first. Modules, keys and numbers stay where and what they are.
    """

    # The places in which linear layers were built, and how many there are of all; a chain that
    # grows or shrinks afterwards has others.
    _places: tuple[frozenset[int], int] = (frozenset(), 0)

    def __init__(self, *modules: Any) -> None:
        super().__init__(*modules)
        self._places = frozenset(i for i, module in enumerate(self) if is_linear(module)), len(self)

    def forward(self, x: Tensor) -> Tensor:
        return run_in_order(self.links(), x)

    def links(self) -> list[Link]:
        """Return what to run, in the order written."""
        linear, length = self._places
        edited = len(self) != length
        return [
            partial(call_linear, module)
            if not is_linear(module) and (_resembles_linear(module) if edited else i in linear)
            else module
            for i, module in enumerate(self)
        ]


def _resembles_linear(module: nn.Module) -> bool:
    """Return whether a module says the widths of a linear layer, as its stand-ins do."""
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def order(modules: Sequence[Link]) -> list[int]:
    """Return the order in which modules run, as places in the chain.

    A module that has a true attribute ``averages`` makes each output token a mean of input tokens,
    with weights that sum to one and never more tokens: it may change places with a linear layer.
    """
    found: list[int] = []
    for index, module in enumerate(modules):
        place = len(found)
        if _averages(module) and enabled():
            while place and _plain(modules[found[place - 1]]):
                place -= 1
        found.insert(place, index)
    return found


def _averages(module: Link) -> bool:
    return (
        isinstance(module, nn.Module) and getattr(module, "averages", False) and not hooked(module)
    )


def _plain(module: Link) -> TypeGuard[nn.Linear]:
    return is_linear(module) and not hooked(module)


def run_in_order(modules: Sequence[Link], x: Tensor) -> Tensor:
    """Run a chain's modules in the order that costs least; the input is never modified."""
    return run((modules[index] for index in order(modules)), x)


def run(modules: Iterable[Link], x: Tensor) -> Tensor:
    """Run modules one after the other; the input is never modified."""
    row = list(modules)
    index = 0
    while index < len(row):
        module = row[index]
        index += 1
        if _plain(module) and not torch.compiler.is_compiling():
            act = None
            if index < len(row) and reusable(x, module.weight, module.bias):
                act = _activation(row[index])
                index += act is not None
            x = project(module, x, act)
        else:
            x = module(x)
    return x


def _activation(module: Link) -> nn.Module | None:
    """Return what a module applies to every number, if it does only that and nobody watches."""
    act: object = module
    if type(module) is NormActModule and type(module.norm) is nn.Identity:
        if hooked(module) or hooked(module.norm):
            return None
        act = module.act
    return act if isinstance(act, nn.Module) and in_place(act) and not hooked(act) else None
