"""A block under examination: its features, and what it says on paper."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..blocks.block import Block, mixes_tokens, needs_grid
from ..blocks.errors import SpecError
from ..blocks.feature import Feature, Grid
from ..blocks.window import PackedModule
from ..projectors.document import dump_spec, load_spec
from ..projectors.stack import Stack
from ..registry import MobileVLMError, quote
from .report import Finding, attempt
from .subject import Case, Subject, Target, difference
from .world import kept

__all__ = ["BlockSubject", "document", "examine", "flow", "tokens"]

# Widths that most numbers of heads and groups divide; inner widths that are neither end's.
_ENDS = (48, 96)
_FEATURES = (
    *(Feature(channels=48, grid=grid, ends=_ENDS) for grid in [(6, 4), (5, 7), (12, 12), (1, 1)]),
    Feature(channels=48, grid=(4, 6), ends=(24, 96)),
    Feature(channels=48, grid=(1, 10), layout="sequence", ends=_ENDS),
)
_RANDOM_GRIDS = 12
_MAX_SIDE = 20
_LIE = "One of the two is wrong: flow is what plans, documents and the next block believe."


@dataclass(frozen=True)
class BlockSubject(Subject):
    """A block, with the features that it is given.

    Attributes:
        features: As many as it takes; at least one.
    """

    spec: Block
    features: tuple[Feature, ...]


def examine(block: Block, features: Sequence[Feature] | None) -> BlockSubject:
    """Return a block with its modules and their inputs.

    Raises:
        Finding: Its flow fails, or it takes none of the features; given ones it takes all.
    """
    taken: dict[Feature, Feature] = {}
    refusal: MobileVLMError | None = None
    for x in _FEATURES if features is None else features:
        try:
            taken[x] = _flow(block, x)
        except Finding:
            raise
        except MobileVLMError as error:
            refusal = refusal or error
            if features is not None:
                found = f"it refuses the feature: {error}"
                raise Finding(found, str(x), "features that it takes") from error
    if not taken:
        raise Finding(
            f"it takes none of the usual features: {str(refusal).rstrip('.')}",
            ", ".join(map(str, _FEATURES)),
            "one at least",
            "Pass features=[Feature(channels=..., grid=(h, w), ends=(in, out)), ...].",
        )
    return BlockSubject(repr(block), block, tuple(_targets(block, taken)), tuple(taken))


def _targets(block: Block, taken: dict[Feature, Feature]) -> Iterator[Target]:
    """One module for all the grids, as in a projector; where its build refuses, one for each."""
    cases = {x: _case(x, y) for x, y in taken.items()}
    for open_ in dict.fromkeys(_open(x) for x in taken):
        members = [x for x in taken if _open(x) == open_]
        try:
            with kept(), torch.device("meta"):
                block.build(open_)
        except MobileVLMError:
            for x in members:
                yield Target(str(x), _Make(block, x), (cases[x],))
            continue
        except Exception:  # told by the first check
            pass
        yield Target(str(open_), _Make(block, open_), tuple(cases[x] for x in members))


@dataclass(frozen=True)
class _Make:
    block: Block
    x: Feature

    def __call__(self) -> nn.Module:
        return self.block.build(self.x)


def _open(x: Feature) -> Feature:
    """Return a feature whose grid is not known yet."""
    return x.replace(grid=(1 if x.layout == "sequence" else None, None))


def _case(x: Feature, y: Feature) -> Case:
    given, said = _sizes(x), _sizes(y)
    if given is None:
        raise Finding("its grid is not known", str(x), "features with a grid to try")
    if said is None:
        hint = "Say of every side what becomes of it; None is for what is not known."
        raise Finding(f"its flow makes {y} of {x}", str(x), "sides as numbers", hint)
    return Case(str(x), given, said)


def _sizes(x: Feature) -> tuple[int, int, int] | None:
    h, w = x.grid
    return None if h is None or w is None else (h, w, x.channels)


def _flow(block: Block, x: Feature) -> Feature:
    """Ask the block; it may refuse, and whatever else is wrong with its answer is a finding."""
    hint = "A side may be None; x.resize(lambda side: ...) leaves it so."
    expected = "a Feature, or a SpecError or GridError"
    with attempt("its flow", str(x), expected, hint, passing=MobileVLMError):
        y = block.flow(x)
    if not isinstance(y, Feature) or type(y.channels) is not int or y.channels < 1:
        hint = "Return x, or x.replace(...)."
        raise Finding(f"its flow returns {quote(y)}", str(x), "a Feature", hint)
    if y.ends != x.ends:
        found = f"its flow changes the projector's ends to {y.ends}"
        raise Finding(found, str(x), "the ends as they were", "Leave ends out of x.replace(...).")
    return y


def flow(subject: BlockSubject) -> None:
    """`flow` says what comes out, on any grid, and while sides are unknown."""
    block = subject.spec
    for x in subject.features:
        said = _flow(block, x)
        if _flow(block, x) != said:
            hint = "Compute with the fields and the feature, and nothing else."
            raise Finding("its flow says something else when asked again", str(x), "the same", hint)
        h, w = x.grid
        for sides in [(None, None), (h, None), (None, w)]:
            _agree(x.replace(grid=sides), block, said)
    for target in subject.targets:
        module = target.build().eval()
        for batch, case in enumerate((*target.cases, *_random(block, target)), 1):
            shape = (1 + batch % 2, *case.said)
            y = case.run(module, case.input(shape[0]))
            if tuple(y.shape) != shape:
                found = f"its flow says {shape}, its module gives {tuple(y.shape)}"
                raise Finding(found, case.where, "the same", _LIE)


def _agree(x: Feature, block: Block, said: Feature) -> None:
    """Compare what flow says while sides are unknown with what it says of known ones."""
    try:
        y = _flow(block, x)
    except Finding:
        raise
    except MobileVLMError as error:
        raise Finding(
            f"its flow refuses a grid that is not known yet: {error}",
            str(x),
            f"a Feature: with the grid, it says {said}",
            "A document is checked before its grid is known; refuse what is known to be wrong.",
        ) from error
    sides = [a for a, b in zip(y.grid, said.grid, strict=True) if a not in (None, b)]
    if sides or (y.channels, y.layout) != (said.channels, said.layout):
        raise Finding(
            f"while the grid is unknown its flow says {y}, with the grid {said}",
            str(x),
            "the same, or sides that are unknown",
            "Give a side as a number only if it never depends on the grid.",
        )


def _random(block: Block, target: Target) -> Iterator[Case]:
    """Draw grids, always the same ones, for a module that was built for any grid."""
    make = target.make
    if not isinstance(make, _Make) or make.x.tokens is not None:
        return
    numbers = random.Random(0)
    for _ in range(_RANDOM_GRIDS):
        h, w = numbers.randint(1, _MAX_SIDE), numbers.randint(1, _MAX_SIDE)
        x = make.x.replace(grid=(make.x.grid[0] or h, w))
        try:
            y = _flow(block, x)
        except Finding:
            raise
        except MobileVLMError:
            continue
        yield _case(x, y)


def tokens(subject: BlockSubject) -> None:
    """What `needs_grid` and `mixes_tokens` say is true, and packed images give the same."""
    block = subject.spec
    reads, mixes = needs_grid((block,)), mixes_tokens((block,))
    for target in subject.targets:
        module = target.module()
        for case in target.cases:
            x = case.input()
            y = case.run(module, x).flatten(1, 2)
            if not reads:
                off = difference(module(x.flatten(1, 2)[:, None]).flatten(1, 2), y)
                if off:
                    raise Finding(
                        f"needs_grid is False, but in one row the same tokens differ: {off}",
                        case.where,
                        "the same on any grid",
                        "Leave needs_grid at True.",
                    )
            if not mixes:
                half = max(1, y.shape[1] // 2)
                off = difference(module(x.flatten(1, 2)[:, None, :half]).flatten(1, 2), y[:, :half])
                if off:
                    raise Finding(
                        f"mixes_tokens is False, but alone, half of the tokens differ: {off}",
                        case.where,
                        "each token by itself: packed images would leak into each other",
                        "Say mixes_tokens: ClassVar[bool] = True.",
                    )
        if isinstance(module, PackedModule):
            _packed(module, module.forward_packed, target.cases)


def _packed(
    module: nn.Module,
    forward_packed: Callable[[Tensor, Sequence[Grid]], Tensor],
    cases: Sequence[Case],
) -> None:
    inputs = [case.input(1) for case in cases]
    grids = [(x.shape[1], x.shape[2]) for x in inputs]
    expected = [case.run(module, x).flatten(0, 2) for case, x in zip(cases, inputs, strict=True)]
    where = ", ".join(case.where for case in cases)
    with attempt("its forward_packed", where):
        y = forward_packed(torch.cat([x.flatten(0, 2) for x in inputs]), grids)
    off = difference(y, torch.cat(expected))
    if off:
        found = f"its forward_packed gives something else than forward: {off}"
        hint = "Give each image what it gets alone, one after the other."
        raise Finding(found, where, "the same", hint)


def document(subject: BlockSubject) -> None:
    """Written to JSON and read back it is equal."""
    for x in subject.features:
        before = [{"type": "pointwise", "out": x.channels}] if x.channels != x.ends[0] else []
        if x.layout == "sequence":
            before.append({"type": "extra-tokens", "at": "end"})
        blocks = [*before, subject.spec, {"type": "pointwise", "out": "out"}]
        hint = "Fields are plain data; a tuple needs Field(strict=False), for JSON has lists only."
        with attempt("reading and writing it", str(x), "a document", hint):
            stack = Stack.parse({"in": x.ends[0], "out": x.ends[1], "blocks": blocks})
            again = load_spec(dump_spec(stack))
        if again != stack:
            raise Finding(
                f"read back it is {again.blocks[len(before)]!r}", str(x), "the same", hint
            )


def instance(block: object) -> Block:
    """Return the block itself, or a class's instance with every field at its default.

    Raises:
        SpecError: It is no block, or a class with fields that have no default.
    """
    if isinstance(block, Block):
        return block
    if isinstance(block, type) and issubclass(block, Block):
        required = [name for name, field in block.model_fields.items() if field.is_required()]
        if required:
            name = block.__name__
            raise SpecError(
                f"{', '.join(required)} must be given",
                name,
                "an instance",
                f"Write check_block({name}({required[0]}=...)).",
            )
        return block()
    raise SpecError(quote(block), "check_block", "a block, or its class")
