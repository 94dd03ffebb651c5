"""Processors of images of any size, which divide a grid's sides by those of a merge: Qwen's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..grids import merged_from, tokens_of
from ..processing import SwappedProcessor
from .counter import Counter

__all__ = ["Packed"]


class _Processor(SwappedProcessor):
    image_processor: Any
    video_processor: Any

    def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> Any:
        """Return the tokens of an image: upstream's, told the grid that comes out."""
        inputs = self._told(image_inputs, "image_grid_thw", image_idx)
        return super().replace_image_token(inputs, image_idx, **kwargs)  # type: ignore[misc]

    def replace_video_token(self, video_inputs: Any, video_idx: int, **kwargs: Any) -> Any:
        """Return the tokens of a video, with what stands between its frames."""
        inputs = self._told(video_inputs, "video_grid_thw", video_idx)
        return super().replace_video_token(inputs, video_idx, **kwargs)  # type: ignore[misc]

    def _told(self, inputs: Mapping[str, Any], key: str, index: int) -> dict[str, Any]:
        """Return the inputs with the grid from which a merge would make what comes out."""
        grids = torch.as_tensor(inputs[key]).clone()
        grids[index : index + 1] = merged_from(self.stack, grids[index : index + 1])
        return {**inputs, key: grids}

    def _get_num_multimodal_tokens(
        self, image_sizes: Any = None, video_sizes: Any = None, **kwargs: Any
    ) -> Any:
        """Return how many tokens images (h, w) and videos (frames, h, w) of these pixels take."""
        counted = super()._get_num_multimodal_tokens  # type: ignore[misc]
        data = counted(image_sizes, video_sizes, **kwargs)
        merged: Any = self._merge_kwargs(**kwargs)  # type: ignore[attr-defined]
        if image_sizes:
            images = [_blank(self.image_processor, 3, *size) for size in image_sizes]
            made = self.image_processor(images=images, **merged["images_kwargs"])
            data.num_image_tokens = self._tokens(made["image_grid_thw"])
        if video_sizes:
            videos = [_blank(self.video_processor, t, 3, h, w) for t, h, w in video_sizes]
            own = {**merged["videos_kwargs"], "do_sample_frames": False}
            made = self.video_processor(videos=videos, **own)
            data.num_video_tokens = self._tokens(made["video_grid_thw"])
        return data

    def _tokens(self, grid_thw: Any) -> list[int]:
        return tokens_of(self.stack, torch.as_tensor(grid_thw))


def _blank(processor: Any, *sizes: int) -> torch.Tensor:
    """Return pixels for upstream's own processing, which resizes them; no memory, where it can."""
    device = "cpu" if type(processor).__name__.endswith("Pil") else "meta"
    return torch.empty(sizes, dtype=torch.uint8, device=device)


class Packed(Counter):
    """The processor counts by the projector's document, each image by its own grid."""

    mixin = _Processor
