"""Checks of fp64 computation and of gradients."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .cases import Case, Subject, Variant
from .report import Finding, attempt, author_line

__all__ = ["fp64", "gradcheck", "seed"]

# Central differences have an error of O(step^2), a rounding error of O(eps / step), and an error
# from each kink within the step (a ReLU, a maximum). fp64 allows a step so small that hardly any of
# a million kinks is hit, and another direction then misses it. A wrong gradient is wrong along all.
_STEP = 1e-8
_CLOSE = 1e-4  # of the gradient's norm, which is the size of <gradient, direction>
_DIRECTIONS = 4
# If part of the computation is in fp32, only the magnitude can be checked.
_COARSE_STEP = 1e-2
_COARSE = 0.1
_CASES = 2

# These only use a tensor's shape; their result holds none of its values.
_SHAPE_ONLY = ("new_", "empty_like", "zeros_like", "ones_like", "full_like", "rand")


def seed() -> None:
    """Seed the generators that a module may use, so that it draws the same numbers again."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)


class _Narrowing(TorchFunctionMode):
    """Record the first operation that takes fp64 and returns a narrower float.

    Attributes:
        found: The returned dtype and the author's line, or an empty string.
    """

    found: str = ""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        y = func(*args, **(kwargs or {}))
        if not self.found and not getattr(func, "__name__", "").startswith(_SHAPE_ONLY):
            narrow = next((each.dtype for each in _floats(y) if not _is_double(each)), None)
            if narrow is not None and any(map(_is_double, _floats([*args, kwargs]))):
                self.found = f"{narrow}{author_line()}"
        return y


def _floats(tree: Any) -> Iterator[Tensor]:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()):
            yield leaf


def _is_double(x: Tensor) -> bool:
    return torch.finfo(x.dtype).bits == 64


def fp64(subject: Subject) -> None:
    """In fp64 it computes in fp64 throughout."""
    hint = (
        "Compute in the wider of fp32 and x.dtype: "
        "x.to(torch.promote_types(x.dtype, torch.float32)); create tensors in x.dtype."
    )
    for module, case in subject.modules(_CASES):
        with _Narrowing() as narrowing:
            y = case.run(module.double(), case.input().double(), "its module, in fp64,", hint)
        exact = y.dtype == torch.float64
        found = f"computes in {narrowing.found}" if exact else f"gives {y.dtype}"
        if narrowing.found or not exact:
            raise Finding(f"in fp64 it {found}", case.where, "torch.float64", hint)


def gradcheck(subject: Subject) -> None:
    """Its gradients agree with finite differences in fp64."""
    hint = (
        "Look for detach() in part of the computation, and for a torch.autograd.Function whose "
        "backward does not match its forward."
    )
    for variant in subject.variants:
        for case in variant.cases[:_CASES]:
            off = _Slopes(variant, case).off()
            if off:
                raise Finding(off, case.where, "the derivative of its output", hint)


class _Slopes:
    """The derivative of a random sum of a module's outputs, by its input and its parameters."""

    def __init__(self, variant: Variant, case: Case) -> None:
        self._case = case
        self._draws = torch.Generator().manual_seed(1)
        try:
            self._build(variant, torch.float64)
            with _Narrowing() as narrowing:
                y = self._outputs()
            exact = y.dtype == torch.float64 and not narrowing.found
        except Finding:  # reported by fp64
            self._build(variant, torch.float32)
            y, exact = self._outputs(), False
        self._step, self._close = (_STEP, _CLOSE) if exact else (_COARSE_STEP, _COARSE)
        self._weights = torch.randn(y.shape, generator=self._draws, dtype=torch.float64)
        products = y * self._weights
        eps = torch.finfo(torch.float64 if exact else torch.float32).eps
        # Rounding, of each output and of their sum.
        self._noise = 16 * eps * float(products.detach().abs().sum()) / self._step
        # Gradients that are missing or not finite are reported by `gradients`.
        self._gradients: dict[str, Tensor] = {}
        if y.requires_grad:
            with attempt("its backward in fp64", case.where):
                gradients = torch.autograd.grad(
                    products.sum(), list(self._tensors.values()), allow_unused=True
                )
            for name, gradient in zip(self._tensors, gradients, strict=True):
                if gradient is not None and gradient.isfinite().all():
                    self._gradients[name] = gradient

    def _build(self, variant: Variant, dtype: torch.dtype) -> None:
        self._module = variant.module().to(dtype).train()
        self._x = self._case.input().to(dtype).requires_grad_()
        self._tensors = {"the input": self._x} | {
            f"parameter {name!r}": parameter
            for name, parameter in self._module.named_parameters()
            if parameter.requires_grad
        }

    def _outputs(self) -> Tensor:
        """Run the module in training, with gradients recorded."""
        seed()
        # A non-leaf, which may be written to: `input` reports that.
        return self._case.run(self._module, self._x * 1.0)

    def _value(self) -> float:
        return float((self._outputs().detach() * self._weights).sum())

    def off(self) -> str:
        """Describe the first wrong gradient; an empty string if there is none."""
        if not self._wrong(list(self._gradients)):
            return ""
        if abs(self._value() - self._value()) > self._noise * self._step:
            return ""  # noise that no seed controls: there is no derivative to compare
        for name in self._gradients:
            slopes = self._wrong([name])
            if slopes:
                return (
                    f"the gradient of {name} is wrong: along a random direction it is "
                    f"{slopes[0]:.3g}, by finite differences {slopes[1]:.3g}"
                )
        return ""

    def _wrong(self, names: list[str]) -> tuple[float, float] | None:
        """Return both slopes along the last direction, if they differ along every direction."""
        slopes = (0.0, 0.0)
        size = sum(float(self._gradients[name].square().sum()) for name in names) ** 0.5
        for _ in range(_DIRECTIONS):
            directions = {}
            for name in names:
                x = self._tensors[name]
                directions[name] = torch.randn(x.shape, generator=self._draws, dtype=x.dtype)
            slope = sum(float((self._gradients[name] * directions[name]).sum()) for name in names)
            measured = self._difference(directions)
            slopes = (slope, measured)
            if abs(slope - measured) <= self._close * max(size, abs(measured)) + self._noise:
                return None
        return slopes

    def _difference(self, directions: Mapping[str, Tensor]) -> float:
        """Return the central difference along all given directions at once."""
        before = {name: self._tensors[name].detach().clone() for name in directions}
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for name, direction in directions.items():
                    self._tensors[name].copy_(before[name] + sign * self._step * direction)
            values.append(self._value())
        with torch.no_grad():
            for name, tensor in before.items():
                self._tensors[name].copy_(tensor)
        return (values[0] - values[1]) / (2 * self._step)
