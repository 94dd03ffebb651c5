"""A chain of modules, run in the order that costs least."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeGuard

from torch import Tensor, nn

from .block import Step, mixes_tokens
from .errors import GridError
from .fast import enabled, hooked
from .linear import call_linear, is_linear
from .packed import Indices, pack_layers, run_packed
from .packing import Packing
from .run import Layer, run

__all__ = ["Chain", "order", "run_in_order"]


class Chain(nn.Sequential):
    """Modules in a row; ``(b, h, w, c) -> (b, h', w', d)``.

    It differs from `nn.Sequential` in the order in which it runs: an average pool goes before the
    linear layers that it follows. The mean of a linear layer's outputs is the layer's output of the
    mean, so the result is the same, with fewer tokens to multiply. Modules and keys stay in place.

    The order is decided when the chain is built. A call only checks that it still holds, because
    modules may be replaced or hooked afterwards, and the fast forms may be off.

    Attributes:
        mixing: Whether each module mixes an image's tokens, as its block says; None if the chain
            was not built of blocks.
    """

    by_size = True
    mixing: tuple[bool, ...] | None = None

    def __init__(self, *modules: Any) -> None:
        super().__init__(*modules)
        built = list(self)
        # Places in the chain: where linear layers were built, in which order the modules run,
        # and which of them run earlier or later than written.
        self._linear = frozenset(i for i, module in enumerate(built) if is_linear(module))
        self._order = tuple(_order(built, lambda module: False))
        self._moved = tuple(i for place, i in enumerate(self._order) if place != i)

    @classmethod
    def of(
        cls, steps: Sequence[Step], build: Callable[[int, Step], nn.Module] | None = None
    ) -> Chain:
        """Build the modules of a walked chain of blocks.

        Args:
            steps: The blocks, with the features that enter and leave them.
            build: Builds the module of a block at a place; default: the block does.
        """
        chain = cls(
            *(
                step.block.build(step.x) if build is None else build(place, step)
                for place, step in enumerate(steps)
            )
        )
        chain.mixing = tuple(mixes_tokens([step.block]) for step in steps)
        return chain

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

    def pack(self, images: Packing) -> tuple[Packing, Indices]:
        if self.mixing is None:
            raise GridError("a chain that was not built of blocks", hint="Leave out the budget.")
        return pack_layers(self.layers(), self.mixing, images)

    def forward_packed(self, x: Tensor, index: Indices) -> Tensor:
        """``(rows, c) -> (m, d)``."""
        return run_packed(self.layers(), self.order(), index, x)


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
