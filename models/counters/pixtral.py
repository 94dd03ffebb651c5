"""Pixtral's processor, which writes an image row by row."""

from __future__ import annotations

from typing import Any

import torch

from ...blocks.core.feature import Grid
from ...projectors.stack import Stack
from ..forms.form import Slot
from ..forms.sizes import round_sides
from ..grids import out_rows
from ..processing import SwappedProcessor
from .counter import Counter

__all__ = ["Pixtral"]


class _Processor(SwappedProcessor):
    """A token ends each row but the last, and another one the image."""

    patch_size: int
    spatial_merge_size: int
    image_token: str
    image_break_token: str
    image_end_token: str
    image_processor: Any

    def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
        """Write the rows that come out of the projector; a sequence is one row."""
        h, w = image_inputs["image_sizes"][image_idx]
        rows, length = self._rows(int(h), int(w))
        row = self.image_token * length
        return self.image_break_token.join([row] * rows) + self.image_end_token

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **kwargs: Any) -> Any:
        """Count as upstream's class does, with the projector's rows."""
        from transformers.processing_utils import MultiModalData

        if image_sizes is None:
            return MultiModalData()
        sizes = [self._resized(h, w, **kwargs) for h, w in image_sizes]
        return MultiModalData(
            num_image_tokens=[rows * (row + 1) for rows, row in (self._rows(*s) for s in sizes)],
            num_image_patches=[1] * len(sizes),
        )

    def _rows(self, height: int, width: int) -> Grid:
        """Return how many rows come out for an image of this size in pixels, and how long."""
        grid = height // self.patch_size, width // self.patch_size
        return out_rows(self.stack, grid)

    def _resized(self, height: int, width: int, **kwargs: Any) -> Grid:
        """Return the size in pixels that the image processor gives an image."""
        from transformers.models.pixtral.image_processing_pixtral import (
            get_resize_output_image_size,
        )

        merged = self._merge_kwargs(**kwargs)["images_kwargs"]  # type: ignore[attr-defined]
        longest = (merged.get("size") or self.image_processor.size)["longest_edge"]
        side = self.patch_size * self.spatial_merge_size
        image = torch.empty((3, height, width), device="meta")
        sides = get_resize_output_image_size(image, (longest,) * 2, (side,) * 2, "channels_first")
        return int(sides[0]), int(sides[1])


class Pixtral(Counter):
    """The processor of Mistral 3, and of LLaVA with Pixtral's tower."""

    mixin = _Processor

    def apply(self, processor: Any, stack: Stack, slot: Slot) -> None:
        """Let the processor give images sides that the projector takes; see `Counter`."""
        super().apply(processor, stack, slot)
        processor.spatial_merge_size = round_sides(stack, processor.spatial_merge_size)
