"""How an exported projector is called: the shape of its input, and which axes are free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from ..blocks.core.feature import Grid
from ..projectors.projector import Projector
from ..projectors.stack import Stack
from ..registry import MobileVLMError, told
from .axes import Dims
from .errors import ExportError

__all__ = ["BATCH", "Door", "open_door"]

BATCH = "batch"
USUAL = (24, 24)
_SIDES = ("height", "width")
_FARTHEST = 130  # how many rows and columns more are tried


class FixedGrid(nn.Module):
    """One grid, as tokens; ``(b, n, c) -> (b, m, d)``."""

    def __init__(self, projector: Projector, grid: Grid) -> None:
        super().__init__()
        self.projector = projector
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.projector(x, grid=self.grid)
        return y


class AnyTokens(nn.Module):
    """Any number of tokens, for blocks that do not read the grid; ``(b, n, c) -> (b, m, d)``."""

    def __init__(self, projector: Projector) -> None:
        super().__init__()
        self.projector = projector

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.projector.blocks(x[:, None, self.projector.spec.prefix_tokens :])
        return y.flatten(1, 2)


class AnyGrid(nn.Module):
    """Any grid, which the input itself shows; ``(b, h, w, c) -> (b, m, d)``."""

    def __init__(self, projector: Projector) -> None:
        super().__init__()
        self.projector = projector

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.projector.blocks(x)
        return y.flatten(1, 2)


@dataclass(frozen=True)
class Door:
    """A projector as it is exported.

    Attributes:
        module: What is traced; takes one tensor ``x`` and returns tokens ``(b, m, d)``.
        dims: The axes of ``x``: ``(batch, n, c)``, ``(batch, tokens, c)`` or
            ``(batch, height, width, c)``, where the named ones are free.
        traced: The grid to trace at.
        checked: Two grids to check at. If the grid is free, all three differ, the last two in
            both sides and neither of those is a square, so that nothing that was frozen goes
            unseen.
        prefix: How many tokens stand before those of the grid.
        longest: The largest size of each free axis; one that is not named has none.
    """

    module: nn.Module
    dims: Dims
    traced: Grid
    checked: tuple[Grid, Grid]
    prefix: int = 0
    longest: Mapping[str, int] = field(default_factory=dict)

    @property
    def batches(self) -> tuple[int, int, int]:
        """The batch to trace, and the two to check."""
        most = self.longest.get(BATCH, 3)
        return min(2, most), 1, min(3, most)

    def example(self, batch: int, grid: Grid, seed: int = 0) -> Tensor:
        """Return random features for a grid, of the parameters' dtype and unit scale."""
        h, w = grid
        sizes = {BATCH: batch, "tokens": self.prefix + h * w, "height": h, "width": w}
        shape = [size if isinstance(size, int) else sizes[size] for size in self.dims]
        first = next(self.module.parameters(), None)
        dtype = torch.get_default_dtype() if first is None else first.dtype
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)

    def trace(self) -> ExportedProgram:
        """Trace the module with a batch of 2, at a grid that is not checked if it is free.

        Raises:
            ExportError: It cannot be traced with the free axes that were asked for.
        """
        axes = {
            axis: Dim(BATCH, min=1, max=self.longest.get(BATCH))
            if name == BATCH
            else Dim.DYNAMIC(max=self.longest.get(name))
            for axis, name in enumerate(self.dims)
            if isinstance(name, str)
        }
        x = self.example(self.batches[0], self.traced)
        try:
            # Never Dim.AUTO: where something needs a number, it freezes the axis without a word.
            return export(self.module, (x,), dynamic_shapes={"x": axes})
        except MobileVLMError:
            raise
        except Exception as error:
            free = ", ".join(str(name) for name in self.dims if isinstance(name, str))
            raise ExportError(
                f"torch.export failed: {told(error)}",
                expected=f"blocks that can be traced with {free} free",
                hint="A Python number made of a tensor or of a size is the usual cause.",
            ) from error


def open_door(projector: Projector, grid: Grid | None, *, dynamic_grid: bool) -> Door:
    """Choose how a projector is called from outside.

    A stack that does not read the grid takes any number of tokens, unless it is given a grid.

    Args:
        projector: The projector.
        grid: The token grid. If it is to stay free, the one to time.
        dynamic_grid: Whether it is to stay free.

    Raises:
        ExportError: The grid is not known, or cannot be free.
        GridError: A block does not take the grid.
    """
    spec = projector.spec
    home = grid or USUAL
    prefix = spec.prefix_tokens
    if not spec.needs_grid and (dynamic_grid or grid is None):
        dims: Dims = (BATCH, "tokens", spec.in_)
        near, far = _other_grids(spec, home)
        return Door(AnyTokens(projector), dims, near, (home, far), prefix)
    if dynamic_grid:
        if prefix:
            raise ExportError(
                f"{prefix} prefix tokens have no place in (b, h, w, c)",
                "dynamic_grid",
                "prefix_tokens=0, or a fixed grid",
                "Drop them before, with prefix_tokens=0 here.",
            )
        sides = [1 if side == 1 else name for side, name in zip(home, _SIDES, strict=True)]
        near, far = _other_grids(spec, home)
        return Door(AnyGrid(projector), (BATCH, *sides, spec.in_), near, (home, far))
    if grid is None:
        hint = "Give grid=(24, 24), or dynamic_grid=True."
        raise ExportError("the grid is not known", "grid", "(height, width)", hint)
    spec.tokens(*grid)
    n = prefix + grid[0] * grid[1]
    return Door(FixedGrid(projector, grid), (BATCH, n, spec.in_), grid, (grid, grid), prefix)


def _other_grids(spec: Stack, home: Grid) -> tuple[Grid, Grid]:
    """Return two more grids that fit. A side of 1 stays 1, as in a sequence of frames."""
    free = [axis for axis in (0, 1) if home[axis] > 1]
    found: list[Grid] = []
    why = ""
    for grid in dict.fromkeys(_larger(home)):
        if any(grid[axis] == other[axis] for other in found for axis in free):
            continue
        try:
            spec.tokens(*grid)
        except MobileVLMError as error:
            why = str(error)
            continue
        found.append(grid)
        if len(found) == 2:
            return found[0], found[1]
    raise ExportError(
        f"it takes {home[0]}x{home[1]}, and no larger grid that was tried",
        "dynamic_grid",
        "blocks that take several grids",
        why,
    )


def _larger(home: Grid) -> Iterator[Grid]:
    """Yield larger grids that are no squares, the nearest first."""
    for total in range(2, _FARTHEST):
        for rows in range(1, total):
            h, w = (
                side + more if side > 1 else 1
                for side, more in zip(home, (rows, total - rows), strict=True)
            )
            if h != w:
                yield h, w
