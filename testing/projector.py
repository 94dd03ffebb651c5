"""A projector under examination: its grids, and what its plan says."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..blocks.core.block import label
from ..blocks.core.errors import GridError, SpecError
from ..blocks.core.feature import Grid, check_grid
from ..projectors.document import dump_spec, load_spec
from ..projectors.lookup import instantiate, to_stack
from ..projectors.preset import Preset
from ..projectors.projector import Projector
from ..projectors.stack import Stack
from ..registry import MobileVLMError, quote
from .report import Finding, attempt
from .subject import LARGE, Case, Subject, Target, difference, run_large
from .world import on

__all__ = ["ProjectorSubject", "document", "examine", "flow", "stack_of", "tokens"]

_WIDTHS = (48, 96)
_GRIDS: tuple[Grid, ...] = ((6, 4), (12, 16), (12, 12), (5, 7))
_RANDOM_GRIDS = 12
_MAX_SIDE = 20


@dataclass(frozen=True)
class ProjectorSubject(Subject):
    """A projector, with the grids that it is given.

    Attributes:
        stack: Its specification.
        grids: As many as it takes; at least one.
    """

    stack: Stack
    grids: tuple[Grid, ...]


def stack_of(
    spec: object, in_: int | None, out: int | None, options: Mapping[str, Any]
) -> tuple[Any, Stack]:
    """Return the preset that is meant, or the stack if it is none, and the stack.

    Raises:
        RegistryError: There is no such name.
        SpecError: The widths, an option or the document does not fit.
    """
    if isinstance(spec, type) and issubclass(spec, Preset):
        spec = spec(**options)
    elif isinstance(spec, str):
        spec = instantiate(spec, options)
    elif options:
        raise SpecError(
            f"unknown option {quote(next(iter(options)))}",
            "check_projector",
            hint="Options belong to a registered name or to a preset's class.",
        )
    if isinstance(spec, Preset):
        stack = spec.stack(in_ or _WIDTHS[0], out or _WIDTHS[1])
    else:
        stack = to_stack(spec, in_, out, {})
        spec = stack
    return spec, stack


def examine(spec: Any, stack: Stack, grids: Sequence[Grid] | None) -> ProjectorSubject:
    """Return a projector with its modules and their inputs.

    Raises:
        Finding: It takes none of the grids; given ones it takes all.
    """
    taken: dict[Grid, Case] = {}
    refusal: MobileVLMError | None = None
    for grid in _GRIDS if grids is None else map(check_grid, grids):
        try:
            taken[grid] = _case(stack, grid)
        except Finding:
            raise
        except MobileVLMError as error:
            refusal = refusal or error
            if grids is not None:
                where = "{}x{}".format(*grid)
                found = f"it refuses the grid: {error}"
                raise Finding(found, where, "grids that it takes") from error
    if not taken:
        raise Finding(
            f"it takes none of the usual grids: {str(refusal).rstrip('.')}",
            ", ".join(f"{h}x{w}" for h, w in _GRIDS),
            "one at least",
            "Pass grids=[(h, w), ...].",
        )
    targets: tuple[Target, ...]
    any_grid = True
    try:
        with on("meta"):
            Projector(stack)
        targets = (Target("any grid", _Make(stack, None), tuple(taken.values())),)
    except MobileVLMError:
        any_grid = False
        targets = tuple(
            Target(case.where, _Make(stack, grid), (case,)) for grid, case in taken.items()
        )
    title = repr(spec) if isinstance(spec, Preset) else f"the stack {stack.in_} -> {stack.out}"
    large: tuple[Target, ...] = ()
    for grid in LARGE:
        with suppress(GridError, SpecError):
            case = _case(stack, grid)
            large = (Target(case.where, _Make(stack, None if any_grid else grid), (case,)),)
            break
    return ProjectorSubject(title, spec, targets, large, stack, tuple(taken))


@dataclass(frozen=True)
class _Make:
    stack: Stack
    grid: Grid | None

    def __call__(self) -> Projector:
        return Projector(self.stack, grid=self.grid)


def _case(stack: Stack, grid: Grid) -> Case:
    h, w = grid
    where = f"{h}x{w} x {stack.in_}"
    if stack.token_order == "blocked" and (h % 2 or w % 2):
        raise GridError("tokens come in blocks of 2x2", where, "even sides")
    expected = "a number of tokens, or a SpecError or GridError"
    with attempt("its plan", where, expected, passing=MobileVLMError):
        said = stack.tokens(h, w)
    return Case(where, (stack.prefix_tokens + h * w, stack.in_), (said, stack.out), (grid,))


def flow(subject: ProjectorSubject) -> None:
    """Its plan says what comes out, block by block, on any grid."""
    for target in subject.targets:
        module = target.build().eval()
        for case in target.cases:
            _by_block(subject.stack, module, case)
        for batch, case in enumerate((*target.cases, *_random(subject, target)), 1):
            shape = (1 + batch % 2, *case.said)
            y = case.run(module, case.input(shape[0]))
            if tuple(y.shape) != shape:
                found = f"its plan says {shape}, it gives {tuple(y.shape)}"
                raise Finding(found, case.where, "the same", "Run check_block on its blocks.")
    run_large(subject, "its plan says", "Run check_block on its blocks.")


def _by_block(stack: Stack, module: nn.Module, case: Case) -> None:
    """Compare each block's flow with its module; two lies can make a truth."""
    grid = case.args[0]
    x = torch.randn(2, *grid, stack.in_)
    for index, step in enumerate(stack.walk(grid)):
        block = module.get_submodule(f"blocks.{index}")
        doing = f"blocks[{index}] ({label(step.block)})"
        with attempt(doing, case.where):
            x = block(x)
        said = (2, *step.y.grid, step.y.channels)
        if tuple(x.shape) != said:
            found = f"the flow of {doing} says {said}, its module gives {tuple(x.shape)}"
            raise Finding(found, case.where, "the same", "Run check_block on it.")


def _random(subject: ProjectorSubject, target: Target) -> Iterator[Case]:
    """Draw grids, always the same ones, for a projector that was built for any grid."""
    if len(target.cases) < len(subject.grids):
        return
    numbers = random.Random(0)
    for _ in range(_RANDOM_GRIDS):
        try:
            yield _case(
                subject.stack, (numbers.randint(1, _MAX_SIDE), numbers.randint(1, _MAX_SIDE))
            )
        except Finding:
            raise
        except MobileVLMError:
            continue


def tokens(subject: ProjectorSubject) -> None:
    """Packed images give what each gives alone."""
    for target in subject.targets:
        module = target.module()
        inputs = [case.input(1)[:, subject.stack.prefix_tokens :] for case in target.cases]
        alone = [case.run(module, case.input(1)).flatten(0, 1) for case in target.cases]
        grids = [case.args[0] for case in target.cases]
        where = ", ".join(case.where for case in target.cases)
        with attempt("it, on packed images,", where):
            y = module(torch.cat([x.flatten(0, 1) for x in inputs]), grids)
        off = difference(y, torch.cat(alone))
        if off:
            raise Finding(
                f"packed images give something else: {off}",
                where,
                "the images' outputs one after the other",
                "Run check_block on its blocks: one says too little of what it reads.",
            )


def document(subject: ProjectorSubject) -> None:
    """Written to JSON and read back it is equal; so is a preset with its options."""
    preset = subject.spec
    if isinstance(preset, Preset):
        with attempt("reading its options back"):
            again = type(preset)(**json.loads(preset.model_dump_json()))
        if again != preset:
            raise Finding(f"read back, its options are {again!r}", expected="the same")
        with attempt("expanding it"):
            other = preset.stack(subject.stack.in_, subject.stack.out)
        if other != subject.stack:
            raise Finding("expanded twice, it gives two stacks", expected="the same")
    with attempt("reading and writing it"):
        stack = load_spec(dump_spec(subject.stack))
    if stack != subject.stack:
        raise Finding("read back, its document is another", expected="the same")
