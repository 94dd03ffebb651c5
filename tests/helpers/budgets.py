"""Blocks run on packed images at a budget, to be compared with each image alone."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from mobilevlm import BLOCKS, Feature, fast_paths
from mobilevlm.blocks.core.packing import Packing

Grids = Sequence[tuple[int, int]]

# Square, wide, tall, odd, one token, equal ones, all of them, none.
SETS: list[Grids] = [
    [(4, 4)],
    [(2, 9)],
    [(9, 2)],
    [(5, 7), (3, 3)],
    [(1, 1)],
    [(4, 6), (4, 6), (1, 1), (4, 6)],
    [(6, 8), (1, 9), (7, 1), (5, 5), (6, 8)],
    [],
]
WIDTH = 8


def build(block: dict[str, Any], grid: tuple[int | None, int | None] = (None, None)) -> Any:
    """Return the module of a block's document."""
    options = {key: value for key, value in block.items() if key != "type"}
    return BLOCKS.get(block["type"])(**options).build(
        Feature(channels=WIDTH, grid=grid, ends=(WIDTH, WIDTH))
    )


def held(grids: Grids) -> int:
    """How many tokens images have."""
    return sum(h * w for h, w in grids)


def at_budget(grids: Grids, rows: int, images: int) -> Packing:
    """Return images within a budget."""
    return Packing.of(grids, torch.device("cpu")).within(rows, images)


def packed(
    module: Any, x: Tensor, grids: Grids, spare: tuple[int, int] = (0, 0), padding: float = 1e30
) -> Tensor:
    """Run a module on images at a budget; ``(n, c) -> (rows, d)``.

    Args:
        module: The module.
        x: The images' tokens.
        grids: Their grids.
        spare: How many more rows and images the budget allows.
        padding: What the rows beyond the images hold, which must not matter.
    """
    images = at_budget(grids, len(x) + spare[0], len(grids) + spare[1])
    after, index = module.pack(images)
    beyond = x.new_full((spare[0], WIDTH), min(padding, torch.finfo(x.dtype).max))
    y: Tensor = module.forward_packed(torch.cat([x, beyond]), index)
    assert len(y) == after.rows
    return y


def singly(module: nn.Module, x: Tensor, grids: Grids) -> Tensor:
    """Run a module on each image alone; ``(n, c) -> (m, d)``."""
    pairs = zip(x.split([h * w for h, w in grids]), grids, strict=True)
    parts = [module(part.view(1, *grid, WIDTH)).flatten(0, 2) for part, grid in pairs]
    return torch.cat(parts or [x])


def tensors(index: Any) -> list[Tensor]:
    """The tensors of what `pack` returned."""
    return [each for each in pytree.tree_leaves(index) if each is not None]


def check_fake(module: Any, images: Packing) -> None:
    """Run a module on fake tensors, of which `item`, `tolist`, `nonzero` or a boolean index raise.

    They have no values.
    """
    _, index = module.pack(images)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fake = pytree.tree_map_only(Tensor, mode.from_tensor, index)
    with mode, fast_paths(False):
        y = module.forward_packed(torch.empty(images.rows, WIDTH), fake)
    assert y.shape == module.forward_packed(torch.zeros(images.rows, WIDTH), index).shape
