"""The modules that a check builds, and the inputs that each of them must accept."""

from __future__ import annotations

import itertools
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks.core.feature import Grid
from ..registry import MobileVLMError, quote
from .global_state import default_device
from .report import Finding, attempt

__all__ = [
    "ACCEPTS",
    "CLOSE",
    "LIMITED",
    "Builder",
    "Case",
    "Subject",
    "Variant",
    "check_packed",
    "check_shapes",
    "difference",
    "examine",
    "expect_finite",
    "expect_same",
]

_BUILD = (
    "A projector is built before its grid is known, so sides may be None: raise a GridError or "
    "SpecError if build needs them."
)
ACCEPTS = (
    "Its flow accepts this input: support it, or refuse it in flow with a GridError or SpecError."
)
# Beyond 32 a side and 1,024 tokens; some merges and token orders need even sides.
_LARGE_GRIDS = ((33, 47), (34, 46), (40, 40), (48, 36))
LIMITED = (
    "Treat large grids like small ones: look for branches on a side or a token count, and for "
    "tables and tiles of limited size."
)
_RANDOM_GRIDS = 12
_MAX_SIDE = 20
_OFF = 0.02
CLOSE = 1e-4  # of the largest value


@dataclass(frozen=True)
class Case:
    """An input, and the predicted shape of its output.

    Attributes:
        where: Its name in a finding.
        grid: Its grid.
        shape: The input's shape, without the batch.
        predicted: The output's shape, without the batch.
        args: Further arguments of the module.
        feature: The feature that a block is given; None for a projector.
    """

    where: str
    grid: Grid
    shape: tuple[int, ...]
    predicted: tuple[int, ...]
    args: tuple[Any, ...] = ()
    feature: Any = None

    def input(self, batch: int = 2, *, seed: int = 0) -> Tensor:
        """Return random values of unit scale, the same at every call."""
        generator = torch.Generator().manual_seed(seed)
        sizes = (batch, *self.shape)
        return torch.randn(sizes, generator=generator, dtype=torch.float32, device="cpu")

    def run(
        self, module: nn.Module, x: Tensor, doing: str = "its module", hint: str = ""
    ) -> Tensor:
        """Call the module.

        Raises:
            Finding: It raises, or does not return a tensor.
        """
        with attempt(doing, self.where, hint=hint):
            y = module(x, *self.args)
        if not isinstance(y, Tensor):
            hint = "Return the feature and nothing else."
            raise Finding(f"{doing} gives a {type(y).__name__}", self.where, "a Tensor", hint)
        return y


class Builder(ABC):
    """Builds the modules of a specification, and predicts what they compute.

    Attributes:
        layout: The layout of its input.
    """

    layout: str = "raster"

    @abstractmethod
    def describe(self, grid: Grid | None) -> str:
        """Return the name of a module built for one grid, or for any, in a finding."""

    @abstractmethod
    def build(self, grid: Grid | None) -> nn.Module:
        """Build a module for one grid, or for any."""

    @abstractmethod
    def case(self, grid: Grid) -> Case:
        """Return the case of a grid.

        Raises:
            Finding: The prediction itself is wrong.
            MobileVLMError: The specification refuses the grid.
        """

    def accepted(self, grid: Grid) -> Case | None:
        """Return the case of a grid, or None if the specification refuses it."""
        try:
            return self.case(grid)
        except Finding:
            raise
        except MobileVLMError:
            return None


@dataclass(frozen=True)
class Variant:
    """A module to build, and the inputs that it must accept.

    Attributes:
        where: Its name in a finding.
        builder: Builds it, on the current default device.
        grid: The grid it is built for; None if it is built for any grid.
        cases: The inputs; at least one.
    """

    where: str
    builder: Builder
    grid: Grid | None
    cases: tuple[Case, ...]

    def build(self, device: str = "cpu") -> nn.Module:
        """Build the module, and undo what that changes in the process.

        Raises:
            Finding: The build raises, or does not return a module.
        """
        doing = "its build" + (" on meta" if device == "meta" else "")
        with attempt(doing, self.where, hint=_BUILD), default_device(device):
            module = self.builder.build(self.grid)
        if not isinstance(module, nn.Module):
            hint = "Put the function into a module's forward."
            found = f"its build returns {quote(module)}"
            raise Finding(found, self.where, "a torch.nn.Module", hint)
        return module

    def module(self) -> nn.Module:
        """Build the module for evaluation, with shifted weights: zeros could hide errors."""
        torch.manual_seed(0)
        module = self.build().eval()
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.is_floating_point():
                    parameter.add_(torch.randn_like(parameter), alpha=_OFF)
        return module

    def random_cases(self) -> Iterator[Case]:
        """Yield cases of random grids, always the same ones, if it is built for any grid."""
        numbers = random.Random(0)
        for _ in range(_RANDOM_GRIDS if self.grid is None else 0):
            grid = (numbers.randint(1, _MAX_SIDE), numbers.randint(1, _MAX_SIDE))
            if case := self.builder.accepted(grid):
                yield case


@dataclass(frozen=True)
class Subject:
    """The block or projector that is checked.

    Attributes:
        title: Its name in the report.
        spec: The block or the preset; the stack if there is no preset.
        variants: Its modules and their inputs.
        large: The same on larger grids, where they are accepted.
    """

    title: str
    spec: Any
    variants: tuple[Variant, ...]
    large: tuple[Variant, ...]

    def modules(self, most: int | None = None) -> Iterator[tuple[nn.Module, Case]]:
        """Yield every case with a module to run it; the cases of a variant share the module.

        Args:
            most: How many cases of each variant. Default: all.
        """
        for variant in self.variants:
            module = variant.module()
            for case in variant.cases[:most]:
                yield module, case

    @property
    def home(self) -> str | None:
        """The module to import its class from; None for a class of a notebook or a function."""
        cls = type(self.spec)
        thing: Any = sys.modules.get(cls.__module__)
        if getattr(thing, "__file__", None) is None or getattr(thing, "__spec__", None) is None:
            return None
        for name in cls.__qualname__.split("."):
            thing = getattr(thing, name, None)
        return cls.__module__ if thing is cls else None


def examine(
    kind: str, candidates: Iterable[tuple[Builder, Grid]], hint: str, *, given: bool
) -> tuple[tuple[Variant, ...], tuple[Variant, ...]]:
    """Return the modules to check, and those for large grids.

    Args:
        kind: The word for a candidate in a finding.
        candidates: The grids to try, each with its builder.
        hint: What to do if none is accepted.
        given: Whether the user chose the candidates; then all must be accepted.

    Raises:
        Finding: A prediction is wrong, or no candidate, or not every given one, is accepted.
    """
    accepted: dict[Builder, list[Case]] = {}
    refused: list[str] = []
    reason = ""
    for builder, grid in candidates:
        where = builder.describe(grid)
        try:
            case = builder.case(grid)
        except Finding:
            raise
        except MobileVLMError as error:
            if given:
                found = f"it refuses the {kind}: {error}"
                raise Finding(found, where, f"{kind}s that it accepts") from error
            refused.append(where)
            reason = reason or str(error).rstrip(".")
        else:
            accepted.setdefault(builder, []).append(case)
    if not accepted:
        found = f"it accepts none of the usual {kind}s: {reason}"
        raise Finding(found, ", ".join(refused), "at least one", hint)
    variants = [each for builder, cases in accepted.items() for each in _variants(builder, cases)]
    return tuple(variants), tuple(_large(variants))


def _variants(builder: Builder, cases: Sequence[Case]) -> list[Variant]:
    """Return one module for all grids, as in a projector; if its build refuses, one for each."""
    try:
        with default_device("meta"):
            builder.build(None)
    except MobileVLMError:
        return [Variant(case.where, builder, case.grid, (case,)) for case in cases]
    except Exception:  # reported by the first check
        pass
    return [Variant(builder.describe(None), builder, None, tuple(cases))]


def _large(variants: Iterable[Variant]) -> Iterator[Variant]:
    """Yield, for each layout, the first large grid that is accepted."""
    done = set()
    for variant, grid in itertools.product(variants, _LARGE_GRIDS):
        builder = variant.builder
        if builder.layout not in done and (case := builder.accepted(grid)):
            done.add(builder.layout)
            yield Variant(case.where, builder, variant.grid and case.grid, (case,))


def check_shapes(subject: Subject, source: str, hint: str) -> None:
    """Compare the predicted shapes with the modules', also on random and large grids.

    Args:
        subject: The block or projector.
        source: The source of the prediction, for the finding.
        hint: What to do if the shapes differ.

    Raises:
        Finding: The module raises, or gives another shape, nan or inf.
    """

    def check(case: Case, module: nn.Module, batch: int, hint_on_error: str = "") -> Tensor:
        shape = (batch, *case.predicted)
        y = case.run(module, case.input(batch), hint=hint_on_error)
        if tuple(y.shape) != shape:
            found = f"{source} says {shape}, its module gives {tuple(y.shape)}"
            raise Finding(found, case.where, "the same", hint)
        return y

    for variant in subject.variants:
        module = variant.build().eval()
        for index, case in enumerate((*variant.cases, *variant.random_cases())):
            check(case, module, 2 - index % 2)
    for variant in subject.large:
        [case] = variant.cases
        with torch.no_grad():
            y = check(case, variant.module(), 1, ACCEPTS)
        expect_finite(y, "its module gives", case.where, LIMITED)


def check_packed(
    module: nn.Module,
    cases: Sequence[Case],
    run_packed: Callable[[Tensor, list[Grid]], Tensor],
    doing: str,
    hint: str,
    prefix_tokens: int = 0,
) -> None:
    """Compare packed images with each image alone.

    Args:
        module: The module.
        cases: The images.
        run_packed: Maps tokens ``(n, c)`` and their grids to ``(m, d)``.
        doing: The name of that call in a finding.
        hint: What to do if the outputs differ.
        prefix_tokens: How many tokens of each input packed images do not have.

    Raises:
        Finding: The call raises, or its output differs.
    """
    inputs = [case.input(1) for case in cases]
    alone = [case.run(module, x).flatten(0, -2) for case, x in zip(cases, inputs, strict=True)]
    where = ", ".join(case.where for case in cases)
    with attempt(doing, where):
        packed = torch.cat([x.flatten(0, -2)[prefix_tokens:] for x in inputs])
        y = run_packed(packed, [case.grid for case in cases])
    expected = "the outputs of the single images, concatenated"
    expect_same(y, torch.cat(alone), "packed images give a different output", where, hint, expected)


def difference(a: Tensor, b: Tensor) -> str:
    """Describe how one tensor differs from another; an empty string if it does not.

    It may be `CLOSE`, relative to the largest value.
    """
    if a.shape != b.shape:
        return f"shape {tuple(a.shape)} against {tuple(b.shape)}"
    if not a.numel():
        return ""
    a, b = a.detach().float(), b.detach().float()
    off, largest = (a - b).abs().max().item(), b.abs().max().item()
    if off <= CLOSE * largest + 1e-7:
        return ""
    return f"off by up to {off:.2g}, where the values reach {largest:.2g}"


def expect_same(
    a: Tensor, b: Tensor, found: str, where: str, hint: str = "", expected: str = "the same"
) -> None:
    """Raise a finding if two tensors differ."""
    off = difference(a, b)
    if off:
        raise Finding(f"{found}: {off}", where, expected, hint)


def expect_finite(x: Tensor, what: str, where: str, hint: str, when: str = "") -> None:
    """Raise a finding if a tensor holds nan or inf."""
    if not x.isfinite().all():
        raise Finding(f"{what} nan or inf{when}", where, "finite values", hint)
