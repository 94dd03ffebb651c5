"""A chain of modules, run in the order that costs least."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from .fast import enabled, hooked, recording
from .gemm import fusable, linear, suits
from .norm_act import NormActModule

__all__ = ["Chain", "order", "run", "run_in_order"]


class Chain(nn.Sequential):
    """Modules in a row; ``(b, h, w, c) -> (b, h', w', d)``.

    An `nn.Sequential` in all but how it runs: a pool goes before the linear layers that it
    follows, for the mean of a layer's outputs is the layer's output of the mean, and what reduces
    tokens should come first. Modules, keys and numbers stay where and what they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        return run_in_order(tuple(self), x)


def order(modules: Sequence[nn.Module]) -> list[int]:
    """Return the order in which modules run, as places in the chain.

    A module that has a true attribute ``averages`` makes each output token a mean of input tokens,
    with weights that sum to one and never more tokens: it may change places with a linear layer.
    """
    found: list[int] = []
    for index, module in enumerate(modules):
        place = len(found)
        if getattr(module, "averages", False) and enabled() and not hooked(module):
            while place and _plain(modules[found[place - 1]]):
                place -= 1
        found.insert(place, index)
    return found


def _plain(module: nn.Module) -> bool:
    return type(module) is nn.Linear and not hooked(module)


def run_in_order(modules: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Run a chain's modules in the order that costs least; the input is never modified."""
    return run((modules[index] for index in order(modules)), x)


def run(modules: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Run modules one after the other; the input is never modified."""
    row = list(modules)
    index = 0
    while index < len(row):
        module = row[index]
        index += 1
        if type(module) is nn.Linear and suits(module, x):
            fused = None
            if index < len(row) and not recording(x, module.weight, module.bias):
                fused = _activation(row[index])
                index += fused is not None
            x = linear(module, x, fused)
        else:
            x = module(x)
    return x


def _activation(module: nn.Module) -> tuple[str, str] | None:
    """Return what a module applies to every number, if it does only that and can be fused."""
    if type(module) is NormActModule:
        if type(module.norm) is not nn.Identity or hooked(module) or hooked(module.norm):
            return None
        module = module.act
    return fusable(module)
