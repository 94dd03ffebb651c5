"""Checking a block: the features it is given, and what its flow predicts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..blocks.core.block import Block, mixes_tokens, needs_grid
from ..blocks.core.errors import GridError, SpecError
from ..blocks.core.feature import Feature, Grid
from ..blocks.core.packed import run_once
from ..blocks.core.packing import PackedModule, Packing, packs, runs_by_size
from ..projectors.document import dump_spec, load_spec
from ..projectors.stack import Stack
from ..registry import MobileVLMError, quote
from .cases import (
    CLOSE,
    LIMITED,
    Builder,
    Case,
    Subject,
    Variant,
    check_packed,
    check_shapes,
    examine,
    expect_same,
)
from .host_reads import refuse_host_reads
from .report import Finding, attempt

__all__ = ["document", "examine_block", "flow", "instance", "large_grids", "tokens"]

# Widths that most numbers of heads and groups divide; some inner widths differ from both ends.
_ENDS = (48, 96)
_FEATURES = (
    *(Feature(channels=48, grid=grid, ends=_ENDS) for grid in [(6, 4), (5, 7), (12, 12), (1, 1)]),
    Feature(channels=48, grid=(4, 6), ends=(24, 96)),
    Feature(channels=48, grid=(1, 10), layout="sequence", ends=_ENDS),
)
_SIDES = (8, 16, 64)
_RELY = "Fix the wrong one: plans, documents and the next block rely on flow."


class _BlockBuilder(Builder):
    """Builds a block for features that differ in their grid."""

    def __init__(self, block: Block, x: Feature) -> None:
        self.block = block
        self.x = x
        self.layout = x.layout

    def feature(self, grid: Grid | None) -> Feature:
        """Return the feature of a grid; a sequence has as many tokens."""
        if grid is None:
            return self.x
        return self.x.replace(grid=grid if self.layout == "raster" else (1, grid[0] * grid[1]))

    def describe(self, grid: Grid | None) -> str:
        return str(self.feature(grid))

    def build(self, grid: Grid | None) -> nn.Module:
        return self.block.build(self.feature(grid))

    def case(self, grid: Grid) -> Case:
        x = self.feature(grid)
        y = _flow(self.block, x)
        (h, w), (rows, columns) = x.grid, y.grid
        if h is None or w is None or rows is None or columns is None:
            hint = "Compute every output side whose input side is known."
            raise Finding(f"its flow returns {y} for {x}", str(x), "known sides", hint)
        return Case(str(x), (h, w), (h, w, x.channels), (rows, columns, y.channels), feature=x)


def examine_block(block: Block, features: Sequence[Feature] | None) -> Subject:
    """Return a block with its modules and their inputs.

    Raises:
        Finding: Its flow fails, or it accepts none of the features, or not all of the given ones.
    """
    builders: dict[Feature, _BlockBuilder] = {}
    candidates: list[tuple[Builder, Grid]] = []
    for x in _FEATURES if features is None else features:
        h, w = x.grid
        if h is None or w is None:
            raise Finding("its grid is not known", str(x), "features with a known grid")
        unknown = x.replace(grid=(1 if x.layout == "sequence" else None, None))
        builder = builders.setdefault(unknown, _BlockBuilder(block, unknown))
        candidates.append((builder, (h, w)))
    hint = "Pass features=[Feature(channels=..., grid=(h, w), ends=(in, out)), ...]."
    variants, large = examine("feature", candidates, hint, given=features is not None)
    return Subject(repr(block), block, variants, large)


def _flow(block: Block, x: Feature) -> Feature:
    """Call flow; it may refuse, but any other error or result is a finding."""
    hint = "A side may be None; x.resize(lambda side: ...) keeps it None."
    expected = "a Feature, or a SpecError or GridError"
    with attempt("its flow", str(x), expected, hint, passing=MobileVLMError):
        y = block.flow(x)
    if not isinstance(y, Feature) or type(y.channels) is not int or y.channels < 1:
        hint = "Return x, or x.replace(...)."
        raise Finding(f"its flow returns {quote(y)}", str(x), "a Feature", hint)
    if y.ends != x.ends:
        found = f"its flow changes the projector's ends to {y.ends}"
        raise Finding(found, str(x), "unchanged ends", "Leave ends out of x.replace(...).")
    return y


def flow(subject: Subject) -> None:
    """`flow` predicts the output, on any grid, and while sides are unknown."""
    block = subject.spec
    for x in _features(subject):
        y = _flow(block, x)
        if _flow(block, x) != y:
            hint = "Compute it from the fields and the feature only."
            raise Finding("two calls of its flow give different results", str(x), "the same", hint)
        h, w = x.grid
        for sides in [(None, None), (h, None), (None, w)]:
            _compare_unknown(x.replace(grid=sides), block, y)
    check_shapes(subject, "its flow", _RELY)


def _features(subject: Subject) -> list[Feature]:
    """Return the features that the block accepts; at least one."""
    return [case.feature for variant in subject.variants for case in variant.cases]


def _compare_unknown(x: Feature, block: Block, known: Feature) -> None:
    """Compare what flow returns while sides are unknown with its result for known ones."""
    try:
        y = _flow(block, x)
    except Finding:
        raise
    except MobileVLMError as error:
        hint = "A document is checked before its grid is known; refuse only what must be wrong."
        expected = f"a Feature: with the grid known, it returns {known}"
        found = f"its flow refuses an unknown grid: {error}"
        raise Finding(found, str(x), expected, hint) from error
    sides = [a for a, b in zip(y.grid, known.grid, strict=True) if a not in (None, b)]
    if sides or (y.channels, y.layout) != (known.channels, known.layout):
        found = f"while the grid is unknown its flow returns {y}, and {known} once it is known"
        hint = "Return a number for a side only if it never depends on the grid."
        raise Finding(found, str(x), "the same, or unknown sides", hint)


def tokens(subject: Subject) -> None:
    """`needs_grid` and `mixes_tokens` are true, and packed images give the same numbers."""
    block = subject.spec
    reads, mixes = needs_grid((block,)), mixes_tokens((block,))
    for variant in (*subject.variants, *subject.large):
        module = variant.module()
        for case in variant.cases:
            _check_token_facts(module, case, 1 if variant in subject.large else 2, reads, mixes)
        packed: object = module
        if packs(packed) and variant in subject.variants:
            _check_packed_module(module, packed, variant.cases)


def _check_packed_module(module: nn.Module, packed: PackedModule, cases: Sequence[Case]) -> None:
    """Compare `forward_packed` with each image alone, without a budget and with a larger one."""
    hint = "For each image, compute what forward computes for it alone."
    grids = [case.grid for case in cases]
    if not runs_by_size(packed):
        check_packed(module, cases, partial(run_once, packed), "its forward_packed", hint)
    budget = (sum(h * w for h, w in grids) + 5, len(cases) + 2)

    def run(x: Tensor, grids: Sequence[Grid]) -> Tensor:
        after, index = packed.pack(Packing.of(grids, x.device).within(*budget))
        padded = torch.cat([x, x.new_zeros(budget[0] - len(x), x.shape[1])])
        with refuse_host_reads():
            y = packed.forward_packed(padded, index)
        return y[: sum(after.lengths)]

    try:
        shapes = _shapes(packed, grids, budget)
    except GridError:  # something inside does not run at a budget
        return
    check_packed(module, cases, run, "its forward_packed at a budget", hint)
    if shapes != _shapes(packed, grids[:1], budget):
        raise Finding(
            "what its pack returns at a budget has other shapes for fewer images",
            ", ".join(case.where for case in cases),
            "those of the budget, so that one captured graph serves all images within it",
            "Pad with Packing.padded.",
        )


def _shapes(packed: PackedModule, grids: Sequence[Grid], budget: tuple[int, int]) -> object:
    """Return how many rows come out at a budget, and the shapes of what `pack` returns."""
    after, index = packed.pack(Packing.of(grids, torch.device("cpu")).within(*budget))
    return after.rows, pytree.tree_map_only(Tensor, Tensor.size, index)


def _check_token_facts(module: nn.Module, case: Case, batch: int, reads: bool, mixes: bool) -> None:
    """Change what `needs_grid` and `mixes_tokens` say does not matter, and compare."""
    x = case.input(batch)
    y = case.run(module, x).flatten(1, 2)
    if not reads:
        row = module(x.flatten(1, 2)[:, None]).flatten(1, 2)
        found = "needs_grid is False, but the same tokens in one row give a different output"
        hint = "Leave needs_grid at True."
        expect_same(row, y, found, case.where, hint, "the same on any grid")
    if not mixes:
        half = max(1, y.shape[1] // 2)
        alone = module(x.flatten(1, 2)[:, None, :half]).flatten(1, 2)
        found = "mixes_tokens is False, but half of the tokens alone give a different output"
        expected = "independent tokens: otherwise packed images leak into each other"
        hint = "Set mixes_tokens: ClassVar[bool] = True."
        expect_same(alone, y[:, :half], found, case.where, hint, expected)


def large_grids(subject: Subject) -> None:
    """The corners of a large grid equal those of a small one, if only neighbours count."""
    for variant in subject.variants:
        if variant.grid is None and variant.builder.layout == "raster":
            _compare_corners(variant)


@torch.no_grad()
def _compare_corners(variant: Variant) -> None:
    """Compare a large grid's corners with those of a small one, if a smaller one has the same.

    An operation with a limited reach, such as a convolution, gives the same numbers for the same
    corner, however large the rest is. One that reads everything, such as attention, never does and
    is not compared. Both the first and the last corner are tried, for tiles and tables that end.
    """
    cases = [case for side in _SIDES if (case := variant.builder.accepted((side, side)))]
    if len(cases) < len(_SIDES):
        return
    small = cases[0].predicted
    for side, case in zip(_SIDES, cases, strict=True):
        scale = side // _SIDES[0]
        if case.predicted[:2] != (small[0] * scale, small[1] * scale):
            return  # a grid that does not grow in proportion is not cut in proportion
    module = variant.module()
    image = cases[-1].input(1)
    smallest, reference = _SIDES[:2]
    for at in ("first", "last"):
        y = cases[0].run(module, _corner(image, smallest, at))
        size = y.shape[1]
        other = _corner(cases[1].run(module, _corner(image, reference, at)), size, at)
        near = (other - y).abs().amax(-1) <= CLOSE * y.abs().max()
        if not near.any():
            continue
        whole = cases[-1].run(module, image)
        found = f"its {at} tokens differ from those of the same corner alone"
        expected = f"the same, as between {reference}x{reference} and {smallest}x{smallest}"
        corner = _corner(whole, size, at)
        expect_same(corner[near], other[near], found, cases[-1].where, LIMITED, expected)


def _corner(x: Tensor, size: int, at: str) -> Tensor:
    return (x[:, :size, :size] if at == "first" else x[:, -size:, -size:]).contiguous()


def document(subject: Subject) -> None:
    """It is equal after being written to JSON and read back."""
    for x in _features(subject):
        before = [{"type": "pointwise", "out": x.channels}] if x.channels != x.ends[0] else []
        if x.layout == "sequence":
            before.append({"type": "extra-tokens", "at": "end"})
        blocks = [*before, subject.spec, {"type": "pointwise", "out": "out"}]
        hint = "Use plain data in fields; a tuple needs Field(strict=False): JSON has only lists."
        with attempt("writing and reading it as JSON", str(x), "a document", hint):
            stack = Stack.parse({"in": x.ends[0], "out": x.ends[1], "blocks": blocks})
            again = load_spec(dump_spec(stack))
        if again != stack:
            found = f"read back it is {again.blocks[len(before)]!r}"
            raise Finding(found, str(x), "the same", hint)


def instance(block: object) -> Block:
    """Return a block, or an instance of a class with every field at its default.

    Raises:
        SpecError: It is not a block, or a class with a field that has no default.
    """
    if isinstance(block, type) and issubclass(block, Block):
        return block()
    if isinstance(block, Block):
        return block
    raise SpecError(quote(block), "check_block", "a block, or its class")
