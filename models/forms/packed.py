"""Models that merge packed tokens in their vision tower, as Qwen's do."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...projectors.projector import Projector
from ...projectors.stack import Stack
from ...projectors.token_order import to_raster_packed
from ..grids import frames_of, merged_from, tokens_of
from ..host import Host
from ..slots import projector_in
from .deferred import Deferred, Held, as_asked
from .form import Slot
from .sizes import check_sides, check_unsized

__all__ = ["Packed", "PackedOnce", "features", "get_rope_index", "project"]


def _join_blocks(
    projector: Projector, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor
) -> Tensor:
    """Join the tokens of each block that are given back; ``(n, c) -> (n/s*s, s*s*c)``."""
    if not isinstance(kwargs.get("grid"), Held):
        return x
    return x.reshape(-1, projector.spec.token_block**2 * x.shape[1])


def features(
    model: Any,
    name: str,
    pixels: Tensor,
    grid_thw: Tensor,
    kwargs: dict[str, Any],
    change: Callable[[Any, Any, Tensor], None],
) -> Any:
    """Return what upstream's method of that name does, changed in place."""
    given = kwargs.pop("return_dict", None)
    outputs = getattr(type(model), name)(model, pixels, grid_thw, return_dict=True, **kwargs)
    change(model, outputs, grid_thw)
    return as_asked(outputs, model, given)


def project(model: Any, outputs: Any, grid_thw: Tensor) -> None:
    """Put the tokens of each image in the place of its joined blocks.

    Args:
        model: The base model.
        outputs: What upstream returned; ``pooler_output`` has a tensor ``(n/s*s, s*s*c)`` for each
            image or video, and is given ``(m, d)``.
        grid_thw: Their grids ``(images, 3)``.
    """
    slot = model.visual.merger
    stack = projector_in(slot).spec
    frames = frames_of(grid_thw)
    x = torch.cat(outputs.pooler_output).reshape(-1, stack.in_)
    if not stack.needs_grid:  # it leaves the tokens in the order in which they come
        x = to_raster_packed(x, frames, stack.token_block)
    outputs.pooler_output = torch.split(slot(x, grid=frames), tokens_of(stack, grid_thw))


def get_image_features(
    self: Any, pixel_values: Tensor, image_grid_thw: Tensor, **kwargs: Any
) -> Any:
    """Upstream's, with the projector's tokens as ``pooler_output``."""
    return features(self, "get_image_features", pixel_values, image_grid_thw, kwargs, project)


def get_video_features(
    self: Any, pixel_values_videos: Tensor, video_grid_thw: Tensor, **kwargs: Any
) -> Any:
    """Upstream's, with the projector's tokens as ``pooler_output``."""
    return features(
        self, "get_video_features", pixel_values_videos, video_grid_thw, kwargs, project
    )


def get_rope_index(
    self: Any,
    input_ids: Tensor,
    mm_token_type_ids: Tensor,
    image_grid_thw: Tensor | None = None,
    video_grid_thw: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Upstream's, told the grids that come out."""
    stack = projector_in(self.visual.merger).spec
    image, video = (
        None if grid_thw is None else merged_from(stack, grid_thw)
        for grid_thw in (image_grid_thw, video_grid_thw)
    )
    upstream = type(self).get_rope_index
    return upstream(self, input_ids, mm_token_type_ids, image, video, *args, **kwargs)


class Packed(Deferred):
    """The tower calls its merger with the packed tokens ``(n, c)`` of all images, and no grid.

    Their order is the tower's own: Qwen 2.5's works in windows, and puts the rows that come out in
    their places. So it is given back the tokens of each block, joined, and once it has put them in
    order `get_image_features` calls the projector with the grids. A tower that is called by itself
    gives the joined blocks as ``pooler_output``.

    Positions (M-RoPE) are those of the grid that comes out, of each frame; a sequence of n tokens
    is a row of 1 x n.
    """

    tower = "visual"
    methods: ClassVar[tuple[Callable[..., Any], ...]] = (
        get_image_features,
        get_video_features,
        get_rope_index,
    )

    def check(self, stack: Stack, slot: Slot, config: Any) -> None:
        """Refuse what does not take grids of whole blocks, as images have any size."""
        check_unsized(stack)
        check_sides(stack, stack.token_block)

    def prepare(self, projector: Projector) -> None:
        """Register the hooks, of which the last one joins blocks."""
        super().prepare(projector)
        projector.register_forward_hook(_join_blocks, with_kwargs=True)

    def bind(self, core: nn.Module, host: Host) -> None:
        """Bind what calls the projector, and what asks for the grid that comes out."""
        for method in self.methods:
            setattr(core, method.__name__, MethodType(method, core))


class PackedOnce(Packed):
    """Where upstream's method for videos calls the one for images."""

    methods = (get_image_features, get_rope_index)
