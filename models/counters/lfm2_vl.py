"""LFM2-VL's processor, which writes tiles of one size, and a thumbnail or image of its own size."""

from __future__ import annotations

from typing import Any

from ...blocks.core.feature import Grid
from ..processing import SwappedProcessor
from .counter import Counter

__all__ = ["Lfm2Vl"]


class _Processor(SwappedProcessor):
    """Upstream's class has a method for a tile, and one for an image, and counts nothing before."""

    image_processor: Any
    tokenizer: Any

    def _compute_tokens_per_tile(self, tile_size: int, encoder_patch_size: int, *_: Any) -> int:
        side = tile_size // encoder_patch_size
        return self.stack.tokens(side, side)

    def _compute_tokens_for_image(self, image_size: Any, encoder_patch_size: int, *_: Any) -> int:
        h, w = (int(side) // encoder_patch_size for side in image_size)
        return self.stack.tokens(h, w)

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **kwargs: Any) -> Any:
        """Count all tokens that stand for each image of these sizes, ``(height, width)``."""
        from transformers.processing_utils import MultiModalData

        if image_sizes is None:
            return MultiModalData()
        merged = self._merge_kwargs(**kwargs)  # type: ignore[attr-defined]
        own = merged["images_kwargs"]
        special = {"use_image_special_tokens": merged["use_image_special_tokens"]}
        tokens, patches = [], []
        for h, w in image_sizes:
            rows, columns, size = self._tiles(h, w, own)
            facts = {"image_rows": [rows], "image_cols": [columns], "image_sizes": [size]}
            text = self.replace_image_token(facts, 0, **own, **special)  # type: ignore[attr-defined]
            tokens.append(len(self.tokenizer(text, add_special_tokens=False)["input_ids"]))
            thumbnail = rows * columns > 1 and self._setting("use_thumbnail", own)
            patches.append(rows * columns + bool(thumbnail))
        return MultiModalData(num_image_tokens=tokens, num_image_patches=patches)

    def _tiles(self, height: int, width: int, own: Any) -> tuple[int, int, Grid]:
        """Return the rows and columns of tiles of an image, and its own size in pixels."""
        images = self.image_processor

        def of(*names: str) -> dict[str, Any]:
            return {name: self._setting(name, own) for name in names}

        common = of("max_image_tokens", "encoder_patch_size", "downsample_factor")
        resized = images.smart_resize(height, width, **common, **of("min_image_tokens"))
        size = resized[1], resized[0]
        tiles = of("min_tiles", "max_tiles")
        splits = self._setting("do_image_splitting", own) and set(tiles.values()) != {1}
        large = images._is_image_too_large(height, width, **common, **of("max_pixels_tolerance"))
        if not (splits and large):
            return 1, 1, size
        columns, rows, *_ = images._get_grid_layout(height, width, **tiles, **of("tile_size"))
        return rows, columns, size

    def _setting(self, name: str, own: Any) -> Any:
        """Return a setting of the image processor, unless the call says otherwise."""
        return own.get(name, getattr(self.image_processor, name))


class Lfm2Vl(Counter):
    """Both methods take the grid's sides from the size in pixels."""

    mixin = _Processor
