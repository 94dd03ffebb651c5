"""Processors of models that cut an image in tiles.

Upstream's count what they take on the grid of the vision tower, ours on what comes out for it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ...blocks.core.feature import Grid
from ...blocks.position import Position
from ...projectors.stack import Stack
from ...registry import MobileVLMError
from ..anyres import find_padding, find_tiles, halved, max_tiles, shrink
from ..errors import ModelError
from ..forms.form import Slot
from ..grids import out_grid
from ..processing import SwappedProcessor
from .counter import Counter

__all__ = ["AnyRes", "NextVideo", "OneVision"]


class _AnyRes(SwappedProcessor):
    def out_grid(self) -> Grid | None:
        """Return the grid that comes out for a tile; None for a sequence."""
        h, w = self.mobilevlm["grid"]
        return out_grid(self.stack, (h, w))

    def limit(self) -> int | None:
        """Return how many tiles' tokens an image may have."""
        return None

    def _get_number_of_features(
        self: Any, orig_height: int, orig_width: int, height: int, width: int
    ) -> int:
        """Count the tokens of an image.

        One more where there is a class token: it is dropped before the projector, but upstream,
        which calls this, subtracts it from the result.
        """
        resolutions = self.image_processor.image_grid_pinpoints
        rows, columns = find_tiles((orig_height, orig_width), resolutions, (height, width))
        h, w = self.mobilevlm["grid"]
        tiles = self._get_unpadded_features(orig_height, orig_width, h, w, rows, columns)
        dropped = self.vision_feature_select_strategy == "default"
        return int(self.per_tile() + sum(tiles) + dropped)

    def _get_unpadded_features(
        self,
        height: int,
        width: int,
        patches_height: int,
        patches_width: int,
        scale_height: int,
        scale_width: int,
    ) -> tuple[int, int]:
        """Count the tokens of an image's tiles, and those that end rows.

        The patches are those of the tower; what is counted is what comes out for them.
        """
        grid = out_grid(self.stack, (patches_height, patches_width))
        if grid is None:
            return scale_height * scale_width * self.stack.tokens(patches_height, patches_width), 0
        h, w = grid[0] * scale_height, grid[1] * scale_width
        top, left = find_padding((height, width), (h, w))
        h, w = h - 2 * top, w - 2 * left
        if (limit := self.limit()) is not None:
            h, w = shrink((h, w), grid, limit)
        return h * w, h


class _Videos(_AnyRes):
    """A subclass has ``video_tokens(frames)``, which counts a video or refuses it."""

    def replace_video_token(self: Any, video_inputs: Any, video_idx: int, **kwargs: Any) -> str:
        """Replace the placeholder of a video."""
        frames = len(video_inputs["pixel_values_videos"][video_idx])
        text: str = self.video_token * self.video_tokens(frames)
        return text

    def _get_num_multimodal_tokens(
        self: Any, image_sizes: Any = None, video_sizes: Any = None, **kwargs: Any
    ) -> Any:
        """Count each image as if it were the only one of its prompt, as upstream does.

        Videos that are refused have no count: so a serving engine, which asks when it starts,
        serves images alone.
        """
        counted = super()._get_num_multimodal_tokens(image_sizes, **kwargs)  # type: ignore[misc]
        if video_sizes is not None:
            with suppress(ModelError):
                counted.num_video_tokens = [self.video_tokens(t) for t, _, _ in video_sizes]
        return counted


class _OneVision(_Videos):
    vision_aspect_ratio: str
    image_token: str

    def limit(self) -> int:
        return max_tiles(self.vision_aspect_ratio)

    def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
        """Replace the placeholder of an image, which is not cut if its prompt has others."""
        alone = [n == 1 for n in image_inputs["batch_num_images"] for _ in range(n)]
        if alone[image_idx]:
            text: str = super().replace_image_token(image_inputs, image_idx, **kwargs)  # type: ignore[misc]
            return text
        return self.image_token * (self.per_tile() + (self.out_grid() is not None))

    def video_tokens(self, frames: int) -> int:
        grid = self.out_grid()
        if grid is None:
            raise _refused(
                "the model pools the frames of a video on the grid that comes out of its "
                "projector, and a sequence comes out of this one",
                self.per_tile(),
            )
        h, w = halved(grid)
        return frames * h * w + 1


class _NextVideo(_Videos):
    def video_tokens(self, frames: int) -> int:
        h, w = (side // 2 for side in self.mobilevlm["grid"])
        if any(
            isinstance(block, Position) and block.kind == "learned" for block in self.stack.blocks
        ):
            raise _refused(
                f"the model pools the frames of a video to {h}x{w} before its projector, whose "
                "learned positions are those of a whole image",
                self.per_tile(),
            )
        try:
            return frames * self.stack.tokens(h, w)
        except MobileVLMError as error:
            raise _refused(
                f"the model pools the frames of a video to {h}x{w} before its projector, and "
                f"{error.where} refuses {error.found}",
                self.per_tile(),
            ) from error


def _refused(reason: str, per_tile: int) -> ModelError:
    return ModelError(
        "a video",
        "processor",
        f"images: {reason}",
        f"Give the frames as images; each tile takes {per_tile} tokens.",
    )


class AnyRes(Counter):
    """LLaVA-NeXT's."""

    mixin = _AnyRes


class NextVideo(Counter):
    """LLaVA-NeXT-Video's."""

    mixin = _NextVideo


class OneVision(Counter):
    """LLaVA-OneVision's."""

    mixin = _OneVision

    def apply(self, processor: Any, stack: Stack, slot: Slot) -> None:
        """Set the attribute too: where a square comes out, upstream's class counts right by it."""
        super().apply(processor, stack, slot)
        processor.num_image_tokens = processor.per_tile()
