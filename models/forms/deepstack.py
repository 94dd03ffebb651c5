"""Models that also give their language model features of the tower's earlier layers: Qwen 3's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...projectors.stack import Stack
from ..errors import ModelError
from ..grids import out_rows
from ..slots import projector_in
from .form import Slot
from .packed import PackedOnce, features, get_rope_index, project

__all__ = ["Deepstack"]


def get_image_features(
    self: Any, pixel_values: Tensor, image_grid_thw: Tensor, **kwargs: Any
) -> Any:
    """Upstream's, with the projector's tokens and features for them. Videos come here too."""
    return features(self, "get_image_features", pixel_values, image_grid_thw, kwargs, _change)


def _change(model: Any, outputs: Any, grid_thw: Tensor) -> None:
    project(model, outputs, grid_thw)
    stack = projector_in(model.visual.merger).spec
    rows = [(t, (h, w), out_rows(stack, (h, w))) for t, h, w in grid_thw.tolist()]
    outputs.deepstack_features = [
        tuple(
            _resample(x, t, grid, out, stack.token_block)
            for x, (t, grid, out) in zip(level, rows, strict=True)
        )
        for level in outputs.deepstack_features
    ]


def _resample(x: Tensor, t: int, grid: tuple[int, int], out: tuple[int, int], side: int) -> Tensor:
    """Average the features of t frames to a grid; ``(t*h*w, d) -> (t*h'*w', d)``."""
    h, w = grid[0] // side, grid[1] // side
    if out == (h, w):
        return x
    maps = x.view(t, h, w, -1).permute(0, 3, 1, 2)
    pooled: Tensor = F.adaptive_avg_pool2d(maps, out)
    return torch.permute(pooled, (0, 2, 3, 1)).flatten(0, 2)


class Deepstack(PackedOnce):
    """The first layers of the language model add deepstack features at the places of an image.

    The mergers of those are kept, and give one for each merged token. Where the projector's grid is
    another, the map of an image is averaged to it (``adaptive_avg_pool2d``, which repeats features
    where the grid is larger): each token is given what lies under it.
    """

    methods = (get_image_features, get_rope_index)

    def check(self, stack: Stack, slot: Slot, config: Any) -> None:
        """Refuse sequences: no feature lies under their tokens."""
        if stack.walk()[-1].y.layout == "sequence":
            raise ModelError(
                "a sequence comes out",
                "projector",
                "a grid: the language model adds features of the tower's earlier layers "
                "(deepstack) at the places of its tokens",
                "'ldp', 'internvl' and 'c-abstractor' make one.",
            )
        super().check(stack, slot, config)
