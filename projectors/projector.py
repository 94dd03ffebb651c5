"""The projector: the built module."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..blocks.core.errors import GridError, SpecError
from ..blocks.core.fast import hooked
from ..blocks.core.feature import Grid, check_grid
from ..blocks.core.packed import pack_layers, run_packed
from ..blocks.core.packing import Packing
from ..blocks.core.run import Layer
from ..registry import MobileVLMError, quote
from .assemble import assemble
from .device import check_device, check_dtype
from .inputs import check_input, check_map, check_packed, refuse_mixed, token_grid
from .packed import PackedGrids, check_budget, frames_of, read_grids
from .plan import MAX_PARAMETERS, Plan
from .serving import count_rows, encoder_tokens, linear_names
from .sharding import is_sharded, parallel_styles, tp_plan
from .stack import Stack
from .token_order import BlockMajor

if TYPE_CHECKING:
    from torch.distributed.tensor.parallel import ParallelStyle

__all__ = ["Projector"]

Grids: TypeAlias = Sequence[int] | Sequence[Sequence[int]] | Tensor | PackedGrids
"""What `forward` takes as `grid`."""


class PackedLayers(NamedTuple):
    """What runs on packed images.

    Attributes:
        layers: The layers in the order written.
        mixing: Whether each mixes an image's tokens.
        order: Their places, in the order in which to run them.
        where: The path of the layer at a place, for messages.
    """

    layers: list[Layer]
    mixing: Sequence[bool]
    order: Sequence[int]
    where: str = "blocks.{}"


# Lines of torch's repr: an identity among others, and brackets with nothing left between them.
_IDENTITY = re.compile(r"^ *\([\w-]+\): (?:\d+ x )?Identity\(\)\n", re.MULTILINE)
_EMPTY = re.compile(r"\(\n *\)")
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
        name: What it is called.

    Attributes:
        spec: The specification.
        grid: The default grid, or None.
        name: What it is called: the registered name that it was built by; empty for that of a
            document.
        blocks: The modules in order of use.

    Raises:
        SpecError: There are too many parameters, or the device or the dtype cannot be used
            (nothing has been allocated then); or a block cannot be built.
        GridError: The grid does not fit.
    """

    name: str = ""  # of projectors that were pickled without one

    def __init__(
        self,
        stack: Stack,
        *,
        grid: Sequence[int] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        max_parameters: int = MAX_PARAMETERS,
        name: str = "",
    ) -> None:
        nn.Module.__init__(self)  # not super(): a subclass may be an nn.Linear too
        if not isinstance(stack, Stack):
            hint = "build_projector takes names and mappings."
            raise SpecError(quote(stack), "stack", "a Stack", hint)
        if dtype is not None:
            dtype = check_dtype(dtype)
        self.spec = stack
        self.name = name
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
        self._sequence = plan.steps[-1].y.layout == "sequence"
        # Blocks that treat every token alike do not care for the order.
        side = stack.token_block if self._needs_grid else 1
        self._block_major = BlockMajor(stack.blocks, side) if side > 1 else None
        self._grids: dict[Grid, list[Grid]] = {}  # by a grid that fits: the grid after each block

    # ------------------------------------------------------------------ on paper

    def plan(self, grid: Sequence[int] | None = None) -> Plan:
        """Return the plan for a grid; default: the grid given at build."""
        sides = self.grid if grid is None else check_grid(grid)
        return Plan(self.spec, sides, max_parameters=self.max_parameters, name=self.name)

    @overload
    def tokens(self, h: int, w: int) -> int: ...
    @overload
    def tokens(self, h: Sequence[Sequence[int]] | Tensor) -> list[int]: ...
    def tokens(
        self, h: int | Sequence[Sequence[int]] | Tensor, w: int | None = None
    ) -> int | list[int]:
        """Return how many tokens come out for a grid of h x w, or for each grid of a list.

        Arithmetic only. Prefix tokens are not part of the grid. A tensor is read as a list:
        ``(n, 2)`` of (h, w), or ``(n, 3)`` of (t, h, w), where t frames are t images.

        Raises:
            GridError: A block does not take the grid.
        """
        if w is not None:
            return self.spec.tokens(*check_grid((h, w)))
        grids = read_grids(h) if isinstance(h, Tensor) else h
        if isinstance(grids, list | tuple) and not isinstance(next(iter(grids), ()), int):
            frames, counts = frames_of(grids)
            each = iter(self.spec.tokens(*grid) for grid in frames)
            return [sum(islice(each, count)) for count in counts]
        return self.spec.tokens(*check_grid(grids))

    def pack_grids(
        self,
        grids: Sequence[Sequence[int]] | Tensor,
        budget: Sequence[int] | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> PackedGrids:
        """Work out, once, what packed images of these grids need, to be given to `forward`.

        With a budget, all tensors have the shapes of the budget, whatever the grids are: so one
        compilation, or one captured graph, serves all images that fit::

            packed = projector.pack_grids([(24, 18), (12, 12)], budget=(1024, 8))
            y = projector(packed.pad(x), grid=packed)  # x (576, c), y (m, d)
            images = y[: packed.total].split(packed.lengths)

        Args:
            grids: The grids, as for `tokens`.
            budget: Upper limits on (patches, images), to which tensors are padded; a frame of a
                video is an image.
            device: Where the input will be; default: where the parameters are.

        Raises:
            GridError: A block does not take a grid; there are more images than the budget allows;
                or there is a budget, and a block does not run at one.
        """
        frames, counts = frames_of(grids)
        if device is None:
            device = next((each.device for each in self.parameters()), torch.device("cpu"))
        images = Packing.of(frames, torch.device(device))
        if budget is not None:
            images = images.within(*check_budget(budget, images))
        elif not frames:
            hint = "Without a budget, call the projector with x of (0, c) and grid=[]."
            raise GridError("there are no images", "grids", "at least one", hint)
        return self._pack(images, counts, self._packed_layers())

    def encoder_tokens(self, lm_tokens: int, grid: Sequence[int | None] | None = None) -> int:
        """Return the smallest number of encoder tokens that gives at least `lm_tokens`.

        The inverse of `tokens`, for one image: of all n for which `forward` takes tokens
        ``(b, n, c)``, the first that makes enough; prefix tokens count. Arithmetic only.

        Args:
            lm_tokens: How many tokens are to come out.
            grid: A grid of which one side is open, ``(24, None)`` or ``(None, 24)``: the image's
                other side is known. Without it the grids are those of `forward` without one: that
                given at build, else rows of any length where no block reads the grid, else
                squares.

        Raises:
            GridError: The number does not depend on the grid (queries, a pool of a fixed size),
                or no such grid gives so many.
        """
        check = (lambda grid: None) if self._block_major is None else self._block_major.check
        return encoder_tokens(self.spec, lm_tokens, grid, built=self.grid, check=check)

    def linear_names(self, prefix: str = "") -> list[str]:
        """Return the names of the linear layers, as the targets of adapters are written.

        Args:
            prefix: Where the projector stands in a model: ``"model.multi_modal_projector"``.
        """
        return linear_names(self.unloaded(), prefix)

    @overload
    def linear_rows(self, h: int, w: int, *, as_written: bool = False) -> dict[str, int]: ...
    @overload
    def linear_rows(
        self, h: Sequence[Sequence[int]] | Tensor, *, as_written: bool = False
    ) -> dict[str, int]: ...
    def linear_rows(
        self,
        h: int | Sequence[Sequence[int]] | Tensor,
        w: int | None = None,
        *,
        as_written: bool = False,
    ) -> dict[str, int]:
        """Return how many rows each linear layer multiplies for a grid, or for packed images.

        The layers are those of `linear_names`; the rows of several calls are added up. It runs on
        the meta device, where nothing is allocated.

        Args:
            h: The grid's height, or packed images' grids, as for `tokens`.
            w: The grid's width.
            as_written: For layers that have hooks or were replaced, by adapters, quantisation or
                an engine's own: these stay where the document has them. Otherwise a pool may run
                before the layers that it follows, as `Plan.runs_as` says, and they see fewer rows.

        Raises:
            GridError: A block does not take a grid.
        """
        blank = self.unloaded()
        if isinstance(h, int):
            grid: Sequence[int] | Sequence[Sequence[int]] = (h, w)  # type: ignore[assignment]
            n = math.prod(check_grid(grid)) + self.spec.prefix_tokens
            x = torch.empty(1, n, self.spec.in_, device="meta")
        else:
            grid, _ = frames_of(h)
            x = torch.empty(sum(map(math.prod, grid)), self.spec.in_, device="meta")
        return count_rows(blank, lambda: blank(x, grid=grid), as_written=as_written)

    def native(self) -> Projector:
        """Return the projector whose keys are paths in the document: this one, unless a drop-in."""
        return self

    def tp_plan(self, size: int | None = None) -> dict[str, str]:
        """Return how tensor parallelism shares each module that has parameters, by its path.

        In transformers' words: ``colwise``, ``rowwise``, ``colwise_gather_output`` or
        ``replicate``. Input and output are whole on each process. What is inside blocks of others
        is replicated, unless their modules have ``tp_styles``; so are a drop-in's own modules.

        Args:
            size: The number of processes. What it does not divide, such as heads of an attention,
                is gathered layer by layer. None is one that divides all of them.
        """
        return tp_plan(self, size)

    def parallel_styles(self, size: int | None = None) -> dict[str, ParallelStyle]:
        """Return torch's styles of `tp_plan`, without what is replicated.

        For example::

            parallelize_module(projector, mesh, projector.parallel_styles(mesh.size()))

        Then some parameters are DTensors and others are not. Under
        ``torch.distributed.tensor.experimental.implicit_replication()`` torch clips their gradients
        together, and its optimizers take both kinds with ``foreach``.
        """
        return parallel_styles(self.tp_plan(size))

    def unloaded(self) -> Projector:
        """Return a projector of this specification, with this one's keys, on the meta device."""
        return Projector(
            self.spec,
            grid=self.grid,
            device="meta",
            max_parameters=self.max_parameters,
            name=self.name,
        )

    def __getnewargs__(self) -> tuple[Stack]:
        """Put the specification first in a pickle, so that an error can name a missing plugin."""
        return (self.spec,)

    def extra_repr(self) -> str:
        """Show the name, the widths and the tokens in ``repr``."""
        try:
            return self.plan().summary
        except GridError:  # `grid` was set to one that does not fit, which a forward refuses
            return f"{Plan(self.spec, name=self.name).summary}, grid={self.grid}"

    def __repr__(self) -> str:
        """Return what torch prints of a module, without the identities inside it."""
        return _EMPTY.sub("()", _IDENTITY.sub("", super().__repr__()))

    # ------------------------------------------------------------------ on tensors

    def forward(self, x: Tensor, grid: Grids | None = None) -> Tensor:
        """Project tokens ``(b, n, c) -> (b, m, d)`` or a map ``(b, c, h, w) -> (b, d, h', w')``.

        Packed images of different sizes, ``(n, c) -> (m, d)``, come one after the other, with the
        list of their grids, or a tensor of them, which is read once; or with what `pack_grids` made
        of it, which reads nothing. `tokens` of that list says how to split the output. No images
        are ``(0, c)`` with ``grid=[]``. The input is never modified. A map comes back as a
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

    def _forward(self, x: Tensor, grid: Grids | None) -> Tensor:
        shape = check_input(x, self.spec.in_, self)
        if isinstance(grid, PackedGrids):
            layers = self._packed_layers()
            grid.check(x, self.spec, layers[0])
            return self._run_packed(x, grid, layers)
        if isinstance(grid, Tensor):
            grid = read_grids(grid)
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
            frames, counts = check_packed(x, grid, prefix)
            layers = self._packed_layers()
            packed = self._pack(Packing.of(frames, x.device), counts, layers)
            return self._run_packed(x, packed, layers)
        if isinstance(grid, list | tuple) and grid and isinstance(grid[0], list | tuple):
            expected = "one grid for all of them, (h, w)"
            hint = "Images of different sizes are packed: their tokens one after the other, (n, c)."
            raise GridError("a list of grids with tokens (b, n, c)", "grid", expected, hint)
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

    def _pack(self, images: Packing, counts: Sequence[int], chain: PackedLayers) -> PackedGrids:
        """Work out what packed images need; `counts` says how many of them each entry has."""
        tokens = (math.prod(self._grids_after(grid)[-1]) for grid in images.grids)
        lengths = tuple(sum(islice(tokens, count)) for count in counts)
        layers, mixing, _, where = chain
        enter, merges = None, False
        if self._block_major is not None:
            enter = self._block_major.pack(images, self.blocks)
            merges = enter is None
            layers = self._block_major.merge_in(layers) if merges else layers
        _, indices = pack_layers(
            layers,
            mixing,
            images,
            lambda place: [self._grids_after(grid)[place] for grid in images.grids],
            where,
        )
        valid = None
        if images.fixed:
            rows = torch.arange(images.rows, device=images.device)
            valid = rows[:, None] < sum(images.lengths)
        return PackedGrids(self.spec, images, lengths, valid, enter, merges, indices)

    def _packed_layers(self) -> PackedLayers:
        """Return what to run on packed images, whether each mixes their tokens, and in which order.

        Hooks of the whole chain see whole calls, which take images of one size.
        """
        if hooked(self.blocks):
            return PackedLayers([self.blocks], [True], [0], "blocks")
        return PackedLayers(self.blocks.layers(), self.blocks.mixing or (), self.blocks.order())

    def _run_packed(self, x: Tensor, packed: PackedGrids, chain: PackedLayers) -> Tensor:
        """Run the modules on packed images; ``(rows, c) -> (m, d)``."""
        layers, _, order, _ = chain
        if packed.valid is not None:  # padding may hold anything, and attention would spread it
            x = x.masked_fill(~packed.valid, 0)
        if packed.enter is not None:
            x = F.embedding(packed.enter, x)
        if packed.merges and self._block_major is not None:
            layers = self._block_major.merge_in(layers)
        return run_packed(layers, order, packed.indices, x)

    def _no_images(self, x: Tensor) -> Tensor:
        """Run the modules on a batch of no images; ``(0, c) -> (0, d)``.

        All of them run, as a process whose batch holds no image has to take part in what sharded
        modules exchange.
        """
        h, w = self.grid or self._smallest_grid()
        x = x.view(0, h, w, self.spec.in_)
        if is_sharded(self):
            # torch (2.13) would search for ever for the shape of a DTensor that is empty.
            x = torch.cat([x, x.new_zeros(1, h, w, self.spec.in_)])
        return self._project(x, self._chain)[:0].flatten(0, 2)

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
