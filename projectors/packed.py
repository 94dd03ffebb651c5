"""What a set of packed images needs, worked out once: `Projector.pack_grids` returns it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..blocks.core.errors import GridError
from ..blocks.core.feature import Grid, check_grid
from ..blocks.core.packed import Indices, still_packs
from ..blocks.core.packing import Packing
from ..blocks.core.run import Layer
from ..registry import quote
from .stack import Stack

__all__ = ["PackedGrids", "check_budget", "frames_of", "read_grids"]


def read_grids(grids: Tensor) -> list[Any]:
    """Read a tensor of grids: ``(n, 2)`` of (h, w), ``(n, 3)`` of (t, h, w), or one, ``(2,)``.

    Raises:
        GridError: It has another shape or dtype; or it is read in compiled or captured code, where
            its values are not known.
    """
    if torch.compiler.is_compiling():
        raise GridError(
            "a tensor, whose values compiled code does not know",
            "grid",
            "what projector.pack_grids(grids) returns",
        )
    shape, integers = tuple(grids.shape), not (grids.is_floating_point() or grids.is_complex())
    if not (shape == (2,) or (len(shape) == 2 and shape[1] in (2, 3))) or not integers:
        raise GridError(
            f"a tensor {shape} of {grids.dtype}",
            "grid",
            "integers, (n, 2) of (h, w) or (n, 3) of (t, h, w)",
        )
    values: list[Any] = grids.tolist()
    return values


def frames_of(grids: Sequence[Sequence[int]] | Tensor) -> tuple[list[Grid], list[int]]:
    """Return the grids of all frames, and how many frames each entry has.

    Args:
        grids: Grids (h, w), or (t, h, w) for t frames; a tensor of them is read.

    Raises:
        GridError: An entry is not a grid.
    """
    frames: list[Grid] = []
    counts = []
    for index, grid in enumerate(read_grids(grids) if isinstance(grids, Tensor) else grids):
        where, sides, times = f"grid[{index}]", grid, 1
        if isinstance(grid, list | tuple) and len(grid) == 3:
            times, *sides = grid
            if type(times) is not int or times < 1:
                raise GridError(f"{quote(times)} frames", where, "at least one")
        frames += [check_grid(sides, where)] * times
        counts.append(times)
    return frames, counts


@dataclass(eq=False, repr=False)
class PackedGrids:
    """What a projector needs for a set of packed images, to be given as `grid`.

    The forward that is given it reads no value back from the device. Those of one projector and
    one budget have tensors of the same shapes, so what was compiled or captured with one of them
    serves all: `copy_` puts another's numbers in its place.

    Attributes:
        stack: The projector's specification.
        images: The images, a frame of a video being one.
        lengths: How many tokens come out for each image or, of grids (t, h, w), each video.
        valid: With a budget, which rows of the input are tokens, (rows, 1).
        enter: Where each row of block-major tokens comes from, if they are put into rows.
        merges: Whether they are merged as they stand instead.
        indices: What each layer needs.
    """

    stack: Stack
    images: Packing
    lengths: tuple[int, ...]
    valid: Tensor | None
    enter: Tensor | None
    merges: bool
    indices: Indices

    @property
    def rows(self) -> int:
        """How many rows the input has, the images' tokens or as many as the budget allows."""
        return self.images.rows

    @property
    def total(self) -> int:
        """How many rows of the output are tokens; with a budget, those after them are padding."""
        return sum(self.lengths)

    @property
    def budget(self) -> tuple[int, int] | None:
        """The budget (patches, images)."""
        return (self.images.rows, self.images.images) if self.images.fixed else None

    def pad(self, x: Tensor) -> Tensor:
        """Return the images' tokens with rows of zeros up to the budget; ``(n, c) -> (rows, c)``.

        Raises:
            GridError: There is another number of tokens.
        """
        held = sum(self.images.lengths)
        if len(x) != held:
            raise GridError(f"{len(x)} packed tokens, but the grids hold {held}", "x", "the same")
        return torch.cat([x, x.new_zeros(self.rows - held, x.shape[1])])

    def check(self, x: Tensor, stack: Stack, layers: Sequence[Layer]) -> None:
        """Check that they can be given to a projector with its input ``(rows, c)``.

        Raises:
            GridError: There is another number of rows, or another projector packed them, or its
                modules have changed since.
        """
        if x.dim() != 2 or len(x) != self.rows:
            raise GridError(
                f"shape {tuple(x.shape)}",
                "x",
                f"({self.rows}, {stack.in_}), as pack_grids was asked for",
                "With a budget, packed.pad(x) adds the rows that are missing.",
            )
        # A compiler could not follow the comparison of two that are equal.
        same = self.stack is stack or torch.compiler.is_compiling()
        if not (same or self.stack == stack):
            hint = "Call pack_grids of this one."
            raise GridError("grids packed by another projector", "grid", "its own", hint)
        if len(layers) != len(self.indices) or not all(map(still_packs, layers, self.indices)):
            found = "its modules or their hooks have changed since pack_grids"
            raise GridError(found, "grid", "the same", "Call pack_grids again.")

    def tensors(self) -> list[Tensor]:
        """Return the tensors, in the same order for all of one projector and budget."""
        return [each for each in pytree.tree_leaves(self._held) if isinstance(each, Tensor)]

    def to(self, device: torch.device | str) -> PackedGrids:
        """Return the same on another device."""
        images = replace(self.images, device=torch.device(device))
        valid, enter, indices = pytree.tree_map_only(
            Tensor, lambda each: each.to(device), self._held
        )
        return replace(self, images=images, valid=valid, enter=enter, indices=indices)

    def copy_(self, other: PackedGrids) -> PackedGrids:
        """Become another of the same projector and budget, in the same tensors; return this one.

        A captured graph reads the tensors where they are.

        Raises:
            GridError: It is of another projector or budget, or there is none.
        """
        if self.stack != other.stack:
            hint = "Call pack_grids of the same one."
            raise GridError("grids packed by another projector", "other", "its own", hint)
        if self.budget is None or self.budget != other.budget:
            raise GridError(
                f"the budgets {self.budget} and {other.budget}",
                "other",
                "the same budget",
                "Only grids of the same budget have the same shapes.",
            )
        for own, new in zip(self.tensors(), other.tensors(), strict=True):
            own.copy_(new)
        self.images = replace(other.images, device=self.images.device)
        self.lengths = other.lengths
        return self

    @property
    def _held(self) -> tuple[Any, ...]:
        return self.valid, self.enter, self.indices

    def __repr__(self) -> str:
        return f"PackedGrids({[*self.images.grids]}, budget={self.budget}, lengths={self.lengths})"


def check_budget(budget: object, images: Packing) -> tuple[int, int]:
    """Return a budget that holds some images.

    Raises:
        GridError: It is not two positive integers, or too small.
    """
    if not (isinstance(budget, tuple | list) and len(budget) == 2):
        raise GridError(quote(budget), "budget", "(patches, images)")
    patches, count = budget
    if any(type(each) is not int or each < 1 for each in budget):
        raise GridError(quote(budget), "budget", "two positive integers, (patches, images)")
    if images.rows > patches or images.images > count:
        raise GridError(
            f"{images.images} images of {images.rows:,} patches",
            "budget",
            f"at most {count} of {patches:,}",
            "Take a larger budget, or pack fewer of them.",
        )
    return patches, count
