"""Several chains of blocks on the same feature."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from .core.block import Block, Blocks, chains, walk
from .core.chain import Chain
from .core.errors import GridError, SpecError
from .core.feature import Feature
from .core.packed import forward_packed, pack_module
from .core.packing import Packing

__all__ = ["Parallel", "ParallelModule"]


def _check_branches(branches: tuple[Blocks, ...]) -> tuple[Blocks, ...]:
    if len(branches) < 2:
        found = "there is one branch" if branches else "there are no branches"
        raise SpecError(found, expected="at least two")
    return branches


class Parallel(Block):
    """Run several chains on the same feature and join their outputs.

    ``(b, h, w, c) -> (b, h', w', d)``; all branches end on the same grid. ``["identity"]`` is a
    branch that returns the feature unchanged. Keys: ``branches.<k>.<i>.`` for the i-th
    block of the k-th.

    Attributes:
        branches: The chains, at least two.
        join: ``add`` or ``mul``, elementwise, for branches of the same width; or ``cat``, along
            the channels, in order.
    """

    needs_grid: ClassVar[bool] = False  # its branches may

    branches: Annotated[
        tuple[Blocks, ...],
        Field(strict=False, json_schema_extra={"minItems": 2}),
        AfterValidator(_check_branches),
    ]
    join: Literal["add", "cat", "mul"] = "add"

    def flow(self, x: Feature) -> Feature:
        ends = [
            walk(branch, x, f".branches[{index}]")[-1].y
            for index, branch in enumerate(self.branches)
        ]
        if len({y.layout for y in ends}) > 1:
            raise SpecError("one of its branches keeps the grid, another has lost it")
        grids = [y.grid for y in ends]
        # A branch may know a side, such as an adaptive pool's, that another does not.
        rows, columns = ({*sides} - {None} for sides in zip(*grids, strict=True))
        if len(rows) > 1 or len(columns) > 1:
            raise _grid_mismatch(grids)
        grid = (next(iter(rows), None), next(iter(columns), None))
        widths = [y.channels for y in ends]
        if self.join == "cat":
            return ends[0].replace(grid=grid, channels=sum(widths))
        if len({*widths}) > 1:
            raise SpecError(
                f"its branches end with {' and '.join(map(str, dict.fromkeys(widths)))} channels",
                expected=f"the same width for join {self.join!r}",
            )
        return ends[0].replace(grid=grid)

    def build(self, x: Feature) -> nn.Module:
        return ParallelModule(*(Chain.of(steps) for _, steps in chains(self, x)), join=self.join)


def _grid_mismatch(grids: Iterable[Sequence[int | None]]) -> GridError:
    shown = dict.fromkeys(f"{h or '?'}x{w or '?'}" for h, w in grids)
    return GridError(f"its branches end on grids of {' and '.join(shown)}", expected="the same")


class ParallelModule(nn.Module):
    """Join the outputs of chains on the same feature; ``(b, h, w, c) -> (b, h', w', d)``.

    Raises:
        GridError: The chains end on different grids.
    """

    by_size = True
    tp_styles: ClassVar[dict[str, str]] = {}

    def __init__(self, *branches: Chain, join: str) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        parts: list[Tensor] = [branch(x) for branch in self.branches]
        if any(part.shape[1:3] != parts[0].shape[1:3] for part in parts):  # it would broadcast
            raise _grid_mismatch(part.shape[1:3] for part in parts)
        return self._join(parts)

    def pack(self, images: Packing) -> tuple[Packing, tuple[Any, ...]]:
        packed = [
            pack_module(branch, images, f"branches.{index}")
            for index, branch in enumerate(self.branches)
        ]
        # Blocks know different limits of what they may make of a budget; all hold.
        after = min((after for after, _ in packed), key=attrgetter("rows"))
        return after, tuple(index for _, index in packed)

    def forward_packed(self, x: Tensor, index: tuple[Any, ...]) -> Tensor:
        """``(rows, c) -> (m, d)``."""
        pairs = zip(self.branches, index, strict=True)
        parts = [forward_packed(branch, x, own) for branch, own in pairs]
        rows = min(len(part) for part in parts)
        return self._join([part[:rows] for part in parts])

    def _join(self, parts: list[Tensor]) -> Tensor:
        if self.join == "cat":
            return torch.cat(parts, -1)
        return reduce(torch.mul if self.join == "mul" else torch.add, parts)

    def extra_repr(self) -> str:
        return f"join={self.join}"
