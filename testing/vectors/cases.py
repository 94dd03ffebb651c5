"""The cases of an entry: which inputs, on which grids, and how close an answer has to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from ...blocks.core.feature import Grid
from ...blocks.norm_act import RMSNorm
from ...projectors.stack import Stack
from ...registry import MobileVLMError
from .entries import Entry
from .errors import VectorsError
from .random_numbers import Numbers
from .trace import Images, enter, trace

__all__ = ["Case", "Tolerance", "cases"]

_SIDES = range(1, 13)
_MAX_FP16 = 65504


@dataclass(frozen=True)
class Tolerance:
    """How far an answer may be off: ``relative * max(abs(right)) + absolute``, over a tensor."""

    relative: float
    absolute: float = 1e-9

    def admits(self, found: torch.Tensor, right: torch.Tensor) -> bool:
        """Return whether a tensor is close enough to the right one; NaN never is."""
        limit = self.relative * float(right.abs().max()) + self.absolute
        same = found.numel() == right.numel()
        return same and float((found.flatten() - right.flatten()).abs().max()) <= limit


# The right form comes within 2e-6 in fp32, and within 0.03 in bf16.
_FP32 = Tolerance(1e-5)
_BF16 = Tolerance(0.05)


@dataclass(frozen=True)
class Case:
    """An input and what it is for.

    Attributes:
        name: Its name.
        purpose: What it shows, in a sentence.
        images: The input.
        stack: The specification, with the prefix tokens and the token order of this case.
        dtype: In which the input is stored, and an answer is computed.
        scale: What an input of unit scale was multiplied by.
        tolerance: How far an answer may be off.
    """

    name: str
    purpose: str
    images: Images
    stack: Stack
    dtype: torch.dtype = torch.float32
    scale: float = 1.0
    tolerance: Tolerance = _FP32


def cases(entry: Entry, modules: Sequence[nn.Module]) -> Iterator[Case]:
    """Yield the cases that apply to an entry.

    Args:
        entry: The entry.
        modules: Its blocks' modules, in fp64.

    Raises:
        VectorsError: It takes no small grid.
    """
    stack = entry.stack
    side = stack.token_block if stack.needs_grid else 1
    grids = _grids(entry)
    numbers = Numbers(f"inputs of {entry.name}")

    def tokens(grid: Grid, batch: int = 1, prefix: int = 0) -> Images:
        x = numbers.with_outliers(batch, prefix + grid[0] * grid[1], stack.in_)
        return Images(x, [grid], prefix_tokens=prefix, side=side)

    (shape, grid), *others = grids.items()
    first = Case(shape, f"{_FITS[shape].purpose} Two images.", tokens(grid, 2), stack)
    yield first
    for shape, grid in others:
        yield Case(shape, _FITS[shape].purpose, tokens(grid), stack)
    if side > 1:
        yield _raster(first)
    if others:
        yield _packed(first, numbers, [*grids.values()][:3])
    yield replace(
        first,
        name="class-token",
        purpose="A class token stands before the image's tokens and has to be dropped.",
        images=tokens([*grids.values()][:2][-1], prefix=1),
        stack=stack.model_copy(update={"prefix_tokens": 1}),
    )
    yield replace(
        first,
        name="scale-1e-3",
        purpose=f"The input of {first.name} times 1e-3, where a norm's eps matters.",
        images=replace(first.images, x=first.images.x * 1e-3),
        scale=1e-3,
    )
    hazard = _hazard(first, modules, numbers)
    if hazard is not None:
        yield hazard
    yield replace(
        first,
        name="bf16",
        purpose=f"The input of {first.name}, computed in bf16, which holds it and all weights "
        "exactly.",
        dtype=torch.bfloat16,
        tolerance=_BF16,
    )


def _raster(case: Case) -> Case:
    """Return a case with the same tokens row by row; its output is the same."""
    rows = enter(case.images.x, case.images.grids[0], side=case.images.side).flatten(1, 2)
    return replace(
        case,
        name="raster",
        purpose=f"The tokens of {case.name} row by row, not block by block; the output is the "
        "same.",
        images=replace(case.images, x=rows, side=1),
        stack=case.stack.model_copy(update={"token_order": "raster"}),
    )


def _packed(case: Case, numbers: Numbers, grids: Sequence[Grid]) -> Case:
    x = numbers.with_outliers(sum(h * w for h, w in grids), case.stack.in_)
    return replace(
        case,
        name="packed",
        purpose="Images of different sizes, their tokens one after the other.",
        images=Images(x, grids, packed=True, side=case.images.side),
    )


def _hazard(case: Case, modules: Sequence[nn.Module], numbers: Numbers) -> Case | None:
    """Return the case whose values leave fp16's range on the way, if that can be."""
    x = numbers.near(*case.images.x.shape, limit=2.0**16)
    images = replace(case.images, x=x)
    found = trace(modules, replace(images, x=x.double()))
    largest = max(float(y.abs().max()) for y in found.values())
    if largest > _MAX_FP16:
        what = f"it becomes up to {largest:,.0f} on the way"
    elif any(
        isinstance(part, nn.LayerNorm | RMSNorm) for each in modules for part in each.modules()
    ):
        what = "the squares of which a norm takes the mean do not"
    else:
        return None
    return replace(
        case,
        name="fp16-hazard",
        purpose=f"The input fits fp16, which ends at {_MAX_FP16:,}, and {what}.",
        images=images,
        scale=2.0**16,
    )


# ---------------------------------------------------------------------- grids


@dataclass(frozen=True)
class _Shape:
    """A shape of grids.

    Attributes:
        purpose: What it shows.
        tokens: How many tokens have to come out, where that depends on the grid.
        fits: Whether a grid (h, w) has it.
    """

    purpose: str
    tokens: int
    fits: Callable[[int, int], bool]


_FITS = {
    "square": _Shape("A square grid of even sides.", 4, lambda h, w: h == w and h % 2 == 0),
    "wide": _Shape("More columns than rows.", 6, lambda h, w: h < w),
    "tall": _Shape("More rows than columns.", 6, lambda h, w: h > w),
    "odd": _Shape("Odd sides.", 4, lambda h, w: h % 2 == w % 2 == 1 and 3 < h < w),
    "any": _Shape("The smallest grid that it takes.", 1, lambda h, w: True),
}


def _grids(entry: Entry) -> dict[str, Grid]:
    """Return a small grid of each shape that the blocks take; one where they take one only.

    Raises:
        VectorsError: They take none.
    """
    stack = entry.stack
    if entry.grid is not None:
        return {"square": entry.grid}
    tokens = {(h, w): _tokens(stack, (h, w)) for h in _SIDES for w in _SIDES}
    taken = [grid for grid, count in tokens.items() if count]
    taken.sort(key=lambda grid: (grid[0] * grid[1], max(grid), grid))
    # Where the number of tokens is fixed, such as that of queries, there have to be more before.
    fixed = len({tokens[grid] for grid in taken}) == 1
    large = [grid for grid in taken if _thickness(stack, grid) > 1 and (not fixed or min(grid) > 3)]
    found: dict[str, Grid] = {}
    for name, shape in _FITS.items():
        if (name == "odd" and not stack.needs_grid) or (name == "any" and found):
            continue
        for grid in taken if name == "any" else large:
            if shape.fits(*grid) and (fixed or tokens[grid] >= shape.tokens):
                found[name] = grid
                break
    if not found:
        raise VectorsError(
            f"it takes no grid of at most {_SIDES[-1]}x{_SIDES[-1]}",
            entry.name,
            "one that is small",
        )
    return found


def _tokens(stack: Stack, grid: Grid) -> int:
    """Return how many tokens come out for a grid; 0 if it is refused."""
    side = stack.token_block if stack.needs_grid else 1
    if grid[0] % side or grid[1] % side:
        return 0
    try:
        return stack.tokens(*grid)
    except MobileVLMError:
        return 0


def _thickness(stack: Stack, grid: Grid) -> int:
    """Return the least number of rows or columns on the way: a single one hides mistakes."""
    features = [step.y for step in stack.walk(grid) if step.y.layout == "raster"]
    return min(side or 0 for feature in (stack.feature(grid), *features) for side in feature.grid)
