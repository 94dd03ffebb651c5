"""The projector: the built module, with its door for tokens and maps."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from ..blocks.core.block import Block, mixes_tokens
from ..blocks.core.chain import Link, run_in_order
from ..blocks.core.errors import GridError, SpecError
from ..blocks.core.fast import enabled, hooked
from ..blocks.core.feature import Grid, check_grid
from ..blocks.patch_merge import GATHERED, PatchMerge, PatchMergeModule
from ..registry import quote
from .assemble import assemble
from .device import check_device, check_dtype
from .packed import run_packed, to_raster, to_raster_packed
from .plan import MAX_PARAMETERS, Plan
from .stack import Stack

__all__ = ["Projector"]

_ADMITTED = 1024  # grids remembered as fitting


class Projector(nn.Module):
    """A projector built from its specification.

    Its state-dict keys are paths in its document: ``blocks.3.body.0.weight`` is the weight of
    ``blocks[3].body[0]``.

    Args:
        stack: The specification.
        grid: The default token grid (h, w) of `forward` and `plan`; checked now.
        device: Where to build; default: torch's current default device.
        dtype: The parameters' dtype or its name, ``"bf16"``; default: torch's default dtype.
        max_parameters: The most parameters to put up with.

    Attributes:
        spec: The specification.
        grid: The default grid, or None.
        blocks: The modules in order of use.

    Raises:
        SpecError: Too many parameters, a block that cannot be built, a device that is not
            there, or a dtype that is none. Nothing is allocated then.
        GridError: The grid does not fit.
    """

    def __init__(
        self,
        stack: Stack,
        *,
        grid: Sequence[int] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        max_parameters: int = MAX_PARAMETERS,
    ) -> None:
        nn.Module.__init__(self)  # whatever else a subclass is
        if not isinstance(stack, Stack):
            hint = "build_projector takes names and mappings."
            raise SpecError(quote(stack), "stack", "a Stack", hint)
        if dtype is not None:
            dtype = check_dtype(dtype)
        self.spec = stack
        self.max_parameters = max_parameters
        self.grid: Grid | None = None if grid is None else check_grid(grid)
        plan = Plan(stack, self.grid, max_parameters=max_parameters)
        _ = plan.parameters  # refuses what is too big, before anything is allocated
        where = check_device(device) if device is not None else torch.get_default_device()
        if where.type == "meta":
            self.blocks = plan.modules()
        else:
            with where:
                self.blocks = assemble(plan.steps)
        if dtype is not None:
            self.to(dtype)
        self._needs_grid = stack.needs_grid
        self._mixing = [mixes_tokens([block]) for block in stack.blocks]
        self._sequence = plan.steps[-1].y.layout == "sequence"
        # Where every token is treated alike, their order does not matter.
        self._blocked = self._needs_grid and stack.token_order == "blocked"
        self._merge = _merge(stack.blocks) if self._blocked else None
        # The grids that fit, with the grid after each block.
        self._admitted: dict[Grid, list[Grid]] = {}

    # ------------------------------------------------------------------ on paper

    def plan(self, grid: Sequence[int] | None = None) -> Plan:
        """Return the plan for a grid; default: the grid given at build."""
        sides = self.grid if grid is None else check_grid(grid)
        return Plan(self.spec, sides, max_parameters=self.max_parameters)

    @overload
    def tokens(self, h: int, w: int) -> int: ...
    @overload
    def tokens(self, h: Sequence[Sequence[int]]) -> list[int]: ...
    def tokens(self, h: int | Sequence[Sequence[int]], w: int | None = None) -> int | list[int]:
        """Return how many tokens come out for a grid of h x w, or for each grid of a list.

        Arithmetic only. Prefix tokens are not part of the grid.

        Raises:
            GridError: A block does not take the grid.
        """
        if w is None and isinstance(h, list | tuple) and not isinstance(next(iter(h), ()), int):
            return [self.spec.tokens(*check_grid(grid, f"grid[{i}]")) for i, grid in enumerate(h)]
        return self.spec.tokens(*check_grid((h, w) if w is not None else h))

    def native(self) -> Projector:
        """Return the projector whose keys are paths in the document: this one, unless a drop-in."""
        return self

    def unloaded(self) -> Projector:
        """Return a projector of this specification, with this one's keys, on the meta device."""
        return Projector(
            self.spec, grid=self.grid, device="meta", max_parameters=self.max_parameters
        )

    def __getnewargs__(self) -> tuple[Stack]:
        """Put the specification first in a pickle: a plugin that is missing is told of by name."""
        return (self.spec,)

    def extra_repr(self) -> str:
        """Show the widths in ``repr``."""
        grid = "" if self.grid is None else f", grid={self.grid}"
        return f"{self.spec.in_} -> {self.spec.out}{grid}"

    # ------------------------------------------------------------------ on tensors

    def forward(
        self, x: Tensor, grid: Sequence[int] | Sequence[Sequence[int]] | None = None
    ) -> Tensor:
        """Project tokens ``(b, n, c) -> (b, m, d)`` or a map ``(b, c, h, w) -> (b, d, h', w')``.

        Packed images of different sizes, ``(n, c) -> (m, d)``, come one after the other, with the
        list of their grids; `tokens` of that list says where to split what comes out. The input is
        never modified. A map comes back as a channels-last view, or as tokens where the blocks
        make a sequence of it.

        Args:
            x: Floating-point features, of the parameters' dtype unless autocast is on. Tokens may
                begin with ``spec.prefix_tokens`` tokens, which are dropped.
            grid: The token grid (h, w), h * w = n. Without it, and without one given at build,
                n must be a square, unless no block reads the grid. For packed images, a list.

        Raises:
            GridError: Shape, dtype or grid do not fit.
            SpecError: The grid uncovers blocks that do not fit each other.
        """
        shape = self._check(x)
        if len(shape) == 4:
            return self._project_map(x, shape, grid)
        if len(shape) == 2:
            return self._project_packed(x, grid)
        b, n, c = shape
        prefix = self.spec.prefix_tokens
        if prefix:
            x = x[:, prefix:]
            n = n - prefix
        h, w = self._sides(n, grid)
        modules: Sequence[Link] | None = None
        if self._blocked:
            modules = self._gathered()
            x = x if modules else to_raster(x, (h, w))
        # Splitting an axis is a view whatever the strides; at batch 1 too it stays channels-last.
        return self._run(x.view(b, h, w, c), modules).flatten(1, 2)

    def _project_map(self, x: Tensor, shape: torch.Size, grid: Any) -> Tensor:
        h, w = shape[2:]
        if grid is not None and check_grid(grid) != (h, w):
            raise GridError(f"the map is {h}x{w}, grid says {tuple(grid)}", "x", "the same")
        if h < 1 or w < 1:
            raise GridError(f"a map of {h}x{w}", "x", "at least one token")
        self._admit(h, w)
        y = self._run(x.permute(0, 2, 3, 1).contiguous())
        return y.flatten(1, 2) if self._sequence else y.permute(0, 3, 1, 2)

    def _gathered(self) -> list[Link] | None:
        """Return the modules for tokens that stand in blocks of 2x2, where they can stay so.

        Until they are merged, tokens are treated alike, and merging blocks is a view.
        """
        place = self._merge
        if place is None or not enabled() or hooked(self.blocks):
            return None
        modules = self.blocks.links()
        merge = modules[place]
        if not isinstance(merge, nn.Module) or type(merge) is not PatchMergeModule or hooked(merge):
            return None
        modules[place] = GATHERED
        return modules

    def _run(self, x: Tensor, modules: Sequence[Link] | None = None) -> Tensor:
        y = self._chain(x) if modules is None else run_in_order(modules, x)
        if y.shape[-1] != self.spec.out:
            raise SpecError(
                f"the last module gives {y.shape[-1]} channels",
                "blocks",
                f"{self.spec.out}, the projector's 'out'",
                "What its block says on paper is wrong: tell the block's authors.",
            )
        return y

    def _chain(self, x: Tensor) -> Tensor:
        """Run the modules on a feature; ``(b, h, w, c) -> (b, h', w', d)``."""
        y: Tensor = self.blocks(x)
        return y

    def _project_packed(self, x: Tensor, grids: Any) -> Tensor:
        """``(n, c) -> (m, d)`` for images of these grids, one after the other."""
        if not isinstance(grids, list | tuple) or not grids or isinstance(grids[0], int):
            raise GridError(
                f"packed tokens {tuple(x.shape)} with grid={grids!r:.60}",
                "grid",
                "a list with the grid of each image, [(h, w), ...]",
                "For one image, pass x[None].",
            )
        sizes = [check_grid(grid, f"grid[{index}]") for index, grid in enumerate(grids)]
        total = sum(h * w for h, w in sizes)
        if total != len(x):
            raise GridError(
                f"{len(x)} packed tokens, but the grids hold {total}",
                "x",
                "the same",
                "Prefix tokens have no place among packed images: drop them before."
                if self.spec.prefix_tokens
                else "",
            )
        return self._chain_packed(x, sizes)

    def _chain_packed(self, x: Tensor, sizes: Sequence[Grid]) -> Tensor:
        modules: Sequence[Link] | None = self._gathered() if self._blocked else None
        if self._blocked and modules is None:
            x = to_raster_packed(x, sizes)
        pairs = list(zip(modules or self.blocks.links(), self._mixing, strict=True))
        if hooked(self.blocks):  # no one call of it takes images of many sizes
            pairs = [(self.blocks, True)]
        return run_packed(pairs, x, sizes, self._track)

    def _check(self, x: Tensor) -> torch.Size:
        """Return the shape of a feature of this projector's width and dtype; refuse all else."""
        width = self.spec.in_
        if not isinstance(x, Tensor):
            raise GridError(f"{type(x).__name__} is not a torch.Tensor", "x", _wanted(width))
        if x.layout != torch.strided or x.is_nested:
            kind = "nested" if x.is_nested else str(x.layout).removeprefix("torch.")
            raise GridError(f"a {kind} tensor", "x", "a dense tensor")
        shape = x.shape
        rank = len(shape)
        if rank not in (2, 3, 4):
            raise GridError(f"shape {tuple(shape)}", "x", _wanted(width))
        channels = shape[1] if rank == 4 else shape[-1]
        if channels != width:
            hint = ""
            if rank == 4 and shape[3] == width:
                hint = "It looks channels-last: permute it to (b, c, h, w)."
            found = f"shape {tuple(shape)} has {channels} channels"
            raise GridError(found, "x", _wanted(width), hint)
        dtype = x.dtype
        if not dtype.is_floating_point:
            raise GridError(f"a tensor of {dtype}", "x", "a floating-point tensor")
        first = _first_parameter(self)
        own = dtype if first is None else first.dtype
        # Quantised weights are no floats, and autocast casts by itself.
        if (
            own != dtype
            and own.is_floating_point
            and not _autocasts(x.device.type, dtype, own)
            # Such as that of fully sharded training, which casts what goes in.
            and not any(module._forward_pre_hooks for module in self.modules())
        ):
            raise GridError(
                f"the input is {dtype}, the parameters are {own}",
                "x",
                "the same on both sides",
                f"Call x.to({own}) or projector.to({dtype}).",
            )
        return shape

    def _sides(self, n: int, grid: Any) -> Grid:
        """Return the grid of n tokens. The only place where a square root is taken."""
        if n <= 0:
            raise self._misfit(n, 0, 0, grid)
        if grid is not None:
            h, w = check_grid(grid) if isinstance(n, int) else (grid[0], grid[1])
        elif self.grid is not None:
            h, w = self.grid
        elif not self._needs_grid:
            return 1, n
        elif isinstance(n, torch.SymInt):
            raise GridError(
                "the number of tokens is symbolic", "x", "grid=(h, w)", "Pass the grid by name."
            )
        else:
            # A compiler may recompile for each n, and index() tells it to; an export must not
            # freeze n behind the user's back, and without index() a symbolic n fails there.
            side = n if torch.compiler.is_exporting() else operator.index(n)
            h = w = math.isqrt(side)
        if h * w != n:
            raise self._misfit(n, h, w, grid)
        self._admit(h, w)
        return h, w

    def _admit(self, h: int, w: int) -> None:
        """Let the blocks refuse a grid, once per grid; a compiler sees their modules only."""
        if not torch.compiler.is_compiling() and (h, w) not in self._admitted:
            self._track((h, w))

    def _track(self, grid: Grid) -> Sequence[Grid]:
        """Return the grids after each block, if the blocks take this one; remember it."""
        known = self._admitted.get(grid)
        if known is not None:
            return known
        h, w = grid
        if self._blocked and (h % 2 or w % 2):
            raise GridError(
                f"a grid of {h}x{w} cannot come in blocks of 2x2",
                "grid",
                "even sides",
                "Set token_order='raster' if the tokens come row by row.",
            )
        track: list[Grid] = []
        for step in self.spec.walk(grid):
            rows, columns = step.y.grid
            if rows is None or columns is None:
                raise SpecError("a block forgets how many tokens it makes", "blocks")
            track.append((rows, columns))
        if len(self._admitted) >= _ADMITTED:
            self._admitted = {}
        self._admitted[grid] = track
        return track

    def _misfit(self, n: int, h: int, w: int, grid: Any) -> GridError:
        prefix = self.spec.prefix_tokens
        total = f"{n} tokens" + (f" after {prefix} prefix tokens" if prefix else "")
        if n <= 0:
            return GridError(total, "x", "at least one token")
        if grid is None and self.grid is None:
            hint = "Pass grid=(h, w)."
            for extra in (1, 2, 4, 5, 8):
                side = math.isqrt(n - extra) if n > extra else 0
                if side > 1 and side * side == n - extra:
                    which = "the CLS token" if extra == 1 else f"the first {extra} tokens"
                    hint = (
                        f"{n} = {side}x{side} + {extra}: drop {which} with "
                        f"prefix_tokens={prefix + extra}, or pass grid=(h, w)."
                    )
                    break
            return GridError(total, "x", "a square number of tokens, or a grid", hint)
        source = "grid" if grid is not None else "the grid given at build"
        hint = ""
        if n > h * w and n - h * w <= 8:
            hint = (
                f"{n} = {h}x{w} + {n - h * w}: drop the leading tokens with "
                f"prefix_tokens={prefix + n - h * w}."
            )
        return GridError(f"{total}, but {source} is {h}x{w} = {h * w}", "x", "the same", hint)


def _merge(blocks: Sequence[Block]) -> int | None:
    """Return the place of the 2x2 merge before which every token is treated alike, if any."""
    for place, block in enumerate(blocks):
        if type(block) is PatchMerge:
            plain = block.order == "hwc" and block.odd == "refuse" and not block.transpose
            return place if plain and block.size == (2, 2) else None
        if mixes_tokens([block]):
            return None
    return None


def _autocasts(device: str, *dtypes: torch.dtype) -> bool:
    """Return whether autocast is on and casts these dtypes; fp64 it leaves alone."""
    return (
        torch.float64 not in dtypes
        and torch.amp.is_autocast_available(device)
        and torch.is_autocast_enabled(device)
    )


def _wanted(width: int) -> str:
    return f"tokens (b, n, {width}) or a map (b, {width}, h, w)"


def _first_parameter(module: nn.Module) -> nn.Parameter | None:
    """Return ``next(module.parameters(), None)`` at a tenth of its cost; every call pays it."""
    for parameter in module._parameters.values():
        if parameter is not None:
            return parameter
    for child in module._modules.values():
        if child is not None and (found := _first_parameter(child)) is not None:
            return found
    return None
