"""GOT-OCR 2.0's processor, which is told the count with each call, 256 by default."""

from __future__ import annotations

from typing import Any

from ..processing import SwappedProcessor
from .counter import Counter

__all__ = ["GotOcr2"]


class _GotOcr2(SwappedProcessor):
    image_processor: Any

    @property
    def num_image_tokens(self) -> int:
        """How many tokens an image, or a tile of it, takes: the default of the calls."""
        return self.per_tile()

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **kwargs: Any) -> Any:
        """Return how many tokens images of these heights and widths take; upstream does not."""
        from transformers.processing_utils import MultiModalData

        if image_sizes is None:
            return MultiModalData()
        chosen = self._merge_kwargs(**kwargs)["images_kwargs"]  # type: ignore[attr-defined]
        count = self.image_processor.get_number_of_image_patches
        tiles = [count(*size, chosen) for size in image_sizes]
        tokens = [self.per_tile() * n for n in tiles]
        return MultiModalData(num_image_tokens=tokens, num_image_patches=tiles)


class GotOcr2(Counter):
    """The processor's default is the projector's count."""

    mixin = _GotOcr2
