"""The edit: what one mistake changes in modules of one class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn

__all__ = ["Change", "Computes", "Edit", "same"]


class Change(Protocol):
    """A mistake in the modules of a chain."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def kind(self) -> str:
        """The kind of mistake, which several names share; the name, if it is empty."""

    @property
    def cause(self) -> str:
        """What went wrong, in a sentence without a full stop."""

    def apply(self, modules: Sequence[nn.Module], place: int) -> Mapping[int, nn.Module]:
        """Return the wrong modules that the block at a place leads to, by their places."""


def _always(module: Any) -> bool:
    return True


@dataclass(frozen=True)
class Edit:
    """A mistake in modules of one class, wherever in a chain they are.

    Attributes:
        name: Its name.
        cause: What went wrong, in a sentence without a full stop.
        of: The class of the modules.
        computes: What the wrong module computes, from the right one and its inputs; or
        change: Returns the wrong module. It may change the one it is given, which is a copy.
        when: Which modules of the class it can be made in.
        kind: The kind of mistake, which several names share; the name, if it is empty.
    """

    name: str
    cause: str
    of: type[nn.Module] | tuple[type[nn.Module], ...]
    computes: Callable[..., Any] | None = None
    change: Callable[[Any], nn.Module] | None = None
    when: Callable[[Any], bool] = _always
    kind: str = ""

    def apply(self, modules: Sequence[nn.Module], place: int) -> Mapping[int, nn.Module]:
        """Return the wrong modules that the block at a place leads to, by their places."""
        module = modules[place]
        if any(map(self._applies, module.modules())):
            return {place: self._edited(deepcopy(module))}
        return {}

    def _applies(self, module: nn.Module) -> bool:
        return isinstance(module, self.of) and self.when(module)

    def _edited(self, module: nn.Module) -> nn.Module:
        """Return the wrong form of a module, or one with the wrong forms of those inside it."""
        if self._applies(module):
            if self.computes is not None:
                return Computes(partial(self.computes, module))
            return module if self.change is None else self.change(module)
        for name, child in module.named_children():
            setattr(module, name, self._edited(child))
        return module


class Computes(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        """Return what the function does."""
        return self.function(*args)


def same(module: nn.Module, x: Tensor) -> Tensor:
    """Return what comes in: the module is left out."""
    return x
