"""What is examined: modules to build, and the inputs that each must take."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..registry import quote
from .report import Finding, attempt
from .world import on

__all__ = [
    "CLOSE",
    "LARGE",
    "SMALLER",
    "TAKES",
    "Case",
    "Subject",
    "Target",
    "difference",
    "run_large",
]

_BUILD = (
    "A projector is built before its grid is known, with None for a side: raise a GridError or "
    "SpecError if that will not do."
)
TAKES = "Its flow takes this: run it too, or refuse it there with a GridError or SpecError."
LARGE = ((33, 47), (34, 46), (40, 40), (48, 36))
"""Grids beyond 32 a side and 1,024 tokens; some merges and token orders ask for even sides."""
SMALLER = (
    "Treat large grids like small ones: look for a branch on a side or a number of tokens, and for "
    "tables and tiles that end."
)
_OFF = 0.02
CLOSE = 1e-4  # of the largest value


@dataclass(frozen=True)
class Case:
    """An input, and what was said on paper to come of it.

    Attributes:
        where: What a finding calls it.
        shape: The input's shape, without the batch.
        said: The output's, likewise.
        args: What else the module is called with.
    """

    where: str
    shape: tuple[int, ...]
    said: tuple[int, ...]
    args: tuple[Any, ...] = ()

    def input(self, batch: int = 2, *, seed: int = 0) -> Tensor:
        """Return numbers of unit scale, the same at every call."""
        generator = torch.Generator().manual_seed(seed)
        sizes = (batch, *self.shape)
        return torch.randn(sizes, generator=generator, dtype=torch.float32, device="cpu")

    def run(
        self, module: nn.Module, x: Tensor, doing: str = "its module", hint: str = ""
    ) -> Tensor:
        """Call the module.

        Raises:
            Finding: It raises, or gives no tensor.
        """
        with attempt(doing, self.where, hint=hint):
            y = module(x, *self.args)
        if not isinstance(y, Tensor):
            hint = "Return the feature, and nothing else."
            raise Finding(f"{doing} gives a {type(y).__name__}", self.where, "a Tensor", hint)
        return y


@dataclass(frozen=True)
class Target:
    """A module to build, and the inputs it must take once it is built.

    Attributes:
        where: What a finding calls it.
        make: Builds it, on the current default device.
        cases: The inputs, at least one.
    """

    where: str
    make: Callable[[], nn.Module]
    cases: tuple[Case, ...]

    def build(self, device: str = "cpu") -> nn.Module:
        """Build the module; what that changes in the process is put back.

        Raises:
            Finding: That raises, or gives no module.
        """
        doing = "its build" + (" on meta" if device == "meta" else "")
        with attempt(doing, self.where, hint=_BUILD), on(device):
            module = self.make()
        if not isinstance(module, nn.Module):
            hint = "Put a function into the forward of one."
            found = f"its build returns {quote(module)}"
            raise Finding(found, self.where, "a torch.nn.Module", hint)
        return module

    def module(self) -> nn.Module:
        """Return it in eval mode, moved a little off its start, so that no zero hides anything."""
        torch.manual_seed(0)
        module = self.build().eval()
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.is_floating_point():
                    parameter.add_(torch.randn_like(parameter), alpha=_OFF)
        return module


@dataclass(frozen=True)
class Subject:
    """A block or a projector under examination.

    Attributes:
        title: What the report calls it.
        spec: The block or the preset itself, or the stack if there is no more to it.
        targets: Its modules and their inputs.
        large: The same on grids larger than the usual ones, as far as they are taken.
    """

    title: str
    spec: Any
    targets: tuple[Target, ...]
    large: tuple[Target, ...]

    @property
    def home(self) -> str | None:
        """The module that its class can be imported from; None for a notebook's or a function's."""
        cls = type(self.spec)
        thing: Any = sys.modules.get(cls.__module__)
        if getattr(thing, "__file__", None) is None or getattr(thing, "__spec__", None) is None:
            return None
        for name in cls.__qualname__.split("."):
            thing = getattr(thing, name, None)
        return cls.__module__ if thing is cls else None


def run_large(subject: Subject, said: str, hint: str) -> None:
    """Run a module on its large grids.

    Args:
        subject: What is examined.
        said: Who says what comes out, for the finding.
        hint: What to do where that is not so.

    Raises:
        Finding: It raises, gives another shape than was said, or gives nan or inf.
    """
    for target in subject.large:
        module = target.module()
        for case in target.cases:
            with torch.no_grad():
                y = case.run(module, case.input(1), hint=TAKES)
            if tuple(y.shape) != (1, *case.said):
                found = f"{said} {(1, *case.said)}, its module gives {tuple(y.shape)}"
                raise Finding(found, case.where, "the same", hint)
            if not y.isfinite().all():
                raise Finding("its module gives nan or inf", case.where, "numbers", SMALLER)


def difference(a: Tensor, b: Tensor, tolerance: float = CLOSE) -> str:
    """Say how one tensor differs from another; an empty string if it does not.

    The tolerance is relative to the largest value.
    """
    if a.shape != b.shape:
        return f"shape {tuple(a.shape)} against {tuple(b.shape)}"
    if not a.numel():
        return ""
    a, b = a.detach().float(), b.detach().float()
    off, largest = (a - b).abs().max().item(), b.abs().max().item()
    if off <= tolerance * largest + 1e-7:
        return ""
    return f"off by up to {off:.2g}, where the values reach {largest:.2g}"
