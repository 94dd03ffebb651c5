"""The projector: the built module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import overload

import torch
from torch import Tensor, nn

from ..blocks.core.block import mixes_tokens
from ..blocks.core.chain import Layer
from ..blocks.core.errors import SpecError
from ..blocks.core.fast import hooked
from ..blocks.core.feature import Grid, check_grid
from ..registry import MobileVLMError, quote
from .assemble import assemble
from .device import check_device, check_dtype
from .inputs import check_input, check_map, check_packed, refuse_mixed, token_grid
from .packed import run_packed
from .plan import MAX_PARAMETERS, Plan
from .stack import Stack
from .token_order import BlockMajor

__all__ = ["Projector"]

_MAX_GRIDS = 1024  # whose walks are remembered
_MAX_SIDE = 64  # of the grid of a batch of no images


class Projector(nn.Module):
    """A projector built from its specification.

    Its state-dict keys are paths in its document: ``blocks.3.body.0.weight`` is the weight of
    ``blocks[3].body[0]``.

    Args:
        stack: The specification.
        grid: The default token grid (h, w) of `forward` and `plan`; checked now.
        device: Where to build; default: torch's current default device.
        dtype: The parameters' dtype or its name, ``"bf16"``; default: torch's default dtype.
        max_parameters: Upper limit on parameters.

    Attributes:
        spec: The specification.
        grid: The default grid, or None.
        blocks: The modules in order of use.

    Raises:
        SpecError: There are too many parameters, or the device or the dtype cannot be used
            (nothing has been allocated then); or a block cannot be built.
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
        nn.Module.__init__(self)  # not super(): a subclass may be an nn.Linear too
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
        # Blocks that treat every token alike do not care for the order.
        side = stack.token_block if self._needs_grid else 1
        self._block_major = BlockMajor(stack.blocks, side) if side > 1 else None
        self._grids: dict[Grid, list[Grid]] = {}  # by a grid that fits: the grid after each block

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
        """Put the specification first in a pickle, so that an error can name a missing plugin."""
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
        list of their grids; `tokens` of that list says how to split the output. No images are
        ``(0, c)`` with ``grid=[]``. The input is never modified. A map comes back as a
        channels-last view, or as tokens where the blocks make a sequence of it.

        Args:
            x: Floating-point features, of the parameters' dtype unless autocast is on; where they
                have several, of one that torch computes with. Tokens may begin with
                ``spec.prefix_tokens`` tokens, which are dropped.
            grid: The token grid (h, w), h * w = n. Without it, and without one given at build,
                n must be a square, unless no block reads the grid. For packed images, a list.

        Raises:
            GridError: Shape, dtype or grid do not fit.
            SpecError: For this grid, the blocks do not fit each other.
        """
        if torch.compiler.is_compiling():
            return self._forward(x, grid)
        try:
            return self._forward(x, grid)
        except RuntimeError as error:
            refuse_mixed(x, self, error)
            raise

    def _forward(self, x: Tensor, grid: Sequence[int] | Sequence[Sequence[int]] | None) -> Tensor:
        shape = check_input(x, self.spec.in_, self)
        if len(shape) == 4:
            h, w = shape[2:]
            check_map(h, w, grid)
            self._check_grid((h, w))
            y = self._project(x.permute(0, 2, 3, 1).contiguous(), self._chain)
            return y.flatten(1, 2) if self._sequence else y.permute(0, 3, 1, 2)
        prefix = self.spec.prefix_tokens
        if len(shape) == 2:
            if shape[0] == 0 and grid is not None and len(grid) == 0:
                return self._no_images(x)
            return self._chain_packed(x, check_packed(x, grid, prefix))
        b, n, c = shape
        if prefix:
            x = x[:, prefix:]
        sides = token_grid(n - prefix, prefix, grid, self.grid, needs_grid=self._needs_grid)
        if self._needs_grid:
            self._check_grid(sides)
        chain: Callable[[Tensor], Tensor] = self._chain
        if self._block_major is not None:
            x, chain = self._block_major.enter(x, sides, self.blocks)
        # Splitting an axis is a view whatever the strides; at batch 1 too it stays channels-last.
        return self._project(x.view(b, *sides, c), chain).flatten(1, 2)

    def _project(self, x: Tensor, chain: Callable[[Tensor], Tensor]) -> Tensor:
        y = chain(x)
        if y.shape[-1] != self.spec.out:
            raise SpecError(
                f"the last module gives {y.shape[-1]} channels",
                "blocks",
                f"{self.spec.out}, the projector's 'out'",
                "The flow method of its block is wrong: tell the block's authors.",
            )
        return y

    def _chain(self, x: Tensor) -> Tensor:
        """Run the modules on a feature; ``(b, h, w, c) -> (b, h', w', d)``."""
        y: Tensor = self.blocks(x)
        return y

    def _chain_packed(self, x: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Run the modules on packed images; ``(n, c) -> (m, d)``."""
        if self._block_major is None:
            layers: Sequence[Layer] = self.blocks.layers()
        else:
            x, layers = self._block_major.enter_packed(x, grids, self.blocks)
        if hooked(self.blocks):  # its hooks see whole calls, which take images of one size
            return run_packed([(self.blocks, True)], x, grids, self._grids_after)
        pairs = list(zip(layers, self._mixing, strict=True))
        return run_packed(pairs, x, grids, self._grids_after, self.blocks.order())

    def _no_images(self, x: Tensor) -> Tensor:
        """Run the modules on a batch of no images; ``(0, c) -> (0, d)``.

        All of them run, as a process whose batch holds no image has to take part in what sharded
        modules exchange.
        """
        h, w = self.grid or self._smallest_grid()
        return self._project(x.view(0, h, w, self.spec.in_), self._chain).flatten(0, 2)

    def _smallest_grid(self) -> Grid:
        """Return the smallest square grid that the blocks take."""
        for side in range(1, _MAX_SIDE):
            with suppress(MobileVLMError):
                self._grids_after((side, side))
                return side, side
        self._grids_after((_MAX_SIDE, _MAX_SIDE))  # says what it is refused for
        return _MAX_SIDE, _MAX_SIDE

    def _check_grid(self, grid: Grid) -> None:
        """Let the blocks refuse a grid, once per grid; a compiler sees only their modules."""
        if not torch.compiler.is_compiling() and grid not in self._grids:
            self._grids_after(grid)

    def _grids_after(self, grid: Grid) -> Sequence[Grid]:
        """Return the grid after each block, if the blocks take this one."""
        known = self._grids.get(grid)
        if known is not None:
            return known
        if self._block_major is not None:
            self._block_major.check(grid)
        after: list[Grid] = []
        for step in self.spec.walk(grid):
            h, w = step.y.grid
            if h is None or w is None:
                raise SpecError("a block does not say how many tokens it makes", "blocks")
            after.append((h, w))
        if len(self._grids) >= _MAX_GRIDS:
            self._grids = {}
        self._grids[grid] = after
        return after
