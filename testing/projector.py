"""Checking a projector: the grids it is given, and what its plan predicts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..blocks.core.block import label
from ..blocks.core.errors import GridError
from ..blocks.core.feature import Grid, check_grid
from ..projectors.document import dump_spec, load_spec
from ..projectors.lookup import instantiate, to_stack
from ..projectors.preset import Preset
from ..projectors.projector import Projector
from ..projectors.stack import Stack
from ..registry import MobileVLMError
from .cases import Builder, Case, Subject, check_packed, check_shapes, examine
from .report import Finding, attempt

__all__ = ["ProjectorSubject", "document", "examine_projector", "flow", "stack_of", "tokens"]

_WIDTHS = (48, 96)
_GRIDS: tuple[Grid, ...] = ((6, 4), (12, 16), (12, 12), (5, 7))


@dataclass(frozen=True)
class ProjectorSubject(Subject):
    """A projector that is checked.

    Attributes:
        stack: Its specification.
        config: What the config.json of its checkpoints says, beside the model type.
    """

    stack: Stack
    config: Mapping[str, Any]


class _ProjectorBuilder(Builder):
    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def describe(self, grid: Grid | None) -> str:
        return "any grid" if grid is None else f"{grid[0]}x{grid[1]} x {self.stack.in_}"

    def build(self, grid: Grid | None) -> Projector:
        return Projector(self.stack, grid=grid)

    def case(self, grid: Grid) -> Case:
        (h, w), stack, where = grid, self.stack, self.describe(grid)
        if h % stack.token_block or w % stack.token_block:
            raise GridError("tokens come in blocks of 2x2", where, "even sides")
        expected = "a token count, or a SpecError or GridError"
        with attempt("its plan", where, expected, passing=MobileVLMError):
            count = stack.tokens(h, w)
        shape = (stack.prefix_tokens + h * w, stack.in_)
        return Case(where, grid, shape, (count, stack.out), (grid,))


def stack_of(
    spec: object, in_: int | None, out: int | None, options: dict[str, Any]
) -> tuple[Any, Stack]:
    """Return the preset, or the stack if the spec is not a preset; and the stack.

    Raises:
        RegistryError: The name is not registered.
        SpecError: The widths, an option or the document does not fit.
    """
    if isinstance(spec, type) and issubclass(spec, Preset):
        spec, options = spec(**options), {}
    elif isinstance(spec, str):
        spec, options = instantiate(spec, options), {}
    if isinstance(spec, Preset) and not options:
        return spec, spec.stack(in_ or _WIDTHS[0], out or _WIDTHS[1])
    stack = to_stack(spec, in_, out, options)
    return stack, stack


def examine_projector(
    spec: Any, stack: Stack, grids: Sequence[Grid] | None, config: Mapping[str, Any]
) -> ProjectorSubject:
    """Return a projector with its modules and their inputs.

    Raises:
        Finding: It accepts none of the grids, or not all of the given ones.
    """
    builder = _ProjectorBuilder(stack)
    candidates = [(builder, check_grid(grid)) for grid in (_GRIDS if grids is None else grids)]
    hint = "Pass grids=[(h, w), ...]."
    variants, large = examine("grid", candidates, hint, given=grids is not None)
    title = repr(spec) if isinstance(spec, Preset) else f"the stack {stack.in_} -> {stack.out}"
    return ProjectorSubject(title, spec, variants, large, stack, config)


def flow(subject: ProjectorSubject) -> None:
    """Its plan predicts the output, block by block, on any grid."""
    for variant in subject.variants:
        module = variant.build().eval()
        for case in variant.cases:
            _check_blocks(subject.stack, module, case)
    check_shapes(subject, "its plan", "Run check_block on its blocks.")


def _check_blocks(stack: Stack, module: nn.Module, case: Case) -> None:
    """Compare each block's flow with its module; two errors could cancel out."""
    x = torch.randn(2, *case.grid, stack.in_)
    for index, step in enumerate(stack.walk(case.grid)):
        block = module.get_submodule(f"blocks.{index}")
        doing = f"blocks[{index}] ({label(step.block)})"
        with attempt(doing, case.where):
            x = block(x)
        predicted = (2, *step.y.grid, step.y.channels)
        if tuple(x.shape) != predicted:
            found = f"the flow of {doing} says {predicted}, its module gives {tuple(x.shape)}"
            raise Finding(found, case.where, "the same", "Run check_block on it.")


def tokens(subject: ProjectorSubject) -> None:
    """Packed images give what each gives alone."""
    hint = (
        "Run check_block on its blocks: one of them reads more than its needs_grid or "
        "mixes_tokens says."
    )
    prefix_tokens = subject.stack.prefix_tokens
    for variant in subject.variants:
        module = variant.module()
        check_packed(module, variant.cases, module, "packing images", hint, prefix_tokens)


def document(subject: ProjectorSubject) -> None:
    """It is equal after being written to JSON and read back; so is a preset with its options."""
    preset = subject.spec
    if isinstance(preset, Preset):
        with attempt("reading its options back"):
            again = type(preset)(**json.loads(preset.model_dump_json()))
        if again != preset:
            raise Finding(f"read back, its options are {again!r}", expected="the same")
        with attempt("expanding it"):
            other = preset.stack(subject.stack.in_, subject.stack.out)
        if other != subject.stack:
            raise Finding("expanding it twice gives different stacks", expected="the same")
    with attempt("writing and reading it as JSON"):
        stack = load_spec(dump_spec(subject.stack))
    if stack != subject.stack:
        raise Finding("its document read back is different", expected="the same")
