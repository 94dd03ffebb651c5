"""Processors that count the tokens of a tile by a rule that fits upstream's projector only.

What they put around tiles stays theirs.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from ..processing import SwappedProcessor
from .counter import Counter

__all__ = ["AyaVision", "Cohere2Vision", "PerceptionLM"]


class _Runs(SwappedProcessor):
    """Each run of equal tokens in what stands for an image is a tile.

    Attributes:
        feature: Which of the processor's attributes is the token that stands for a feature.
    """

    feature: ClassVar[str] = "image_token"

    def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
        """Return what stands for an image, with each tile as long as the projector makes it."""
        text = super().replace_image_token(image_inputs, image_idx, **kwargs)  # type: ignore[misc]
        token = getattr(self, self.feature)
        tile = token * self.per_tile()
        return re.sub(f"(?:{re.escape(token)})+", lambda _: tile, text)

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **kwargs: Any) -> Any:
        """Return how long that is for images of these heights and widths."""
        counted = super()._get_num_multimodal_tokens(image_sizes, **kwargs)  # type: ignore[misc]
        if image_sizes is None:
            return counted
        one = super().replace_image_token({"num_patches": [1]}, 0)  # type: ignore[misc]
        more = self.per_tile() - one.count(getattr(self, self.feature))
        pairs = zip(counted.num_image_tokens, counted.num_image_patches, strict=True)
        counted.num_image_tokens = [tokens + more * tiles for tokens, tiles in pairs]
        return counted


class _AyaVision(_Runs):
    feature = "img_patch_token"


class _PerceptionLM(SwappedProcessor):
    """Nothing but features stands for an image: a thumbnail and tiles, or for a video: frames."""

    image_token: str
    video_token: str

    def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
        """Return as many tokens as the projector makes of an image's tiles."""
        return self.image_token * (self.per_tile() * len(image_inputs["pixel_values"][image_idx]))

    def replace_video_token(self, video_inputs: Any, video_idx: int, **kwargs: Any) -> str:
        """Return as many tokens as the projector makes of a video's frames."""
        frames = len(video_inputs["pixel_values_videos"][video_idx])
        return self.video_token * (self.per_tile() * frames)

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **kwargs: Any) -> Any:
        """Return how many tokens images of these heights and widths take."""
        counted = super()._get_num_multimodal_tokens(image_sizes, **kwargs)  # type: ignore[misc]
        if image_sizes is not None:
            tiles = counted.num_image_patches
            counted.num_image_tokens = [self.per_tile() * count for count in tiles]
        return counted


class AyaVision(Counter):
    """A tile is a square of patches, under a token of its own."""

    mixin = _AyaVision


class Cohere2Vision(Counter):
    """A tile is a square of patches, and ends with a line break."""

    mixin = _Runs


class PerceptionLM(Counter):
    """A tile is what the pool in upstream's projector leaves of it."""

    mixin = _PerceptionLM
