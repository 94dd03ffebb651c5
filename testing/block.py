"""A block under examination: its features, and what it says on paper."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..blocks.core.block import Block, mixes_tokens, needs_grid
from ..blocks.core.errors import SpecError
from ..blocks.core.feature import Feature, Grid
from ..blocks.core.window import PackedModule
from ..projectors.document import dump_spec, load_spec
from ..projectors.stack import Stack
from ..registry import MobileVLMError, quote
from .report import Finding, attempt
from .subject import CLOSE, LARGE, SMALLER, Case, Subject, Target, difference, run_large
from .world import on

__all__ = ["BlockSubject", "document", "examine", "flow", "large_grids", "tokens"]

# Widths that most numbers of heads and groups divide; inner widths that are neither end's.
_ENDS = (48, 96)
_FEATURES = (
    *(Feature(channels=48, grid=grid, ends=_ENDS) for grid in [(6, 4), (5, 7), (12, 12), (1, 1)]),
    Feature(channels=48, grid=(4, 6), ends=(24, 96)),
    Feature(channels=48, grid=(1, 10), layout="sequence", ends=_ENDS),
)
_RANDOM_GRIDS = 12
_MAX_SIDE = 20
_SIDES = (8, 16, 64)
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
    targets = tuple(_targets(block, taken))
    return BlockSubject(repr(block), block, targets, tuple(_large(targets)), tuple(taken))


def _targets(block: Block, taken: dict[Feature, Feature]) -> Iterator[Target]:
    """One module for all the grids, as in a projector; where its build refuses, one for each."""
    cases = {x: _case(x, y) for x, y in taken.items()}
    for open_ in dict.fromkeys(_open(x) for x in taken):
        members = [x for x in taken if _open(x) == open_]
        try:
            with on("meta"):
                block.build(open_)
        except MobileVLMError:
            for x in members:
                yield Target(str(x), _Make(block, x), (cases[x],))
            continue
        except Exception:  # told by the first check
            pass
        yield Target(str(open_), _Make(block, open_), tuple(cases[x] for x in members))


def _large(targets: Iterable[Target]) -> Iterator[Target]:
    """For each layout the first large grid that is taken, for the module built for any grid."""
    done = set()
    for make in (target.make for target in targets):
        if not isinstance(make, _Make) or make.x.layout in done:
            continue
        for h, w in LARGE:
            x = make.x.replace(grid=(h, w) if make.x.layout == "raster" else (1, h * w))
            y = _taken(make.block, x)
            if y is not None:
                done.add(x.layout)
                make = make if make.x.tokens is None else _Make(make.block, x)
                yield Target(str(x), make, (_case(x, y),))
                break


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
    run_large(subject, "its flow says", _LIE)


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
        y = _taken(block, x)
        if y is not None:
            yield _case(x, y)


def tokens(subject: BlockSubject) -> None:
    """What `needs_grid` and `mixes_tokens` say is true, and packed images give the same."""
    block = subject.spec
    reads, mixes = needs_grid((block,)), mixes_tokens((block,))
    for target in (*subject.targets, *subject.large):
        module = target.module()
        for case in target.cases:
            x = case.input(1 if target in subject.large else 2)
            y = case.run(module, x)
            _token_facts(module, case, x, y, reads=reads, mixes=mixes)
        if isinstance(module, PackedModule) and target in subject.targets:
            _packed(module, module.forward_packed, target.cases)


def _token_facts(
    module: nn.Module, case: Case, x: Tensor, y: Tensor, *, reads: bool, mixes: bool
) -> None:
    """Compare with what `needs_grid` and `mixes_tokens` say must not matter."""
    y = y.flatten(1, 2)
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


def large_grids(subject: BlockSubject) -> None:
    """A large grid's corners are those of a small one, where only the neighbours count."""
    for target in subject.targets:
        make = target.make
        if isinstance(make, _Make) and make.x.tokens is None and make.x.layout == "raster":
            with torch.no_grad():
                _corners(subject.spec, target.module(), make.x)


def _taken(block: Block, x: Feature) -> Feature | None:
    """Return what flow makes of a feature, or None if it refuses."""
    try:
        return _flow(block, x)
    except Finding:
        raise
    except MobileVLMError:
        return None


def _corners(block: Block, module: nn.Module, x: Feature) -> None:
    """Compare a large grid's corners with those of a small one, if a smaller one has the same.

    What only looks nearby, as a convolution does, gives the same numbers for the same corner,
    however large the rest is. What looks at everything, as attention does, never does, and is not
    compared. Both corners that a tile or a table would begin and end with.
    """
    flows = [_taken(block, x.replace(grid=(side, side))) for side in _SIDES]
    cases = [_case(x.replace(grid=(s, s)), y) for s, y in zip(_SIDES, flows, strict=True) if y]
    small = cases[0].said if len(cases) == len(_SIDES) else (0, 0, 0)
    for side, case in zip(_SIDES, cases, strict=False):
        scale = side // _SIDES[0]
        if case.said[:2] != (small[0] * scale, small[1] * scale):
            return  # a grid that does not grow in proportion is not cut in proportion
    image = cases[-1].input(1)
    smallest, reference = _SIDES[:2]
    whole: Tensor | None = None
    for at in ("first", "last"):
        cut = _corner(image, smallest, at)
        y = cases[0].run(module, cut)
        size = y.shape[1]
        other = _corner(cases[1].run(module, _corner(image, reference, at)), size, at)
        near = _near(other, y)
        if not near.any():
            continue
        whole = cases[-1].run(module, image) if whole is None else whole
        off = difference(_corner(whole, size, at)[near], other[near])
        if off:
            raise Finding(
                f"its {at} tokens are others than those of the same corner alone: {off}",
                cases[-1].where,
                f"the same, as in {reference}x{reference} and {smallest}x{smallest}",
                SMALLER,
            )


def _corner(x: Tensor, size: int, at: str) -> Tensor:
    return (x[:, :size, :size] if at == "first" else x[:, -size:, -size:]).contiguous()


def _near(a: Tensor, b: Tensor) -> Tensor:
    """Say of which tokens two features have the same numbers."""
    return (a - b).abs().amax(-1) <= CLOSE * b.abs().max()


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
