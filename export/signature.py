"""The signature of an exported projector: the shape of its input, and which axes are free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from ..blocks.core.feature import Grid
from ..projectors.projector import Projector
from ..projectors.stack import Stack
from ..registry import MobileVLMError, describe_error
from .axes import Dims
from .errors import ExportError

__all__ = ["BATCH", "DEFAULT_GRID", "ExportSignature", "export_signature"]

BATCH = "batch"
DEFAULT_GRID = (24, 24)
_SIDES = ("height", "width")
_MAX_EXTRA = 130  # rows and columns beyond the grid that are tried


class FixedGrid(nn.Module):
    """A projector at one grid, on tokens; ``(b, n, c) -> (b, m, d)``."""

    def __init__(self, projector: Projector, grid: Grid) -> None:
        super().__init__()
        self.projector = projector
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.projector(x, grid=self.grid)
        return y


class AnyGrid(nn.Module):
    """A projector that takes its grid from the input; ``(b, h, w, c) -> (b, m, d)``.

    If its blocks do not read the grid, it takes any number of tokens; ``(b, n, c) -> (b, m, d)``.
    """

    def __init__(self, projector: Projector) -> None:
        super().__init__()
        self.projector = projector

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 3:
            x = x[:, None, self.projector.spec.prefix_tokens :]
        y: Tensor = self.projector.blocks(x)
        return y.flatten(1, 2)


@dataclass(frozen=True)
class ExportSignature:
    """A projector as it is exported.

    Attributes:
        module: The module to trace; it takes one tensor ``x`` and returns tokens ``(b, m, d)``.
        dims: The axes of ``x``: ``(batch, n, c)``, ``(batch, tokens, c)`` or
            ``(batch, height, width, c)``, where the named ones are free.
        traced: The grid to trace at.
        checked: The two grids to check at. If the grid is free, the three grids differ, the
            two larger ones in both sides, and those are not square, so that every size that
            the exporter has frozen is noticed.
        prefix_tokens: The number of tokens before those of the grid.
        max_sizes: The largest size of each free axis; an axis that is absent has no limit.
    """

    module: nn.Module
    dims: Dims
    traced: Grid
    checked: tuple[Grid, Grid]
    prefix_tokens: int = 0
    max_sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def batches(self) -> tuple[int, int, int]:
        """The batch to trace with, and the two to check with."""
        limit = self.max_sizes.get(BATCH, 3)
        return min(2, limit), 1, min(3, limit)

    def example(self, batch: int, grid: Grid, seed: int = 0) -> Tensor:
        """Return random features for a grid, in the parameters' dtype, at unit scale."""
        h, w = grid
        sizes = {BATCH: batch, "tokens": self.prefix_tokens + h * w, "height": h, "width": w}
        shape = [size if isinstance(size, int) else sizes[size] for size in self.dims]
        first = next(self.module.parameters(), None)
        dtype = torch.get_default_dtype() if first is None else first.dtype
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)

    def trace(self) -> ExportedProgram:
        """Trace the module with a batch of 2; a free grid at a size that is not checked later.

        Raises:
            ExportError: The module cannot be traced with these axes free.
        """
        axes = {
            axis: Dim(BATCH, min=1, max=self.max_sizes.get(BATCH))
            if name == BATCH
            else Dim.DYNAMIC(max=self.max_sizes.get(name))
            for axis, name in enumerate(self.dims)
            if isinstance(name, str)
        }
        x = self.example(self.batches[0], self.traced)
        try:
            # Never Dim.AUTO: where the code needs a number, it silently freezes the axis.
            return export(self.module, (x,), dynamic_shapes={"x": axes})
        except MobileVLMError:
            raise
        except Exception as error:
            free = ", ".join(str(name) for name in self.dims if isinstance(name, str))
            raise ExportError(
                f"torch.export failed: {describe_error(error)}",
                expected=f"blocks that can be traced with {free} free",
                hint="The usual cause is a Python number computed from a tensor or a size.",
            ) from error


def export_signature(
    projector: Projector, grid: Grid | None, *, dynamic_grid: bool
) -> ExportSignature:
    """Choose the signature of an exported projector.

    A stack that does not read the grid takes any number of tokens, unless a grid is given.

    Args:
        projector: The projector.
        grid: The token grid. If the grid stays free, the one to time.
        dynamic_grid: Whether the grid stays free.

    Raises:
        ExportError: The grid is not known, or cannot be free.
        GridError: A block does not take the grid.
    """
    spec = projector.spec
    size = grid or DEFAULT_GRID
    prefix = spec.prefix_tokens
    if not spec.needs_grid and (dynamic_grid or grid is None):
        near, far = _larger_grids(spec, size)
        dims: Dims = (BATCH, "tokens", spec.in_)
        return ExportSignature(AnyGrid(projector), dims, near, (size, far), prefix)
    if dynamic_grid:
        if prefix:
            found = f"an input (b, h, w, c) has no place for {prefix} prefix tokens"
            hint = "Drop them before the projector, and build it with prefix_tokens=0."
            raise ExportError(found, "dynamic_grid", "prefix_tokens=0, or a fixed grid", hint)
        sides = [1 if side == 1 else name for side, name in zip(size, _SIDES, strict=True)]
        near, far = _larger_grids(spec, size)
        return ExportSignature(AnyGrid(projector), (BATCH, *sides, spec.in_), near, (size, far))
    if grid is None:
        hint = "Pass grid=(24, 24) or dynamic_grid=True."
        raise ExportError("the grid is not known", "grid", "(height, width)", hint)
    spec.tokens(*grid)
    dims = (BATCH, prefix + grid[0] * grid[1], spec.in_)
    return ExportSignature(FixedGrid(projector, grid), dims, grid, (grid, grid), prefix)


def _larger_grids(spec: Stack, size: Grid) -> tuple[Grid, Grid]:
    """Return two larger grids that fit. A side of 1 stays 1, as in a sequence of frames."""
    free = [axis for axis in (0, 1) if size[axis] > 1]
    found: list[Grid] = []
    why = ""
    for grid in dict.fromkeys(_candidates(size)):
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
    what = f"it takes {size[0]}x{size[1]}, but none of the larger grids that were tried"
    raise ExportError(what, "dynamic_grid", "blocks that take several grids", why)


def _candidates(size: Grid) -> Iterator[Grid]:
    """Yield larger grids that are not square, the nearest first."""
    for total in range(2, _MAX_EXTRA):
        for rows in range(1, total):
            h, w = (
                side + more if side > 1 else 1
                for side, more in zip(size, (rows, total - rows), strict=True)
            )
            if h != w:
                yield h, w
